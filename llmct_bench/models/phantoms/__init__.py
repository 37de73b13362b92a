"""Compiled phantoms: real transformers with a planted, known emotional life (calibration standards)."""

from llmct_bench.models.phantoms.spec import PANEL, PhantomSpec

__all__ = ["PANEL", "PhantomSpec"]
