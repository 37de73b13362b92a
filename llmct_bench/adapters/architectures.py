"""Facts about architectures, as data. Whatever is not listed is found by structure (see `resolve`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

#: Raised whenever reading or editing changes, so that older certificates do not count.
ADAPTER_VERSION = 2


@dataclass(frozen=True)
class Contributions:
    """Paths, relative to a block, of the modules whose *outputs* are what attention and MLP really add to the
    residual stream; ``|`` separates alternatives for blocks of different kinds. ``scale`` names a configuration
    attribute that multiplies both; ``only_if`` one that must be true for the split to exist."""

    attn: str
    mlp: str
    scale: str = ""
    only_if: str = ""

    def module(self, block: nn.Module, kind: str) -> nn.Module:
        """The module of a block that writes ``attn`` or ``mlp``. Raises AttributeError where there is none."""
        paths = (self.attn if kind == "attn" else self.mlp).split("|")
        for path in paths[:-1]:
            try:
                return block.get_submodule(path)
            except AttributeError:
                continue
        return block.get_submodule(paths[-1])


@dataclass(frozen=True)
class Streams:
    """Several parallel residual streams. ``count`` names the configuration attribute with their number, ``axis`` is
    where they stand in a block's four-dimensional values; None where they are concatenated already."""

    count: str
    axis: int | None = 2
    number: int = 0

    def bind(self, number: int) -> Streams:
        """With the number of a given model."""
        return Streams(self.count, self.axis, number)

    def join(self, value: Tensor) -> Tensor:
        """Four dimensions -> (batch, tokens, streams x width)."""
        return value if self.axis is None else value.movedim(self.axis, 2).flatten(2)

    def split(self, value: Tensor) -> Tensor:
        """The inverse of `join`."""
        if self.axis is None:
            return value
        return value.reshape(*value.shape[:2], self.number, -1).movedim(2, self.axis)


#: Groups of types that write in the same places: attention's path, the MLP's path, the types.
_SHARED: tuple[tuple[str, str, str], ...] = (
    (
        "self_attn.o_proj",
        "mlp.down_proj",
        "apertus arcee bitnet cohere cohere2 cohere_compass_text cwm diffllama emu3_text_model ernie4_5 gemma glm "
        "helium hunyuan_v1_dense internlm3 iquestcoder jais2 llama ministral ministral3 mistral mllama_text_model "
        "nemotron olmo phi3 phi4_multimodal qwen2 qwen3 seed_oss smollm3 stablelm vaultgemma youtu",
    ),
    (
        "self_attn.o_proj",
        "mlp",
        "aria_text axk1 axk2 bailing_hybrid cohere2_moe deepseek_v2 deepseek_v3 deepseek_v32 dots1 dots3_note_text "
        "ernie4_5_moe exaone_moe flint glm4_moe glm4_moe_lite glm_moe_dsa gpt_oss hunyuan_v1_moe hy_v3 kimi_linear "
        "laguna mellum mimo_v2_flash minimax_m2 minimax_m3_vl_text mixtral olmoe phimoe qwen2_moe qwen3_moe "
        "solar_open",
    ),
    (
        "post_attention_layernorm",
        "post_feedforward_layernorm",
        "exaone4 flex_olmo gemma2 gemma3_text gemma4_unified_text olmo2 olmo3",
    ),
    ("post_self_attn_layernorm", "post_mlp_layernorm", "glm4 kolibri1"),
    ("self_attn.out_proj", "fc2", "biogpt xglm"),
    ("self_attention.dense", "mlp.dense_4h_to_h", "bloom falcon"),
    ("attn.out_proj", "mlp.fc_out", "codegen gptj"),
    ("attn.c_proj", "mlp.c_proj", "gpt2 gpt_bigcode"),
    ("linear_attn.out_proj|self_attn.o_proj", "mlp", "qwen3_5_moe_text qwen3_5_text qwen3_next"),
    ("mamba.out_proj|self_attn.o_proj", "feed_forward", "bamba jamba"),
    ("conv.out_proj|self_attn.out_proj", "feed_forward", "lfm2 lfm2_moe"),
)

CONTRIBUTIONS: dict[str, Contributions] = {
    **{kind: Contributions(attn, mlp) for attn, mlp, kinds in _SHARED for kind in kinds.split()},
    "afmoe": Contributions("post_attention_layernorm", "post_mlp_layernorm"),
    "ctrl": Contributions("multi_head_attention.dense", "ffn"),
    "dbrx": Contributions("norm_attn_norm.attn.out_proj", "ffn"),
    "gpt_neo": Contributions("attn.attention", "mlp.c_proj"),
    "gpt_neox": Contributions("attention.dense", "mlp.dense_4h_to_h"),
    "granite": Contributions("self_attn.o_proj", "mlp.down_proj", scale="residual_multiplier"),
    "granite_swa": Contributions("self_attn.o_proj", "mlp.down_proj", scale="residual_multiplier"),
    "granitemoe": Contributions("self_attn.o_proj", "block_sparse_moe", scale="residual_multiplier"),
    "granitemoe_swa": Contributions("self_attn.o_proj", "block_sparse_moe", scale="residual_multiplier"),
    "hyperclovax": Contributions("post_norm1", "post_norm2"),
    "inkling_text": Contributions("attn_sconv", "mlp_sconv"),
    "jetmoe": Contributions("self_attention", "mlp"),
    "lfm3": Contributions("post_operator_norm", "post_ffn_norm"),
    "llama4_text": Contributions("self_attn.o_proj", "feed_forward"),
    "modernbert-decoder": Contributions("attn.Wo", "mlp.Wo"),
    "moshi": Contributions("self_attn.o_proj", "mlp.fc2"),
    "mpt": Contributions("attn.out_proj", "ffn.down_proj"),
    "nanochat": Contributions("self_attn.o_proj", "mlp.fc2"),
    "olmo_hybrid": Contributions(
        "linear_attn.o_proj|post_attention_layernorm", "post_feedforward_layernorm|mlp.down_proj"
    ),
    "opt": Contributions("self_attn.out_proj", "fc2", only_if="do_layer_norm_before"),
    "persimmon": Contributions("self_attn.dense", "mlp.dense_4h_to_h"),
    "phi": Contributions("self_attn.dense", "mlp.fc2"),
    "recurrent_gemma": Contributions("temporal_block", "mlp_block"),
    "starcoder2": Contributions("self_attn.o_proj", "mlp.c_proj"),
    "xlstm": Contributions("mlstm_layer", "ffn"),
}

#: The configuration attribute that lists blocks which a pass over text skips (they read images).
SKIPPED: dict[str, str] = {"mllama_text_model": "cross_attention_layers"}

#: Architectures with parallel residual streams.
STREAMS: dict[str, Streams] = {
    "deepseek_v4": Streams("hc_mult"),
    "hy_v4": Streams("hc_mult"),
    "qwen4_exp_text": Streams("hc_count", axis=None),
    "gemma3n_text": Streams("altup_num_inputs", axis=0),
}

#: The children that lead from the last block to the head, where that is not one norm after the blocks.
FINAL: dict[str, tuple[str, ...]] = {
    "opt": ("final_layer_norm", "project_out"),
    "deepseek_v4": ("hc_head", "norm"),
    "hy_v4": ("hc_head", "norm"),
    "qwen4_exp_text": ("hyper_connection_mixer",),
}

#: Architectures whose own code leads from the last block to the final norm, with no module that takes the last state.
INLINE: frozenset[str] = frozenset({"gemma3n_text"})

#: Architectures that cannot be padded on the left, with the reason. The scan pads on the right.
_RECURRENT = "its recurrent state takes the padding in"
RIGHT_ONLY: dict[str, str] = dict.fromkeys(("recurrent_gemma", "rwkv", "xlstm"), _RECURRENT)

#: Architectures whose generation with a cache is not right in transformers 5.23, with the reason. Their generation is
#: checked without one; the scan uses no cache.
UNCACHED: dict[str, str] = {
    "moshi": "its sliding window holds with a cache and not in one pass",
    "rwkv": "generation does not carry its recurrent state",
    "xlstm": "its cache is made with other head sizes than the blocks use",
}

#: Architectures that are not measured, with the reason.
REFUSED: dict[str, str] = {
    "blt": "it works on bytes and on patches of bytes, which are streams of different lengths",
    "cpmant": "it puts prompt tokens of its own before the text and reads in both directions",
    "hrm_text": "its blocks run several times in a pass, in two stacks that feed each other",
    "inkling2_text": "its blocks and its head also read earlier block boundaries: there is no single residual stream",
    "reformer": "its reversible blocks carry two streams, and its hashed attention is random",
}

#: Architectures whose final norm also runs elsewhere in the pass, so that it is no point of its own.
SHARED_NORM: frozenset[str] = frozenset({"nanochat"})

#: The modules of the head, where it is more than the output embedding.
HEAD: dict[str, tuple[str, ...]] = {"modernbert-decoder": ("lm_head", "decoder")}


def _scaled(attribute: str, power: int) -> Callable[[Tensor, Any], Tensor]:
    def change(logits: Tensor, config: Any) -> Tensor:
        factor = getattr(config, attribute, None)
        return logits * float(factor) ** power if factor else logits

    return change


def _capped(attribute: str) -> Callable[[Tensor, Any], Tensor]:
    def change(logits: Tensor, config: Any) -> Tensor:
        cap = getattr(config, attribute, None)
        return torch.tanh(logits / cap) * cap if cap else logits

    return change


def _unpadded(logits: Tensor, config: Any) -> Tensor:
    return logits[..., : getattr(config, "unpadded_vocab_size", None)]


#: What architectures do to their logits, in this order, where their configuration says so.
LOGITS: tuple[Callable[[Tensor, Any], Tensor], ...] = (
    _scaled("logit_scale", 1),
    _scaled("logits_scaling", -1),
    _scaled("logits_mup_width_multiplier", -1),
    _scaled("lm_head_multiplier", 1),
    _capped("final_logit_softcapping"),
    _capped("logits_soft_cap"),
    _capped("output_logit_soft_cap"),
    _unpadded,
)
