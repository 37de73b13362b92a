"""The adapter certificate: a model that fails it is refused, not scored."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

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
    """Run the checks on random tokens: states equal transformers' own ``hidden_states``, are finite, and do not
    depend on batching and right padding; a two-term split closes; nothing is left behind."""
    generator = torch.Generator().manual_seed(seed)
    device = model_device(module)
    length = 24
    ids = torch.randint(5, max(vocab_size, 6), (2, length), generator=generator).to(device)
    tolerance = TOLERANCE.get(next(module.parameters()).dtype, 3e-2)
    points = adapter.residual_points()
    with torch.inference_mode():
        states, logits = _states(adapter, points, ids), module(input_ids=ids, use_cache=False).logits
        output = adapter.decoder(input_ids=ids, use_cache=False, output_hidden_states=True)
        own = output.hidden_states
        # hidden_states holds the block inputs; its last entry is after the final norm. Mamba counts from block 0.
        offset = 0 if len(own) == len(points) else 1
        errors = [_error(states[i + offset], own[i]) for i in range(len(own) - 1)]
        checks = [
            Check("states equal transformers' hidden_states", max(errors), tolerance),
            Check("all states are finite", float(sum((~torch.isfinite(s)).sum().item() for s in states)), 0.0),
        ]
        padded = torch.cat([ids[:1, : length // 2], torch.zeros_like(ids[:1, : length // 2])], dim=1)
        mixed = _states(adapter, points, torch.cat([padded, ids[1:]]))
        alone = _states(adapter, points, ids[:1, : length // 2])
        batching = max(_error(m[:1, : length // 2], a) for m, a in zip(mixed, alone, strict=True))
        checks.append(Check("independent of batch and right padding", batching, tolerance))
        if adapter.contributions is not None:
            checks.append(Check("attention + MLP close the residual", _closure(adapter, ids), tolerance))
        after = module(input_ids=ids, use_cache=False).logits
        checks.append(Check("logits unchanged after the hooks are gone", _error(after, logits), 0.0))
    return AdapterCertificate(tuple(checks))


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
        total = stream[i] + added[2 * i].reshape(stream[i].shape) + added[2 * i + 1].reshape(stream[i].shape)
        worst = max(worst, _error(total, stream[i + 1]))
    return worst


def _error(value: Tensor, reference: Tensor) -> float:
    scale = reference.float().abs().max().clamp_min(1e-12)
    return float(((value.float() - reference.float()).abs().max() / scale).item())
