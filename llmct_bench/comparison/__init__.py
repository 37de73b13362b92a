"""Comparison of models pair by pair: differences, equivalence, similarity of their emotion geometries, shift."""

from llmct_bench.comparison.axes import OnAxes, on_axes
from llmct_bench.comparison.compare import Comparison, chosen, compare
from llmct_bench.comparison.differences import Difference, adjusted, paired, scenarios_needed
from llmct_bench.comparison.geometry import Similarity, similarity
from llmct_bench.comparison.page import file_name, write
from llmct_bench.stats import mantel
from llmct_bench.traits.distances import Geometry, geometry

__all__ = [
    "Comparison",
    "Difference",
    "Geometry",
    "OnAxes",
    "Similarity",
    "adjusted",
    "chosen",
    "compare",
    "file_name",
    "geometry",
    "mantel",
    "on_axes",
    "paired",
    "scenarios_needed",
    "similarity",
    "write",
]
