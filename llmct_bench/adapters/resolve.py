"""Finding the residual stream of a transformers model by structure, helped by the table of architectures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from llmct_bench.adapters.adapter import Adapter
from llmct_bench.adapters.architectures import CONTRIBUTIONS, FINAL, INLINE, REFUSED, SKIPPED, STREAMS
from llmct_bench.errors import ModelError

_DEPTH = ("num_hidden_layers", "num_layers", "n_layers")
_NORMS = ("norm", "ln_f", "layer_norm", "ln_out")


def resolve(module: Any) -> Adapter:
    """Find the parts of a transformers causal language model. The blocks are the shallowest ModuleList of as many
    modules as the configuration states. Raises ModelError with the reason where the model cannot be read."""
    module = _unwrapped(module)
    config: Any = getattr(module, "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        raise ModelError(f"{type(module).__name__} has no config: a transformers model is needed")
    text = config.get_text_config()
    kind = str(text.model_type)
    if kind in REFUSED:
        raise ModelError(f"{kind} is not measured: {REFUSED[kind]}")
    decoder, path, listed = _blocks(module, text)
    skipped = getattr(text, SKIPPED[kind]) if kind in SKIPPED else ()
    blocks = tuple(block for i, block in enumerate(listed) if i not in skipped)
    if len({id(block) for block in blocks}) < len(blocks):
        raise ModelError(f"{kind}: blocks share one module, so a hook cannot tell them apart")
    if any(_compiled(m) for m in module.modules()):
        raise ModelError(f"{kind}: parts of it are compiled, so hooks may be skipped: wrap the model before compiling")
    streams = STREAMS.get(kind)
    width = int(text.hidden_size) * (int(getattr(text, streams.count)) if streams else 1)
    split = CONTRIBUTIONS.get(kind)
    if split and split.only_if and not getattr(text, split.only_if):
        split = None
    scale = float(getattr(text, split.scale)) if split and split.scale else 1.0
    bound = streams.bind(int(getattr(text, streams.count))) if streams else None
    parent = decoder.get_submodule(path.rpartition(".")[0])
    return Adapter(module, decoder, blocks, _final(parent, path, kind), kind, width, split, scale, bound)


def model_device(module: nn.Module) -> torch.device:
    """Where the token ids have to go: the device of the input embedding, also where its weights are off-loaded."""
    embedding: Any = module.get_input_embeddings()  # type: ignore[operator]
    device: torch.device = embedding.weight.device
    if device.type == "meta":
        return torch.device(embedding._hf_hook.execution_device)
    return device


def _unwrapped(module: Any) -> Any:
    """The transformers model inside torch.compile's and PEFT's wrappers. LoRA layers stay: they are inside."""
    module = getattr(module, "_orig_mod", module)
    peft = getattr(module, "active_peft_config", None)
    if peft is None:
        return module
    if getattr(peft, "is_prompt_learning", False):
        raise ModelError("prompt tuning puts virtual tokens before the text: merge it or wrap the base model")
    return module.get_base_model()


def _compiled(module: nn.Module) -> bool:
    """True for a module under torch.compile, which may have been compiled without the hooks that are to come."""
    forward = getattr(module, "forward", None)
    in_place = getattr(module, "_compiled_call_impl", None) is not None
    return in_place or hasattr(module, "_orig_mod") or hasattr(forward, "_torchdynamo_orig_callable")


def _blocks(module: Any, text: Any) -> tuple[nn.Module, str, nn.ModuleList]:
    """The body of the model, the path of its blocks, and the blocks."""
    depths = {int(getattr(text, name)) for name in _DEPTH if isinstance(getattr(text, name, None), int)}
    bodies = list(_bodies(module))
    if not bodies:
        raise ModelError(f"{type(module).__name__}: the body cannot be told from the head")
    for body in bodies:
        found = [
            (name.count("."), -sum(p.numel() for p in child.parameters()), name, child)
            for name, child in body.named_modules()
            if isinstance(child, nn.ModuleList) and len(child) in depths
        ]
        if found:
            _, _, name, blocks = min(found, key=lambda f: f[:3])
            return body, name, blocks
    wanted = " or ".join(map(str, sorted(depths)))
    raise ModelError(f"{text.model_type}: no list of {wanted} blocks in {type(bodies[0]).__name__}")


def _bodies(module: Any) -> Iterator[nn.Module]:
    """What may be the model without its head: what transformers says, then its children."""
    try:
        candidates = [module.get_decoder()]
    except (AttributeError, NotImplementedError):
        candidates = []
    candidates += [getattr(module, "base_model", None), getattr(module, "model", None)]
    yield from (c for c in candidates if isinstance(c, nn.Module) and c is not module)


def _final(parent: nn.Module, path: str, kind: str) -> tuple[nn.Module, ...] | None:
    """The modules between the last block and the head: named in the table, or the first norm that was registered
    after the blocks, or else before them."""
    children = dict(parent.named_children())
    if kind in INLINE:
        return None
    if kind in FINAL:
        return tuple(children[name] for name in FINAL[kind] if name in children)
    names = list(children)
    after = names[names.index(path.rpartition(".")[2]) + 1 :]
    for name in [*after, *names]:
        if name.lower().endswith(_NORMS) or name in ("norm_f", "final_layernorm"):
            return (children[name],)
    return ()
