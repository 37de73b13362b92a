"""The scan: render, plan, capture."""

from llmct_bench.scanner.capture import BatchEdit, OutOfMemory, capture
from llmct_bench.scanner.next_words import NextWords, read_next_words
from llmct_bench.scanner.plan import TOKEN_BUDGET, Batch, Packing, Plan, Read, Segment, make_plan, separate_plan
from llmct_bench.scanner.pooling import Pooling, pooled
from llmct_bench.scanner.render import Readout, Rendered, render
from llmct_bench.scanner.states import Projections, States, plan_scan, scan, scan_projected

__all__ = [
    "TOKEN_BUDGET",
    "Batch",
    "BatchEdit",
    "NextWords",
    "OutOfMemory",
    "Packing",
    "Plan",
    "Pooling",
    "Projections",
    "Read",
    "Readout",
    "Rendered",
    "Segment",
    "States",
    "capture",
    "make_plan",
    "plan_scan",
    "pooled",
    "read_next_words",
    "render",
    "scan",
    "scan_projected",
    "separate_plan",
]
