"""Models: the registry of cards, loading, and the phantoms."""

from llmct_bench.models.cards import ModelCard, find_models, get_model, registry
from llmct_bench.models.load import LoadOptions, load_weights, phantom_tokenizer
from llmct_bench.models.phantoms import PANEL, PhantomSpec

__all__ = [
    "PANEL",
    "LoadOptions",
    "ModelCard",
    "PhantomSpec",
    "find_models",
    "get_model",
    "load_weights",
    "phantom_tokenizer",
    "registry",
]
