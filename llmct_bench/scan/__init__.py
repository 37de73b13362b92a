"""The scan: render, plan, capture."""

from llmct_bench.scan.capture import capture
from llmct_bench.scan.plan import TOKEN_BUDGET, Batch, Plan, Read, make_plan
from llmct_bench.scan.render import Readout, Rendered, render
from llmct_bench.scan.states import States, scan

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
