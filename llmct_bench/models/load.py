"""From a card to a transformers model and its tokenizer."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.hub import cached_file, extract_commit_hash

from llmct_bench.errors import ModelError
from llmct_bench.models.cards import ModelCard
from llmct_bench.models.phantoms.build import build
from llmct_bench.models.phantoms.tokenizer import build_tokenizer, vocabulary
from llmct_bench.suites import DEFAULT_SUITES, get_suite


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded. ``device`` and ``dtype`` may be ``auto``: the first CUDA device if there is one, and
    then the checkpoint's own dtype; otherwise the CPU in float32."""

    device: str = "auto"
    dtype: str = "auto"
    offline: bool = False
    trust_remote_code: bool = False
    allow_pickle: bool = False


def load_weights(card: ModelCard, options: LoadOptions) -> tuple[Any, Any, str]:
    """The model (evaluation mode, on its device), the tokenizer, and what pins the weights: the commit on the
    Hub, or a content hash. Raises ModelError."""
    device = _device(options.device)
    dtype = _dtype(options.dtype, device)
    if card.phantom is not None:
        tokenizer: Any = phantom_tokenizer()
        revision = hashlib.sha256(repr(sorted(asdict(card.phantom).items())).encode()).hexdigest()[:12]
        return build(card.phantom, tokenizer).to(device=device, dtype=dtype), tokenizer, revision
    where = card.path or card.hub_id
    common: dict[str, Any] = {
        "local_files_only": options.offline or bool(card.path),
        "trust_remote_code": options.trust_remote_code,
    }
    try:
        commit = _hash_folder(Path(where)) if card.path else _commit(card, options)
        common["revision"] = None if card.path else commit
        tokenizer = AutoTokenizer.from_pretrained(where, **common)
        module: Any = AutoModelForCausalLM.from_pretrained(
            where, dtype=dtype, use_safetensors=None if options.allow_pickle else True, **common
        )
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{card.name}: {_reason(error, card, options)}") from error
    return module.to(device).eval(), tokenizer, commit


@cache
def phantom_tokenizer() -> PreTrainedTokenizerFast:
    """The one tokenizer of all phantoms: the vocabulary of the shipped suites."""
    texts = (m.content for name in DEFAULT_SUITES for item in get_suite(name).items for m in item.messages)
    return build_tokenizer(vocabulary(dict.fromkeys(texts)))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"unknown device {name!r}: use auto, cpu, cuda, cuda:1, mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {name!r} was asked for, but torch sees no CUDA device: use --device cpu")
    return device


def _dtype(name: str, device: torch.device) -> Any:
    if name == "auto":
        return "auto" if device.type == "cuda" else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise ModelError(f"unknown dtype {name!r}: use auto, {', '.join(known)}")
    return known[name]


def _commit(card: ModelCard, options: LoadOptions) -> str:
    """The commit that the card's revision stands for now (or stood for when it was cached, offline). Tokenizer and
    weights are then loaded at exactly this commit."""
    config = cached_file(card.hub_id, "config.json", revision=card.revision or None, local_files_only=options.offline)
    commit = extract_commit_hash(config, None)
    if commit is None:
        raise ModelError(f"{card.hub_id}: the Hub did not say which commit it serves, so a result could not be pinned")
    return str(commit)


def _reason(error: Exception, card: ModelCard, options: LoadOptions) -> str:
    text = " ".join(str(error).split())
    if card.gated and ("gated" in text or "401" in text or "403" in text):
        return f"the model is gated: accept its licence at its Hub page and log in with `hf auth login` ({card.hub_id})"
    if options.offline:
        return f"{card.hub_id or card.path} is not complete in the cache: run once without --offline"
    if "trust_remote_code" in text:
        return "the checkpoint brings its own code: read it, then use --trust-remote-code if you trust it"
    if "safetensors" in text and not options.allow_pickle:
        return f"no safetensors weights found (pickle needs --allow-pickle): {text[:200]}"
    return text[:300]


def _hash_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in {".json", ".safetensors", ".jinja", ".model", ".txt"} and file.is_file():
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]
