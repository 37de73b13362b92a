"""The adapters against transformers itself, on tiny models with random weights, and through the scan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor, nn

import llmct_bench
from llmct_bench import LoadedModel, certify, wrap
from llmct_bench.adapters import CHECKS, Adapter, AdapterCertificate, Point, resolve
from llmct_bench.adapters.checks import model_checks
from llmct_bench.errors import ModelError
from llmct_bench.models.phantoms.tokenizer import build_tokenizer, split_words
from llmct_bench.scanner import scan
from llmct_bench.suites import Item, Suite, SuiteCard, Turn

VOCABULARY = 64
WINDOW = 6  # of sliding attention; the sequences are longer
SHORT = {"vocab_size": VOCABULARY, "hidden_size": 32, "initializer_range": 0.2}
PLAIN = {**SHORT, "num_hidden_layers": 3, "num_attention_heads": 4}
FULL = {**PLAIN, "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 128}
FULL |= {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 3}
OPT = {"vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 3, "init_std": 0.2}
OPT |= {"num_attention_heads": 4, "word_embed_proj_dim": 32}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "initializer_range": 0.2}
GEMMA = {**FULL, "num_hidden_layers": 4, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": WINDOW}

#: family: (configuration, where its final norm is)
FAMILIES: dict[str, tuple[Callable[[], Any], str]] = {
    "qwen2": (lambda: t.Qwen2Config(**FULL), "model.norm"),
    "llama": (lambda: t.LlamaConfig(**FULL), "model.norm"),
    "gemma2": (lambda: t.Gemma2Config(**GEMMA), "model.norm"),
    "gpt2": (lambda: t.GPT2Config(**GPT2), "transformer.ln_f"),
    "gpt_neox": (lambda: t.GPTNeoXConfig(**PLAIN, intermediate_size=64), "gpt_neox.final_layer_norm"),
    "opt": (lambda: t.OPTConfig(**OPT), "model.decoder.final_layer_norm"),
    "mistral": (lambda: t.MistralConfig(**FULL, sliding_window=WINDOW), "model.norm"),
    "falcon": (lambda: t.FalconConfig(**PLAIN), "transformer.ln_f"),
    "bloom": (lambda: t.BloomConfig(**SHORT, n_layer=3, n_head=4), "transformer.ln_f"),
    "granite": (
        lambda: t.GraniteConfig(**FULL, residual_multiplier=0.22, embedding_multiplier=12.0),
        "model.norm",
    ),
}

#: structures of the same families and of others that are certified but not looked at one by one
VARIANTS: dict[str, Callable[[], Any]] = {
    "gpt_neox sequential": lambda: t.GPTNeoXConfig(**PLAIN, intermediate_size=64, use_parallel_residual=False),
    "falcon new": lambda: t.FalconConfig(**PLAIN, new_decoder_architecture=True, num_kv_heads=2),
    "falcon alibi sequential": lambda: t.FalconConfig(**PLAIN, parallel_attn=False, alibi=True),
    "stablelm parallel": lambda: t.StableLmConfig(**FULL, use_parallel_residual=True),
    "gptj (tuples)": lambda: t.GPTJConfig(**GPT2, rotary_dim=4),
    "mixtral": lambda: t.MixtralConfig(**FULL, num_local_experts=4),
    "lfm2": lambda: t.Lfm2Config(**FULL),
    "mamba (no split)": lambda: t.MambaConfig(**SHORT, num_hidden_layers=3, state_size=8),
    "opt-350m (post-norm, no split)": lambda: t.OPTConfig(**OPT, do_layer_norm_before=False),
}


def build(config: Any) -> Any:
    torch.manual_seed(0)
    module = t.AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in module.named_parameters():  # norms and biases that are not the identity
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=float("norm" in name and name.endswith("weight")), std=0.2)
    return module


def family(name: str) -> Any:
    return build(FAMILIES[name][0]())


@pytest.fixture(params=FAMILIES)
def named(request: pytest.FixtureRequest) -> tuple[Any, nn.Module]:
    """A model and its final norm."""
    module = family(request.param)
    return module, module.get_submodule(FAMILIES[request.param][1])


@pytest.fixture
def qwen() -> Any:
    return family("qwen2")


def some_ids(rows: int = 2, length: int = 20) -> Tensor:
    return torch.randint(7, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def read(adapter: Adapter, points: list[Point], ids: Tensor) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    with adapter.reading(points, lambda i, value: found.__setitem__(i, value.clone())):
        adapter.run(ids)
    return [found[i] for i in range(len(points))]


@torch.inference_mode()
def truth(module: Any, norm: nn.Module, ids: Tensor) -> list[Tensor]:
    """The stream at all block boundaries without our hooks: transformers' own hidden states, and for the last point
    (which transformers shows only after the final norm) what goes into that norm."""
    entered: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, args: entered.append(args[0].clone()))
    own = module(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
    handle.remove()
    assert torch.equal(norm(entered[-1]), own[-1])
    return [*own[:-1], entered[-1]]


def assert_equal(value: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert value.shape == expected.shape
    assert (value - expected).abs().max() <= tolerance * expected.abs().max()


# --- states ---------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_block_boundaries_equal_transformers_hidden_states(named: tuple[Any, nn.Module]) -> None:
    module, norm = named
    adapter, ids = resolve(module), some_ids()
    states = read(adapter, adapter.residual_points(), ids)
    own = module(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
    assert len(states) == len(own) == module.config.num_hidden_layers + 1
    for value, expected in zip(states[:-1], own[:-1], strict=True):
        assert_equal(value, expected)
    assert_equal(norm(states[-1]), own[-1])
    assert (states[-1] - own[-1]).abs().max() > 0.01  # the last point is before the norm


def test_attention_and_mlp_are_what_a_block_adds(named: tuple[Any, nn.Module]) -> None:
    module, norm = named
    adapter, ids = resolve(module), some_ids()
    stream = truth(module, norm, ids)
    for i in range(adapter.n_layers):
        attn, mlp = (part.view_as(stream[i]) for part in read(adapter, [Point("attn", i), Point("mlp", i)], ids))
        assert_equal(stream[i] + attn + mlp, stream[i + 1])
        for part in (attn, mlp):
            assert part.abs().max() > 1e-3 * stream[i + 1].abs().max()


def test_split_of_granite_is_scaled() -> None:
    adapter = resolve(family("granite"))
    assert adapter.scale == 0.22
    path = adapter.contributions.mlp
    raw: list[Tensor] = []
    handle = adapter.blocks[1].get_submodule(path).register_forward_hook(lambda *a: raw.append(a[-1].clone()))
    (added,) = read(adapter, [Point("mlp", 1)], some_ids())
    handle.remove()
    assert_equal(added, raw[0] * 0.22)


@pytest.mark.parametrize("name", ["gemma2", "mistral"])
def test_sliding_window_is_smaller_than_the_sequence(name: str) -> None:
    """Else the tests of these families would say nothing about sliding attention."""
    module, wide = family(name), family(name)
    wide.load_state_dict(module.state_dict())
    wide.config.sliding_window = 1000
    for block in resolve(wide).blocks:
        block.self_attn.sliding_window = 1000
    ids = some_ids()
    states = [read(a, [Point("resid", 1)], ids)[0] for a in map(resolve, (module, wide))]
    assert torch.allclose(states[0][:, :WINDOW], states[1][:, :WINDOW], atol=1e-5)
    assert not torch.allclose(states[0][:, WINDOW:], states[1][:, WINDOW:], atol=1e-2)


def test_reading_does_not_change_the_model(qwen: Any) -> None:
    ids, adapter = some_ids(), resolve(qwen)
    with torch.inference_mode():
        before = qwen(input_ids=ids).logits
        with adapter.reading(adapter.residual_points(), lambda i, value: None):
            during = qwen(input_ids=ids).logits
        after = qwen(input_ids=ids).logits
    assert torch.equal(before, during)
    assert torch.equal(before, after)


# --- the certificate ------------------------------------------------------------------------------------------

#: The checks that need no tokenizer.
MODEL = tuple(name for name in CHECKS if name not in ("start token", "spans"))


def certificate(adapter: Adapter) -> AdapterCertificate:
    return AdapterCertificate(tuple(model_checks(adapter, VOCABULARY)))


def left_out(found: AdapterCertificate) -> set[str]:
    return {c.name for c in found.checks if c.error is None}


@pytest.mark.parametrize("name", FAMILIES)
def test_certificate_passes(name: str) -> None:
    result = certificate(resolve(family(name)))
    assert result.passed, result.failures()
    assert tuple(c.name for c in result.checks) == MODEL
    assert left_out(result) == set()


@pytest.mark.parametrize("name", VARIANTS)
def test_certificate_passes_for_variants(name: str) -> None:
    result = certificate(resolve(build(VARIANTS[name]())))
    assert result.passed, result.failures()
    assert left_out(result) == ({"closure"} if "no split" in name else set())


# --- edits ----------------------------------------------------------------------------------------------------


def direction() -> Tensor:
    return torch.linspace(-2.0, 3.0, 32)


def taken_in(module: nn.Module, entered: list[Tensor]) -> Any:
    """Notes what a module is given, with a hook of our own."""
    return module.register_forward_pre_hook(
        lambda _, args, kwargs: entered.append((args[0] if args else kwargs["hidden_states"]).clone()),
        with_kwargs=True,
    )


@pytest.mark.parametrize("layer", [0, 2, -1])
@torch.inference_mode()
def test_an_edited_state_is_what_the_next_block_takes_in(named: tuple[Any, nn.Module], layer: int) -> None:
    module, norm = named
    adapter, ids = resolve(module), some_ids()
    layer = adapter.residual_points()[layer].layer
    wanted = truth(module, norm, ids)[layer]
    wanted[1, 4:7] += direction()
    entered: list[Tensor] = []
    with adapter.steer(Point("resid", layer), direction(), [(1, 4, 7)]):
        handle = taken_in([*adapter.blocks, norm][layer], entered)
        module(input_ids=ids, use_cache=False)
    handle.remove()
    assert_equal(entered[-1], wanted)


@pytest.mark.parametrize("kind", ["attn", "mlp"])
@torch.inference_mode()
def test_what_is_added_to_the_last_contribution_is_added_to_the_stream(named: tuple[Any, nn.Module], kind: str) -> None:
    """The last MLP moves the last state by just the direction, also where it is multiplied on its way (Granite). What
    attention adds is seen by the MLP of its block, so there the stream moves by the direction and the MLP's answer."""
    module, norm = named
    adapter, ids = resolve(module), some_ids()
    last = adapter.n_layers - 1
    plain, (mlp,) = truth(module, norm, ids)[-1], read(adapter, [Point("mlp", last)], ids)
    with adapter.steer(Point(kind, last), direction()):
        moved, (answer,) = truth(module, norm, ids)[-1], read(adapter, [Point("mlp", last)], ids)
    if kind == "mlp":
        assert_equal(moved - plain, direction().expand_as(plain), 1e-4)
    else:
        assert_equal(moved - plain - (answer - mlp).view_as(plain), direction().expand_as(plain), 1e-4)


@torch.inference_mode()
def test_a_donors_last_state_gives_the_donors_logits(named: tuple[Any, nn.Module]) -> None:
    module, norm = named
    adapter, ids = resolve(module), some_ids()
    donor = ids.flip(1)
    with adapter.patch(Point("resid", adapter.n_layers), truth(module, norm, donor)[-1]):
        patched = module(input_ids=ids, use_cache=False).logits
    assert_equal(patched, module(input_ids=donor, use_cache=False).logits)
    assert not torch.allclose(patched, module(input_ids=ids, use_cache=False).logits, atol=1e-2)


@torch.inference_mode()
def test_the_lens_gives_the_models_logits(named: tuple[Any, nn.Module]) -> None:
    module, norm = named
    ids = some_ids()
    assert_equal(resolve(module).lens(truth(module, norm, ids)[-1]), module(input_ids=ids, use_cache=False).logits)


@torch.inference_mode()
def test_left_padding_gives_the_states_of_the_text_alone(named: tuple[Any, nn.Module]) -> None:
    module, norm = named
    adapter, ids = resolve(module), some_ids(1, 13)
    found: dict[int, Tensor] = {}
    padded = torch.cat([torch.zeros(1, 7, dtype=torch.long), ids], 1).repeat(2, 1)
    padded[1] = torch.arange(20) + 10
    with adapter.reading(adapter.residual_points(), lambda i, value: found.__setitem__(i, value.clone())):
        adapter.run_left_padded(padded, [13, 20])
    for value, expected in zip(found.values(), truth(module, norm, ids), strict=True):
        assert_equal(value[:1, 7:], expected)


@torch.inference_mode()
def test_edits_at_one_point_act_in_the_order_in_which_they_were_opened(qwen: Any) -> None:
    adapter, ids, point = resolve(qwen), some_ids(), Point("resid", 1)
    (plain,) = read(adapter, [point], ids)
    with adapter.editing(point, lambda value: value + 1), adapter.editing(point, lambda value: value * 2):
        (twice,) = read(adapter, [point], ids)
    assert_equal(twice, (plain + 1) * 2)
    (after,) = read(adapter, [point], ids)
    assert torch.equal(after, plain)


@pytest.mark.parametrize("kind", [tuple, list, torch.Tensor])
@torch.inference_mode()
def test_an_edit_keeps_the_container_that_came(kind: type) -> None:
    """With all that is behind the state in it. The block of a tiny model is made to return it in another one."""

    class Block(nn.Module):
        def forward(self, hidden_states: Tensor) -> Any:
            return hidden_states if kind is torch.Tensor else kind([hidden_states, "rest"])

    qwen = family("qwen2")
    adapter = dataclasses.replace(resolve(qwen), blocks=(Block(),), contributions=None)
    value = torch.zeros(2, 3, 32)
    with adapter.patch(Point("resid", 1), direction(), [(1, 0, 2)]):
        out = adapter.blocks[0](value)
    state = out if kind is torch.Tensor else out[0]
    assert type(out) is kind
    assert kind is torch.Tensor or out[1:] == kind(["rest"])
    assert torch.equal(state[1, :2], direction().expand(2, -1))
    assert not state[0].any()
    assert not state[1, 2].any()


@pytest.mark.parametrize(
    "point", [Point("resid", 4), Point("resid", -1), Point("attn", 3), Point("mlp", -1), Point("head")], ids=str
)
def test_a_point_that_is_not_there_is_refused(qwen: Any, point: Point) -> None:
    adapter = resolve(qwen)
    with pytest.raises(ModelError, match=f"there is no point {point.kind}"), adapter.reading([point], lambda *_: None):
        pass
    with pytest.raises(ModelError, match=f"there is no point {point.kind}"), adapter.editing(point, lambda v: v):
        pass
    assert hooks(qwen) == 0


# --- a model without a split ----------------------------------------------------------------------------------


def test_model_without_contributions_works() -> None:
    module = family("opt")
    adapter = dataclasses.replace(resolve(module), contributions=None)
    result = certificate(adapter)
    assert result.passed, result.failures()
    assert left_out(result) == {"closure"}
    with pytest.raises(ModelError, match="no attention/MLP split"):
        read(adapter, [Point("attn", 0)], some_ids())
    model = dataclasses.replace(wrap(module, tokenizer(), "opt"), adapter=adapter)
    assert scan(model, suite()).array.shape == (8, 4, 32)


# --- the scan -------------------------------------------------------------------------------------------------

TEXTS = (
    "glad",
    "I am sad .",
    "the house by the sea was calm and we sat there for a long while .",
    "I am so angry at the man who took my seat , and at the rest of the long day too .",
)


def tokenizer() -> t.PreTrainedTokenizerFast:
    return build_tokenizer(sorted({w for text in TEXTS for w in split_words(text)}))


def suite() -> Suite:
    """Single messages and a conversation with three readouts, of very different lengths."""
    items = [(f"single-{n}", (text,)) for n, text in enumerate(TEXTS)]
    items += [("talk", (TEXTS[2], TEXTS[1], TEXTS[3], TEXTS[0], TEXTS[1])), ("short", TEXTS[1:2] * 3)]
    reads = {"talk": (0, 2, 4), "short": (2,)}
    card = SuiteCard(name="t", version="0", design="circumplex", summary="s", licence="l", canary="c")
    made = (
        Item(
            id=name,
            scenario=name,
            emotion="joy",
            intensity=1,
            messages=tuple(Turn(role=("user", "assistant")[n % 2], content=s) for n, s in enumerate(said)),
            reads=reads.get(name, (0,)),
        )
        for name, said in items
    )
    return Suite(card, tuple(made))


def single_passes(model: LoadedModel, norm: nn.Module) -> Iterator[tuple[list[Tensor], slice]]:
    """The truth: each readout alone in a pass of its own. In the phantoms' template a message of n words is its last
    n tokens before the end mark."""
    for item in suite().items:
        for r in item.reads:
            messages = [m.model_dump() for m in item.messages[: r + 1]]
            ids = model.tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True).input_ids
            words = len(split_words(item.messages[r].content))
            yield truth(model.module, norm, ids), slice(-1 - words, -1)


@pytest.mark.parametrize("budget", [24, 100, 4096])
def test_scan_of_padded_batches_equals_single_passes(named: tuple[Any, nn.Module], budget: int) -> None:
    module, norm = named
    model = wrap(module, tokenizer())
    states = scan(model, suite(), budget=budget)
    lengths = [{len(row) for row in batch.rows} for batch in states.plan.batches]
    assert max(map(len, lengths)) > 1 or budget == 24  # rows of several lengths ran together
    assert sum(len(batch.reads) for batch in states.plan.batches) == len(states.array) == 8
    for n, (expected, content) in enumerate(single_passes(model, norm)):
        for p, value in enumerate(expected):
            assert_equal(torch.from_numpy(states.array[n, p]), value[0, content].mean(0))
            assert_equal(torch.from_numpy(states.last[n, p]), value[0, -1])


def test_scan_at_chosen_points_reads_the_contributions(qwen: Any) -> None:
    model = wrap(qwen, tokenizer())
    points = [Point("resid", 1), Point("attn", 1), Point("mlp", 1), Point("resid", 2)]
    before, attn, mlp, after = scan(model, suite(), points=points).array.transpose(1, 0, 2)
    assert_equal(torch.from_numpy(before + attn + mlp), torch.from_numpy(after))


def test_scan_names_the_point_that_is_not_finite(qwen: Any) -> None:
    qwen.model.layers[1].register_forward_hook(lambda _, args, out: torch.full_like(out, float("nan")))
    with pytest.raises(ModelError, match=r"states at resid\.2 are not finite"):
        scan(wrap(qwen, tokenizer(), "broken"), suite())


@pytest.mark.parametrize("name", ["scan", "leaderboard"])
def test_function_of_the_public_interface_is_a_function(name: str) -> None:
    assert callable(getattr(llmct_bench, name))


# --- hooks ----------------------------------------------------------------------------------------------------


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def failing(*_: Any) -> None:
    raise ZeroDivisionError("in the middle of a pass")


def fail_in_a_block(model: LoadedModel) -> None:
    model.module.model.layers[1].mlp.forward = failing
    scan(model, suite())


def fail_in_the_reader(model: LoadedModel) -> None:
    with model.adapter.reading(model.adapter.residual_points(), failing):
        model.adapter.run(some_ids())


def fail_in_the_progress(model: LoadedModel) -> None:
    scan(model, suite(), progress=failing)


def fail_at_the_second_point(model: LoadedModel) -> None:
    scan(model, suite(), points=[Point("resid", 0), Point("resid", 1), Point("resid", 99)])


def fail_in_an_edit(model: LoadedModel) -> None:
    points = model.adapter.residual_points()
    with model.adapter.patch(points[0], direction()), model.adapter.editing(points[1], failing):
        model.adapter.run(some_ids())


def fail_in_the_certificate(model: LoadedModel) -> None:
    model.module.model.layers[1].mlp.forward = failing
    certify(model)


FAULTS = (fail_in_a_block, fail_in_the_reader, fail_in_the_progress, fail_at_the_second_point, fail_in_an_edit)


@pytest.mark.parametrize("fault", [*FAULTS, fail_in_the_certificate])
@pytest.mark.parametrize("theirs", [0, 1])
def test_no_hook_remains_after_an_exception(qwen: Any, fault: Callable[..., None], theirs: int) -> None:
    """And a hook that the caller had set stays."""
    for _ in range(theirs):
        qwen.model.layers[0].register_forward_hook(lambda *_: None)
    before = hooks(qwen)
    assert before == theirs
    with pytest.raises((ZeroDivisionError, ModelError)):
        fault(wrap(qwen, tokenizer()))
    assert hooks(qwen) == before


def test_hooks_are_there_while_reading_and_gone_after(qwen: Any) -> None:
    adapter = resolve(qwen)
    with adapter.reading(adapter.residual_points(), lambda i, value: None):
        assert hooks(qwen) == adapter.n_layers + 1 + 1  # one a point, and one that notes the shape of the pass
    assert hooks(qwen) == 0


# --- what cannot be resolved ----------------------------------------------------------------------------------


def test_module_without_config_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear has no config"):
        resolve(nn.Linear(2, 2))


def test_wrap_of_a_module_without_config_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear has no config"):
        wrap(nn.Linear(2, 2), tokenizer())


def test_model_without_a_list_of_blocks_is_refused(qwen: Any) -> None:
    qwen.config.num_hidden_layers = 7
    with pytest.raises(ModelError, match="qwen2: no list of 7 blocks in Qwen2Model"):
        resolve(qwen)


def test_body_without_head_is_refused(qwen: Any) -> None:
    with pytest.raises(ModelError, match="Qwen2Model: the body cannot be told from the head"):
        resolve(qwen.model)


def test_a_longer_list_elsewhere_is_not_taken_for_the_blocks(qwen: Any) -> None:
    """The list with num_hidden_layers entries that lies nearest to the decoder is the stream."""
    qwen.model.layers[0].experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    qwen.model.a_longer_list = nn.ModuleList(nn.Linear(2, 2) for _ in range(9))
    assert list(map(id, resolve(qwen).blocks)) == list(map(id, qwen.model.layers))
