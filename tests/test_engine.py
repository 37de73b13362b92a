"""The scan engine against one plain pass a readout, read with hooks of this file's own."""

from __future__ import annotations

import copy
import errno
import gc
import importlib
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as t
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from llmct_bench import LoadedModel, load, wrap
from llmct_bench.adapters import Adapter, Point, packing
from llmct_bench.adapters import tiny as zoo
from llmct_bench.affect import fit_affect, from_projections, score
from llmct_bench.errors import ModelError, ResultError
from llmct_bench.models.phantoms.tokenizer import SPECIAL, build_tokenizer
from llmct_bench.scanner import (
    Packing,
    Plan,
    Readout,
    Rendered,
    States,
    budget,
    make_plan,
    plan_scan,
    render,
    scan,
    scan_projected,
    states,
)
from llmct_bench.scanner.files import open_arrays
from llmct_bench.suites import Item, Suite, SuiteCard, Turn, get_suite

capturing = importlib.import_module("llmct_bench.scanner.capture")  # the package's name ``capture`` is the function

#: Architectures whose trees are packed, and those that have to run every conversation by itself.
TREES = ("qwen2", "llama", "gemma2", "gpt2", "mistral", "gpt_oss", "deepseek_v3", "mixtral", "granite")
CHAINS = ("mamba", "bloom", "falcon")
ROUTED = ("gpt_oss", "deepseek_v3", "mixtral")  # tokens choose experts
BLOCKS = {"gpt2": "transformer.h", "bloom": "transformer.h", "falcon": "transformer.h", "mamba": "backbone.layers"}
WINDOW = 8  # of the tiny models that have one
ROW = 512  # tokens in a packed row

Said = tuple[str, ...]
Run = tuple[str, Said, tuple[int, ...]]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small are slower on several threads, above all where other programs run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- a suite, models, and the truth ----------------------------------------------------------------------------

WORDS = sorted(f"w{a}{b}" for a in "abcdef" for b in "abcdefgh")


def words(count: int, seed: int) -> str:
    """Some of the words in a random order, with repetitions."""
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


CONTEXT = (words(13, 1), words(9, 2))
ENDS = [words(n, 10 + n) for n in (3, 5, 8)]
#: name, what user and assistant say in turn, the messages that are read
CONVERSATIONS: list[Run] = [
    ("talk", (words(12, 3), words(7, 4), words(15, 5), words(2, 6), words(11, 7)), (0, 1, 2, 3, 4)),
    ("single", (words(2, 8),), (0,)),
    ("first end", (*CONTEXT, ENDS[0]), (2,)),
    ("second end", (*CONTEXT, ENDS[1]), (0, 2)),
    ("third end", (*CONTEXT, ENDS[2]), (2,)),
    ("branches again", (*CONTEXT, ENDS[0], words(6, 20), words(4, 21)), (3, 4)),
    ("another branch", (*CONTEXT, ENDS[0], words(6, 20), words(5, 22)), (2, 4)),
    ("a third branch", (*CONTEXT, ENDS[0], words(3, 23)), (3,)),
    ("in a message", (*CONTEXT, f"{ENDS[2]} {words(4, 24)}"), (2,)),  # shares half of its own message
    ("in that again", (*CONTEXT, f"{ENDS[2]} {words(2, 25)}", words(3, 26)), (2, 3)),
    ("ends inside", CONTEXT, (1,)),
    ("the same once more", (*CONTEXT, ENDS[1]), (2,)),
    ("long", (words(20, 30), words(20, 31), words(20, 32)), (2,)),
    ("long and other", (words(20, 30), words(20, 31), words(9, 33)), (0, 2)),
]


def suite_of(conversations: Sequence[Run]) -> Suite:
    """A suite that says what is given, user and assistant in turn."""
    card = SuiteCard(name="t", version="0", design="circumplex", summary="s", licence="l", canary="c")
    made = (
        Item(
            id=name,
            scenario=name,
            emotion=("joy", "calm")[n % 2],
            intensity=1 + n % 3,
            messages=tuple(Turn(role=("user", "assistant")[i % 2], content=s) for i, s in enumerate(said)),
            reads=reads,
        )
        for n, (name, said, reads) in enumerate(conversations)
    )
    return Suite(card, tuple(made))


TREE = suite_of(CONVERSATIONS)


def tokenizer() -> Any:
    return build_tokenizer(WORDS)


def ids_of(said: Sequence[str]) -> list[int]:
    """The tokens of a conversation, spelled by hand: start, and for each message role, words, end."""
    known = {token: i for i, token in enumerate((*SPECIAL, *WORDS))}
    found = [known["<s>"]]
    for i, text in enumerate(said):
        found += [known[("<|user|>", "<|assistant|>")[i % 2]], *map(known.__getitem__, text.split()), known["<|end|>"]]
    return found


@dataclass
class Truth:
    """Of each readout: content states (tokens, points, d), the last token's state (points, d), its tokens."""

    content: list[Tensor] = field(default_factory=list)
    last: list[Tensor] = field(default_factory=list)
    tokens: list[tuple[int, ...]] = field(default_factory=list)

    def means(self) -> np.ndarray:
        return torch.stack([c.mean(0) for c in self.content]).numpy()

    def lasts(self) -> np.ndarray:
        return torch.stack(self.last).numpy()


@torch.inference_mode()
def raw(module: nn.Module, kind: str, tokens: Sequence[int]) -> Tensor:
    """The stream (tokens, blocks + 1, d) of one sequence in a pass of its own, read with plain hooks."""
    blocks = module.get_submodule(BLOCKS.get(kind, "model.layers"))
    found: dict[int, Tensor] = {}

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        found[0] = (args[0] if args else kwargs["hidden_states"])[0].float()

    def after(i: int, _: nn.Module, args: Any, output: Any) -> None:
        found[i] = (output[0] if isinstance(output, tuple) else output)[0].float()

    handles = [blocks[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [block.register_forward_hook(partial(after, i + 1)) for i, block in enumerate(blocks)]
    module(input_ids=torch.tensor([list(tokens)]), use_cache=False)
    for handle in handles:
        handle.remove()
    return torch.stack([found[i] for i in range(len(found))], 1)


def truth(module: nn.Module, kind: str, conversations: Sequence[Run] = CONVERSATIONS) -> Truth:
    """One pass a readout. The content are the words before the mark that ends the message."""
    found = Truth()
    for _, said, reads in conversations:
        for r in reads:
            tokens, count = ids_of(said[: r + 1]), len(said[r].split())
            stream = raw(module, kind, tokens)
            found.content.append(stream[-1 - count : -1])
            found.last.append(stream[-1])
            found.tokens.append(tuple(tokens))
    return found


def build(kind: str, **changes: Any) -> nn.Module:
    """A tiny model, with changes of its configuration."""
    before = zoo._OVERRIDES.get(kind)
    zoo._OVERRIDES[kind] = {**(before or {}), **changes}
    try:
        return zoo.tiny(kind)
    finally:
        zoo._OVERRIDES.pop(kind)
        if before is not None:
            zoo._OVERRIDES[kind] = before


def ready(kind: str, **changes: Any) -> LoadedModel:
    return wrap(build(kind, **changes), tokenizer(), kind)


@pytest.fixture
def force(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees are packed wherever the model can, whether it pays or not."""
    monkeypatch.setattr(states, "packing", always)


def always(model: LoadedModel, size: int | None = None) -> Packing | None:
    return Packing(model.branches, 0.0, size or ROW) if model.branches else None


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is packed."""
    monkeypatch.setattr(states, "packing", lambda model, size=None: None)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest value of the same state."""
    assert found.shape == expected.shape
    return float((np.abs(found - expected).max(-1) / np.abs(expected).max(-1)).max())


def assert_same(found: States, expected: Truth, tolerance: float = 1e-5) -> None:
    assert difference(found.array, expected.means()) <= tolerance
    assert difference(found.last, expected.lasts()) <= tolerance


@dataclass
class Passes:
    """What ran: (tokens with padding, backend in use) of every pass that was let through."""

    sizes: list[int] = field(default_factory=list)
    backends: list[str] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    limit: float = float("inf")

    @property
    def packed(self) -> int:
        return self.backends.count("llmct_tree")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    """Counts the passes of all adapters. Above its ``limit`` of tokens a pass is out of memory."""
    seen, run = Passes(), Adapter.run

    def counted(self: Adapter, input_ids: Tensor, until: int | None = None, **inputs: Any) -> None:
        assert len(seen.refused) < 200, "the same pass is tried for ever"
        if input_ids.numel() > seen.limit:
            seen.refused.append(input_ids.numel())
            raise torch.OutOfMemoryError("planted")
        seen.sizes.append(input_ids.numel())
        seen.backends.append(str(getattr(self.decoder.config, "_attn_implementation", None)))
        run(self, input_ids, until, **inputs)

    monkeypatch.setattr(Adapter, "run", counted)
    return seen


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def segments(plan: Plan | None) -> list[Any]:
    assert plan is not None
    return [s for b in plan.batches for s in b.segments]


# --- 1. equality with separate passes --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TREES)
def test_packed_trees_equal_separate_passes(kind: str, force: None, passes: Passes) -> None:
    model = ready(kind)
    assert model.branches
    before = passes.packed
    found = scan(model, TREE)
    assert_same(found, truth(model.module, kind))
    packed = [b for b in found.plan.batches if b.segments]
    assert packed
    assert passes.packed - before == len(packed)
    assert max(len(s.past) for s in segments(found.plan)) >= 3  # branches of branches of branches
    assert any(len(r.pieces) > 1 for b in packed for r in b.reads)  # a message that goes over a branch
    assert found.plan.tokens == found.plan.minimum


@pytest.mark.parametrize("kind", CHAINS)
def test_other_architectures_fall_back_to_chains(kind: str, force: None, passes: Passes) -> None:
    model = ready(kind)
    assert model.branches == 0
    before = passes.packed
    found = scan(model, TREE)
    assert_same(found, truth(model.module, kind))
    assert not segments(found.plan)
    assert passes.packed == before
    assert found.plan.minimum < found.plan.tokens < found.plan.separate


@pytest.mark.parametrize("size", [20, 64, 100, 190])
def test_rows_that_end_in_the_middle_of_a_tree_equal_separate_passes(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a row is full the way to the next branch is run again."""
    monkeypatch.setattr(states, "packing", lambda model, _=None: Packing(model.branches, 0.0, size))
    model = ready("qwen2")
    found = scan(model, TREE)
    assert sum(bool(b.segments) for b in found.plan.batches) > 1
    assert_same(found, truth(model.module, "qwen2"))


@pytest.mark.parametrize("size", [16, 150, 4096])
@pytest.mark.parametrize("kind", ["gemma2", "gpt2", "mamba"])
def test_padded_batches_equal_separate_passes(kind: str, size: int, plain: None) -> None:
    model = ready(kind)
    found = scan(model, TREE, budget=size)
    assert not segments(found.plan)
    assert_same(found, truth(model.module, kind))


@pytest.mark.parametrize("kind", [*TREES, *CHAINS])
def test_bf16_is_no_further_from_the_truth_than_separate_passes(kind: str, force: None) -> None:
    """The truth are the same weights in fp32. Compared are the root mean squares over all readouts and values of a
    point. Where experts are chosen, rounding may choose another one: there a single state may be further from the one
    of a separate pass, so the median is asked for."""
    module = build(kind).to(torch.bfloat16)
    model = wrap(module, tokenizer())
    found, separate = scan(model, TREE), truth(module, kind)
    exact = truth(copy.deepcopy(module).float(), kind)
    assert bool(model.branches) == bool(segments(found.plan))
    for own, alone, best in (
        (found.array, separate.means(), exact.means()),
        (found.last, separate.lasts(), exact.lasts()),
    ):
        size = np.sqrt((best**2).mean((0, 2)))
        ours, theirs = (np.sqrt(((x - best) ** 2).mean((0, 2))) / size for x in (own, alone))
        assert (ours <= 1.5 * theirs + 1e-4).all(), (ours, theirs)
        off = np.abs(own - alone).max(-1) / np.abs(alone).max(-1)
        assert (np.median(off) if kind in ROUTED else off.max()) <= 3e-2


def test_projections_of_packed_rows_equal_separate_passes(force: None) -> None:
    model = ready("gemma2")
    expected = truth(model.module, "gemma2")
    generator = np.random.default_rng(0)
    directions, references = (generator.normal(size=(4, k, 64)) for k in (3, 2))
    found = scan_projected(model, TREE, directions, references)
    assert segments(found.plan)
    values = np.einsum("npd,pkd->npk", expected.means().astype(float), directions)
    assert np.abs(found.values - values).max() <= 1e-5 * np.abs(values).max()
    for n in range(len(values)):
        for p in range(4):
            for k in range(2):
                a, b = expected.lasts()[n, p].astype(float), references[p, k]
                assert found.cosines[n, p, k] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)


def without(**left_out: Any) -> Callable[..., Any]:
    """The attention of packed rows, blind to some of its arguments."""
    return lambda *args, **kwargs: packing._attend(*args, **{**kwargs, **left_out})


def forgets_ancestors(module: Any, query: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Every stretch sees itself only."""
    tree = packing._tree.get()
    token = packing._tree.set(
        packing._Tree([SimpleNamespace(start=s.start, stop=s.stop, depth=0, past=()) for s in tree.stretches])
    )
    try:
        return packing._attend(module, query, *args, **kwargs)
    finally:
        packing._tree.reset(token)


FAULTS = [
    ("mistral", without(sliding_window=None)),
    ("gemma2", without(sliding_window=None)),
    ("gpt_oss", without(s_aux=None)),
    ("granite", without(scaling=None)),
    ("qwen2", forgets_ancestors),
    ("gpt2", forgets_ancestors),
]


@pytest.mark.parametrize(("kind", "fault"), FAULTS)
def test_planted_faults_of_packed_attention_are_found(
    kind: str, fault: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the comparison of this file, and by the self-test, after which nothing is packed."""
    monkeypatch.setitem(t.AttentionInterface._global_mapping, "llmct_tree", fault)
    model = ready(kind)
    assert model.branches == 0
    assert not segments(scan(model, TREE).plan)
    monkeypatch.setattr(states, "packing", lambda *_: Packing(10**9, 0.0, ROW))
    found = scan(model, TREE)
    assert segments(found.plan)
    assert difference(found.array, truth(model.module, kind).means()) > 1e-3


@pytest.mark.parametrize("honoured", [True, False])
def test_soft_caps_are_honoured(honoured: bool, force: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cap that bites."""
    fault = packing._attend if honoured else without(softcap=None)
    monkeypatch.setitem(t.AttentionInterface._global_mapping, "llmct_tree", fault)
    model = ready("gemma2", attn_logit_softcapping=1.0)
    assert bool(model.branches) == honoured
    if honoured:
        assert_same(scan(model, TREE), truth(model.module, "gemma2"))


def test_conversations_beyond_the_short_rope_are_left_out() -> None:
    """Phi-3.5's rotary factors depend on the length of the pass, so an early turn is no prefix of a later one: what is
    longer than the original context is not read, and what is read equals separate passes."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 32}
    rope |= {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    model = ready("phi3", rope_parameters=rope, original_max_position_embeddings=32)
    assert model.context == 32
    found, expected = scan(model, TREE), truth(model.module, "phi3")
    read = [i for i, row in enumerate(truth_rows()) if row not in found.left_out]
    assert 0 < len(read) < len(expected.content)
    assert difference(found.array, torch.stack([expected.content[i].mean(0) for i in read]).numpy()) <= 1e-5


def truth_rows() -> list[str]:
    """The readouts of TREE as they are named where they are left out."""
    return [f"{name}[{r}]" for name, _, reads in CONVERSATIONS for r in reads]


# --- 2. windows ------------------------------------------------------------------------------------------------

TWO_LONG = suite_of([(str(k), (words(60, 40), words(30, 41), words(5, 42 + k)), (2,)) for k in range(2)])
TWO_SHORT = suite_of([(str(k), (words(30, 50), words(12, 51), words(5, 52 + k)), (2,)) for k in range(2)])


def test_a_window_longer_than_the_self_test_limits_what_is_packed(force: None) -> None:
    model = ready("mistral", sliding_window=64)
    assert model.branches == 64
    long = scan(model, TWO_LONG)
    assert {len(row) for b in long.plan.batches for row in b.rows} == {102}
    assert not segments(long.plan)
    short = scan(model, TWO_SHORT)
    assert segments(short.plan)
    alone = raw(model.module, "mistral", ids_of((words(60, 40), words(30, 41), words(5, 43))))
    assert difference(long.last[1], alone[-1].numpy()) <= 1e-5


def test_a_window_shorter_than_the_self_test_sets_no_limit(force: None) -> None:
    assert ready("mistral", sliding_window=WINDOW).branches > 10**6
    assert ready("mistral", sliding_window=None).branches > 10**6


SPARSE = [
    ("deepseek_v4", {}),
    (
        "minimax_m3_vl_text",
        {
            "layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"],
            "index_block_size": 16,
            "index_topk_blocks": 4,
        },
    ),
]


@pytest.mark.parametrize(("kind", "changes"), SPARSE)
def test_sparse_attention_beyond_the_self_test_is_not_packed(kind: str, changes: dict[str, Any]) -> None:
    """Or packed and right. Such attention begins where a conversation exceeds some length: 128 tokens here (compressed
    blocks of DeepSeek V4), 64 there (blocks that an indexer chooses)."""
    model = ready(kind, **changes)
    stem = tuple(np.random.default_rng(0).integers(7, 50, 170).tolist())
    readouts = tuple(Readout((*stem, 8 + k, 9, 10 + k), 170, 173) for k in range(2))
    rendered = Rendered(readouts, pd.DataFrame({"item": range(2)}), ())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states, "packing", always)
        found = scan(model, TREE, rendered=rendered, points=[Point("resid", 3)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states, "packing", lambda *_: None)
        alone = [
            scan(model, TREE, rendered=replace(rendered, readouts=(r,)), points=[Point("resid", 3)], budget=1)
            for r in readouts
        ]
    assert difference(found.last, np.concatenate([a.last for a in alone])) <= 1e-5


# --- 3. the attention backend ----------------------------------------------------------------------------------


def configurations(module: nn.Module) -> list[tuple[Any, dict[str, Any]]]:
    """All configuration objects of a model and what they say, sub-configurations included."""
    found = {id(c): c for m in module.modules() if (c := getattr(m, "config", None)) is not None}
    for config in list(found.values()):
        for name in getattr(config, "sub_configs", None) or {}:
            part = getattr(config, name, None)
            if part is not None:
                found[id(part)] = part
    return [(c, copy.deepcopy(vars(c))) for c in found.values()]


def assert_as_before(before: list[tuple[Any, dict[str, Any]]]) -> None:
    for config, values in before:
        now = {k: v for k, v in vars(config).items() if not hasattr(v, "sub_configs")}
        assert now == {k: v for k, v in values.items() if not hasattr(v, "sub_configs")}


@pytest.mark.parametrize("kind", ["qwen2", "gemma2", "gpt2", "mamba"])
def test_configurations_are_as_before(kind: str, force: None) -> None:
    model = ready(kind)
    before, own = configurations(model.module), id(model.module.config)
    scan(model, TREE)
    assert_as_before(before)
    assert id(model.module.config) == own


def test_sub_configurations_keep_their_own_backends(force: None, passes: Passes) -> None:
    module = build("gemma3")
    module.config._attn_implementation_internal = "eager"
    module.config.text_config._attn_implementation_internal = "sdpa"
    module.config.vision_config._attn_implementation_internal = "eager"
    before = configurations(module)
    assert len(before) >= 2
    model = wrap(module, tokenizer())
    assert segments(scan(model, TREE).plan)
    assert passes.packed
    assert_as_before(before)
    assert [module.config._attn_implementation, module.config.text_config._attn_implementation] == ["eager", "sdpa"]
    assert module.config.vision_config._attn_implementation == "eager"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", ["qwen2", "gemma3_text"])
def test_backend_is_put_back_after_an_exception(kind: str, error: type[BaseException], force: None) -> None:
    model = ready(kind)
    assert model.branches
    before = configurations(model.module)
    seen: list[str] = []

    def failing(*_: Any, **__: Any) -> None:
        seen.append(model.module.config._attn_implementation)
        raise error("in the middle")

    model.adapter.blocks[1].mlp.forward = failing
    with pytest.raises(error):
        scan(model, TREE)
    assert set(seen) == {"llmct_tree"}
    assert_as_before(before)
    assert hooks(model.module) == 0
    with pytest.raises(LookupError):
        packing._tree.get()
    del model.adapter.blocks[1].mlp.forward
    assert_same(scan(model, TREE), truth(model.module, kind))


def test_a_second_model_of_the_class_is_not_disturbed(force: None) -> None:
    """It runs, plainly and packed, while the first one is in the middle of a packed pass."""
    first, second = (wrap(zoo.tiny("qwen2", seed=s), tokenizer()) for s in (0, 1))
    expected = [truth(m.module, "qwen2") for m in (first, second)]
    assert difference(expected[0].means(), expected[1].means()) > 0.1
    assert first.branches
    assert second.branches
    inside: list[States] = []

    def other(*_: Any) -> None:
        assert first.module.config._attn_implementation == "llmct_tree"
        assert second.module.config._attn_implementation == "sdpa"
        stream = raw(second.module, "qwen2", expected[1].tokens[0])
        assert difference(stream[-1].numpy(), expected[1].last[0].numpy()) <= 1e-6
        inside.append(scan(second, TREE))

    handle = first.module.get_submodule("model.layers.1").register_forward_hook(other)
    found = scan(first, TREE)
    handle.remove()
    assert inside
    assert_same(found, expected[0])
    assert_same(inside[0], expected[1])
    assert_same(scan(second, TREE), expected[1])


@pytest.mark.parametrize("config", [{"rank": 4}, SimpleNamespace(rank=4)])
def test_foreign_configurations_are_left_alone(config: Any, force: None) -> None:
    """A part of the model that keeps something else under the name ``config``."""
    module = build("qwen2")
    module.model.layers[1].mlp.config = config
    before, own = module.config._attn_implementation, copy.deepcopy(config)
    found = scan(wrap(module, tokenizer()), TREE)
    assert module.config._attn_implementation == before
    assert config == own
    with pytest.raises(LookupError):
        packing._tree.get()
    assert segments(found.plan)


# --- 4. capture buffers ----------------------------------------------------------------------------------------


@pytest.fixture
def recycled(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Uninitialised memory holds values that look like states; buffers of NaN are noted."""
    noted: list[Tensor] = []
    full = torch.full

    def spy(size: Any, value: Any, **kwargs: Any) -> Tensor:
        made = full(size, value, **kwargs)
        if isinstance(value, float) and value != value:
            noted.append(made)
        return made

    def planted(make: Callable[..., Tensor], *size: Any, **kwargs: Any) -> Tensor:
        found = make(*size, **kwargs)
        return found.fill_(7.0) if found.is_floating_point() else found

    monkeypatch.setattr(torch, "full", spy)
    monkeypatch.setattr(torch, "empty", partial(planted, torch.empty))
    monkeypatch.setattr(torch, "empty_like", partial(planted, torch.empty_like))
    monkeypatch.setattr(Tensor, "new_empty", lambda self, *size, **kw: planted(self.new_zeros, *size, **kw))
    return noted


@pytest.mark.parametrize("kind", ["qwen2", "gemma2", "mamba"])
def test_every_entry_of_every_buffer_is_overwritten(kind: str, force: None, recycled: list[Tensor]) -> None:
    model = ready(kind)
    found = scan(model, TREE)
    assert_same(found, truth(model.module, kind))
    assert [len(b.reads) for b in found.plan.batches] == [buffer.shape[1] for buffer in recycled]
    assert all(torch.isfinite(buffer).all() for buffer in recycled)
    recycled.clear()
    projected = scan_projected(
        model, TREE, np.ones((4, 2, 64)), np.ones((4, 3, 64)), parts=(2, np.ones((5, 64))), whole=True
    )
    assert len(recycled) == 4 * len(found.plan.batches)
    assert all(torch.isfinite(buffer).all() for buffer in recycled)
    assert np.array_equal(projected.whole, found.array[:, 2])


def leaves_out_a_readout(plan: Plan) -> Plan:
    last = plan.batches[-1]
    return replace(plan, batches=(*plan.batches[:-1], replace(last, reads=last.reads[1:])))


def leaves_out_a_pass(plan: Plan) -> Plan:
    return replace(plan, batches=plan.batches[1:])


SCANS: dict[str, Callable[[LoadedModel, Path], Any]] = {
    "scan": lambda model, path: scan(model, TREE, budget=64),
    "folder": lambda model, path: scan(model, TREE, budget=64, folder=path),
    "projected": lambda model, path: scan_projected(model, TREE, np.ones((4, 2, 64)), np.ones((4, 2, 64)), budget=64),
}


@pytest.mark.parametrize("way", SCANS)
@pytest.mark.parametrize("change", [leaves_out_a_readout, leaves_out_a_pass])
def test_what_a_plan_leaves_out_is_found(
    way: str, change: Callable[[Plan], Plan], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = ready("qwen2")
    SCANS[way](model, tmp_path / "good")
    monkeypatch.setattr(states, "plan_scan", lambda *args: change(plan_scan(*args)))
    with pytest.raises(ModelError, match=r"resid\.0 are not finite"):
        SCANS[way](model, tmp_path / "bad")
    assert not (tmp_path / "bad").exists() or not list((tmp_path / "bad").iterdir())


def test_a_point_that_was_not_reached_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Adapter, "depth", lambda self, points: 1)
    with pytest.raises(ModelError, match=r"resid\.2 are not finite"):
        scan(ready("qwen2"), TREE)


# --- 5. early points -------------------------------------------------------------------------------------------

DEPTHS: list[tuple[list[Point], list[int]]] = [
    ([Point("resid", 0)], [0, 0, 0]),
    ([Point("resid", 1)], [1, 0, 0]),
    ([Point("attn", 0)], [1, 0, 0]),
    ([Point("resid", 2), Point("mlp", 0)], [1, 1, 0]),
    ([Point("mlp", 1)], [1, 1, 0]),
    ([Point("resid", 3)], [1, 1, 1]),
    ([Point("final_norm")], [1, 1, 1]),
]


@pytest.mark.parametrize(("points", "ran"), DEPTHS)
@pytest.mark.parametrize("packed", [True, False])
def test_blocks_after_the_last_point_do_not_run(
    points: list[Point], ran: list[int], packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "packing", always if packed else lambda *_: None)
    model = ready("qwen2")
    whole = scan(model, TREE, points=model.adapter.points())
    calls, norms = [0, 0, 0], [0]

    def count(counter: list[int], i: int, forward: Any, *args: Any, **kwargs: Any) -> Any:
        counter[i] += 1
        return forward(*args, **kwargs)

    for i, block in enumerate(model.adapter.blocks):
        block.forward = partial(count, calls, i, block.forward)
    model.module.model.norm.forward = partial(count, norms, 0, model.module.model.norm.forward)
    found = scan(model, TREE, points=points)
    number = len(found.plan.batches)
    assert calls == [number * n for n in ran]
    assert norms[0] == (number if ran[-1] else 0)
    assert found.points == tuple(points)
    assert bool(segments(found.plan)) == packed
    for i, point in enumerate(points):
        column = whole.points.index(point)
        assert difference(found.array[:, i], whole.array[:, column]) <= 1e-6
        assert difference(found.last[:, i], whole.last[:, column]) <= 1e-6
    assert hooks(model.module) == 0


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
def test_parts_and_the_final_norm_against_separate_passes(kind: str, force: None) -> None:
    """What attention and MLP write in block 1, and the final norm's output, from hooks of this test's own."""
    model = ready(kind)
    paths = {
        "qwen2": ("model.layers.1.self_attn", "model.layers.1.mlp", "model.norm"),
        "gpt2": ("transformer.h.1.attn", "transformer.h.1.mlp", "transformer.ln_f"),
    }[kind]
    found = scan(model, TREE, points=[Point("final_norm"), Point("attn", 1), Point("mlp", 1)])
    assert segments(found.plan)
    kept: dict[str, Tensor] = {}

    def keep(path: str, _: nn.Module, args: Any, output: Any) -> None:
        kept[path] = output[0] if isinstance(output, tuple) else output

    for path in paths:
        model.module.get_submodule(path).register_forward_hook(partial(keep, path))
    n = 0
    for _, said, reads in CONVERSATIONS:
        for r in reads:
            count = len(said[r].split())
            model.module(input_ids=torch.tensor([ids_of(said[: r + 1])]), use_cache=False)
            for i, path in enumerate((paths[2], paths[0], paths[1])):
                assert difference(found.array[n, i], kept[path][0, -1 - count : -1].mean(0).numpy()) <= 1e-5
                assert difference(found.last[n, i], kept[path][0, -1].numpy()) <= 1e-5
            n += 1
    assert n == len(found.array)


def test_points_may_be_given_in_any_order() -> None:
    model = ready("qwen2")
    whole = scan(model, TREE)
    found = scan(model, TREE, points=[Point("resid", 2), Point("resid", 0), Point("resid", 1)])
    assert np.array_equal(found.array, whole.array[:, [2, 0, 1]])


@torch.inference_mode()
def test_a_pass_that_was_cut_short_leaves_the_model_as_it_was(force: None) -> None:
    model = ready("gemma2")
    ids = torch.tensor([ids_of(CONTEXT)])
    before = model.module(input_ids=ids).logits
    scan(model, TREE, points=[Point("resid", 1)])
    assert torch.equal(model.module(input_ids=ids).logits, before)


def test_the_final_norm_of_parallel_streams_is_read_by_itself() -> None:
    """It has one stream's width and not the state's."""
    model = ready("hy_v4")
    point = Point("final_norm")
    assert point in model.adapter.points()
    assert scan(model, TREE, points=[point]).array.shape[1:] == (1, 64)
    with pytest.raises(ModelError, match="read it by itself"):
        scan(model, TREE, points=[Point("resid", 1), point])


# --- 6. pooling ------------------------------------------------------------------------------------------------


def test_poolings_against_separate_passes(force: None) -> None:
    model = ready("mistral")
    expected = truth(model.module, "mistral")
    found = {p: scan(model, TREE, pooling=p) for p in ("mean", "first", "last", "all")}
    slices = {"first": [c[0] for c in expected.content], "last": [c[-1] for c in expected.content]}
    for name, values in slices.items():
        assert difference(found[name].array, torch.stack(values).numpy()) <= 1e-5
        assert difference(found[name].last, expected.lasts()) <= 1e-5
        pd.testing.assert_frame_equal(found[name].index, found["mean"].index)
    every = found["all"]
    lengths = [len(c) for c in expected.content]
    assert difference(every.array, torch.cat(expected.content).numpy()) <= 1e-5
    assert difference(every.last, np.repeat(expected.lasts(), lengths, 0)) <= 1e-5
    assert every.index["token"].tolist() == [k for n in lengths for k in range(n)]
    names = [(name, r) for name, _, reads in CONVERSATIONS for r in reads]
    assert every.index["item"].tolist() == [name for (name, _), n in zip(names, lengths, strict=True) for _ in range(n)]
    assert every.index["role"].tolist() == [
        ("user", "assistant")[r % 2] for (_, r), n in zip(names, lengths, strict=True) for _ in range(n)
    ]
    starts = np.cumsum([0, *lengths[:-1]])
    means = np.add.reduceat(every.array, starts, 0) / np.array(lengths)[:, None, None]
    assert difference(found["mean"].array, means) <= 1e-6
    assert {(s.plan.tokens, len(s.plan.batches)) for s in found.values()} == {
        (found["mean"].plan.tokens, len(found["mean"].plan.batches))
    }
    assert difference(found["first"].array, found["mean"].array) > 0.1


def test_unknown_pooling() -> None:
    with pytest.raises(ValueError, match=r"unknown pooling 'median'.*mean, first, last, all"):
        scan(ready("qwen2"), TREE, pooling="median")  # type: ignore[arg-type]


# --- 7. selection ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scanned() -> States:
    return scan(ready("qwen2"), TREE)


def test_select(scanned: States) -> None:
    index = scanned.index
    joy = scanned.select(emotion="joy")
    rows = [i for i in range(len(index)) if index["emotion"][i] == "joy"]
    assert 0 < len(rows) < len(index)
    assert np.array_equal(joy.array, scanned.array[rows])
    assert np.array_equal(joy.last, scanned.last[rows])
    assert joy.index["item"].tolist() == [index["item"][i] for i in rows]
    assert joy.index.index.tolist() == list(range(len(rows)))
    some = scanned.select(item=["third end", "talk"], role="user")  # a list says which ones, not their order
    assert some.index["item"].tolist() == ["talk", "talk", "talk", "third end"]
    assert set(some.index["role"]) == {"user"}
    points = [Point("resid", 3), Point("resid", 1)]
    narrow = scanned.select(points=points, intensity=[1, 3], emotion="calm")
    rows = [i for i in range(len(index)) if index["emotion"][i] == "calm" and index["intensity"][i] != 2]
    assert narrow.points == tuple(points)
    assert np.array_equal(narrow.array, scanned.array[rows][:, [3, 1]])
    assert np.array_equal(narrow.last, scanned.last[rows][:, [3, 1]])
    assert np.array_equal(narrow.select(points=points[1:]).array[:, 0], scanned.array[rows, 1])
    assert len(scanned.select(emotion="no such emotion").array) == 0
    assert np.array_equal(scanned.select().array, scanned.array)
    assert scanned.array.shape[:2] == (len(index), 4)  # as before


def test_select_of_what_is_not_there(scanned: States) -> None:
    with pytest.raises(KeyError, match="feeling"):
        scanned.select(feeling="joy")
    with pytest.raises(KeyError, match=r"attn\.1, resid\.9"):
        scanned.select(points=[Point("attn", 1), Point("resid", 0), Point("resid", 9)])


def test_select_of_no_points_is_consistent(scanned: States) -> None:
    found = scanned.select(points=[])
    assert len(found.points) == found.array.shape[1]


# --- 8. states on disk -----------------------------------------------------------------------------------------


def test_states_are_kept_in_a_folder(tmp_path: Path, passes: Passes, force: None) -> None:
    model = ready("gemma2")
    expected = scan(model, TREE)
    first = scan(model, TREE, folder=tmp_path / "deep" / "down")
    ran = len(passes.sizes)
    second = scan(ready("gemma2"), TREE, folder=str(tmp_path / "deep" / "down"))
    assert len(passes.sizes) == ran
    assert first.plan == expected.plan
    assert second.plan is None
    for found in (first, second):
        for array, wanted in ((found.array, expected.array), (found.last, expected.last)):
            assert np.array_equal(array, wanted)
            assert array.dtype == np.float32
            base = array
            while not isinstance(base, np.memmap):
                base = base.base
                assert base is not None
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0
        pd.testing.assert_frame_equal(found.index, expected.index)
        assert (found.points, found.left_out) == (expected.points, expected.left_out)
        assert np.array_equal(found.select(emotion="joy").array, expected.select(emotion="joy").array)
    (place,) = (tmp_path / "deep" / "down").iterdir()
    stored = load_file(place / "states.safetensors")
    assert set(stored) == {"content", "last"}
    assert np.array_equal(stored["content"], expected.array)
    assert np.array_equal(stored["last"], expected.last)
    pd.testing.assert_frame_equal(pd.read_parquet(place / "index.parquet"), expected.index, check_dtype=False)


def test_what_determines_the_states_determines_their_place(tmp_path: Path) -> None:
    module = build("qwen2")
    model = replace(wrap(module, tokenizer()), commit="c")
    other = suite_of([*CONVERSATIONS[:-1], (CONVERSATIONS[-1][0], (words(3, 99),), (0,))])
    half = replace(wrap(copy.deepcopy(module).to(torch.bfloat16), tokenizer()), commit="c")
    scan(model, TREE, folder=tmp_path)
    ways: list[Callable[[], States]] = [
        lambda: scan(model, other, folder=tmp_path),
        lambda: scan(model, TREE, folder=tmp_path, points=[Point("resid", 1)]),
        lambda: scan(model, TREE, folder=tmp_path, points=[Point("resid", 2)]),
        lambda: scan(model, TREE, folder=tmp_path, points=[Point("resid", 2), Point("resid", 1)]),
        lambda: scan(half, TREE, folder=tmp_path),
        lambda: scan(replace(model, commit="d"), TREE, folder=tmp_path),
        lambda: scan(model, TREE, folder=tmp_path, pooling="first"),
        lambda: scan(model, TREE, folder=tmp_path, pooling="last"),
        lambda: scan(model, TREE, folder=tmp_path, pooling="all"),
    ]
    for number, way in enumerate(ways, 2):
        made = way()
        assert made.plan is not None
        assert len(list(tmp_path.iterdir())) == number
        again = way()
        assert again.plan is None
        assert np.array_equal(again.array, made.array)
    assert scan(model, TREE, folder=tmp_path, points=model.adapter.residual_points()).plan is None


def test_another_configuration_of_the_same_weights_has_another_place(tmp_path: Path) -> None:
    one, two = ready("mistral", sliding_window=8), ready("mistral", sliding_window=16)
    first, second = (scan(m, TREE, folder=tmp_path) for m in (one, two))
    assert difference(scan(one, TREE).array, scan(two, TREE).array) > 1e-3
    assert difference(first.array, second.array) > 1e-3


def test_steered_states_are_not_taken_for_plain_ones(tmp_path: Path) -> None:
    model = ready("qwen2")
    with (
        model.adapter.steer(Point("resid", 1), torch.ones(64)),
        pytest.raises(ModelError, match="under an edit are not kept"),
    ):
        scan(model, TREE, folder=tmp_path)
    assert not model.adapter.edited
    assert np.array_equal(scan(model, TREE, folder=tmp_path).array, scan(model, TREE).array)


def test_a_scratch_folder_of_another_run_is_ignored(tmp_path: Path) -> None:
    model = ready("qwen2")
    expected = scan(model, TREE, folder=tmp_path / "good")
    (key,) = (tmp_path / "good").iterdir()
    scratch = tmp_path / "new" / f".{key.name}.abcd"
    scratch.mkdir(parents=True)
    (scratch / "states.safetensors").write_bytes(b"half")
    found = scan(model, TREE, folder=tmp_path / "new")
    assert found.plan is not None
    assert np.array_equal(found.array, expected.array)
    assert scan(model, TREE, folder=tmp_path / "new").plan is None
    assert (scratch / "states.safetensors").read_bytes() == b"half"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_scan_that_dies_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    model = ready("qwen2")
    seen: list[list[Path]] = []

    def dies(tokens: int) -> None:
        seen.append(list(tmp_path.rglob("states.safetensors")))
        if len(seen) == 2:
            raise error

    with pytest.raises(error):
        scan(model, TREE, folder=tmp_path, budget=64, progress=dies)
    assert seen[0]
    assert list(tmp_path.iterdir()) == []
    assert hooks(model.module) == 0
    assert scan(model, TREE, folder=tmp_path).plan is not None


def test_states_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    model = ready("qwen2")
    handle = model.adapter.blocks[1].register_forward_hook(lambda _, args, out: out * float("nan"))
    with pytest.raises(ModelError, match=r"resid\.2 are not finite"):
        scan(model, TREE, folder=tmp_path)
    handle.remove()
    assert list(tmp_path.iterdir()) == []


def header(shape: list[int]) -> bytes:
    """The beginning of a file of states with arrays of a shape."""
    size = int(np.prod(shape)) * 4
    entry = '{{"dtype":"F32","shape":{},"data_offsets":[{},{}]}}'
    text = f'{{"content":{entry.format(shape, 0, size)},"last":{entry.format(shape, size, 2 * size)}}}'.encode()
    return len(text).to_bytes(8, "little") + text


def wrong(reason: str, data: bytes | None) -> Any:
    return data


BROKEN = [
    b"",
    b"\x10",
    b"\0" * 4096,
    (4).to_bytes(8, "little") + b"[{}]",
    (2).to_bytes(8, "little") + b"{}",
    (9).to_bytes(8, "little") + b"\xff\xfe\xfa not j",
    header([24, 4, 64]),  # and no data
    wrong("MemoryError: the length of the header is believed", b"this is no file of states, it is a text"),
    wrong("OverflowError: the length of the header is believed", b"\xff" * 64),
    wrong("the shape is believed", header([1, 1, 1]) + bytes(8)),
    wrong("FileNotFoundError: reading is not guarded", None),
]


@pytest.mark.parametrize("data", BROKEN, ids=map(str, range(len(BROKEN))))
def test_a_broken_file_is_a_clear_error(tmp_path: Path, data: bytes | None) -> None:
    """One line that names the file and says what to do; and so is a file that is missing in its folder."""
    model = ready("qwen2")
    scan(model, TREE, folder=tmp_path)
    (place,) = tmp_path.iterdir()
    file = place / "states.safetensors"
    file.unlink()
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(ResultError) as caught:
        scan(model, TREE, folder=tmp_path)
    message = str(caught.value)
    assert str(file) in message
    assert "scan again" in message
    assert "\n" not in message


def test_a_truncated_file_is_a_clear_error(tmp_path: Path) -> None:
    model = ready("qwen2")
    scan(model, TREE, folder=tmp_path)
    (file,) = tmp_path.rglob("states.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ResultError, match="does not hold the states"):
        scan(model, TREE, folder=tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: Passes) -> None:
    model = ready("qwen2")
    assert model.branches
    ran = len(passes.sizes)
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ResultError, match="cannot write states under"):
            scan(model, TREE, folder=folder)
    assert len(passes.sizes) == ran  # known before anything runs

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(states, "open_arrays", full)
    with pytest.raises(ResultError, match="No space left on device"):
        scan(model, TREE, folder=tmp_path / "full")
    assert list((tmp_path / "full").iterdir()) == []


def test_the_space_of_a_new_file_is_reserved_before_it_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing through a map to a disk that is full kills the process, so all blocks must be there before."""
    taken: list[int] = []

    memmap = np.memmap

    def noting(path: Path, *arguments: Any, **keywords: Any) -> Any:
        taken.append(path.stat().st_blocks * 512)
        return memmap(path, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(np, "memmap", noting)
        open_arrays(tmp_path / "new", (500, 4, 64), new=True)
    assert taken[0] >= 2 * 500 * 4 * 64 * 4


def test_two_runs_may_keep_the_same_states(tmp_path: Path) -> None:
    """Another process is through first."""
    one, two = ready("qwen2"), ready("qwen2")
    done: list[States] = []

    def meanwhile(tokens: int) -> None:
        if not done:
            done.append(scan(two, TREE, folder=tmp_path))

    found = scan(one, TREE, folder=tmp_path, progress=meanwhile)
    assert np.array_equal(found.array, done[0].array)


# --- 9. projections inside the pass ----------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Notes the number of entries of the largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.numel())
        return out


@contextmanager
def numpy_noted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Sizes of the arrays that numpy's makers make."""
    noted: list[int] = []

    def spy(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        made = make(*args, **kwargs)
        noted.append(made.size)
        return made

    with monkeypatch.context() as patch:
        for name in ("full", "empty", "zeros", "ones", "stack", "concatenate"):
            patch.setattr(np, name, partial(spy, getattr(np, name)))
        yield noted


@pytest.fixture(scope="module")
def phantom() -> tuple[LoadedModel, Suite, Rendered, States]:
    """A phantom on its reference suite."""
    model, suite = load("phantom/neutral"), get_suite("reference")
    rendered = render(suite, model.tokenizer, model.context)
    return model, suite, rendered, scan(model, suite, rendered=rendered, budget=256)


def test_projections_give_the_scores_of_full_states(
    phantom: tuple[LoadedModel, Suite, Rendered, States], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, suite, rendered, full = phantom
    fit = fit_affect(full)
    wanted = score(full, fit)
    with numpy_noted(monkeypatch) as noted, Largest() as largest:
        parts = (fit.layer.point, fit.versions.parts)
        found = scan_projected(model, suite, fit.directions, fit.references, parts=parts, rendered=rendered, budget=256)
    got = from_projections(found, fit)
    assert got.versions is not None
    assert wanted.versions is not None
    spread = wanted.versions.parts.std(0)
    assert (np.abs(got.versions.parts - wanted.versions.parts).max(0) <= 1e-6 * spread).all()
    without = from_projections(replace(found, parts=found.parts[:, :0]), fit)
    assert without.versions is None
    assert np.array_equal(without.values, got.values)
    assert got.values.shape == wanted.values.shape
    assert (np.abs(got.values - wanted.values).max((0, 1)) <= 1e-6 * wanted.values.std((0, 1))).all()
    assert (np.abs(got.raw - wanted.raw).max((0, 1)) <= 1e-6 * wanted.raw.std((0, 1))).all()
    assert wanted.values.std((0, 1)).min() > 0.1
    pd.testing.assert_frame_equal(got.index, wanted.index)
    assert (got.names, got.raw_names) == (wanted.names, wanted.raw_names)
    assert found.values.size in noted  # the spy sees what is made
    assert max(noted) < full.array.size / 4
    assert 0 < largest.numel < full.array.size / 4


def test_the_spy_finds_full_states(
    phantom: tuple[LoadedModel, Suite, Rendered, States], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, suite, rendered, full = phantom
    with numpy_noted(monkeypatch) as noted, Largest():
        scan(model, suite, rendered=rendered, budget=256)
    assert max(noted) == full.array.size


# --- 10. out of memory -----------------------------------------------------------------------------------------

LOPSIDED = suite_of([*((f"s{k}", (words(7, 200 + k),), (0,)) for k in range(40)), ("long", (words(97, 300),), (0,))])
EQUAL = suite_of([(f"e{k}", (words(17, 60 + k),), (0,)) for k in range(40)])  # of 20 tokens each


@contextmanager
def stored(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The readouts that were stored, in the order in which they were."""
    found: list[int] = []
    end = capturing.Keep.end

    def noted(self: Any, where: Any) -> None:
        found.extend(where.tolist())
        end(self, where)

    with monkeypatch.context() as patch:
        patch.setattr(capturing.Keep, "end", noted)
        yield found


@pytest.mark.parametrize("limit", [420, 100, 21])
def test_passes_that_do_not_fit_are_halved(
    limit: int, monkeypatch: pytest.MonkeyPatch, passes: Passes, plain: None
) -> None:
    model = ready("qwen2")
    wanted = scan(model, EQUAL)
    told: list[int] = []
    passes.limit, passes.sizes = limit, []
    with stored(monkeypatch) as done:
        found = scan(model, EQUAL, progress=told.append)
    assert difference(found.array, wanted.array) <= 1e-5
    assert difference(found.last, wanted.last) <= 1e-5
    assert passes.refused == sorted(set(passes.refused), reverse=True)
    assert all(b <= a / 2 for a, b in zip(passes.refused, passes.refused[1:], strict=False))
    assert sorted(done) == list(range(len(EQUAL.items)))
    assert sum(told) == wanted.plan.tokens == sum(passes.sizes)  # rows of equal length: no padding
    assert max(passes.sizes) <= limit
    assert hooks(model.module) == 0


def test_what_was_done_before_memory_ran_out_is_not_run_again(
    monkeypatch: pytest.MonkeyPatch, passes: Passes, plain: None
) -> None:
    """Rows of several lengths: the short ones are done when a pass over the longest does not fit."""
    model = ready("qwen2")
    mixed = suite_of([(f"m{k}", (words(17 if k < 20 else 33, 70 + k),), (0,)) for k in range(29)])
    wanted = scan(model, mixed, budget=110)
    sizes = [b.width * len(b.rows) for b in wanted.plan.batches]
    assert sizes == [100] * 4 + [108] * 3
    passes.limit = 104
    told: list[int] = []
    with stored(monkeypatch) as done:
        found = scan(model, mixed, budget=110, progress=told.append)
    assert passes.refused == [108]
    assert sorted(done) == list(range(29))
    assert sum(told) == wanted.plan.tokens
    assert difference(found.array, wanted.array) <= 1e-5


def test_packed_rows_that_do_not_fit_are_halved(
    monkeypatch: pytest.MonkeyPatch, passes: Passes, force: None, tmp_path: Path
) -> None:
    model = ready("mistral")
    assert model.branches
    passes.limit, before = 130, configurations(model.module)
    told: list[int] = []
    with stored(monkeypatch) as done:
        found = scan(model, TREE, budget=512, progress=told.append, folder=tmp_path)
    assert passes.refused
    assert_as_before(before)
    assert sorted(done) == list(range(len(found.array)))
    assert segments(found.plan)
    assert sum(told) >= found.plan.minimum
    passes.limit = float("inf")
    assert_same(found, truth(model.module, "mistral"))


@pytest.mark.parametrize("pack", [False, True])
def test_a_row_that_does_not_fit_is_an_error_that_says_what_to_do(
    pack: bool, monkeypatch: pytest.MonkeyPatch, passes: Passes, tmp_path: Path
) -> None:
    monkeypatch.setattr(states, "packing", (lambda m, b=None: Packing(10**9, 1e9, 99)) if pack else lambda *_: None)
    model = ready("qwen2")
    passes.limit = 19
    with pytest.raises(ModelError, match=r"qwen2: out of memory in a pass of 20 tokens: .*--token-budget.*bfloat16"):
        scan(model, EQUAL, folder=tmp_path)
    assert passes.refused[-1] == 20
    assert list(tmp_path.iterdir()) == []
    assert hooks(model.module) == 0


@pytest.mark.parametrize("way", ["plain", "packed"])
def test_a_long_row_that_does_not_fit_is_an_error_too(
    way: str, monkeypatch: pytest.MonkeyPatch, passes: Passes
) -> None:
    """Half of the longest row's tokens are tried again and again: the new plan has the same longest row."""
    monkeypatch.setattr(states, "packing", always if way == "packed" else lambda *_: None)
    model = ready("qwen2")
    assert model.branches
    passes.limit = 40
    with pytest.raises(ModelError, match="out of memory in a pass of 100 tokens"):
        scan(model, LOPSIDED)


def test_memory_that_runs_out_in_the_self_test_is_an_error_of_the_model(passes: Passes) -> None:
    passes.limit = 1
    with pytest.raises(ModelError, match="out of memory"):
        scan(ready("qwen2"), TREE)


@pytest.mark.parametrize("pack", [True, False])
def test_progress_adds_up_to_the_plan(pack: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "packing", always if pack else lambda *_: None)
    model, told = ready("qwen2"), []
    rendered = render(TREE, model.tokenizer, model.context)
    promised = plan_scan(model, rendered.readouts, 100)
    found = scan(model, TREE, budget=100, progress=told.append)
    assert found.plan == promised
    assert told == [sum(map(len, b.rows)) for b in promised.batches]
    assert sum(told) == promised.tokens


# --- 11. memory ------------------------------------------------------------------------------------------------


def many(readouts: int) -> Rendered:
    """Short readouts, no two the same."""
    tokens = np.random.default_rng(0).integers(0, 60, (readouts, 6))
    tokens[:, 0] = 0
    found = tuple(Readout(tuple(row), 2, 5) for row in tokens.tolist())
    return Rendered(found, pd.DataFrame({"item": np.arange(readouts)}), ())


@pytest.fixture(scope="module")
def small() -> LoadedModel:
    """Two blocks."""
    config = t.Qwen2Config(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    torch.manual_seed(0)
    return wrap(t.AutoModelForCausalLM.from_config(config).eval(), tokenizer())


@pytest.fixture(scope="module")
def plans() -> dict[int, tuple[Rendered, Plan]]:
    found = {n: many(n) for n in (2_000, 20_000)}
    return {n: (rendered, make_plan(rendered.readouts)) for n, rendered in found.items()}


def live_tensors() -> int:
    """Bytes of all tensors that are alive."""
    return sum(x.numel() * x.element_size() for x in gc.get_objects() if type(x) is Tensor)


@pytest.mark.parametrize("way", ["folder", "projected", "memory"])
def test_memory_does_not_grow_with_the_number_of_readouts(
    way: str,
    small: LoadedModel,
    plans: dict[int, tuple[Rendered, Plan]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beyond the results themselves, and beyond a sixth of the states for bookkeeping: numbers of readouts, the text
    of the key. The plan is made before. Where all states are kept in memory, which must grow, the measure shows it."""
    peaks, tensors = {}, {}
    state = 2 * 3 * 64 * 4  # bytes of one readout's states
    for n, (rendered, plan) in plans.items():
        monkeypatch.setattr(states, "plan_scan", lambda *_, plan=plan: plan)
        told: list[int] = []
        live: list[int] = []

        def progress(tokens: int, told: list[int] = told, live: list[int] = live, plan: Plan = plan) -> None:
            told.append(tokens)
            if len(told) in (3, len(plan.batches) - 1):
                live.append(live_tensors())

        gc.collect()
        tracemalloc.start()
        if way == "projected":
            directions = np.ones((3, 2, 64), np.float32)
            scan_projected(small, TREE, directions, directions, rendered=rendered, progress=progress)
        else:
            scan(small, TREE, rendered=rendered, progress=progress, folder=tmp_path if way == "folder" else None)
        peaks[n] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(told) == len(plan.batches)
        assert live[1] <= 1.05 * live[0]
        tensors[n] = live[1]
    results = 2 * 3 * 2 * 8 if way == "projected" else 0
    growth = (peaks[20_000] - peaks[2_000]) / 18_000 - results
    if way == "memory":
        assert growth > 0.9 * state
    else:
        assert growth < state / 6
    assert tensors[20_000] <= 1.05 * tensors[2_000]


# --- 12. budgets -----------------------------------------------------------------------------------------------


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Models say that they are on a GPU, with so many bytes free."""
    monkeypatch.setattr(LoadedModel, "device", property(lambda self: torch.device("cuda", 0)))

    def free(number: float) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (int(number), 80 * 2**30))

    return free


def test_budget_on_a_cpu() -> None:
    """Tiny blocks take more tokens a pass than others, and other trees join a packed row sooner than one tree ends."""
    tiny, other = ready("qwen2"), ready("qwen2", hidden_size=512, intermediate_size=1024)
    assert [budget.token_budget(m) for m in (tiny, other)] == [4096, 512]
    assert [(p.row, p.budget) for p in map(budget.packing, (tiny, other)) if p] == [(4096, 4096), (1024, 4096)]


def test_budget_on_a_gpu_follows_the_free_memory(on_a_gpu: Callable[[float], None]) -> None:
    """0.4 of what is free, at 4 bytes for 12 states and 4 inner states of the MLP: of 64 and 96 values in this model,
    and of 64 and 256 in GPT-2, which names no inner width."""
    for model, width in ((ready("qwen2"), 12 * 64 + 4 * 96), (ready("gpt2", n_inner=None), 12 * 64 + 4 * 256)):
        for tokens in (257, 5_000, 65_535):
            on_a_gpu(np.ceil((tokens + 0.5) * 4 * width / 0.4))
            assert budget.token_budget(model) == tokens
        on_a_gpu(0)
        assert budget.token_budget(model) == 256
        on_a_gpu(70 * 2**30)
        assert budget.token_budget(model) == 65_536


def test_packing_pays_sooner_in_larger_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = ready("qwen2"), ready("qwen2", hidden_size=256, intermediate_size=512)
    worth = []
    for model in (small, large):
        found = budget.packing(model)
        assert found is not None
        assert (found.longest, found.budget) == (model.branches, 4096)
        size = sum(p.numel() for p in model.module.model.layers[0].parameters())
        worth.append(found.worth)
        assert found.worth == pytest.approx(5e-5 * 5e10 / (2 * size))
    assert worth[0] > 5 * worth[1] > 0
    assert budget.packing(small, 77).budget == 77
    assert budget.packing(ready("mamba")) is None


def test_packed_rows_on_a_gpu_take_what_fits(on_a_gpu: Callable[[float], None]) -> None:
    model = ready("qwen2")
    model.__dict__["branches"] = 10**9  # the self-test was passed
    on_a_gpu(70 * 2**30)
    found = budget.packing(model)
    assert found.budget == 65_536
    assert found.worth == pytest.approx(
        5e-5 * 1e14 / (2 * sum(p.numel() for p in model.module.model.layers[0].parameters()))
    )


def test_a_scan_asks_for_its_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ready("qwen2")
    monkeypatch.setattr(states, "token_budget", lambda _: 33)
    readouts = render(EQUAL, model.tokenizer, model.context).readouts
    assert len(plan_scan(model, readouts).batches) == 40
    assert len(plan_scan(model, readouts, 40).batches) == 20
