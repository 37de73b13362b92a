"""The checks of the adapter certificate, on random tokens and, where there is a tokenizer, on a short conversation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from llmct_bench.adapters.adapter import Adapter, Point
from llmct_bench.adapters.architectures import RIGHT_ONLY, UNCACHED
from llmct_bench.adapters.certificate import Check
from llmct_bench.adapters.chat import content_span, encode, render_text
from llmct_bench.adapters.packing import run_packed
from llmct_bench.adapters.resolve import model_device
from llmct_bench.errors import ModelError
from llmct_bench.suites import Turn

#: Relative tolerances of states (max |difference| / max |reference|) by dtype.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 3e-2}
_LENGTH, _SHORT, _NEW = 24, 11, 3
#: Longest sequence of the self-test for packed trees.
SELF_TEST_LENGTH = 48


def model_checks(adapter: Adapter, vocabulary: int, start: int | None = None, seed: int = 0) -> list[Check]:
    """All checks of a model, on three rows of 24 random tokens that begin with its ``start`` token, if it has one.
    They take about twenty passes."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(min(5, vocabulary - 1), vocabulary, (3, _LENGTH), generator=generator)
    if start is not None:
        ids[:, 0] = start
    ids = ids.to(model_device(adapter.module))
    with torch.inference_mode():
        probe = _Probe.of(adapter, ids)
        # transformers sets recording hooks of its own the first time
        _guarded("states", partial(_hidden_states, probe), adapter)
        hooks = count_hooks(adapter.module)
        checks = [_guarded(name, partial(check, probe), adapter) for name, check in _CHECKS.items()]
        checks.append(Check("removal", error(probe.logits(ids), probe.plain), probe.noise))
    checks += [branch_check(adapter, vocabulary, start, seed)]
    return [*checks, Check("hooks", float(count_hooks(adapter.module) - hooks))]


def _guarded(name: str, check: Callable[[], Check], adapter: Adapter) -> Check:
    """A check that cannot be carried out is a failed one, with what stopped it. Memory that runs out is no verdict."""
    try:
        return check()
    except torch.OutOfMemoryError as problem:
        raise ModelError(f"{adapter.model_type}: out of memory while it was certified") from problem
    except Exception as problem:
        text = " ".join(str(problem).split())[:120]
        return Check(name, math.inf, tolerance(adapter.module), f"{type(problem).__name__}: {text}")


def branch_check(adapter: Adapter, vocabulary: int, start: int | None = None, seed: int = 0) -> Check:
    """May this model's conversations be packed as trees? A stem with two branches, one of which branches again, against
    separate passes. Not required: without it every conversation runs by itself."""
    ids = torch.randint(min(5, vocabulary - 1), vocabulary, (1, 64), generator=torch.Generator().manual_seed(seed))
    if start is not None:
        ids[:, 0] = start
    ids = ids.to(model_device(adapter.module))
    tree = (
        _Stretch(0, 24, 0),
        _Stretch(24, 40, 24, ((0, 24),)),
        _Stretch(40, 52, 24, ((0, 24),)),
        _Stretch(52, 64, 36, ((0, 24), (40, 52))),
    )
    points = adapter.residual_points()

    def check() -> Check:
        with torch.inference_mode():
            whole = read(adapter, points, ids, lambda: run_packed(adapter, ids, tree))
            pairs = []
            for stretch in tree:
                path = [*stretch.past, (stretch.start, stretch.stop)]
                alone = read(adapter, points, torch.cat([ids[:, a:b] for a, b in path], 1))
                pairs.append(
                    ([w[:, stretch.start : stretch.stop] for w in whole], [a[:, stretch.depth :] for a in alone])
                )
            return replace(_worst("branches", pairs, tolerance(adapter.module)), required=False)

    return replace(_guarded("branches", check, adapter), required=False)


@dataclass(frozen=True)
class _Stretch:
    start: int
    stop: int
    depth: int
    past: tuple[tuple[int, int], ...] = ()


def text_checks(tokenizer: Any) -> list[Check]:
    """The checks of a tokenizer with its chat template."""
    if not getattr(tokenizer, "is_fast", False):
        why = "the tokenizer gives no character offsets: a fast tokenizer is needed"
        return [Check("start token", None, note=why), Check("spans", math.inf, note=why)]
    return [_start_token(tokenizer), _spans(tokenizer)]


@dataclass(frozen=True)
class _Probe:
    """Random ids (3, 24), the model's logits on them, its states there, and what a repetition changes."""

    adapter: Adapter
    ids: Tensor
    plain: Tensor
    noise: float
    tolerance: float
    points: list[Point]
    states: list[Tensor]

    @staticmethod
    def of(adapter: Adapter, ids: Tensor) -> _Probe:
        points = adapter.points()
        plain = _logits(adapter, ids)
        # Kernels that add in any order (atomics) repeat to within their noise only: nothing can be more equal.
        noise = error(_logits(adapter, ids), plain)
        return _Probe(adapter, ids, plain, noise, tolerance(adapter.module), points, read(adapter, points, ids))

    def logits(self, ids: Tensor) -> Tensor:
        return _logits(self.adapter, ids)

    def state(self, point: Point) -> Tensor:
        return self.states[self.points.index(point)]

    @property
    def residual(self) -> list[Tensor]:
        return self.states[: self.adapter.n_layers + 1]


def read(adapter: Adapter, points: Sequence[Point], ids: Tensor, run: Callable[[], None] | None = None) -> list[Tensor]:
    """The values at points in one pass (of ``run``, by default of the body over ``ids``)."""
    found: dict[int, Tensor] = {}
    with adapter.reading(points, lambda i, value: found.__setitem__(i, value.detach().clone())):
        (run or (lambda: adapter.run(ids)))()
    missing = [str(points[i]) for i in range(len(points)) if i not in found]
    if missing:
        raise ModelError(f"{adapter.model_type}: nothing passed through {', '.join(missing)}")
    return [found[i] for i in range(len(points))]


def tolerance(module: nn.Module) -> float:
    """The relative tolerance of states in the model's floating dtype."""
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    whole = all(p.is_floating_point() for p in module.parameters())
    return TOLERANCE.get(dtype, 3e-2) if whole else 3e-2


def error(value: Tensor, reference: Tensor) -> float:
    """max |difference| / max |reference|; infinite where shapes differ or anything is not a number."""
    if value.shape != reference.shape:
        return math.inf
    reference = reference.float()
    scale = reference.abs().max().clamp_min(1e-12)
    found = float(((value.float().to(reference.device) - reference).abs().max() / scale).item())
    return found if math.isfinite(found) else math.inf


def _worst(
    name: str, pairs: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]], allowed: float, note: str = ""
) -> Check:
    """The comparison of whole streams (values, references; one entry a point) that comes nearest to its tolerance.

    A massive activation leaves its rounding errors in the stream when a later block takes it away. So a state's
    tolerance grows by two units of rounding of the largest value before it in the stream.
    """
    worst = Check(name, 0.0, allowed, note)
    for values, references in pairs:
        peak = 0.0
        for value, reference in zip(values, references, strict=True):
            size = float(reference.abs().max())
            peak = max(peak, size)
            limit = allowed + 2 * torch.finfo(reference.dtype).eps * (peak / size - 1 if size else 0.0)
            found = Check(name, error(value, reference), limit, note)
            assert found.error is not None
            assert worst.error is not None
            if not found.error / limit <= worst.error / worst.tolerance:
                worst = found
    return worst


def count_hooks(module: nn.Module) -> int:
    """Number of forward hooks and pre-hooks on a model."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def _logits(adapter: Adapter, ids: Tensor) -> Tensor:
    result: Tensor = adapter.module(input_ids=ids, use_cache=False).logits
    return result


def _hidden_states(p: _Probe) -> Check:
    """transformers lists the inputs of the blocks in most families and their outputs in some (Mamba): the better of
    the two alignments counts. Its last entry is after the final norm and is left to the next check."""
    own = _own_states(p)
    if not own:
        return Check("states", None, note="transformers records no hidden states for this architecture")
    inner = own[:-1]
    found = [
        max((error(s, o) for s, o in zip(p.residual[offset:], inner, strict=False)), default=0.0)
        for offset in (0, 1)
        if len(p.residual) - offset >= len(inner)
    ]
    return Check("states", min(found, default=math.inf), p.tolerance)


def _own_states(p: _Probe) -> list[Tensor]:
    own = p.adapter.decoder(input_ids=p.ids, use_cache=False, output_hidden_states=True)
    found = getattr(own, "hidden_states", None) or ()
    streams = p.adapter.streams
    return [streams.join(h) if streams is not None and h.ndim == 4 else h for h in found]


def _final_norm(p: _Probe) -> Check:
    final, own = p.adapter.final, _own_states(p)
    if final is None:
        return Check("final norm", None, note="no module takes the last state; see the donor patch")
    if not final:
        return Check("final norm", error(p.residual[-1], own[-1]), p.tolerance, "no final norm: the last hidden_state")
    entered: list[Tensor] = []
    left: list[Tensor] = []
    with ExitStack() as stack:
        before = final[0].register_forward_pre_hook(lambda _, args: entered.append(args[0].clone()))
        after = final[-1].register_forward_hook(lambda _, args, out: left.append(out.clone()))
        stack.callback(before.remove)
        stack.callback(after.remove)
        p.adapter.run(p.ids)
    streams = p.adapter.streams
    came = streams.join(entered[-1]) if streams is not None and entered[-1].ndim == 4 else entered[-1]
    read_error, written = error(came, p.residual[-1]), error(left[-1], own[-1]) if own else 0.0
    return Check("final norm", max(read_error, written), p.tolerance)


def _lens(p: _Probe) -> Check:
    if p.adapter.final is None:
        return Check("lens", None, note="no module takes the last state; see the donor patch")
    return Check("lens", error(p.adapter.lens(p.residual[-1]), p.plain), p.tolerance)


def _closure(p: _Probe) -> Check:
    if p.adapter.contributions is None:
        return Check("closure", None, note="no two-term split is known")
    worst = 0.0
    for i in range(p.adapter.n_layers):
        before, after = p.residual[i : i + 2]
        attn, mlp = p.state(Point("attn", i)), p.state(Point("mlp", i))
        if attn.numel() != before.numel() or mlp.numel() != before.numel():
            return Check("closure", math.inf, p.tolerance)
        worst = max(worst, error(before + attn.reshape(before.shape) + mlp.reshape(before.shape), after))
    return Check("closure", worst, p.tolerance)


def _finite(p: _Probe) -> Check:
    return Check("finite", float(sum((~torch.isfinite(s)).sum().item() for s in p.states)))


def _batching(p: _Probe) -> Check:
    """Rows of three lengths together, in two orders and padded with two tokens, against each row alone."""
    lengths, points = (_SHORT, _LENGTH, _SHORT - 4), p.adapter.residual_points()
    alone = [read(p.adapter, points, p.ids[i : i + 1, :n]) for i, n in enumerate(lengths)]
    pairs = []
    for order, filler in (((0, 1, 2), 0), ((2, 0, 1), 3)):
        mixed = torch.full_like(p.ids, filler)
        for place, i in enumerate(order):
            mixed[place, : lengths[i]] = p.ids[i, : lengths[i]]
        together = read(p.adapter, points, mixed)
        pairs += [
            ([t[place, : lengths[i]] for t in together], [a[0] for a in alone[i]]) for place, i in enumerate(order)
        ]
    return _worst("batching", pairs, p.tolerance)


def _left_padding(p: _Probe) -> Check:
    if p.adapter.model_type in RIGHT_ONLY:
        return Check("left padding", None, note=f"right padding only: {RIGHT_ONLY[p.adapter.model_type]}")
    lengths, points = (_SHORT, _LENGTH), p.adapter.residual_points()
    padded = torch.zeros_like(p.ids[:2])
    for row, n in enumerate(lengths):
        padded[row, _LENGTH - n :] = p.ids[row, :n]
    together = read(p.adapter, points, padded, lambda: p.adapter.run_left_padded(padded, lengths))
    pairs = []
    for row, n in enumerate(lengths):
        alone = read(p.adapter, points, p.ids[row : row + 1, :n])
        pairs.append(([t[row, _LENGTH - n :] for t in together], [a[0] for a in alone]))
    return _worst("left padding", pairs, p.tolerance)


def _generation(p: _Probe) -> Check:
    """States at every step with the cache against one pass over the generated text."""
    prompt, points = p.ids[:2, :_SHORT], p.adapter.residual_points()
    why = UNCACHED.get(p.adapter.model_type, "")
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=_NEW, min_new_tokens=_NEW, do_sample=False, pad_token_id=0, use_cache=not why
    )
    steps: list[list[Tensor]] = [[] for _ in points]
    with p.adapter.reading(points, lambda i, value: steps[i].append(value.clone())):
        module: Any = p.adapter.module
        text = module.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=settings)
    whole = read(p.adapter, points, text[:, :-1])
    if len(steps[0]) != _NEW:
        return Check("generation", math.inf, p.tolerance, f"{len(steps[0])} passes for {_NEW} new tokens")
    pairs = []
    for step in range(_NEW):  # with a cache a pass holds the last token only, without one everything so far
        values, stop = [s[step] for s in steps], _SHORT + step
        pairs.append((values, [w[:, stop - v.shape[1] : stop] for v, w in zip(values, whole, strict=True)]))
    return _worst("generation", pairs, p.tolerance, f"without a cache: {why}" if why else "")


def _identity(p: _Probe) -> Check:
    with ExitStack() as stack:
        for point, state in zip(p.points, p.states, strict=True):
            if p.adapter.scale == 1.0 or point.kind not in ("attn", "mlp"):  # a scaled value does not round-trip
                stack.enter_context(p.adapter.patch(point, state))
        return Check("identity patch", error(p.logits(p.ids), p.plain), p.noise)


def _edit(p: _Probe) -> Check:
    """Every residual point is raised at one span of row 0, in one pass. What the next block (or the final norm) takes
    in must be what was there before the edit plus the raise; the row before the span and the other rows must stay as
    they were without any edit. In a second pass attention and MLP are raised: they must still close the residual."""
    points, row, start, stop = p.adapter.residual_points(), 0, _SHORT - 3, _SHORT
    direction = torch.linspace(-1.0, 1.0, p.adapter.d_model, device=p.ids.device)
    before: dict[int, Tensor] = {}
    taken: dict[int, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(p.adapter.reading(points, lambda i, value: before.__setitem__(i, value.clone())))
        for point in points:
            stack.enter_context(p.adapter.steer(point, direction, [(row, start, stop)]))
        for i, taker in enumerate([*p.adapter.blocks, *(p.adapter.final or ())[:1]]):  # the last call counts
            stack.callback(_watch(taker, i, taken, p.adapter).remove)
        p.adapter.run(p.ids)
    worst = 0.0
    for i, old in enumerate(p.residual):
        if i in taken:
            expected = before[i].clone()
            expected[row, start:stop] += direction.to(expected)
            worst = max(worst, error(taken[i], expected))
        worst = max(worst, error(before[i][1:], old[1:]), error(before[i][0, :start], old[0, :start]))
    return Check("edit", max(worst, _edited_split(p, direction)), p.tolerance)


def _edited_split(p: _Probe, direction: Tensor) -> float:
    parts, points = p.adapter.contribution_points(), p.adapter.residual_points()
    if not parts:
        return 0.0
    with ExitStack() as stack:
        for point in parts:
            stack.enter_context(p.adapter.steer(point, direction))
        edited = _Probe(p.adapter, p.ids, p.plain, p.noise, p.tolerance, [*points, *parts], [])
        states = read(p.adapter, edited.points, p.ids)
    moved = error(states[1], p.residual[1]) > p.tolerance
    closed = _closure(replace(edited, states=states)).error
    return closed if moved and closed is not None else math.inf


def _watch(module: nn.Module, i: int, taken: dict[int, Tensor], adapter: Adapter) -> Any:
    """Note what a module takes in, with a hook of its own that owes nothing to the adapter's."""

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        value = args[0] if args else kwargs["hidden_states"]
        taken[i] = (adapter.streams.join(value) if adapter.streams and value.ndim == 4 else value).clone()

    return module.register_forward_pre_hook(before, with_kwargs=True)


def _donor(p: _Probe) -> Check:
    donor = p.ids.roll(1, dims=0)
    point = Point("resid", p.adapter.n_layers)
    (state,) = read(p.adapter, [point], donor)
    with p.adapter.patch(point, state):
        patched = p.logits(p.ids)
    return Check("donor patch", error(patched, p.logits(donor)), p.tolerance)


_CHECKS: dict[str, Callable[[_Probe], Check]] = {
    "states": _hidden_states,
    "final norm": _final_norm,
    "lens": _lens,
    "closure": _closure,
    "finite": _finite,
    "batching": _batching,
    "left padding": _left_padding,
    "generation": _generation,
    "identity patch": _identity,
    "edit": _edit,
    "donor patch": _donor,
}

_TALK = (
    Turn(role="user", content="It's late. The 7 o'clock train has left!"),
    Turn(role="assistant", content="Then we walk: it is only a mile."),
    Turn(role="user", content="It's late. The 7 o'clock train has left!"),
)


def _start_token(tokenizer: Any) -> Check:
    start = tokenizer.bos_token_id
    if start is None:
        return Check("start token", None, note="the tokenizer has none")
    text = render_text(_TALK[:1], tokenizer)
    (tokens,), (offsets,) = encode([text], tokenizer)
    first, _ = content_span(text, _TALK[0].content, offsets, "message 1")
    return Check("start token", float(list(tokens[:first])[:2] == [start, start]))


def _spans(tokenizer: Any) -> Check:
    """Characters of the tokens of a message that are not the message's (white space aside), over all messages; the
    same text twice must be found at its own place."""
    foreign, places = 0, []
    for end in range(1, len(_TALK) + 1):
        text = render_text(_TALK[:end], tokenizer)
        content = _TALK[end - 1].content
        _, (offsets,) = encode([text], tokenizer)
        start, stop = content_span(text, content, offsets, f"message {end}")
        covered = text[offsets[start][0] : offsets[stop - 1][1]]
        foreign += abs(len("".join(covered.split())) - len("".join(content.split())))
        foreign += content.strip() not in covered
        places.append(start)
    foreign += places != sorted(set(places))
    return Check("spans", float(foreign))
