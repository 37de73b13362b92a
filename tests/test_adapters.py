"""The adapters against transformers itself, on tiny models with random weights, and faults planted to be found."""

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
from llmct_bench.adapters import Adapter, AdapterCertificate, Check, Point, resolve
from llmct_bench.adapters.architectures import Contributions
from llmct_bench.adapters.certificate import certify_module
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
    "lfm2 (no split)": lambda: t.Lfm2Config(**FULL),
    "mamba (no split)": lambda: t.MambaConfig(**SHORT, num_hidden_layers=3, state_size=8),
    "opt-350m (post-norm, no split)": lambda: t.OPTConfig(**OPT, do_layer_norm_before=False),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small are slower on several threads, above all where other programs run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


def certificate(module: Any, adapter: Adapter | None = None) -> AdapterCertificate:
    return certify_module(module, adapter or resolve(module), VOCABULARY)


def failed(module: Any, adapter: Adapter | None = None) -> set[str]:
    return {c.name for c in certificate(module, adapter).checks if not c.passed}


OWN = "states equal transformers' hidden_states"
CLOSES = "attention + MLP close the residual"
FINITE = "all states are finite"
PADDING = "independent of batch and right padding"
LOGITS = "logits unchanged after the hooks are gone"
LAST = "the last state is the input of the final norm"
HOOKS = "hooks left behind"


@pytest.mark.parametrize("name", FAMILIES)
def test_certificate_passes(name: str) -> None:
    result = certificate(family(name))
    assert result.passed, result.failures()
    assert {c.name for c in result.checks} == {OWN, LAST, CLOSES, FINITE, PADDING, LOGITS, HOOKS}


@pytest.mark.parametrize("name", VARIANTS)
def test_certificate_passes_for_variants(name: str) -> None:
    result = certificate(build(VARIANTS[name]()))
    assert result.passed, result.failures()
    assert ("no split" in name) == (CLOSES not in {c.name for c in result.checks})


def without_split(adapter: Adapter) -> Adapter:
    return dataclasses.replace(adapter, contributions=None)


def test_certificate_finds_blocks_shifted_by_one(qwen: Any) -> None:
    adapter = resolve(qwen)
    shifted = dataclasses.replace(adapter, blocks=nn.ModuleList([*adapter.blocks[1:], adapter.blocks[0]]))
    assert OWN in failed(qwen, shifted)
    assert OWN in failed(qwen, without_split(shifted))


@pytest.mark.parametrize("block", range(3))
def test_certificate_finds_nan(qwen: Any, block: int) -> None:
    qwen.model.layers[block].register_forward_hook(lambda _, args, out: torch.full_like(out, float("nan")))
    assert FINITE in failed(qwen)


@pytest.mark.parametrize("block", range(3))
def test_certificate_finds_a_hook_that_was_left_behind(qwen: Any, block: int) -> None:
    qwen.model.layers[block].register_forward_hook(lambda _, args, out: out + 1)
    assert CLOSES in failed(qwen)


class Leaky(Adapter):
    """Leaves a hook behind on the final norm, at its first ``times`` readings."""

    times = 10**9

    def _attach(self, i: int, point: Point, reader: Any) -> Any:
        left = self.decoder.norm._forward_hooks
        if i == 0 and len(left) < self.times:
            self.decoder.norm.register_forward_hook(lambda _, args, out: out + 1)
        return super()._attach(i, point, reader)


class LeakyOnce(Leaky):
    times = 1


class PostNorm(Adapter):
    """Takes the state after the final norm for the last point."""

    def _module(self, point: Point) -> nn.Module:
        last = point == Point("resid", self.n_layers)
        return self.decoder.norm if last else super()._module(point)


def planted(kind: type[Adapter], adapter: Adapter) -> Adapter:
    return kind(**{f.name: getattr(adapter, f.name) for f in dataclasses.fields(adapter)})


def test_certificate_finds_hooks_left_by_every_reading(qwen: Any) -> None:
    assert failed(qwen, planted(Leaky, resolve(qwen))) == {LOGITS, HOOKS}


def test_certificate_finds_a_hook_left_by_the_first_reading(qwen: Any) -> None:
    assert LOGITS in failed(qwen, planted(LeakyOnce, resolve(qwen)))


def test_certificate_finds_a_post_norm_state_in_place_of_the_last_point(qwen: Any) -> None:
    assert CLOSES in failed(qwen, planted(PostNorm, resolve(qwen)))


def test_certificate_finds_a_post_norm_state_without_a_split(qwen: Any) -> None:
    assert failed(qwen, planted(PostNorm, without_split(resolve(qwen))))


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("qwen2", ("input_layernorm", "mlp.down_proj")),
        ("qwen2", ("self_attn.o_proj", "post_attention_layernorm")),
        ("gemma2", ("self_attn.o_proj", "mlp.down_proj")),  # what is added is the norm's output
        ("bloom", ("self_attention", "mlp")),  # these outputs hold the residual already
    ],
)
def test_certificate_finds_a_wrong_contribution_path(name: str, paths: tuple[str, str]) -> None:
    module = family(name)
    assert CLOSES in failed(module, dataclasses.replace(resolve(module), contributions=Contributions(*paths)))


def test_certificate_finds_a_missing_residual_multiplier() -> None:
    module = family("granite")
    assert failed(module, dataclasses.replace(resolve(module), scale=1.0)) == {CLOSES}


def test_certificate_finds_states_that_depend_on_the_right(qwen: Any) -> None:
    """A block that adds the mean over all positions is not causal: padding leaks into the states."""
    qwen.model.layers[0].mlp.down_proj.register_forward_hook(lambda _, args, out: out + out.mean(1, keepdim=True))
    assert failed(qwen) == {PADDING}


def test_an_error_that_is_no_number_does_not_pass() -> None:
    assert not AdapterCertificate((Check("x", float("nan"), 1.0),)).passed
    assert AdapterCertificate((Check("x", 1.0, 1.0),)).passed


def test_certificate_finds_dropout_in_training_mode() -> None:
    assert OWN in failed(family("gpt2").train())


def test_certificate_does_not_report_an_error_of_zero_for_nan(qwen: Any) -> None:
    qwen.model.layers[0].register_forward_hook(lambda _, args, out: torch.full_like(out, float("nan")))
    assert OWN in failed(qwen)


# --- a model without a split ----------------------------------------------------------------------------------


def test_model_without_contributions_works() -> None:
    module = family("opt")
    adapter = without_split(resolve(module))
    result = certificate(module, adapter)
    assert result.passed, result.failures()
    assert CLOSES not in {c.name for c in result.checks}
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


def fail_in_the_certificate(model: LoadedModel) -> None:
    model.module.model.layers[1].mlp.forward = failing
    certify(model)


FAULTS = (fail_in_a_block, fail_in_the_reader, fail_in_the_progress, fail_at_the_second_point)


@pytest.mark.parametrize("fault", [*FAULTS, fail_in_the_certificate])
@pytest.mark.parametrize("theirs", [0, 1])
def test_no_hook_remains_after_an_exception(qwen: Any, fault: Callable[..., None], theirs: int) -> None:
    """And a hook that the caller had set stays."""
    for _ in range(theirs):
        qwen.model.layers[0].register_forward_hook(lambda *_: None)
    before = hooks(qwen)
    assert before == theirs
    with pytest.raises((ZeroDivisionError, IndexError)):
        fault(wrap(qwen, tokenizer()))
    assert hooks(qwen) == before


def test_hooks_are_there_while_reading_and_gone_after(qwen: Any) -> None:
    adapter = resolve(qwen)
    with adapter.reading(adapter.residual_points(), lambda i, value: None):
        assert hooks(qwen) == adapter.n_layers + 1
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
    with pytest.raises(ModelError, match="the body cannot be told from the head"):
        resolve(qwen.model)


def test_a_longer_list_elsewhere_is_not_taken_for_the_blocks(qwen: Any) -> None:
    """The list with num_hidden_layers entries that lies nearest to the decoder is the stream."""
    qwen.model.layers[0].experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    qwen.model.a_longer_list = nn.ModuleList(nn.Linear(2, 2) for _ in range(9))
    assert resolve(qwen).blocks is qwen.model.layers
