"""The adapter certificate: a model that fails it is refused, not scored."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmct_bench.adapters.adapter import Adapter, Point, model_device

#: Relative tolerances of states (max |difference| / max |reference|) by dtype.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 3e-2}


@dataclass(frozen=True)
class Check:
    """One check: the measured error beside its tolerance."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """True when the error is a number within the tolerance."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class AdapterCertificate:
    """All checks of one model at one dtype on one device."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """True when every check passed."""
        return all(c.passed for c in self.checks)

    def failures(self) -> str:
        """The failed checks in words."""
        return "; ".join(f"{c.name}: {c.error:.2g} > {c.tolerance:.2g}" for c in self.checks if not c.passed)

    def to_json(self) -> list[dict[str, Any]]:
        """One object a check."""
        return [{**asdict(c), "passed": c.passed} for c in self.checks]


def certify_module(module: Any, adapter: Adapter, vocab_size: int, seed: int = 0) -> AdapterCertificate:
    """Run the checks on random tokens: states equal transformers' own ``hidden_states``, the last one before the final
    norm; they are finite and do not depend on batching and right padding; a two-term split closes; nothing is left
    behind."""
    generator = torch.Generator().manual_seed(seed)
    device = model_device(module)
    length = 24
    ids = torch.randint(5, max(vocab_size, 6), (2, length), generator=generator).to(device)
    half = ids[:1, : length // 2]
    tolerance = TOLERANCE.get(next(module.parameters()).dtype, 3e-2)
    points = adapter.residual_points()
    with torch.inference_mode():
        logits, hooks = module(input_ids=ids, use_cache=False).logits, _hooks(module)
        states = _states(adapter, points, ids)
        left_behind = _hooks(module) - hooks
        own, last = _own_states(adapter, ids, states[-1], tolerance)
        mixed = _states(adapter, points, torch.cat([torch.cat([half, torch.zeros_like(half)], dim=1), ids[1:]]))
        alone = _states(adapter, points, half)
        batching = max(_error(m[:1, : length // 2], a) for m, a in zip(mixed, alone, strict=True))
        checks = [
            Check("states equal transformers' hidden_states", _best_offset(states, own), tolerance),
            Check("the last state is the input of the final norm", last, tolerance),
            Check("all states are finite", float(sum((~torch.isfinite(s)).sum().item() for s in states)), 0.0),
            Check("independent of batch and right padding", batching, tolerance),
        ]
        if adapter.contributions is not None:
            checks.append(Check("attention + MLP close the residual", _closure(adapter, ids), tolerance))
        after = module(input_ids=ids, use_cache=False).logits
        checks.append(Check("logits unchanged after the hooks are gone", _error(after, logits), 0.0))
        checks.append(Check("hooks left behind", float(left_behind), 0.0))
    return AdapterCertificate(tuple(checks))


def _best_offset(states: list[Tensor], own: list[Tensor]) -> float:
    """Largest error against ``hidden_states`` without its last entry (which is after the final norm). Most families
    list the inputs of the blocks, Mamba lists their outputs: the better of the two alignments counts."""
    inner = own[:-1]
    return min(
        max(_error(s, o) for s, o in zip(states[offset:], inner, strict=False))
        for offset in (0, 1)
        if len(states) - offset >= len(inner)
    )


def _own_states(adapter: Adapter, ids: Tensor, last: Tensor, tolerance: float) -> tuple[list[Tensor], float]:
    """transformers' ``hidden_states``, and how far our last point is from the input of the module that makes their
    last entry (the final norm), or from that entry itself where no module makes it."""
    seen: list[tuple[Tensor, Tensor]] = []

    def watch(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor) and args[0].shape == output.shape:
            seen.append((args[0].detach().clone(), output.detach().clone()))

    handles = [child.register_forward_hook(watch) for child in adapter.decoder.children()]
    try:
        own = list(adapter.decoder(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states)
    finally:
        for handle in handles:
            handle.remove()
    makers = [_error(last, before) for before, after in seen if _error(after, own[-1]) <= tolerance]
    return own, min(makers) if makers else _error(last, own[-1])


def _hooks(module: nn.Module) -> int:
    """Number of forward hooks and pre-hooks on a model."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def _states(adapter: Adapter, points: list[Point], ids: Tensor) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    with adapter.reading(points, lambda i, value: found.__setitem__(i, value.detach().clone())):
        adapter.run(ids)
    return [found[i] for i in range(len(points))]


def _closure(adapter: Adapter, ids: Tensor) -> float:
    resid = adapter.residual_points()
    parts = [Point(kind, i) for i in range(adapter.n_layers) for kind in ("attn", "mlp")]
    states = _states(adapter, [*resid, *parts], ids)
    stream, added = states[: len(resid)], states[len(resid) :]
    worst = 0.0
    for i in range(adapter.n_layers):
        if any(a.numel() != stream[i].numel() for a in added[2 * i : 2 * i + 2]):
            return float("inf")
        total = stream[i] + added[2 * i].reshape(stream[i].shape) + added[2 * i + 1].reshape(stream[i].shape)
        worst = max(worst, _error(total, stream[i + 1]))
    return worst


def _error(value: Tensor, reference: Tensor) -> float:
    """max |difference| / max |reference|; infinite where shapes differ or anything is not a number."""
    if value.shape != reference.shape:
        return float("inf")
    scale = reference.float().abs().max().clamp_min(1e-12)
    error = float(((value.float() - reference.float()).abs().max() / scale).item())
    return error if math.isfinite(error) else float("inf")
