"""The hook adapter: where the residual stream is, how it is read, and the proof that it is read right."""

from llmct_bench.adapters.adapter import Adapter, Point, resolve
from llmct_bench.adapters.certificate import AdapterCertificate, Check
from llmct_bench.adapters.loaded import LoadedModel, certify, load, wrap

__all__ = [
    "Adapter",
    "AdapterCertificate",
    "Check",
    "LoadedModel",
    "Point",
    "certify",
    "load",
    "resolve",
    "wrap",
]
