"""Editing at every kind of point against the same change written by hand into a copied model's own forward.

The places of blocks, parts and norms stand here a second time, as paths, so that nothing is owed to the adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import GenerationConfig

from llmct_bench.adapters import Adapter, Point, resolve
from llmct_bench.adapters.tiny import VOCABULARY, tiny
from llmct_bench.errors import ModelError

ROWS, TOKENS, BLOCKS, WIDTH, STREAMS = 3, 12, 3, 64, 4
EOS = 2


class Place(NamedTuple):
    """Where a family keeps its blocks, what attention and MLP of a block add, and its final norm."""

    blocks: str
    attn: str = ""
    mlp: str = ""
    norm: str = ""
    factor: float = 1.0


FAMILIES: dict[str, Place] = {
    "qwen2": Place("model.layers", "self_attn.o_proj", "mlp.down_proj", "model.norm"),
    "gptj": Place("transformer.h", "attn.out_proj", "mlp.fc_out", "transformer.ln_f"),
    "gpt_neo": Place("transformer.h", "attn.attention", "mlp.c_proj", "transformer.ln_f"),
    "falcon": Place("transformer.h", "self_attention.dense", "mlp.dense_4h_to_h", "transformer.ln_f"),
    "bloom": Place("transformer.h", "self_attention.dense", "mlp.dense_4h_to_h", "transformer.ln_f"),
    "mpt": Place("transformer.blocks", "attn.out_proj", "ffn.down_proj", "transformer.norm_f"),
    "openai-gpt": Place("transformer.h"),
    "opt": Place("model.decoder.layers", "self_attn.out_proj", "fc2", "model.decoder.final_layer_norm"),
    "granite": Place("model.layers", "self_attn.o_proj", "mlp.down_proj", "model.norm", factor=0.22),
    "gemma2": Place("model.layers", "post_attention_layernorm", "post_feedforward_layernorm", "model.norm"),
    "deepseek_v4": Place("model.layers", norm="model.norm"),
    "gemma3n_text": Place("model.layers"),
    "mamba": Place("backbone.layers", norm="backbone.norm_f"),
    "mixtral": Place("model.layers", "self_attn.o_proj", "mlp", "model.norm"),
}


def points(family: str) -> list[Point]:
    """Every point that the family must have, by the table above."""
    place = FAMILIES[family]
    found = [Point("resid", i) for i in range(BLOCKS + 1)]
    found += [Point(kind, i) for i in range(BLOCKS) for kind in ("attn", "mlp") if place.attn]
    return found + [Point("final_norm")] * bool(place.norm)


CASES = [(family, point) for family in FAMILIES for point in points(family)]
LAST = Point("resid", BLOCKS)


def each_point(test: Any) -> Any:
    return pytest.mark.parametrize(("family", "point"), CASES, ids=lambda v: str(v))(test)


def each_family(test: Any) -> Any:
    return pytest.mark.parametrize("family", FAMILIES)(test)


@cache
def built(family: str) -> tuple[Any, Adapter]:
    module = tiny(family)
    return module, resolve(module)


USED: set[str] = set()


def model(family: str) -> tuple[Any, Adapter]:
    """One model of a family for all tests, none of which may leave a trace on it."""
    USED.add(family)
    return built(family)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Every test ends with models that hold no hook."""
    yield
    left = [family for family in sorted(USED) if hooks(built(family)[0])]
    USED.clear()
    assert left == []


def hooks(module: nn.Module) -> int:
    """All hooks of all kinds on a model."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    flags = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")
    return sum(len(getattr(m, kind)) for m in module.modules() for kind in (*kinds, *flags))


def some_ids(seed: int = 1, rows: int = ROWS, tokens: int = TOKENS) -> Tensor:
    return torch.randint(5, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def width(family: str, point: Point) -> int:
    """Entries of a state: parallel streams are concatenated, and the final norm writes one of them."""
    many = family in ("deepseek_v4", "gemma3n_text") and point.kind != "final_norm"
    return WIDTH * (STREAMS if many else 1)


def noise(family: str, point: Point, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, width(family, point), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def logits(module: Any, ids: Tensor) -> Tensor:
    result: Tensor = module(input_ids=ids, use_cache=False).logits
    return result.clone()


@torch.inference_mode()
def read(adapter: Adapter, wanted: list[Point], ids: Tensor) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    with adapter.reading(wanted, lambda i, value: found.__setitem__(i, value.clone())):
        adapter.run(ids)
    return [found[i] for i in range(len(wanted))]


def assert_close(value: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert value.shape == expected.shape
    assert torch.isfinite(expected).all()
    assert float((value - expected).abs().max()) <= tolerance * float(expected.abs().max())


def differs(value: Tensor, other: Tensor) -> bool:
    return float((value - other).abs().max()) > 1e-3 * float(other.abs().max())


# --- the change by hand ---------------------------------------------------------------------------------------


def native(family: str, point: Point, step: Tensor, like: Tensor) -> Tensor:
    """A step (d) or (batch, tokens, d) in the layout in which the family's module returns its value."""
    if like.ndim == 4 and family == "gemma3n_text":  # streams first
        return step.reshape(*step.shape[:-1], STREAMS, WIDTH).movedim(-2, 0).reshape(STREAMS, *_lead(step), WIDTH)
    if like.ndim == 4:  # streams before the width
        return step.reshape(*step.shape[:-1], STREAMS, WIDTH)
    if like.ndim == 2 and step.ndim == 3:  # flattened tokens
        return step.expand(ROWS, TOKENS, -1).reshape(-1, step.shape[-1])
    return step


def _lead(step: Tensor) -> tuple[int, ...]:
    return tuple(step.shape[:-1]) if step.ndim == 3 else (1, 1)


def by_hand(family: str, point: Point, step: Tensor) -> Any:
    """A copy of the family's model whose own forward adds ``step`` at a point. It has no hooks."""
    module, place = tiny(family), FAMILIES[family]
    blocks: Any = module.get_submodule(place.blocks)
    if point == Point("resid", 0):
        first, forward = blocks[0], blocks[0].forward
        first.forward = lambda x, *args, **kwargs: forward(x + native(family, point, step, x), *args, **kwargs)
        return module
    if point.kind == "final_norm":
        part = module.get_submodule(place.norm)
    elif point.kind == "resid":
        part = blocks[point.layer - 1]
    else:
        part = blocks[point.layer].get_submodule(place.attn if point.kind == "attn" else place.mlp)
        step = step / place.factor
    inner = part.forward

    def forward_and_add(*args: Any, **kwargs: Any) -> Any:
        out = inner(*args, **kwargs)
        if isinstance(out, tuple):
            return (out[0] + native(family, point, step, out[0]), *out[1:])
        if isinstance(out, list):
            return [out[0] + native(family, point, step, out[0]), *out[1:]]
        return out + native(family, point, step, out)

    part.forward = forward_and_add
    return module


@each_family
def test_the_points_of_a_family(family: str) -> None:
    _, adapter = model(family)
    assert adapter.points() == points(family)
    assert adapter.d_model == width(family, Point("resid", 0))


@each_point
def test_a_steer_is_the_same_addition_in_the_models_own_forward(family: str, point: Point) -> None:
    module, adapter = model(family)
    ids, step = some_ids(), noise(family, point, ROWS, TOKENS)
    with adapter.steer(point, step):
        steered = logits(module, ids)
    assert_close(steered, logits(by_hand(family, point, step), ids))
    assert differs(steered, logits(module, ids))


@pytest.mark.parametrize("family", ["qwen2", "gpt_neo", "opt", "granite", "gemma3n_text", "deepseek_v4", "mamba"])
@given(
    place=st.integers(0, 100),
    span=st.tuples(st.integers(0, ROWS - 1), st.integers(0, TOKENS - 1), st.integers(1, TOKENS)),
    seed=st.integers(0, 99),
)
@settings(max_examples=12, deadline=None)
def test_a_steer_on_a_span_is_an_addition_there_and_nowhere_else(
    family: str, place: int, span: tuple[int, int, int], seed: int
) -> None:
    """Also: the other rows and the positions before the span do not change."""
    module, adapter = model(family)
    point = points(family)[place % len(points(family))]
    row, start, stop = span[0], span[1], min(span[1] + span[2], TOKENS)
    direction, ids = noise(family, point, seed=seed), some_ids(seed)
    step = torch.zeros(ROWS, TOKENS, len(direction))
    step[row, start:stop] = direction
    plain = logits(module, ids)
    with adapter.steer(point, direction, [(row, start, stop)]):
        steered = logits(module, ids)
    assert_close(steered, logits(by_hand(family, point, step), ids))
    others = [r for r in range(ROWS) if r != row]
    assert_close(steered[others], plain[others], 1e-6)
    if start:
        assert_close(steered[row, :start], plain[row, :start], 1e-6)
    assert differs(steered[row, start:stop], plain[row, start:stop])


@each_point
def test_rows_and_earlier_positions_are_out_of_a_spans_reach(family: str, point: Point) -> None:
    module, adapter = model(family)
    ids, plain = some_ids(), logits(model(family)[0], some_ids())
    value = 3.0 * noise(family, point, 4)
    for edit in (adapter.patch(point, value, [(1, 5, 9)]), adapter.steer(point, value, [(1, 5, 9)])):
        with edit:
            edited = logits(module, ids)
        assert_close(edited[[0, 2]], plain[[0, 2]], 1e-6)
        assert_close(edited[1, :5], plain[1, :5], 1e-6)
        assert differs(edited[1, 5:9], plain[1, 5:9])
        if point.kind == "final_norm" or point == LAST:  # nothing comes after that could carry it on
            assert_close(edited[1, 9:], plain[1, 9:], 1e-6)


@each_point
def test_a_patch_on_a_span_puts_the_value_there(family: str, point: Point) -> None:
    module, adapter = model(family)
    ids, value = some_ids(), noise(family, point, 4)
    (before,) = read(adapter, [point], ids)
    expected = before.clone().reshape(ROWS, TOKENS, -1)
    expected[1, 5:9] = value
    expected[2, 0:4] = value
    with adapter.patch(point, value, [(1, 5, 9), (2, 0, 4)]):
        (after,) = read(adapter, [point], ids)
        by_span = logits(module, ids)
    tolerance = 1e-6 if FAMILIES[family].factor != 1.0 else 0.0
    assert_close(after, expected, tolerance)
    with adapter.patch(point, expected.clone()):
        assert_close(by_span, logits(module, ids), 1e-6)


@each_point
def test_a_patch_with_a_models_own_state_changes_no_bit(family: str, point: Point) -> None:
    module, adapter = model(family)
    ids = some_ids()
    plain, (own,) = logits(module, ids), read(adapter, [point], ids)
    with adapter.patch(point, own):
        patched = logits(module, ids)
    if FAMILIES[family].factor != 1.0 and point.kind in ("attn", "mlp"):  # x * 0.22 / 0.22 is not x to the bit
        assert_close(patched, plain, 1e-6)
    else:
        assert torch.equal(patched, plain)


@each_family
def test_a_patch_of_the_last_state_gives_the_donors_logits(family: str) -> None:
    module, adapter = model(family)
    ids, donor = some_ids(1), some_ids(2)
    wanted, plain = logits(module, donor), logits(module, ids)
    assert differs(wanted, plain)
    for point in points(family):
        if point == LAST or point.kind == "final_norm":
            (state,) = read(adapter, [point], donor)
            with adapter.patch(point, state):
                assert_close(logits(module, ids), wanted)


#: Nothing but the stream leads from the tokens to their blocks in these.
@pytest.mark.parametrize("family", ["qwen2", "gptj", "gpt_neo", "falcon", "bloom", "mpt", "openai-gpt", "opt", "mamba"])
def test_a_patch_of_any_boundary_gives_the_donors_logits(family: str) -> None:
    module, adapter = model(family)
    ids, donor = some_ids(1), some_ids(2)
    boundaries = [Point("resid", i) for i in range(BLOCKS + 1)]
    for point, state in zip(boundaries, read(adapter, boundaries, donor), strict=True):
        with adapter.patch(point, state):
            assert_close(logits(module, ids), logits(module, donor))


@each_family
def test_a_patch_of_one_row_gives_the_donors_logits_in_that_row(family: str) -> None:
    module, adapter = model(family)
    ids, donor = some_ids(1), some_ids(2)
    (state,) = read(adapter, [LAST], donor)
    with adapter.patch(LAST, state[2], [(0, 0, TOKENS)]):
        patched = logits(module, ids)
    assert_close(patched[0], logits(module, donor)[2])
    assert_close(patched[1:], logits(module, ids)[1:], 1e-6)


# --- algebra of steering --------------------------------------------------------------------------------------


@each_point
def test_a_steer_of_nothing_changes_nothing(family: str, point: Point) -> None:
    module, adapter = model(family)
    ids = some_ids()
    plain = logits(module, ids)
    with adapter.steer(point, torch.zeros(width(family, point))):
        steered = logits(module, ids)
    if FAMILIES[family].factor != 1.0 and point.kind in ("attn", "mlp"):
        assert_close(steered, plain, 1e-6)
    else:
        assert torch.equal(steered, plain)


@each_point
def test_there_and_back_again(family: str, point: Point) -> None:
    module, adapter = model(family)
    ids, direction = some_ids(), noise(family, point)
    with adapter.steer(point, direction):
        there = logits(module, ids)
        with adapter.steer(point, -direction):
            back = logits(module, ids)
    assert_close(back, logits(module, ids))
    assert differs(there, back)


@each_point
def test_two_steers_are_one_of_their_sum(family: str, point: Point) -> None:
    module, adapter = model(family)
    ids, one, two = some_ids(), noise(family, point, seed=1), noise(family, point, seed=2)
    with adapter.steer(point, one), adapter.steer(point, two):
        both = logits(module, ids)
    with adapter.steer(point, one + two):
        assert_close(both, logits(module, ids))


#: What leads from the final norm's output to the logits, where that is linear.
LINEAR = {"granite": 1 / 8.0, **dict.fromkeys(("qwen2", "gpt_neo", "falcon", "bloom", "mpt", "opt", "mamba"), 1.0)}
LINEAR |= dict.fromkeys(("mixtral", "deepseek_v4"), 1.0)


@pytest.mark.parametrize("family", LINEAR)
def test_after_the_final_norm_steering_adds_the_heads_reading_of_the_direction(family: str) -> None:
    module, adapter = model(family)
    ids, direction = some_ids(), noise(family, Point("final_norm"))
    with adapter.steer(Point("final_norm"), direction):
        steered = logits(module, ids)
    expected = module.get_output_embeddings().weight.detach() @ direction * LINEAR[family]
    assert_close(steered - logits(module, ids), expected.expand(ROWS, TOKENS, -1), 2e-5)


def test_without_a_final_norm_steering_the_last_point_is_linear() -> None:
    module, adapter = model("openai-gpt")
    ids, direction = some_ids(), noise("openai-gpt", LAST)
    with adapter.steer(LAST, direction):
        steered = logits(module, ids)
    expected = module.lm_head.weight.detach() @ direction
    assert_close(steered - logits(module, ids), expected.expand(ROWS, TOKENS, -1), 2e-5)


#: From the last state to the logits, written out.
HEADS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "qwen2": lambda m, h: m.lm_head(m.model.norm(h)),
    "opt": lambda m, h: m.lm_head(m.model.decoder.final_layer_norm(h)),
    "granite": lambda m, h: m.lm_head(m.model.norm(h)) / 8.0,
    "gemma2": lambda m, h: torch.tanh(m.lm_head(m.model.norm(h)) / 30.0) * 30.0,
    "falcon": lambda m, h: m.lm_head(m.transformer.ln_f(h)),
    "deepseek_v4": lambda m, h: m.lm_head(m.model.norm(m.model.hc_head(h.reshape(ROWS, TOKENS, STREAMS, WIDTH)))),
}


@pytest.mark.parametrize("family", HEADS)
@given(seed=st.integers(0, 999), size=st.floats(0.01, 100.0))
@settings(max_examples=8, deadline=None)
def test_steering_the_last_point_is_the_head_of_the_sum(family: str, seed: int, size: float) -> None:
    module, adapter = model(family)
    ids, step = some_ids(seed), noise(family, LAST, ROWS, TOKENS, seed=seed) * size
    (state,) = read(adapter, [LAST], ids)
    with adapter.steer(LAST, step):
        steered = logits(module, ids)
    with torch.inference_mode():
        assert_close(steered, HEADS[family](module, state + step))
        assert_close(adapter.lens(state + step), steered)


def test_gradients_pass_through_a_steer() -> None:
    """The gradient of a logit with respect to the direction, against a central difference of two steered passes."""
    module, adapter = model("qwen2")
    ids, point = some_ids(), Point("resid", 1)
    direction = noise("qwen2", point).requires_grad_()
    with adapter.steer(point, direction):
        module(input_ids=ids).logits[0, -1, 7].backward()
    along, step = noise("qwen2", point, seed=5), 1e-2
    ends = []
    for sign in (1, -1):
        with adapter.steer(point, direction.detach() + sign * step * along):
            ends.append(float(logits(module, ids)[0, -1, 7]))
    slope = (ends[0] - ends[1]) / (2 * step)
    assert direction.grad is not None
    assert math.isclose(float(direction.grad @ along), slope, rel_tol=0.02)
    assert abs(slope) > 1e-3


@pytest.mark.parametrize("family", ["qwen2", "opt", "gemma3n_text"])
def test_a_direction_in_float32_steers_a_model_in_bfloat16(family: str) -> None:
    module = tiny(family).bfloat16()
    adapter, ids = resolve(module), some_ids()
    for point in points(family):
        direction = noise(family, point)
        with adapter.steer(point, direction):
            steered = logits(module, ids)
        with adapter.steer(point, direction.bfloat16()):
            assert torch.equal(logits(module, ids), steered)
        assert steered.dtype == torch.bfloat16
        assert differs(steered.float(), logits(module, ids).float())


# --- broadcasting ---------------------------------------------------------------------------------------------

SHAPES = [(), (TOKENS,), (1, TOKENS), (ROWS, 1), (ROWS, TOKENS)]


@each_point
def test_a_steer_broadcasts(family: str, point: Point) -> None:
    module, adapter = model(family)
    ids = some_ids()
    for shape in SHAPES:
        direction = noise(family, point, *shape)
        whole = direction.expand(ROWS, TOKENS, -1).clone()
        with adapter.steer(point, direction):
            steered = logits(module, ids)
        with adapter.steer(point, whole):
            assert_close(steered, logits(module, ids), 1e-6)


@each_point
def test_a_patch_broadcasts(family: str, point: Point) -> None:
    module, adapter = model(family)
    ids = some_ids()
    for shape in SHAPES:
        value = noise(family, point, *shape)
        whole = value.expand(ROWS, TOKENS, -1).clone()
        with adapter.patch(point, value):
            patched = logits(module, ids)
            (seen,) = read(adapter, [point], ids)
        assert_close(seen, whole, 1e-6 if FAMILIES[family].factor != 1.0 else 0.0)
        with adapter.patch(point, whole.clone()):
            assert_close(patched, logits(module, ids), 1e-5)


@each_point
def test_an_edit_leaves_the_callers_tensor_alone(family: str, point: Point) -> None:
    """A donor's state is used for more than one pass."""
    module, adapter = model(family)
    ids = some_ids()
    value = noise(family, point, ROWS, TOKENS)
    for edit in (adapter.steer, adapter.patch):
        mine = value.clone()
        with edit(point, mine):
            first, second = logits(module, ids), logits(module, ids)
        assert torch.equal(mine, value)
        assert torch.equal(first, second)


# --- what a module returned stays what it was -------------------------------------------------------------------

CONTAINERS = [("gptj", tuple), ("gpt_neo", tuple), ("falcon", tuple), ("bloom", tuple), ("mpt", tuple)]
CONTAINERS += [("rwkv", tuple), ("falcon_h1", tuple), ("openai-gpt", list), ("qwen2", Tensor), ("opt", Tensor)]


@pytest.mark.parametrize(("family", "kind"), CONTAINERS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_the_container_of_a_block_is_kept(family: str, kind: type) -> None:
    """One spy before the edit and one after it; everything but the state is the same object in both."""
    module = tiny(family)
    adapter = resolve(module)
    block = adapter.blocks[1]
    before: list[Any] = []
    after: list[Any] = []
    with ExitStack() as stack:
        spy = block.register_forward_hook(lambda _, args, out: before.append(out))
        stack.callback(spy.remove)
        stack.enter_context(adapter.steer(Point("resid", 2), torch.ones(adapter.d_model)))
        spy = block.register_forward_hook(lambda _, args, out: after.append(out))
        stack.callback(spy.remove)
        logits(module, some_ids())
    (old,), (new,) = before, after
    assert isinstance(new, kind)
    assert type(new) is type(old)
    if kind is Tensor:
        assert torch.equal(new, old + 1)
        return
    assert len(new) == len(old)
    assert torch.equal(new[0], old[0] + 1)
    assert all(a is b for a, b in zip(new[1:], old[1:], strict=True))


def test_the_rest_of_a_parts_tuple_is_kept() -> None:
    """GPT-Neo's attention returns its weights beside its output."""
    module, adapter = model("gpt_neo")
    seen: list[Any] = []
    with adapter.steer(Point("attn", 1), torch.ones(WIDTH)):
        part = module.transformer.h[1].attn.attention
        spy = part.register_forward_hook(lambda _, args, out: seen.append(out))
        module(input_ids=some_ids(), output_attentions=True)
        spy.remove()
    assert isinstance(seen[0], tuple)
    assert seen[0][1] is not None
    assert torch.allclose(seen[0][1].sum(-1), torch.ones(()), atol=1e-5)  # still attention weights


@each_family
def test_the_other_inputs_of_the_first_block_are_kept(family: str) -> None:
    module, adapter = model(family)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    first = module.get_submodule(FAMILIES[family].blocks)[0]

    def spy(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))

    with ExitStack() as stack:
        stack.callback(first.register_forward_pre_hook(spy, with_kwargs=True).remove)
        stack.enter_context(adapter.steer(Point("resid", 0), torch.ones(adapter.d_model)))
        stack.callback(first.register_forward_pre_hook(spy, with_kwargs=True).remove)
        logits(module, some_ids())
    (old, old_names), (new, new_names) = calls
    assert torch.equal(new[0], old[0] + 1)
    assert len(new) == len(old)
    assert all(a is b for a, b in zip(new[1:], old[1:], strict=True))
    assert new_names.keys() == old_names.keys()
    assert all(new_names[k] is old_names[k] for k in old_names)


def test_a_first_block_that_is_called_by_keyword() -> None:
    module = tiny("qwen2")
    plain = by_hand("qwen2", Point("resid", 0), torch.ones(WIDTH))
    first, call = module.model.layers[0], type(module.model.layers[0]).__call__

    class ByKeyword(type(first)):  # type: ignore[misc]
        def __call__(self, hidden: Tensor, **kwargs: Any) -> Any:
            return call(self, hidden_states=hidden, **kwargs)

    first.__class__ = ByKeyword
    adapter = resolve(module)
    with adapter.steer(Point("resid", 0), torch.ones(WIDTH)):
        assert_close(logits(module, some_ids()), logits(plain, some_ids()), 1e-6)


# --- order ----------------------------------------------------------------------------------------------------


@each_point
def test_edits_at_one_point_act_in_the_order_in_which_they_were_opened(family: str, point: Point) -> None:
    module, adapter = model(family)
    ids, value, direction = some_ids(), noise(family, point, ROWS, TOKENS), noise(family, point, seed=3)
    with adapter.steer(point, direction), adapter.patch(point, value.clone()):
        patched_last = logits(module, ids)
    with adapter.patch(point, value.clone()), adapter.steer(point, direction):
        steered_last = logits(module, ids)
    with adapter.patch(point, value.clone()):
        assert_close(patched_last, logits(module, ids), 1e-6)
    with adapter.patch(point, value + direction):
        assert_close(steered_last, logits(module, ids))
    assert differs(steered_last, patched_last)


@each_point
def test_a_reading_sees_what_was_opened_before_it(family: str, point: Point) -> None:
    module, adapter = model(family)
    ids, direction = some_ids(), noise(family, point)
    (plain,) = read(adapter, [point], ids)
    seen: dict[str, Tensor] = {}
    with ExitStack() as stack, torch.inference_mode():
        stack.enter_context(adapter.reading([point], lambda _, v: seen.__setitem__("before", v.clone())))
        stack.enter_context(adapter.steer(point, direction))
        stack.enter_context(adapter.reading([point], lambda _, v: seen.__setitem__("between", v.clone())))
        stack.enter_context(adapter.steer(point, direction))
        stack.enter_context(adapter.reading([point], lambda _, v: seen.__setitem__("after", v.clone())))
        module(input_ids=ids, use_cache=False)
    assert torch.equal(seen["before"], plain)
    assert_close(seen["between"], plain + direction, 1e-6)
    assert_close(seen["after"], plain + 2 * direction, 1e-6)


@each_family
def test_edits_at_different_points_add_up_along_the_stream(family: str) -> None:
    """An edit of a boundary is seen there; the states before it stay; an edit further on starts from what came."""
    _, adapter = model(family)
    boundaries, ids = [Point("resid", i) for i in range(BLOCKS + 1)], some_ids()
    plain, direction = read(adapter, boundaries, ids), noise(family, LAST)
    with adapter.steer(Point("resid", 2), direction):
        once = read(adapter, boundaries, ids)
        with adapter.steer(LAST, direction):
            twice = read(adapter, boundaries, ids)
    assert torch.equal(once[0], plain[0])
    assert torch.equal(once[1], plain[1])
    assert_close(once[2], plain[2] + direction, 1e-6)
    assert differs(once[3], plain[3])
    assert torch.equal(twice[2], once[2])
    assert_close(twice[3], once[3] + direction, 1e-6)


@pytest.mark.parametrize("family", [f for f in FAMILIES if FAMILIES[f].attn and f not in ("gptj", "falcon")])
def test_a_steered_part_moves_its_block_by_the_step(family: str) -> None:
    """What is added to the last block's MLP arrives at the last point, whatever stands between them."""
    _, adapter = model(family)
    ids, direction = some_ids(), noise(family, LAST)
    (plain,) = read(adapter, [LAST], ids)
    with adapter.steer(Point("mlp", BLOCKS - 1), direction):
        (moved,) = read(adapter, [LAST], ids)
    assert_close(moved - plain, direction.expand(ROWS, TOKENS, -1), 1e-4)


# --- hooks are always removed -----------------------------------------------------------------------------------


class Stop(Exception):
    pass


def stop(*_: Any) -> Any:
    raise Stop


EDITS: dict[str, Callable[[Adapter, Point], AbstractContextManager[None]]] = {
    "editing": lambda a, p: a.editing(p, lambda v: v + 1),
    "steer": lambda a, p: a.steer(p, torch.ones(())),
    "patch": lambda a, p: a.patch(p, torch.ones(())),
    "reading": lambda a, p: a.reading([p, LAST, p], lambda i, v: None),
}


@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("point", points("opt"), ids=str)
def test_hooks_go_at_the_end_and_when_the_body_fails(kind: str, point: Point) -> None:
    module, adapter = model("opt")
    plain = logits(module, some_ids())
    with EDITS[kind](adapter, point):
        assert hooks(module) > 0
    assert hooks(module) == 0
    with pytest.raises(Stop), EDITS[kind](adapter, point), EDITS[kind](adapter, LAST):
        stop()
    assert hooks(module) == 0
    assert torch.equal(logits(module, some_ids()), plain)


@each_point
def test_hooks_go_when_the_edit_or_the_reader_fails(family: str, point: Point) -> None:
    module, adapter = model(family)
    plain = logits(module, some_ids())
    with pytest.raises(Stop), adapter.steer(LAST, torch.ones(())), adapter.editing(point, stop):
        logits(module, some_ids())
    assert hooks(module) == 0
    with pytest.raises(Stop), adapter.steer(LAST, torch.ones(())), adapter.reading([point], stop):
        logits(module, some_ids())
    assert hooks(module) == 0
    assert torch.equal(logits(module, some_ids()), plain)


@pytest.mark.parametrize("kind", EDITS)
def test_hooks_go_when_the_model_fails(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, adapter = model("qwen2")
    with monkeypatch.context() as broken:
        broken.setattr(module.model.layers[1].mlp, "forward", stop)
        with pytest.raises(Stop), EDITS[kind](adapter, Point("resid", 1)), EDITS[kind](adapter, Point("attn", 2)):
            logits(module, some_ids())
    assert hooks(module) == 0
    with EDITS[kind](adapter, Point("resid", 1)):  # and the adapter still works
        assert logits(module, some_ids()).shape == (ROWS, TOKENS, VOCABULARY)


@pytest.mark.parametrize("first", EDITS)
@pytest.mark.parametrize("second", EDITS)
def test_contexts_closed_in_the_wrong_order(first: str, second: str) -> None:
    """The one that was opened first is closed first: the other goes on alone, and nothing is left."""
    module, adapter = model("gptj")
    ids, point = some_ids(), Point("resid", 2)
    plain = logits(module, ids)
    with EDITS[second](adapter, point):
        alone = logits(module, ids)
    outer, inner = EDITS[first](adapter, point), EDITS[second](adapter, point)
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert torch.equal(logits(module, ids), alone)
    inner.__exit__(None, None, None)
    assert hooks(module) == 0
    assert torch.equal(logits(module, ids), plain)


def test_the_callers_own_hooks_stay_and_act() -> None:
    module = tiny("gptj")
    adapter, calls = resolve(module), list[str]()
    block = adapter.blocks[1]
    block.register_forward_hook(lambda *_: calls.append("after"))
    block.register_forward_pre_hook(lambda *_: calls.append("before"))
    adapter.blocks[0].register_forward_pre_hook(lambda *_: calls.append("first"))
    mine = [list(m._forward_hooks.items()) + list(m._forward_pre_hooks.items()) for m in module.modules()]
    with adapter.steer(Point("resid", 2), torch.ones(WIDTH)), adapter.patch(Point("resid", 0), torch.zeros(WIDTH)):
        logits(module, some_ids())
    with pytest.raises(Stop), adapter.editing(Point("resid", 2), stop):
        logits(module, some_ids())
    assert mine == [list(m._forward_hooks.items()) + list(m._forward_pre_hooks.items()) for m in module.modules()]
    assert calls == ["first", "before", "after"] * 2  # the edit that failed came after them


@pytest.mark.parametrize("kind", EDITS)
def test_a_context_that_was_made_and_never_opened_does_nothing(kind: str) -> None:
    module, adapter = model("qwen2")
    context = EDITS[kind](adapter, Point("resid", 1))
    assert hooks(module) == 0
    with context:
        assert hooks(module) > 0


# --- generation -----------------------------------------------------------------------------------------------

NEW = 6
AT = [Point("resid", 0), Point("resid", 2), LAST, Point("attn", 1), Point("mlp", 1), Point("final_norm")]
GENERATED = [(f, p) for f in FAMILIES for p in AT if p in points(f)]


@torch.inference_mode()
def greedy(module: Any, prompt: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Tokens and logits of greedy generation without a cache; the end token is never taken."""
    ids, steps = prompt, []
    for _ in range(NEW):
        step = module(input_ids=ids, use_cache=False).logits[:, -1].float()
        steps.append(step.clone())
        step[:, EOS] = -torch.inf
        ids = torch.cat([ids, step.argmax(-1, keepdim=True)], 1)
    return ids, steps


@pytest.mark.parametrize(("family", "point"), GENERATED, ids=lambda v: str(v))
def test_steering_acts_at_every_step_of_a_generation(family: str, point: Point) -> None:
    module, adapter = model(family)
    prompt, direction = some_ids(rows=2, tokens=7), noise(family, point, seed=9)
    plan = GenerationConfig(
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=EOS,
        output_logits=True,
        return_dict_in_generate=True,
    )
    with adapter.steer(point, direction):
        result = module.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=plan)
    tokens, steps = greedy(by_hand(family, point, direction), prompt)
    _, plain = greedy(module, prompt)
    assert torch.equal(result.sequences, tokens)
    for generated, expected in zip(result.logits, steps, strict=True):
        assert_close(generated, expected, 1e-4)
    assert differs(steps[0], plain[0])


# --- errors ---------------------------------------------------------------------------------------------------


def refused(family: str, point: Point) -> str:
    """The one line with which every way in refuses a point."""
    module, adapter = model(family) if family in FAMILIES else (None, None)
    if adapter is None:
        module = tiny(family)
        adapter = resolve(module)
    said = set()
    for way in EDITS.values():
        with pytest.raises(ModelError) as error, way(adapter, point):
            pass
        said.add(str(error.value))
    assert hooks(module) == 0
    (line,) = said
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    "point",
    [("resid", -1), ("resid", BLOCKS + 1), ("attn", BLOCKS), ("attn", -1), ("mlp", BLOCKS), ("embed", 0), ("", 0)],
    ids=str,
)
def test_points_that_do_not_exist(point: tuple[str, int]) -> None:
    assert f"there is no point {Point(*point)} in a model of 3 blocks" in refused("qwen2", Point(*point))


@pytest.mark.parametrize("family", ["openai-gpt", "deepseek_v4", "gemma3n_text", "mamba"])
@pytest.mark.parametrize("kind", ["attn", "mlp"])
def test_parts_of_a_model_without_a_split(family: str, kind: str) -> None:
    assert "no attention/MLP split is known" in refused(family, Point(kind, 1))


@pytest.mark.parametrize("family", ["nanochat", "openai-gpt", "gemma3n_text"])
def test_a_final_norm_that_is_no_point_of_its_own(family: str) -> None:
    """Shared with the input (nanochat), absent (openai-gpt), or inside the model's code (gemma3n)."""
    assert "no module of its own between the last block and the head" in refused(family, Point("final_norm"))


@pytest.mark.parametrize("layer", [1, BLOCKS])
def test_the_layer_of_the_final_norm_does_not_matter(layer: int) -> None:
    _, adapter = model("qwen2")
    assert torch.equal(
        read(adapter, [Point("final_norm", layer)], some_ids())[0], read(adapter, [Point("final_norm")], some_ids())[0]
    )


WRONG = [(WIDTH + 1,), (5, WIDTH), (ROWS + 1, TOKENS, WIDTH), (2, ROWS, TOKENS, WIDTH)]


@pytest.mark.parametrize("shape", WRONG, ids=str)
@pytest.mark.parametrize("way", ["steer", "patch"])
@pytest.mark.parametrize("family", ["qwen2", "gptj", "opt", "granite"])
def test_values_that_do_not_fit_are_refused(family: str, way: str, shape: tuple[int, ...]) -> None:
    module, adapter = model(family)
    plain = logits(module, some_ids())
    for point in points(family):
        with pytest.raises((ModelError, RuntimeError)), getattr(adapter, way)(point, torch.ones(shape)):
            logits(module, some_ids())
        assert hooks(module) == 0
    assert torch.equal(logits(module, some_ids()), plain)


@pytest.mark.parametrize("way", ["steer", "patch"])
def test_spans_that_do_not_fit_are_refused(way: str) -> None:
    module, adapter = model("qwen2")
    for value, span in ((torch.ones(WIDTH), (ROWS, 0, 3)), (torch.ones(5, WIDTH), (0, 0, 3))):
        with (
            pytest.raises((ModelError, RuntimeError, IndexError)),
            getattr(adapter, way)(Point("resid", 1), value, [span]),
        ):
            logits(module, some_ids())
        assert hooks(module) == 0


TURNED = {
    "batch and tokens exchanged": lambda v: v.transpose(0, 1).contiguous(),
    "flat": lambda v: v.flatten(),
    "width first": lambda v: v.movedim(-1, 0).contiguous(),
}


@pytest.mark.parametrize("how", TURNED)
def test_an_edit_that_returns_another_shape_is_refused(how: str) -> None:
    module, adapter = model("qwen2")
    with pytest.raises((ModelError, RuntimeError)), adapter.editing(Point("resid", 1), TURNED[how]):
        logits(module, some_ids())


def test_an_edit_that_returns_fewer_rows_is_refused() -> None:
    module, adapter = model("qwen2")
    with pytest.raises((ModelError, RuntimeError)), adapter.editing(Point("resid", 1), lambda v: v[:1]):
        logits(module, some_ids())


def test_the_same_edit_holds_for_passes_of_other_sizes() -> None:
    """Flattened tokens (OPT) and streams are put back into the shape of the pass at hand."""
    for family in ("opt", "gemma3n_text", "qwen2"):
        module, adapter = model(family)
        point = Point("mlp", 1) if family != "gemma3n_text" else Point("resid", 2)
        direction = noise(family, point)
        with adapter.steer(point, direction):
            whole = logits(module, some_ids())
            assert_close(logits(module, some_ids()[:1, :7]), whole[:1, :7])
            assert_close(logits(module, some_ids()[1:, :3]), whole[1:, :3])
