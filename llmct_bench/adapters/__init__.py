"""The hook adapter: where the residual stream is, how it is read and edited, and the proof that this is done right."""

from llmct_bench.adapters.adapter import Adapter, Point
from llmct_bench.adapters.certificate import CHECKS, AdapterCertificate, Check, subject_key
from llmct_bench.adapters.loaded import LoadedModel, certificate_subject, certify, load, wrap
from llmct_bench.adapters.resolve import resolve

__all__ = [
    "CHECKS",
    "Adapter",
    "AdapterCertificate",
    "Check",
    "LoadedModel",
    "Point",
    "certificate_subject",
    "certify",
    "load",
    "resolve",
    "subject_key",
    "wrap",
]
