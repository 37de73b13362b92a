"""Benchmarks run single-threaded, on one model and one set of conversations."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from llmct_bench.adapters import LoadedModel, wrap
from llmct_bench.models import phantom_tokenizer


@pytest.fixture(scope="session")
def model() -> LoadedModel:
    """A random Qwen2 of 11 M body parameters and a vocabulary of 32 000, float32."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=32_000,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=4096,
    )
    return wrap(Qwen2ForCausalLM(config).eval(), phantom_tokenizer(), "random-qwen2-11m")
