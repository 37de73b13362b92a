"""Models that the caller already holds: left as they are, pinned by what they weigh, and read or refused as they come
(compiled, with adapters, off-loaded, quantised, in half precision, or unlike what transformers promises)."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from llmct_bench import LoadedModel, certify, evaluate, scan, wrap
from llmct_bench.adapters import Adapter, Point, resolve
from llmct_bench.adapters.loaded import fingerprint
from llmct_bench.adapters.tiny import VOCABULARY, tiny
from llmct_bench.errors import ModelError
from llmct_bench.models.phantoms.tokenizer import build_tokenizer, split_words
from llmct_bench.suites import Item, Suite, SuiteCard, Turn

TEXTS = (
    "glad",
    "I am sad .",
    "the house by the sea was calm and we sat there for a long while .",
    "I am so angry at the man who took my seat , and at the rest of the long day too .",
)
TRAINING = "the model or a part of it is in training mode (dropout makes states random): call .eval() first"


@pytest.fixture
def qwen() -> Any:
    return tiny("qwen2")


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Nothing that was compiled in another test is used again."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def tokenizer() -> Any:
    return build_tokenizer(sorted({w for text in TEXTS for w in split_words(text)}))


def suite() -> Suite:
    """Four messages of very different lengths."""
    card = SuiteCard(name="t", version="0", design="circumplex", summary="s", licence="l", canary="c")
    items = (
        Item(
            id=f"{n}", scenario=f"{n}", emotion="joy", intensity=1, messages=(Turn(role="user", content=s),), reads=(0,)
        )
        for n, s in enumerate(TEXTS)
    )
    return Suite(card, tuple(items))


def some_ids() -> Tensor:
    return torch.randint(5, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def states(adapter: Adapter, points: list[Point] | None = None) -> list[Tensor]:
    points = points or adapter.points()
    found: dict[int, Tensor] = {}
    with adapter.reading(points, lambda i, value: found.__setitem__(i, value.float().clone())):
        adapter.run(some_ids())
    return [found[i] for i in range(len(points))]


def largest(values: list[Tensor], references: list[Tensor]) -> float:
    """The largest difference, as a share of the largest value at its point."""
    assert len(values) == len(references) > 0
    assert all(v.shape == r.shape for v, r in zip(values, references, strict=True))
    return max(float((v - r).abs().max() / r.abs().max()) for v, r in zip(values, references, strict=True))


def one_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    line = str(error.value)
    assert "\n" not in line
    assert 20 < len(line) < 400
    return line


def passes(model: LoadedModel) -> None:
    certificate = certify(model)
    assert certificate.passed, certificate.failures()


# --- nothing is changed ---------------------------------------------------------------------------------------

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")


def snapshot(module: Any) -> dict[str, Any]:
    """Everything about a model that wrapping could touch; tensors as copies, modules by identity."""
    parts = list(module.named_modules())
    return {
        "hooks": {name: [list(getattr(m, kind).items()) for kind in HOOKS] for name, m in parts},
        "training": {name: m.training for name, m in parts},
        "modules": {name: id(m) for name, m in parts},
        "attributes": {name: sorted(vars(m)) for name, m in parts},
        "forwards": {name: id(vars(m).get("forward")) for name, m in parts},
        "parameters": {n: (id(p), p.device, p.dtype, p.requires_grad) for n, p in module.named_parameters()},
        "config": module.config.to_dict(),
        "random": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),
    }


@pytest.mark.parametrize("family", ["qwen2", "gptj", "opt", "granite", "gemma3n_text", "deepseek_v4", "mamba"])
def test_wrapping_changes_and_moves_nothing(family: str) -> None:
    module: Any = tiny(family)
    for n, parameter in enumerate(module.parameters()):
        parameter.requires_grad_(n % 2 == 0)
    weights, before = copy.deepcopy(module.state_dict()), snapshot(module)
    model = wrap(module, tokenizer(), "mine")
    assert model.module is module
    assert snapshot(module) == before
    after = module.state_dict()
    assert list(after) == list(weights)
    assert all(torch.equal(after[k], weights[k]) for k in weights)


def test_a_scan_of_a_wrapped_model_leaves_no_hook_and_no_gradient(qwen: Any) -> None:
    weights, before = copy.deepcopy(qwen.state_dict()), snapshot(qwen)
    scan(wrap(qwen, tokenizer()), suite())
    after = snapshot(qwen)
    assert after["hooks"] == before["hooks"]
    assert after["training"] == before["training"]
    assert after["parameters"] == before["parameters"]
    assert after["config"] == before["config"]
    assert all(torch.equal(qwen.state_dict()[k], weights[k]) for k in weights)
    assert all(p.grad is None for p in qwen.parameters())


def test_wrapping_twice_is_wrapping_once(qwen: Any) -> None:
    first, second = wrap(qwen, tokenizer(), "a"), wrap(qwen, tokenizer(), "a")
    assert (first.card, first.commit, first.adapter.points()) == (second.card, second.commit, second.adapter.points())
    assert np.array_equal(scan(first, suite()).array, scan(second, suite()).array)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("owner/model", "owner--model"),
        ("/checkpoints/step 3", "--checkpoints--step 3"),
        ("a/b/c", "a--b--c"),
        ("plain", "plain"),
    ],
)
def test_a_name_with_slashes(qwen: Any, name: str, expected: str) -> None:
    assert wrap(qwen, tokenizer(), name).card.name == expected


def test_without_a_name_the_checkpoint_or_the_class_names_the_model(qwen: Any) -> None:
    assert wrap(qwen, tokenizer()).card.name == "Qwen2ForCausalLM"
    qwen.config._name_or_path = "owner/model"
    assert wrap(qwen, tokenizer()).card.name == "owner--model"


# --- the fingerprint --------------------------------------------------------------------------------------------


def test_equal_weights_have_equal_fingerprints() -> None:
    prints = {fingerprint(tiny("qwen2")) for _ in range(2)} | {wrap(tiny("qwen2"), tokenizer()).commit}
    assert len(prints) == 1
    assert prints.pop().startswith("weights-")
    assert fingerprint(tiny("qwen2", seed=1)) != fingerprint(tiny("qwen2"))


_QWEN = tiny("qwen2")
_NAMES = sorted(_QWEN.state_dict())


@given(
    name=st.sampled_from(_NAMES),
    where=st.integers(0, 10**9),
    change=st.sampled_from((1.0, -0.01, 1e-3)),
)
@settings(max_examples=150, deadline=None)
def test_one_changed_element_changes_the_fingerprint(name: str, where: int, change: float) -> None:
    """Also where the element is not among the sampled ones; undone, the old fingerprint is back."""
    tensor = _QWEN.state_dict()[name].reshape(-1)
    place, plain = where % tensor.numel(), fingerprint(_QWEN)
    old = tensor[place].clone()
    try:
        tensor[place] += change
        assert fingerprint(_QWEN) != plain
    finally:
        tensor[place] = old
    assert fingerprint(_QWEN) == plain


def test_shape_dtype_and_name_are_part_of_the_fingerprint() -> None:
    class Bare(nn.Module):
        def __init__(self, **parts: Tensor) -> None:
            super().__init__()
            for name, part in parts.items():
                self.register_buffer(name, part)

    zeros = torch.zeros(4, 6)
    made = [{"a": zeros}, {"b": zeros}, {"a": zeros.T}, {"a": zeros.bfloat16()}, {"a": zeros, "b": zeros}, {}]
    made += [{"a": zeros.to(torch.int8)}, {"a": zeros.bool()}, {"a": torch.zeros(0)}, {"a": torch.tensor(0.0)}]
    made += [{"a": zeros.to(torch.float8_e4m3fn)}]
    assert len({fingerprint(Bare(**parts)) for parts in made}) == len(made)


def test_extra_state_does_not_stop_the_fingerprint(qwen: Any) -> None:
    class Kept(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"steps": 1}

        def set_extra_state(self, state: Any) -> None:
            pass

    head = Kept(64, VOCABULARY, bias=False).eval()
    head.load_state_dict(qwen.lm_head.state_dict(), strict=False)
    qwen.lm_head = head
    assert wrap(qwen, tokenizer()).commit.startswith("weights-")


# --- refusals -------------------------------------------------------------------------------------------------


def test_training_mode_is_refused(qwen: Any) -> None:
    with pytest.raises(ModelError) as error:
        wrap(qwen.train(), tokenizer())
    assert one_line(error) == TRAINING
    wrap(qwen.eval(), tokenizer())


def test_a_block_in_training_mode_is_refused() -> None:
    """Its dropout makes states random, whatever the outermost module says."""
    module: Any = tiny("gpt2")
    module.transformer.h[1].train()
    different = [states(resolve(module))[-1] for _ in range(2)]
    assert not torch.equal(*different)
    with pytest.raises(ModelError, match=r"training mode.*\.eval\(\)"):
        wrap(module, tokenizer())


@pytest.mark.parametrize("thing", [nn.Linear(3, 3), None, "gpt2", 7, object()], ids=lambda v: type(v).__name__)
def test_what_is_no_transformers_model_is_refused(thing: Any) -> None:
    with pytest.raises(ModelError) as error:
        wrap(thing, tokenizer())
    assert f"{type(thing).__name__} has no config: a transformers model is needed" == one_line(error)


def test_a_config_that_is_none_is_refused(qwen: Any) -> None:
    qwen.config = None
    with pytest.raises(ModelError, match="has no config"):
        wrap(qwen, tokenizer())


@pytest.mark.parametrize("same", [(0, 1), (0, 2), (1, 2)])
def test_shared_blocks_are_refused(qwen: Any, same: tuple[int, int]) -> None:
    qwen.model.layers[same[1]] = qwen.model.layers[same[0]]
    with pytest.raises(ModelError) as error:
        wrap(qwen, tokenizer())
    assert "share one module" in one_line(error)


def test_a_list_of_another_length_than_the_configuration_states_is_refused(qwen: Any) -> None:
    del qwen.model.layers[2]
    with pytest.raises(ModelError) as error:
        wrap(qwen, tokenizer())
    assert "no list of 3 blocks" in one_line(error)


class Slow:
    """A tokenizer without character offsets."""

    is_fast, bos_token_id, unk_token_id, chat_template, model_max_length = False, None, None, None, 512

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0}

    def __call__(self, texts: list[str], **_: Any) -> dict[str, Any]:
        return {"input_ids": [[0] * len(t.split()) for t in texts]}


def test_a_slow_tokenizer_is_refused(qwen: Any) -> None:
    model = wrap(qwen, Slow(), "slow")
    with pytest.raises(ModelError) as error:
        scan(model, suite())
    assert one_line(error) == "Slow gives no character offsets: a fast tokenizer is needed"
    certificate = certify(model)
    assert not certificate.passed
    assert "a fast tokenizer is needed" in certificate.failures()
    assert {c.name for c in certificate.checks if not c.passed} == {"spans"}
    with pytest.raises(ModelError) as error:
        evaluate(model, [])
    assert "slow fails its adapter certificate" in one_line(error)
    assert "a fast tokenizer is needed" in one_line(error)


# --- unlike what transformers promises --------------------------------------------------------------------------


def raising(error: Exception) -> Callable[[], Any]:
    def get_decoder() -> Any:
        raise error

    return get_decoder


NO_DECODER: dict[str, Callable[[Any], Any]] = {
    "raises NotImplementedError": lambda m: raising(NotImplementedError("no")),
    "raises AttributeError": lambda m: raising(AttributeError("no")),
    "returns the model": lambda m: lambda: m,
    "returns None": lambda m: lambda: None,
}


@pytest.mark.parametrize("how", NO_DECODER)
@pytest.mark.parametrize("family", ["qwen2", "gptj", "opt"])
def test_a_model_whose_decoder_cannot_be_asked_for(family: str, how: str) -> None:
    module: Any = tiny(family)
    expected = states(resolve(module))
    module.get_decoder = NO_DECODER[how](module)
    model = wrap(module, tokenizer())
    assert model.adapter.decoder is not module
    assert all(map(torch.equal, states(model.adapter), expected))
    passes(model)


def test_a_class_without_get_decoder(monkeypatch: pytest.MonkeyPatch, qwen: Any) -> None:
    expected = states(resolve(qwen))
    for kind in type(qwen).__mro__:
        if "get_decoder" in vars(kind):
            monkeypatch.delattr(kind, "get_decoder")
    assert not hasattr(qwen, "get_decoder")
    assert all(map(torch.equal, states(wrap(qwen, tokenizer()).adapter), expected))


def test_a_model_whose_body_is_itself_is_refused(qwen: Any) -> None:
    body = qwen.model  # a body alone has no head and no body of its own
    with pytest.raises(ModelError) as error:
        wrap(body, tokenizer())
    assert "the body cannot be told from the head" in one_line(error)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_heads(tied: bool) -> None:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    module = Qwen2ForCausalLM(config).eval()
    assert (module.lm_head.weight is module.model.embed_tokens.weight) == tied
    before = fingerprint(module)
    model = wrap(module, tokenizer())
    passes(model)
    assert (module.lm_head.weight is module.model.embed_tokens.weight) == tied
    with torch.no_grad():
        module.lm_head.weight[3, 4] += 1.0
    assert fingerprint(module) != before


@pytest.mark.parametrize("family", ["qwen2", "gptj", "opt", "gemma2", "mixtral"])
def test_bfloat16_is_certified_and_near_float32(family: str) -> None:
    plain = states(resolve(tiny(family)))
    model = wrap(tiny(family).bfloat16(), tokenizer())
    assert model.dtype == "bfloat16"
    passes(model)
    difference = largest(states(model.adapter), plain)
    assert 1e-4 < difference < 0.1 or family == "mixtral"  # routing may send a token to another expert
    assert scan(model, suite()).array.dtype == np.float32


# --- torch.compile ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("family", ["qwen2", "gptj", "opt"])
@pytest.mark.parametrize("warm", [True, False])
def test_a_compiled_model_is_read_and_edited_as_the_plain_one(family: str, warm: bool) -> None:
    plain, module = tiny(family), tiny(family)
    compiled = torch.compile(module, backend="eager")
    if warm:
        with torch.inference_mode():
            compiled(input_ids=some_ids())
    model = wrap(compiled, tokenizer())
    assert model.module is module
    assert all(map(torch.equal, states(model.adapter), states(resolve(plain))))
    assert np.array_equal(scan(model, suite()).array, scan(wrap(plain, tokenizer()), suite()).array)
    assert model.commit == fingerprint(plain)
    passes(model)


def _in_place(module: Any) -> Any:
    module.compile(backend="eager")
    return module


def _forward(module: Any) -> Any:
    module.forward = torch.compile(module.forward, backend="eager")
    return module


def _body(module: Any) -> Any:
    module.model = torch.compile(module.model, backend="eager")
    return module


def _body_in_place(module: Any) -> Any:
    module.model.compile(backend="eager")
    return module


def _blocks(module: Any) -> Any:
    for i, block in enumerate(module.model.layers):
        module.model.layers[i] = torch.compile(block, backend="eager")
    return module


def _blocks_in_place(module: Any) -> Any:
    for block in module.model.layers:
        block.compile(backend="eager")
    return module


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("how", [_body_in_place, _blocks, _blocks_in_place], ids=lambda f: f.__name__.strip("_"))
def test_compiled_parts_are_refused(qwen: Any, how: Callable[[Any], Any]) -> None:
    with pytest.raises(ModelError) as error:
        wrap(how(qwen), tokenizer())
    assert "compiled" in one_line(error)
    assert "wrap the model before compiling" in one_line(error)


OTHERWISE = pytest.mark.parametrize("how", [_in_place, _forward, _body], ids=lambda f: f.__name__.strip("_"))


def wrapped_or_refused(module: Any) -> LoadedModel | None:
    """After a pass without hooks, by which the model is compiled. None where it is refused for being compiled."""
    with torch.inference_mode():
        module(input_ids=some_ids())
    try:
        return wrap(module, tokenizer())
    except ModelError as error:
        if "compiled" in str(error):
            return None
        raise


@pytest.mark.usefixtures("fresh_compiler")
@OTHERWISE
def test_a_model_compiled_in_another_way_is_read_rightly_or_refused(qwen: Any, how: Callable[[Any], Any]) -> None:
    model = wrapped_or_refused(how(qwen))
    assert model is None or all(map(torch.equal, states(model.adapter), states(resolve(tiny("qwen2")))))


@pytest.mark.usefixtures("fresh_compiler")
@OTHERWISE
def test_a_model_compiled_in_another_way_is_edited_rightly_or_refused(qwen: Any, how: Callable[[Any], Any]) -> None:
    model, plain = wrapped_or_refused(how(qwen)), tiny("qwen2")
    if model is None:
        return
    logits = []
    for module, adapter in ((model.module, model.adapter), (plain, resolve(plain))):
        with torch.inference_mode(), adapter.steer(Point("resid", 2), torch.ones(64)):
            logits.append(module(input_ids=some_ids()).logits)
    assert torch.equal(*logits)


# --- PEFT -------------------------------------------------------------------------------------------------------


def with_lora(module: Any, dropout: float = 0.0, **changes: Any) -> Any:
    """LoRA on attention and MLP, with a B that is not zero."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    plan = {"target_modules": ["q_proj", "o_proj", "down_proj"], "init_lora_weights": False, **changes}
    return peft.get_peft_model(module, peft.LoraConfig(r=4, lora_dropout=dropout, **plan))


LORA: dict[str, dict[str, Any]] = {
    "attention and MLP": {},
    "everything linear": {"target_modules": "all-linear"},
    "embedding": {"target_modules": ["embed_tokens", "v_proj"]},
    "DoRA": {"use_dora": True},
    "a head of its own": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize("kind", LORA)
def test_lora_layers_are_read_with_the_model(qwen: Any, kind: str) -> None:
    """Against the PEFT model's own hidden states, which differ from the base model's."""
    base = states(resolve(tiny("qwen2")))
    module = with_lora(qwen, **LORA[kind]).eval()
    with torch.inference_mode():
        own = module(input_ids=some_ids(), output_hidden_states=True, use_cache=False)
    model = wrap(module, tokenizer())
    found = states(model.adapter)
    assert largest(found[:3], list(own.hidden_states[:3])) <= 1e-6
    (normed,) = states(model.adapter, [Point("final_norm")])
    assert largest([normed], [own.hidden_states[3]]) <= 1e-6
    with torch.inference_mode():
        assert largest([model.adapter.lens(found[3])], [own.logits]) <= 1e-5
    assert largest(found[1:4], base[1:4]) > 0.01
    assert model.commit != fingerprint(tiny("qwen2"))
    passes(model)


def test_a_new_lora_with_a_b_of_zero_is_the_base_model(qwen: Any) -> None:
    module = with_lora(qwen, init_lora_weights=True).eval()
    assert all(map(torch.equal, states(wrap(module, tokenizer()).adapter), states(resolve(tiny("qwen2")))))


def test_one_changed_element_of_a_lora_changes_the_fingerprint(qwen: Any) -> None:
    module = with_lora(qwen).eval()
    before = wrap(module, tokenizer()).commit
    (parameter,) = (p for n, p in module.named_parameters() if "layers.1.self_attn.q_proj.lora_B" in n)
    with torch.no_grad():
        parameter[2, 1] += 0.01
    assert wrap(module, tokenizer()).commit != before


def test_a_lora_that_is_switched_off_is_the_base_model(qwen: Any) -> None:
    module = with_lora(qwen).eval()
    model, base = wrap(module, tokenizer()), states(resolve(tiny("qwen2")))
    with module.disable_adapter():
        assert largest(states(model.adapter), base) <= 1e-6
    assert largest(states(model.adapter), base) > 0.01


def test_wrapping_a_peft_model_changes_nothing(qwen: Any) -> None:
    module = with_lora(qwen).eval()
    weights, before = copy.deepcopy(module.state_dict()), snapshot(module)
    wrap(module, tokenizer())
    assert snapshot(module) == before
    assert all(torch.equal(module.state_dict()[k], weights[k]) for k in weights)


def test_a_lora_with_active_dropout_is_refused(qwen: Any) -> None:
    module = with_lora(qwen, dropout=0.5)  # without .eval()
    different = [states(resolve(module))[-1] for _ in range(2)]
    assert not torch.equal(*different)
    with pytest.raises(ModelError, match=r"training mode.*\.eval\(\)"):
        wrap(module, tokenizer())


def test_a_lora_that_transformers_itself_added(qwen: Any) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    qwen.add_adapter(peft.LoraConfig(r=4, target_modules=["q_proj", "o_proj"], init_lora_weights=False))
    model = wrap(qwen.eval(), tokenizer())
    assert largest(states(model.adapter), states(resolve(tiny("qwen2")))) > 0.01
    passes(model)


@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_peft_model() -> None:
    plain = with_lora(tiny("qwen2")).eval()
    module = torch.compile(with_lora(tiny("qwen2")).eval(), backend="eager")
    assert all(map(torch.equal, states(wrap(module, tokenizer()).adapter), states(resolve(plain))))


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig", "PromptEncoderConfig"])
def test_virtual_tokens_are_refused(qwen: Any, kind: str) -> None:
    peft = pytest.importorskip("peft")
    plan = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=4)
    module = peft.get_peft_model(qwen, plan).eval()
    with pytest.raises(ModelError) as error:
        wrap(module, tokenizer())
    assert "virtual tokens" in one_line(error)


# --- accelerate -------------------------------------------------------------------------------------------------

CPU = torch.device("cpu")


def _cpu_offload(module: Any, folder: Path) -> Any:
    return pytest.importorskip("accelerate").cpu_offload(module, execution_device=CPU)


def _disk_offload(module: Any, folder: Path) -> Any:
    return pytest.importorskip("accelerate").disk_offload(module, str(folder), execution_device=CPU)


def _dispatch(module: Any, folder: Path) -> Any:
    """Everything but the head lies on the disk."""
    accelerate = pytest.importorskip("accelerate")
    plan = {"model": "disk", "lm_head": "cpu"}
    return accelerate.dispatch_model(module, plan, main_device="cpu", offload_dir=str(folder))


def _dispatch_some(module: Any, folder: Path) -> Any:
    """Two blocks lie on the disk."""
    accelerate = pytest.importorskip("accelerate")
    plan = {f"model.layers.{i}": "disk" if i else "cpu" for i in range(3)}
    plan |= dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    return accelerate.dispatch_model(module, plan, main_device="cpu", offload_dir=str(folder))


OFFLOADED = [_cpu_offload, _disk_offload, _dispatch, _dispatch_some]


@pytest.mark.parametrize("how", OFFLOADED, ids=lambda f: f.__name__.strip("_"))
def test_weights_that_are_off_loaded(qwen: Any, tmp_path: Path, how: Callable[[Any, Path], Any]) -> None:
    """The token ids go to where the embedding is run, and the states are those of the plain model, to the bit."""
    plain = wrap(tiny("qwen2"), tokenizer())
    module = how(qwen, tmp_path)
    away = {n for n, p in module.named_parameters() if p.device.type == "meta"}
    assert any("layers.2" in n for n in away)
    model = wrap(module, tokenizer())
    assert model.device == CPU
    assert all(map(torch.equal, states(model.adapter), states(plain.adapter)))
    found, expected = scan(model, suite()), scan(plain, suite())
    assert np.array_equal(found.array, expected.array)
    assert np.array_equal(found.last, expected.last)
    passes(model)
    assert {n for n, p in module.named_parameters() if p.device.type == "meta"} == away


@pytest.mark.parametrize("how", OFFLOADED[:3], ids=lambda f: f.__name__.strip("_"))
def test_off_loaded_weights_are_part_of_the_fingerprint(tmp_path: Path, how: Callable[[Any, Path], Any]) -> None:
    """Else the stored result of one model is kept for another of the same name."""
    prints = []
    for seed in range(2):
        module: Any = tiny("qwen2")
        with torch.no_grad():
            module.model.layers[1].mlp.down_proj.weight[3, 5] += seed
        (tmp_path / str(seed)).mkdir()
        prints.append(wrap(how(module, tmp_path / str(seed)), tokenizer(), "same").commit)
    assert prints[0] != prints[1]


# --- quantisation -----------------------------------------------------------------------------------------------


@pytest.fixture
def quantised(qwen: Any) -> Any:
    """Weights in eight bits, by torchao."""
    torchao = pytest.importorskip("torchao.quantization")
    torchao.quantize_(qwen, torchao.Int8WeightOnlyConfig())
    if type(qwen.model.layers[0].mlp.down_proj.weight.data) is Tensor:
        pytest.skip("torchao did not quantise here")
    return qwen


def test_a_quantised_model_is_read(quantised: Any) -> None:
    """Near the plain model and not equal to it; the states are transformers' own."""
    adapter = resolve(quantised)
    with torch.inference_mode():
        own = quantised(input_ids=some_ids(), output_hidden_states=True, use_cache=False).hidden_states
    found = states(adapter)
    assert largest(found[:3], list(own[:3])) <= 1e-6
    assert 1e-4 < largest(found[:4], states(resolve(tiny("qwen2")))[:4]) < 0.2


def test_a_quantised_model_is_wrapped_and_certified(quantised: Any) -> None:
    model = wrap(quantised, tokenizer())
    passes(model)
    assert model.commit != fingerprint(tiny("qwen2"))
