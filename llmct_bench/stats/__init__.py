"""Statistics on arrays: pure, vectorised functions that know nothing of models.

The replicate is always the *cluster* (here: a scenario). Values are first reduced to one number per cluster.
"""

from llmct_bench.stats.auc import clustered_auc
from llmct_bench.stats.clusters import cluster_means, cluster_t, jackknife_t, sign_flip
from llmct_bench.stats.crossed import crossed, disattenuated
from llmct_bench.stats.decay import DecayFit, fit_half_life, half_lives
from llmct_bench.stats.decays import Comparison, compare_decays
from llmct_bench.stats.decisions import decision_rates
from llmct_bench.stats.distances import crossnobis
from llmct_bench.stats.equivalence import tost
from llmct_bench.stats.intervals import MIN_CLUSTERS, Interval
from llmct_bench.stats.left_out import LeftOut, left_out, t_interval
from llmct_bench.stats.meta import MetaAnalysis, hartung_knapp
from llmct_bench.stats.multiplicity import benjamini_hochberg, holm
from llmct_bench.stats.ranks import rank_intervals
from llmct_bench.stats.ratio import fieller
from llmct_bench.stats.reliability import detectable_change, spearman_brown, split_half
from llmct_bench.stats.resampling import BootstrapT, FlipTest, bootstrap_counts, bootstrap_t, sign_flip_map
from llmct_bench.stats.similarity import cross_distances, halves, mantel, orders, rank_correlations

__all__ = [
    "MIN_CLUSTERS",
    "BootstrapT",
    "Comparison",
    "DecayFit",
    "FlipTest",
    "Interval",
    "LeftOut",
    "MetaAnalysis",
    "benjamini_hochberg",
    "bootstrap_counts",
    "bootstrap_t",
    "cluster_means",
    "cluster_t",
    "clustered_auc",
    "compare_decays",
    "cross_distances",
    "crossed",
    "crossnobis",
    "decision_rates",
    "detectable_change",
    "disattenuated",
    "fieller",
    "fit_half_life",
    "half_lives",
    "halves",
    "hartung_knapp",
    "holm",
    "jackknife_t",
    "left_out",
    "mantel",
    "orders",
    "rank_correlations",
    "rank_intervals",
    "sign_flip",
    "sign_flip_map",
    "spearman_brown",
    "split_half",
    "t_interval",
    "tost",
]
