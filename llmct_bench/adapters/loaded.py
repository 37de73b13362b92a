"""A model that is ready to be scanned."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import torch

from llmct_bench.adapters.adapter import Adapter, model_device, resolve
from llmct_bench.adapters.certificate import AdapterCertificate, certify_module
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

    @property
    def dtype(self) -> str:
        """Name of the parameters' dtype, for example ``float32``."""
        return str(next(self.module.parameters()).dtype).removeprefix("torch.")

    @property
    def attention(self) -> str:
        """The attention backend, for example ``sdpa``."""
        return str(getattr(self.module.config, "_attn_implementation", None) or "none")

    @property
    def context(self) -> int:
        """The longest input in tokens: the smallest positive of what configuration and tokenizer say."""
        text = self.module.config.get_text_config()
        known = [getattr(text, "max_position_embeddings", 0) or 0, self.tokenizer.model_max_length or 0]
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
    """A LoadedModel around a model that the caller already holds. The model is not moved or changed."""
    adapter = resolve(module)
    title = name or str(getattr(module.config, "_name_or_path", "")) or type(module).__name__
    return LoadedModel(ModelCard(name=title.replace("/", "--")), module, tokenizer, adapter, "in-memory")


def certify(model: LoadedModel) -> AdapterCertificate:
    """Run the adapter certificate on a model."""
    return certify_module(model.module, model.adapter, int(model.module.config.get_text_config().vocab_size))
