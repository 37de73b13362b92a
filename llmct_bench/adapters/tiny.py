"""Every causal architecture that the installed transformers knows, at tiny random size."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

VOCABULARY, BLOCKS = 128, 3

#: What a configuration is shrunk to, where it has the attribute.
_SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "word_embed_proj_dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), BLOCKS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner"), 96),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 256),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_chunk_size", "window_size"), 8),
    "moe_intermediate_size": 32,
    "num_experts_per_tok": 2,
}

#: Multi-head latent attention: the sizes of its low-rank parts.
_MLA = {
    "num_key_value_heads": 4,
    "head_dim": 8,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "qk_head_dim": 24,
    "v_head_dim": 16,
}
_GROUPS = {"n_group": 2, "topk_group": 1}
_INDEXER = {"index_topk": 16, "index_head_dim": 16, "index_n_heads": 2}
_GEMMA3N = {"num_kv_shared_layers": 0, "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8}
_GEMMA4 = {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 8, "mamba_chunk_size": 8}
_LINEAR = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
_KDA = {"linear_head_dim": 16, "linear_num_heads": 4}
_MIXED = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
_QWEN3_5 = {**_LINEAR, **_MIXED, "shared_expert_intermediate_size": 32}
_QWEN4 = {**_LINEAR, "layer_types": ["linear_attention", "indexed_attention", "linear_attention"], "hc_lowrank": 16}
_QWEN4 |= {"shared_expert_intermediate_size": 32, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16}
_QWEN4 |= {"indexer_budget": 16, "indexer_compress_ratio": 4}

#: What else a type needs to be built at this size, small and with every kind of block that it has.
_OVERRIDES: dict[str, dict[str, Any]] = {
    "axk1": {**_MLA, **_GROUPS},
    "axk2": {**_MLA, **_INDEXER},
    "bailing_hybrid": {**_MLA, **_KDA, **_MIXED, "num_expert_group": 2, "topk_group": 1, "num_experts_per_token": 2},
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 8},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0}},
    "deepseek_v2": _MLA,
    "deepseek_v3": {**_MLA, **_GROUPS},
    "deepseek_v32": {**_MLA, **_GROUPS, **_INDEXER},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "dots3_note": {
        "text_config": _MLA,
        "vision_config": {"mlp_layer_types": ["dense"] * BLOCKS, "adapter_in_dim": 64, "adapter_out_dim": 64},
        "audio_config": {"adapter_input_size": 64, "adapter_output_size": 64},
    },
    "dots3_note_text": _MLA,
    "falcon_h1": {**_MAMBA, "mamba_d_head": 16, "mamba_d_ssm": 64},
    "gemma3n": {"text_config": _GEMMA3N},
    "gemma3n_text": _GEMMA3N,
    "gemma4": {"text_config": _GEMMA4},
    "gemma4_text": _GEMMA4,
    "glm4_moe_lite": {**_MLA, **_GROUPS},
    "glm_moe_dsa": {**_MLA, **_GROUPS, **_INDEXER},
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]], "window_size": 6},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": {**_MAMBA, **_MIXED, "shared_intermediate_size": 32},
    "granite": {"residual_multiplier": 0.22, "embedding_multiplier": 12.0, "logits_scaling": 8.0},
    "granite_swa": {"residual_multiplier": 0.22, "logits_scaling": 8.0},
    "granitemoe": {"residual_multiplier": 0.22, "logits_scaling": 8.0},
    "granitemoe_swa": {"residual_multiplier": 0.22, "logits_scaling": 8.0},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 8},
    "kimi_linear": {**_MLA, **_KDA, **_MIXED, "q_lora_rank": None, "num_experts_per_token": 2},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "longcat_flash": {**_MLA, "moe_topk": 2, "zero_expert_num": 2, "expert_ffn_hidden_size": 32, "ffn_hidden_size": 96},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 2, "state_size": 8, "chunk_size": 8},
    "minicpm3": _MLA,
    "mllama": {"text_config": {"cross_attention_layers": [1]}},
    "nemotron_h": {
        "ssm_state_size": 8,
        "mamba_num_heads": 4,
        "mamba_head_dim": 32,
        "n_groups": 2,
        "chunk_size": 8,
        "moe_shared_expert_intermediate_size": 32,
    },
    "qwen3_5": {"text_config": _QWEN3_5},
    "qwen3_5_text": _QWEN3_5,
    "qwen3_5_moe": {"text_config": _QWEN3_5},
    "qwen3_5_moe_text": _QWEN3_5,
    "qwen3_next": _QWEN3_5,
    "qwen4_exp": {"text_config": _QWEN4},
    "qwen4_exp_text": _QWEN4,
    "youtu": _MLA,
    "zamba": {"layers_block_type": ["hybrid", "linear_attention", "hybrid"], "mamba_dt_rank": 8, "mamba_d_state": 8},
    "zamba2": {"layers_block_type": ["hybrid", "linear_attention", "hybrid"], "chunk_size": 8, "mamba_d_state": 8},
    "zaya": {"num_experts_per_tok": 1},
}


def tiny(model_type: str, seed: int = 0) -> nn.Module:
    """A random model of an architecture, in evaluation mode. Weights are larger than at a usual initialisation, and
    no norm is the identity, so that an error anywhere shows in the states."""
    config = _shrink(type(CONFIG_MAPPING[model_type]()), _OVERRIDES.get(model_type, {}))
    torch.manual_seed(seed)
    module: nn.Module = AutoModelForCausalLM.from_config(config).eval()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif 0 < (spread := float(parameter.std())) < 0.1:
                parameter.mul_(0.1 / spread)
    return module


def _shrink(kind: Any, overrides: dict[str, Any]) -> Any:
    default = kind()
    known = default.to_dict()
    values = {k: v for k, v in _SIZES.items() if k in known}
    for name, part in (getattr(kind, "sub_configs", None) or {}).items():
        own = getattr(default, name, None)
        part = type(own) if own is not None else part
        values[name] = _shrink(part, overrides.get(name, {}))
    return kind(**{**values, **{k: v for k, v in overrides.items() if k not in values or not isinstance(v, dict)}})
