"""The scan: render, plan, capture."""

from llmct_bench.scanner.capture import capture
from llmct_bench.scanner.plan import TOKEN_BUDGET, Batch, Plan, Read, make_plan
from llmct_bench.scanner.render import Readout, Rendered, render
from llmct_bench.scanner.states import States, scan

__all__ = [
    "TOKEN_BUDGET",
    "Batch",
    "Plan",
    "Read",
    "Readout",
    "Rendered",
    "States",
    "capture",
    "make_plan",
    "render",
    "scan",
]
