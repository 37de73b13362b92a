"""Fitting and projecting, on planted arrays with known axes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import hadamard
from scipy.stats import ortho_group

from llmct_bench.adapters import Point
from llmct_bench.affect import AffectFit, Scores, fit_affect, fit_metric, load_fit, n_nuisance, score, separable
from llmct_bench.affect.layers import choose_layer
from llmct_bench.emotions import NAMES, NEUTRAL
from llmct_bench.errors import ModelError
from llmct_bench.scanner import States

D, POINTS = 32, 3


def planted(seed: int = 0, strength: float = 3.0) -> tuple[States, np.ndarray]:
    """A reference suite in arrays: emotion e adds strength x intensity along axis e (from point 1 on), roles differ by
    an offset, one dimension is rogue, noise is white but for two strong topics. Returns the states and the axes (4, D).
    Axes and topics are rows of a Hadamard matrix, so that the topics raise the SD of every dimension alike."""
    rng = np.random.default_rng(seed)
    rows_of = hadamard(D) / np.sqrt(D)
    axes, topics = rows_of[1:5], rows_of[5:7]
    rows, h = [], []
    for s in range(30):
        for role in ("user", "assistant"):
            for e, level in [*((e, i) for e in NAMES for i in (1, 2, 3)), *[(NEUTRAL, 0)] * 4]:
                base = (
                    rng.normal(size=(POINTS, D))
                    + 6 * rng.normal(size=(POINTS, 2)) @ topics
                    + (5.0 if role == "user" else 0.0)
                )
                base[:, 0] += 500.0
                if e != NEUTRAL:
                    base[1:] += strength * level * axes[NAMES.index(e)]
                h.append(base)
                rows.append(
                    {"item": f"{s}/{len(rows)}", "scenario": f"s{s}", "emotion": e, "intensity": level, "role": role,
                     "split": "dev" if s % 3 == 2 else "fit", "keyworded": True, "twin": "", "context": "",
                     "filler": "", "template": "", "lag": 0, "tokens": 1.0}
                )  # fmt: skip
    array = np.array(h, np.float32)
    points = tuple(Point("resid", i) for i in range(POINTS))
    return States(array, array, pd.DataFrame(rows), points, (), None), axes


def test_axes_and_layer_are_recovered() -> None:
    """Scores of each emotion rise on its own axis by about strength x intensity x |cos|, in neutral SD (noise SD 1);
    point 0, where nothing is planted, is not chosen."""
    states, axes = planted()
    fit = fit_affect(states)
    assert fit.layer.point in (1, 2)
    assert max(fit.nuisance_dims) <= 2
    scores = score(states, fit)
    centred = axes - axes.mean(axis=0)
    truth = 3.0 * (axes @ centred[0]) / np.linalg.norm(centred[0])  # white noise: SD 1 on every unit direction
    index = states.index
    for e, expected in zip(NAMES, truth, strict=True):
        rows = ((index["emotion"] == e) & (index["intensity"] == 1)).to_numpy()
        assert scores.values[rows, 1, 0].mean() == pytest.approx(expected, abs=0.35)
    neutral = (index["emotion"] == NEUTRAL).to_numpy() & (index["split"] == "dev").to_numpy()
    assert scores.values[neutral, 1].std(axis=0) == pytest.approx(np.ones(6), abs=0.15)


def transformed(states: States, change) -> States:
    array = change(states.array.astype(np.float64)).astype(np.float32)
    return States(array, array, states.index, states.points, (), states.plan)


@pytest.mark.parametrize(
    "change",
    [lambda h: 7.5 * h, lambda h: h + np.linspace(-3, 3, D), lambda h: h @ ortho_group.rvs(D, random_state=1)],
    ids=["norm scaling", "a constant on every state", "rotation of the basis"],
)
def test_scores_are_invariant(change) -> None:
    """What only changes units, origin or basis of the residual stream moves no score."""
    states, _ = planted()
    before = score(states, fit_affect(states)).values
    moved = transformed(states, change)
    assert np.allclose(before, score(moved, fit_affect(moved)).values, atol=2e-2)


def test_roles_do_not_leak_into_scores() -> None:
    """The role offset is part of mu: neutral items of both roles score zero on average."""
    states, _ = planted()
    values = score(states, fit_affect(states)).values
    for role in ("user", "assistant"):
        rows = ((states.index["role"] == role) & (states.index["emotion"] == NEUTRAL)).to_numpy()
        assert np.abs(values[rows].mean(axis=0)).max() < 0.35


def test_fit_round_trip(tmp_path: Path) -> None:
    states, _ = planted()
    fit = fit_affect(states)
    fit.save(tmp_path / "fit.safetensors")
    again = load_fit(tmp_path / "fit.safetensors")
    assert again.layer == fit.layer
    one, two = score(states, fit), score(states, again)
    assert np.array_equal(one.values, two.values)
    for name, array in vars(fit.versions).items():
        assert np.array_equal(getattr(again.versions, name), array)
        assert getattr(again.versions, name).dtype == array.dtype
    assert len(list(one.versions)) == len(fit.versions.mixes)
    for a, b in zip(one.versions, two.versions, strict=True):
        assert np.array_equal(a, b)


def test_scores_round_trip_through_the_long_table() -> None:
    states, _ = planted()
    scores = score(states, fit_affect(states))
    again = Scores.from_frame(scores.to_frame())
    assert np.array_equal(again.values, scores.values)
    assert np.array_equal(again.raw, scores.raw)
    assert again.names == scores.names
    assert again.index.equals(scores.index)


def test_raw_scores_are_cosines_with_the_reference_states() -> None:
    states, _ = planted()
    fit = fit_affect(states)
    h, r = states.last[17, 2].astype(float), fit.references[2, 3].astype(float)
    assert score(states, fit).raw[17, 2, 3] == pytest.approx(h @ r / np.linalg.norm(h) / np.linalg.norm(r))


def test_missing_parts_are_named() -> None:
    states, _ = planted()
    keep = (states.index["emotion"] != "anger").to_numpy()
    cut = States(states.array[keep], states.last[keep], states.index[keep], states.points, (), states.plan)
    with pytest.raises(ModelError, match="no fit items of anger"):
        fit_affect(cut)


# --- the axes without one wording, and their unit without some topics ---------------------------------------------


def worded(wordings: int = 3, seed: int = 0, **changes: int) -> States:
    """The planted reference with so many wordings in each cell, unevenly often; ``changes``: other numbers by cell."""
    states, _ = planted(seed)
    rng = np.random.default_rng(seed)
    index = states.index.copy()
    names = []
    for row in index.to_dict("records"):
        cell = f"{row['emotion']}{row['intensity']}"
        n = changes.get(cell, wordings)
        word = min(int(rng.integers(0, n + 1)), n - 1)  # the last one twice as often
        names.append(f"reference/{len(names)}/{row['emotion']}-{row['intensity']}-word{word}")
    return replace(states, index=index.assign(item=names))


def readings(seed: int, n: int = 40) -> States:
    """States of some other suite, with emotion in them or not."""
    rng = np.random.default_rng(seed)
    array = (5 * rng.normal(size=(n, POINTS, D)) + 500.0 * np.eye(D)[0]).astype(np.float32)
    index = planted()[0].index.iloc[:n].reset_index(drop=True)
    return States(array, array, index, tuple(Point("resid", i) for i in range(POINTS)), (), None)


def removed_by_hand(h: np.ndarray, index: pd.DataFrame) -> np.ndarray:
    """The projector P_perp (d, d): the eigenvectors of the neutral covariance, one by one, until half of the variance
    is gone and the next does not hold a fifth of what is left."""
    neutral = ((index["split"] == "fit") & (index["emotion"] == NEUTRAL)).to_numpy()
    own = pd.DataFrame(h[neutral].astype(np.float64))
    centred = (own - own.groupby(index.loc[neutral, "role"].to_numpy()).transform("mean")).to_numpy()
    values, vectors = np.linalg.eigh(centred.T @ centred)
    remove, total = np.eye(h.shape[1]), values.sum()
    while values.sum() > 0.5 * total or values[-1] > 0.2 * values.sum():
        remove -= np.outer(vectors[:, -1], vectors[:, -1])
        values, vectors = values[:-1], vectors[:, :-1]
    return remove


def by_hand(
    reference: States, fit: AffectFit, target: States, gone: np.ndarray | None = None, topics: np.ndarray | None = None
) -> np.ndarray:
    """Scores (n, 6) of ``target`` at the chosen point when FIT rows ``gone`` are deleted from the emotions' means (each
    intensity keeps its weight) and DEV rows ``topics`` from the unit; the metric is that of the whole reference."""
    h, index, point = reference.array, reference.index, fit.layer.point
    metric = fit_metric(h[:, point], index, fit.roles)
    remove = removed_by_hand(h[:, point], index)

    def z(states: States) -> np.ndarray:
        mean = np.stack([metric.mean[r] for r in states.index["role"]])
        return (states.array[:, point].astype(np.float64) - mean) @ remove

    own, split, emotion = z(reference), index["split"].to_numpy(), index["emotion"].to_numpy()
    kept = np.ones(len(index), bool) if gone is None else ~gone
    if gone is not None:  # what a topic adds to all emotions alike is no wording's error
        emotional = (split == "fit") & (emotion != NEUTRAL)
        everywhere = own[emotional].mean(axis=0)
        for scenario in set(index.loc[emotional, "scenario"]):
            rows = emotional & (index["scenario"] == scenario).to_numpy()
            own[rows] += everywhere - own[rows].mean(axis=0)
    means = {}
    for e in NAMES:
        total, weight = np.zeros(D), 0
        for level in (1, 2, 3):
            cell = (split == "fit") & (emotion == e) & (index["intensity"] == level).to_numpy()
            total += cell.sum() * own[cell & kept].mean(axis=0)
            weight += cell.sum()
        means[e] = total / weight
    grand = sum(means.values()) / 4
    joy, anger, sadness, calm = (means[e] for e in ("joy", "anger", "sadness", "calm"))
    axes = [*(means[e] - grand for e in NAMES), joy + calm - anger - sadness, joy + anger - sadness - calm]
    held_out = (split == "dev") & (emotion == NEUTRAL)
    if topics is not None:
        held_out &= ~topics
    columns = []
    for axis in axes:
        residual = 0.0
        for role in ("user", "assistant"):
            p = own[held_out & (index["role"] == role).to_numpy()] @ axis
            residual += ((p - p.mean()) ** 2).sum()
        columns.append(z(target) @ axis / np.sqrt(residual / (held_out.sum() - 2)))
    return np.stack(columns, axis=1)


def wordings_left_out(index: pd.DataFrame) -> list[tuple[int, np.ndarray]]:
    """Stratum and deleted rows of each version, in no particular order: a wording of a cell, or every sixth of them."""
    found, stratum = [], 0
    last = index["item"].str.split("/").str[-1]
    for e in NAMES:
        for level in (1, 2, 3):
            cell = (index["split"] == "fit") & (index["emotion"] == e) & (index["intensity"] == level)
            names = sorted(set(last[cell]))
            groups = [names[k::6] for k in range(min(len(names), 6))]
            if len(groups) > 1:
                found += [(stratum, (cell & last.isin(g)).to_numpy()) for g in groups]
            stratum += 1
    return found


#: References of three wordings in a cell, of one in some cells, of more than are left out one by one, and of only one.
REFERENCES = {
    "three": lambda: worded(3),
    "single in some cells": lambda: worded(3, joy1=1, calm3=1, anger2=2),
    "eight": lambda: worded(8),
    "each item its own": lambda: planted()[0],
    "single everywhere": lambda: worded(1),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_versions_are_refits_without_a_wording(name: str) -> None:
    """Every version of a wording gives the scores of a fit by hand without that wording's items, cell by cell; strata
    are cells; the strata of single wordings do not exist."""
    reference, target = REFERENCES[name](), readings(1)
    fit = fit_affect(reference)
    found = score(target, fit)
    strata, wanted = fit.versions.strata, wordings_left_out(reference.index)
    unit = strata.max()
    assert sorted(strata[strata < unit]) == sorted(s for s, _ in wanted)
    assert unit == 12
    scores = list(found.versions)
    for stratum in sorted({s for s, _ in wanted}):
        mine = [by_hand(reference, fit, target, gone=g) for s, g in wanted if s == stratum]
        theirs = [v for v, s in zip(scores, strata, strict=True) if s == stratum]
        assert len(theirs) == len(mine)
        for a, b in zip(theirs, mine, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-3)  # float32 states and parts
        away = max(np.abs(a - found.values[:, fit.layer.point]).max() for a in mine)
        assert away > 0.02  # so that another wording's version would be told apart
        assert np.abs(mine[0] - mine[1]).max() > 0.02


def test_nothing_left_out_is_the_score_itself() -> None:
    """The fit by hand of the whole reference gives the values at the chosen point."""
    reference, target = worded(3), readings(2)
    fit = fit_affect(reference)
    values = score(target, fit).values[:, fit.layer.point]
    np.testing.assert_allclose(values, by_hand(reference, fit, target), rtol=1e-4, atol=2e-3)


def test_the_last_stratum_leaves_topics_out_of_the_unit() -> None:
    """Ten held-out topics in eight groups, in their order: the axes stay, each score is multiplied by the old unit over
    the new one."""
    reference, target = worded(3), readings(3)
    fit = fit_affect(reference)
    found = score(target, fit)
    index = reference.index
    names = list(dict.fromkeys(index.loc[(index["split"] == "dev") & (index["emotion"] == NEUTRAL), "scenario"]))
    assert len(names) == 10
    last = [v for v, s in zip(found.versions, fit.versions.strata, strict=True) if s == fit.versions.strata.max()]
    assert len(last) == 8
    for group, version in enumerate(last):
        gone = index["scenario"].isin(names[group::8]).to_numpy()
        np.testing.assert_allclose(version, by_hand(reference, fit, target, topics=gone), rtol=1e-3, atol=2e-3)
        factor = version / found.values[:, fit.layer.point]
        sure = np.abs(found.values[:, fit.layer.point]) > 1
        for k in range(6):
            assert factor[sure[:, k], k] == pytest.approx(factor[sure[:, k], k][0], rel=2e-3)
        assert np.abs(factor[sure] - 1).max() > 0.005


@pytest.mark.parametrize("factor", [0.01, 7.5])
def test_the_scale_of_states_changes_no_version(factor: float) -> None:
    """Reference and readings scaled alike: the same scores and versions."""
    reference, target = worded(3), readings(4)
    plain = score(target, fit_affect(reference))
    scaled = score(transformed(target, lambda h: factor * h), fit_affect(transformed(reference, lambda h: factor * h)))
    np.testing.assert_allclose(scaled.values, plain.values, atol=2e-2)
    for a, b in zip(scaled.versions, plain.versions, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-2)


def test_versions_of_some_readouts() -> None:
    """Keeping rows keeps their versions."""
    found = score(readings(5), fit_affect(worded(2)))
    keep = np.arange(40) % 3 == 0
    for a, b in zip(found.versions.rows(keep), found.versions, strict=True):
        np.testing.assert_array_equal(a, b[keep])


# --- how surely the layer is known ------------------------------------------------------------------------------


def dev_scores(strength: list[float], topics: int = 12, seed: int = 0) -> tuple[np.ndarray, pd.DataFrame]:
    """DEV scores: each emotion, its intensity times ``strength`` of the point on its own axis, in noise."""
    rng = np.random.default_rng(seed)
    rows = [
        {"scenario": f"t{t}", "emotion": e, "intensity": i, "role": r}
        for t in range(topics)
        for e in NAMES
        for i in (1, 2, 3)
        for r in ("user", "assistant")
    ]
    index = pd.DataFrame(rows)
    signal = np.eye(4)[index["emotion"].map({e: k for k, e in enumerate(NAMES)})] * index[["intensity"]].to_numpy()
    return signal[:, None, :] * np.array(strength)[None, :, None] + rng.normal(
        size=(len(rows), len(strength), 4)
    ), index


@pytest.mark.parametrize("at", [0, 2, 4])
def test_one_layer_with_a_signal_is_always_chosen(at: int) -> None:
    """Whatever topics are drawn; the other points never."""
    choice = choose_layer(*dev_scores([1.0 if p == at else 0.0 for p in range(5)]))
    assert choice.point == at
    assert choice.localised
    assert choice.chosen == tuple(float(p == at) for p in range(5))


def test_equal_layers_share_the_choice() -> None:
    """Eight points of the same strength, each with noise of its own: none is chosen in most draws, at least three in
    one of twenty, and shares sum to 1. Of two that are copies of each other the deeper one is never chosen."""
    scores, index = dev_scores([0.15] * 8, seed=1)
    choice = choose_layer(scores, index)
    assert sum(choice.chosen) == pytest.approx(1.0)
    assert max(choice.chosen) < 0.8
    assert sum(c > 0.05 for c in choice.chosen) >= 3
    twice = choose_layer(np.concatenate([scores, scores], axis=1), index)
    assert twice.chosen[:8] == choice.chosen
    assert sum(twice.chosen[8:]) == 0


def test_the_shares_are_those_of_topics_drawn_again() -> None:
    """Topics drawn with replacement and laid out as new ones, and the choice made on each such table: the shares agree
    within what 300 draws allow. Topics that come twice are paired with themselves here, so equal strengths are
    compared, for which that shifts all points alike."""
    scores, index = dev_scores([0.0, 0.5, 0.5, 0.5], topics=16, seed=2)
    choice = choose_layer(scores, index)
    rng, rows = np.random.default_rng(0), index.groupby("scenario").indices
    se = np.array([s for _, s in choice.profile])
    counts = np.zeros(4)
    for _ in range(300):
        drawn = [rows[t] for t in rng.choice(sorted(rows), len(rows))]
        again = index.iloc[np.concatenate(drawn)].assign(scenario=np.repeat([f"d{k:02d}" for k in range(16)], 24))
        table = separable(again)
        d2 = np.array([float(table.d2(scores[np.concatenate(drawn), p])[0]) for p in range(4)])
        best = int(d2.argmax())
        counts[int(np.argmax(d2 >= d2[best] - se[best]))] += 1 / 300
    assert np.abs(counts - choice.chosen).max() < 0.12
    assert 0.05 < max(choice.chosen) < 0.99


def test_a_single_held_out_topic_leaves_no_version_of_the_unit() -> None:
    """Nothing can be left out of one topic; the wordings' versions are there all the same."""
    reference = planted()[0]
    one = reference.index.loc[reference.index["split"] == "dev", "scenario"].iloc[0]
    keep = ((reference.index["split"] == "fit") | (reference.index["scenario"] == one)).to_numpy()
    index = reference.index[keep].reset_index(drop=True)
    fit = fit_affect(replace(reference, array=reference.array[keep], last=reference.last[keep], index=index))
    assert set(fit.versions.strata) <= set(range(12))
    assert len(fit.versions.strata) > 12


@pytest.mark.parametrize(
    ("variances", "removed"),
    [
        ([81, 81, 31, 31, 31, *[1.25] * 35], 5),  # two rogue dimensions hold half of it: the topics go all the same
        ([729, 729, 31, 31, 31, *[1.25] * 35], 5),  # however large the rogue dimensions are
        ([31, 31, 31, *[1.25] * 37], 3),
        ([1.0] * 41, 21),  # nothing dominates: half of the variance is half of the components
        ([5.0], 1),
        ([6.0, 5.0, 0.0, 0.0], 2),  # nothing is left of it
    ],
)
def test_how_many_components_are_nuisance(variances: list[float], removed: int) -> None:
    """Half of the variance, and what alone holds a fifth of the rest; the unit does not matter."""
    for unit in (1.0, 1e-6, 1e6):
        assert n_nuisance(unit * np.array(variances)) == removed
