"""Distances between emotions against those of the circumplex model: loops, orders of emotions, drawn states."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as sps
from test_further_traits import placed
from test_traits import circumplex_rows, measurement

from llmct_bench.affect import fit_affect, fit_metric, score
from llmct_bench.calibration.activations import Knobs, design_layout, draw, planted_traits, reference_layout
from llmct_bench.emotions import ALL_NAMES, BY_NAME, NAMES
from llmct_bench.stats import orders
from llmct_bench.traits import ESTIMANDS, Measurement, TraitEstimate, measure
from llmct_bench.traits.circumplex_rsa import _permuted, circumplex, correlation
from llmct_bench.traits.distances import geometry


def estimate(m: Measurement) -> TraitEstimate:
    return ESTIMANDS["circumplex_rsa"].estimate(m)


def test_rho_is_spearmans_of_crossnobis_and_designed_distances() -> None:
    """Every pair of cells by a loop over pairs of scenarios; the ranks by SciPy."""
    m = placed(NAMES, 1.0, 1.0, 0.8)
    index, space = m.layout.index, geometry(m.values, m.layout.index)
    cells = sorted(set(zip(index["emotion"], index["intensity"], strict=True)))
    mean = {
        (s, c): m.values[own.index, :4].mean(axis=0)
        for (s, *c_), own in index.groupby(["scenario", "emotion", "intensity"])
        for c in [tuple(c_)]
    }
    found, wanted = [], []
    for i, c in enumerate(cells):
        for d in cells[:i]:
            delta = np.array([mean[s, c] - mean[s, d] for s in space.scenarios])
            inner = delta @ space.precision @ delta.T
            found.append(inner.sum() - np.trace(inner))
            (a, x), (b, y) = c, d
            far = [BY_NAME[a].valence * x - BY_NAME[b].valence * y, BY_NAME[a].arousal * x - BY_NAME[b].arousal * y]
            wanted.append(round(float(np.hypot(*far)), 9))
    rank = sps.spearmanr(found, wanted).statistic
    # SciPy divides by the spread of the ranks that there are, which is the same as no found distances are equal
    e = estimate(m)
    assert e.estimate == pytest.approx(rank)
    assert e.valid
    assert e.low < e.estimate < e.high
    assert e.details["p_cells"] == pytest.approx(1e-4)


def test_equal_distances_count_as_broken_at_random() -> None:
    """The mean of SciPy's rho over 4000 random breakings."""
    rng = np.random.default_rng(0)
    found, design = rng.integers(0, 3, 20).astype(float), rng.integers(0, 4, 20).astype(float)
    broken = [sps.spearmanr(found + 1e-3 * rng.random(20), design).statistic for _ in range(4000)]
    assert correlation(found[None], design)[0] == pytest.approx(np.mean(broken), abs=0.01)


@pytest.mark.parametrize("right", [True, False])
def test_four_emotions_have_three_orders(right: bool) -> None:
    """In the right order nothing beats it, p = 1/3; with joy and anger exchanged one other order is better."""
    m = placed(NAMES, 1.0, 1.0, 0.3)
    if not right:
        names = m.layout.index["emotion"].map({"joy": "anger", "anger": "joy", "sadness": "sadness", "calm": "calm"})
        m = measurement([{**r, "emotion": e, **dict(zip(NAMES, v, strict=False))} for r, e, v in zip(
            m.layout.index.to_dict("records"), names, m.values, strict=True)])  # fmt: skip
    e = estimate(m)
    assert e.p_value == pytest.approx(1 / 3) if right else e.p_value > 0.5
    assert (e.details["beyond"] > 0.05) == right


def test_orders_are_all_where_they_are_few() -> None:
    every, exact = orders(4, 24)
    assert exact
    assert len({tuple(o) for o in every}) == 24
    some, exact = orders(5, 24)
    assert not exact
    assert len(some) == 24
    assert (np.sort(some, axis=1) == np.arange(5)).all()


def test_twelve_emotions_can_reject_and_do_not_too_often() -> None:
    """At their places: p < .01. At random places, each along a line of its own through neutral: 20 draws (P(> 4 | 20,
    .05) = .003)."""
    m = placed(ALL_NAMES, 1.0, 1.0, 0.5)
    design = circumplex(m.layout.index)

    def p(of: Measurement) -> float:
        space = geometry(of.values, of.layout.index)
        return _permuted(space.dissimilarity(np.ones((1, len(space.scenarios))))[0][design.above], design)[1]

    assert p(m) < 0.01
    rejected, blank = 0, placed(ALL_NAMES, 0.0, 0.0, 0.1)
    index = blank.layout.index
    for seed in range(20):
        at = dict(zip(ALL_NAMES, np.random.default_rng(seed).normal(size=(len(ALL_NAMES), 4)), strict=True))
        values = blank.values.copy()
        values[:, :4] += [at[e] * i for e, i in zip(index["emotion"], index["intensity"], strict=True)]
        rejected += p(replace(blank, values=values)) <= 0.05
    assert rejected <= 4


def test_noise_has_no_geometry() -> None:
    """Halves that do not agree: invalid; and without all emotions there is nothing to compare."""
    noise = estimate(measurement(circumplex_rows({}, noise=50.0)))
    assert not noise.valid
    assert "hardly agree" in noise.reason
    assert noise.low < 0 < noise.high
    rows = [r for r in circumplex_rows({}) if r.get("emotion") != "calm"]
    assert "four core" in estimate(measurement(rows)).reason


def test_neither_order_nor_origin_matters() -> None:
    rows = circumplex_rows({}, noise=0.3)
    m = measurement(rows)
    moved = replace(m, values=m.values + np.array([9.0, -3.0, 0.5, 2.0, 0.0, 0.0]))
    np.random.default_rng(0).shuffle(rows)  # type: ignore[arg-type]
    a, b, c = (estimate(x) for x in (m, moved, measurement(rows)))
    assert a.valid
    for other in (b, c):
        assert (a.estimate, a.low, a.p_value) == pytest.approx((other.estimate, other.low, other.p_value), rel=1e-6)


def test_planted_distances_are_recovered() -> None:
    """8 drawn data sets of 24 scenarios: 5 intervals hold the value that the closed form gives under the same noise
    (P(< 5 | 8, .95) < .001; the axes' own noise lowers rho by some hundredths)."""
    held, off = 0, []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        reference, layout = draw(reference_layout(), Knobs(), rng), design_layout("circumplex", 24)
        fit = fit_affect(reference)
        metric = fit_metric(reference.array[:, 0], reference.index, fit.roles)
        e = estimate(measure(score(draw(layout, Knobs(), rng), fit), fit.layer, np.ones((4, 2)), layout=layout))
        truth = planted_traits("circumplex", 24, Knobs(), metric)["circumplex_rsa"]
        held += e.low <= truth <= e.high
        off.append(e.estimate - truth)
    assert held >= 5
    assert -0.06 < np.mean(off) < 0.03
