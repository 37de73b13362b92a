"""The checks of the adapter certificate that need no text: on random tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
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
from llmct_bench.adapters.comparing import count_hooks, error, guarded, read, tolerance, words, worst
from llmct_bench.adapters.packing import run_packed
from llmct_bench.adapters.resolve import model_device
from llmct_bench.errors import ModelError

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
    try:
        with torch.inference_mode():
            probe = _Probe.of(adapter, ids)
            guarded("states", partial(_hidden_states, probe))  # transformers now sets recording hooks of its own
            hooks = count_hooks(adapter.module)
            checks = [guarded(name, partial(check, probe)) for name, check in _CHECKS.items()]
            checks.append(Check("removal", error(probe.logits(ids), probe.plain), probe.noise))
        checks.append(branch_check(adapter, vocabulary, start, seed))
    except ModelError:
        raise
    except torch.OutOfMemoryError as problem:
        raise ModelError(f"{adapter.model_type}: out of memory while it was certified") from problem
    except Exception as problem:
        raise ModelError(f"{adapter.model_type}: a pass over random tokens fails: {words(problem)}") from problem
    return [*checks, Check("hooks", float(abs(count_hooks(adapter.module) - hooks)))]


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
            return replace(worst("branches", pairs, tolerance(adapter.module)), required=False)

    return replace(guarded("branches", check), required=False)


@dataclass(frozen=True)
class _Stretch:
    start: int
    stop: int
    depth: int
    past: tuple[tuple[int, int], ...] = ()


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
        noise = noise if math.isfinite(noise) else 0.0
        return _Probe(adapter, ids, plain, noise, tolerance(adapter.module), points, read(adapter, points, ids))

    def logits(self, ids: Tensor) -> Tensor:
        return _logits(self.adapter, ids)

    def state(self, point: Point) -> Tensor:
        return self.states[self.points.index(point)]

    @property
    def residual(self) -> list[Tensor]:
        return self.states[: self.adapter.n_layers + 1]


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
    points, order = p.adapter.contribution_points(), list[int]()
    with p.adapter.reading(points, lambda i, value: order.append(i)):
        p.adapter.run(p.ids)
    if order != sorted(order):
        return Check("closure", math.inf, p.tolerance, "the MLP writes before the attention: are they swapped?")
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
    return worst("batching", pairs, p.tolerance)


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
    return worst("left padding", pairs, p.tolerance)


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
    return worst("generation", pairs, p.tolerance, f"without a cache: {why}" if why else "")


def _identity(p: _Probe) -> Check:
    """Every value is put back where it was. What arrives at each point must still be what was there before, so that
    each patch is tested and not only the last one. A scaled value does not come back to the bit, so it is left out."""
    chosen = [(q, v) for q, v in zip(p.points, p.states, strict=True) if p.adapter.scale == 1.0 or q.kind == "resid"]
    after: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for point, state in chosen:
            stack.enter_context(p.adapter.patch(point, state))
        keep = p.adapter.reading([q for q, _ in chosen], lambda i, value: after.__setitem__(i, value.clone()))
        stack.enter_context(keep)
        logits = p.logits(p.ids)
    moved = max(error(after[i], state) for i, (_, state) in enumerate(chosen))
    return Check("identity patch", max(moved, error(logits, p.plain)), p.noise)


def _edit(p: _Probe) -> Check:
    """Every residual point is raised at one span of row 0, in one pass. What the next block (or the final norm) takes
    in must be what was there before the edit plus the raise; the row before the span and the other rows must stay as
    they were without any edit. In a second pass all other points are raised."""
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
    return Check("edit", max(worst, _edited_parts(p, direction)), p.tolerance)


def _edited_parts(p: _Probe, direction: Tensor) -> float:
    """Attention, MLP and the final norm are raised in one pass: each by exactly the direction, and attention and MLP
    must still close the residual."""
    parts = [q for q in p.points if q.kind != "resid"]
    before: dict[int, Tensor] = {}
    after: dict[int, Tensor] = {}
    stream = p.adapter.residual_points()
    with ExitStack() as stack:
        stack.enter_context(p.adapter.reading(parts, lambda i, value: before.__setitem__(i, value.clone())))
        for point in parts:
            stack.enter_context(p.adapter.steer(point, direction[: _width(p, point)]))
        states = read(p.adapter, [*stream, *parts], p.ids)
        after = dict(enumerate(states[len(stream) :]))
    moved = [error(after[i], before[i] + direction[: _width(p, q)].to(before[i])) for i, q in enumerate(parts)]
    if p.adapter.contributions is not None:
        edited = replace(p, points=[*stream, *parts], states=states)
        moved.append(_closure(edited).error or 0.0)
    return max(moved, default=0.0)


def _width(p: _Probe, point: Point) -> int:
    """Values at a point may be narrower than the stream: the final norm of parallel streams sees one."""
    return int(p.state(point).shape[-1])


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
