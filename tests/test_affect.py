"""Fitting and projecting, on planted arrays with known axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import hadamard

from llmct_bench.adapters import Point
from llmct_bench.affect import Scores, fit_affect, load_fit, score
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
    [lambda h: 7.5 * h, lambda h: h + np.linspace(-3, 3, D), lambda h: h * np.linspace(0.5, 4.0, D)],
    ids=["norm scaling", "a constant on every state", "other units per dimension"],
)
def test_scores_are_invariant(change) -> None:
    """What only changes units or origin of the residual stream moves no score."""
    states, _ = planted()
    before = score(states, fit_affect(states)).values
    moved = transformed(states, change)
    assert np.allclose(before, score(moved, fit_affect(moved)).values, atol=2e-2)


def test_scores_survive_a_rotation_of_the_basis() -> None:
    """Without rogue dimensions the fit depends on the basis only through the scale per dimension: the scores of a
    rotated stream correlate highly."""
    states, _ = planted()
    quiet = transformed(states, lambda h: h - 500.0 * np.eye(D)[0])
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(D, D)))[0]
    turned = transformed(quiet, lambda h: h @ rotation)
    a, b = (score(s, fit_affect(s)).values[:, 1, :4].ravel() for s in (quiet, turned))
    assert np.corrcoef(a, b)[0, 1] > 0.9


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
    assert np.array_equal(score(states, again).values, score(states, fit).values)


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
