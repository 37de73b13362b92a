"""A model that is ready to be scanned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
import transformers

from llmct_bench.adapters.adapter import Adapter
from llmct_bench.adapters.architectures import ADAPTER_VERSION
from llmct_bench.adapters.certificate import AdapterCertificate
from llmct_bench.adapters.checks import SELF_TEST_LENGTH, branch_check, model_checks
from llmct_bench.adapters.checks_text import text_checks
from llmct_bench.adapters.packing import windows
from llmct_bench.adapters.resolve import model_device, resolve
from llmct_bench.errors import ModelError
from llmct_bench.models import LoadOptions, ModelCard, get_model, load_weights


@dataclass(frozen=True)
class LoadedModel:
    """A transformers causal language model, its tokenizer, its adapter, and what pins them."""

    card: ModelCard
    module: Any
    tokenizer: Any
    adapter: Adapter
    commit: str

    @property
    def device(self) -> torch.device:
        """Device of the input embedding."""
        return model_device(self.module)

    @cached_property
    def branches(self) -> int:
        """The longest conversation, in tokens, that may be packed as a tree: 0 where the self-test fails; where there
        is local attention wider than the self-test is long, its window; else without limit."""
        text = self.module.config.get_text_config()
        if not set(getattr(text, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}:
            return 0  # attention that is compressed or chosen from some length on is not what the self-test sees
        try:
            if not branch_check(self.adapter, int(text.vocab_size), self.tokenizer.bos_token_id).passed:
                return 0
        except torch.OutOfMemoryError:
            return 0
        return min([w for w in windows(text) if w > SELF_TEST_LENGTH], default=10**9)

    @property
    def dtype(self) -> str:
        """Name of the floating parameters' dtype, and the method of quantisation if there is one: ``float32``,
        ``bfloat16+bitsandbytes``."""
        found = next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)
        plan = getattr(self.module.config, "quantization_config", None)
        method = plan.get("quant_method") if isinstance(plan, dict) else getattr(plan, "quant_method", None)
        return str(found).removeprefix("torch.") + (f"+{getattr(method, 'value', method)}" if method else "")

    @property
    def attention(self) -> str:
        """The attention backend, for example ``sdpa``."""
        return str(getattr(self.module.config, "_attn_implementation", None) or "none")

    @property
    def context(self) -> int:
        """The longest input in tokens: the smallest positive of what configuration and tokenizer say. With *longrope*
        the states of a whole pass change where it exceeds the original context, so that is the limit."""
        text = self.module.config.get_text_config()
        known = [getattr(text, "max_position_embeddings", 0) or 0, self.tokenizer.model_max_length or 0]
        rope = getattr(text, "rope_parameters", None) or {}
        if rope.get("rope_type") == "longrope":
            original = rope.get("original_max_position_embeddings", 0)
            known.append(int(original or getattr(text, "original_max_position_embeddings", 0) or 0))
        return min([k for k in known if 0 < k < 10**9], default=10**9)

    def facts(self) -> dict[str, Any]:
        """The card's facts, completed from the model itself where the card does not state them."""
        text = self.module.config.get_text_config()
        found = {
            "model_type": self.adapter.model_type,
            "params_b": round(sum(p.numel() for p in self.module.parameters()) / 1e9, 6),
            "layers": self.adapter.n_layers,
            "d_model": self.adapter.d_model,
            "heads": int(getattr(text, "num_attention_heads", 0) or 0),
            "kv_heads": int(getattr(text, "num_key_value_heads", 0) or 0),
            "context": self.context,
        }
        stated = {k: v for k, v in asdict(self.card).items() if k not in ("path", "phantom")}
        return {**stated, **{k: v for k, v in found.items() if not stated[k]}, "source": self.card.source}

    @property
    def tokenizer_hash(self) -> str:
        """sha256 of the tokenizer and its chat template."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        core = backend.to_str() if backend is not None else json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        return hashlib.sha256((core + str(self.tokenizer.chat_template)).encode()).hexdigest()


def load(card: ModelCard | str, options: LoadOptions | None = None) -> LoadedModel:
    """Load a model by card or name. Raises ModelError or UnknownName."""
    card = get_model(card) if isinstance(card, str) else card
    module, tokenizer, commit = load_weights(card, options or LoadOptions())
    return LoadedModel(card, module, tokenizer, resolve(module), commit)


def wrap(module: Any, tokenizer: Any, name: str = "") -> LoadedModel:
    """A LoadedModel around a model that the caller already holds: on any device or several, quantised, with LoRA
    layers, or under ``torch.compile``. The model is not moved or changed. Its weights are pinned by a fingerprint.
    Raises ModelError, for example when the model is in training mode."""
    adapter = resolve(module)
    if any(m.training for m in adapter.module.modules()):
        raise ModelError(
            "the model or a part of it is in training mode (dropout makes states random): call .eval() first"
        )
    title = name or str(getattr(adapter.module.config, "_name_or_path", "")) or type(adapter.module).__name__
    card = ModelCard(name=title.replace("/", "--"))
    return LoadedModel(card, adapter.module, tokenizer, adapter, fingerprint(adapter.module))


def fingerprint(module: torch.nn.Module) -> str:
    """A hash of a model's weights, wherever they lie: of every tensor its name, shape, dtype, sum, and 1024 evenly
    spaced entries."""
    digest = hashlib.sha256()
    for name, whole in sorted(_weights(module), key=lambda pair: pair[0]):
        for tensor in _plain(whole):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            if tensor.numel() and tensor.device.type != "meta":
                flat = tensor.detach().reshape(-1)
                some = flat[:: max(flat.numel() // 1024, 1)]
                digest.update(repr(flat.sum(dtype=torch.float64).item()).encode())
                digest.update(some.to(torch.float64).cpu().numpy().tobytes())
    return "weights-" + digest.hexdigest()[:12]


def _weights(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers by name; those that accelerate has off-loaded come from where it keeps them."""
    for path, part in module.named_modules():
        kept: Any = getattr(getattr(part, "_hf_hook", None), "weights_map", None)
        own = (*part.named_parameters(recurse=False, remove_duplicate=False),)
        own += (*part.named_buffers(recurse=False, remove_duplicate=False),)
        for name, tensor in own:
            away = kept is not None and tensor.device.type == "meta"
            yield f"{path}.{name}", kept[name] if away else tensor


def _plain(tensor: Any) -> Iterator[torch.Tensor]:
    """The plain tensors that a quantised one is made of."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _plain(getattr(tensor, name))
    else:
        yield tensor


def certify(model: LoadedModel) -> AdapterCertificate:
    """Run the adapter certificate on a model and its tokenizer. Raises ModelError only where it cannot be run."""
    vocabulary = int(model.module.config.get_text_config().vocab_size)
    start = model.tokenizer.bos_token_id
    checks = [*model_checks(model.adapter, vocabulary, start), *text_checks(model.tokenizer)]
    return AdapterCertificate(tuple(checks), certificate_subject(model))


def certificate_subject(model: LoadedModel) -> dict[str, str]:
    """What a certificate of this model holds for."""
    return {
        "model": model.card.name,
        "commit": model.commit,
        "tokenizer": model.tokenizer_hash,
        "dtype": model.dtype,
        "attention": model.attention,
        "device": model.device.type,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "adapter": str(ADAPTER_VERSION),
    }
