"""Facts about architectures, as data: where attention and MLP write into the residual stream.

One row a family: the path, relative to a block, of the module whose *output* is what is really added to the
stream, and the configuration attribute that scales it, if any. Families that are not listed have no certified
two-term split; their block boundaries are read all the same, because those are found by structure.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Contributions:
    """Paths of the modules that write into the stream. ``scale`` names a configuration attribute that multiplies
    both; ``only_if`` one that must be true for the split to exist."""

    attn: str
    mlp: str
    scale: str = ""
    only_if: str = ""


_LLAMA = Contributions("self_attn.o_proj", "mlp.down_proj")
_POST_NORM = Contributions("post_attention_layernorm", "post_feedforward_layernorm")
_MOE = Contributions("self_attn.o_proj", "mlp")
_FALCON = Contributions("self_attention.dense", "mlp.dense_4h_to_h")

CONTRIBUTIONS: dict[str, Contributions] = {
    **dict.fromkeys(
        (
            "llama",
            "mistral",
            "ministral",
            "ministral3",
            "qwen2",
            "qwen3",
            "gemma",
            "phi3",
            "olmo",
            "smollm3",
            "glm",
            "stablelm",
            "apertus",
            "cohere",
            "cohere2",
        ),
        _LLAMA,
    ),
    **dict.fromkeys(("gemma2", "gemma3_text", "olmo2", "olmo3"), _POST_NORM),
    "glm4": Contributions("post_self_attn_layernorm", "post_mlp_layernorm"),
    "granite": Contributions("self_attn.o_proj", "mlp.down_proj", scale="residual_multiplier"),
    **dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss", "deepseek_v3"), _MOE),
    "phi": Contributions("self_attn.dense", "mlp.fc2"),
    "gpt2": Contributions("attn.c_proj", "mlp.c_proj"),
    "gptj": Contributions("attn.out_proj", "mlp.fc_out"),
    "gpt_neo": Contributions("attn.attention", "mlp.c_proj"),
    "gpt_neox": Contributions("attention.dense", "mlp.dense_4h_to_h"),
    "opt": Contributions("self_attn.out_proj", "fc2", only_if="do_layer_norm_before"),
    **dict.fromkeys(("falcon", "bloom"), _FALCON),
    "mpt": Contributions("attn.out_proj", "ffn.down_proj"),
}
