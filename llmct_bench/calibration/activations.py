"""Phantoms of level 1: states that are drawn, not computed, with a planted answer for every trait.

A state is h = norm (mu + topics + scenario + role + drift + tint + sum_e felt_e v_e + noise). Some dimensions are
*rogue* (large mean and variance), neutral text varies mostly along a few *topics*, and everything that the raw cosine
reacts to can be turned up without changing an answer. The answer follows from the knobs through the population form
of the fit (its neutral covariance is known here), without looking at a drawn state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.adapters import Point
from llmct_bench.affect import Metric, combine, n_nuisance
from llmct_bench.calibration.truth import TrueScores, true_traits
from llmct_bench.emotions import NAMES, NEUTRAL
from llmct_bench.scanner import States
from llmct_bench.scanner.render import INDEX_COLUMNS
from llmct_bench.suites import get_suite
from llmct_bench.suites.compose import LAGS
from llmct_bench.traits import Layout

Floats = NDArray[np.float64]

WIDTH = 40
TOPICS, TOPIC_VARIANCE = 3, 30.0
#: As many scenarios as all emotions and an interval need.
_FEW = 8
#: Emotion at which the default mood is off.
LEVEL_FULL = 2.5
CONTEXTS = {"calm": "calm", "neutral": "", "positive": "joy", "negative": "anger"}


@dataclass(frozen=True)
class Knobs:
    """What is planted. Emotion is in units of intensity, one unit lies ``gain`` along its axis.

    ``mood``: joy where no other emotion is felt. ``persona``: joy in the assistant's role. ``role_gain``: strength of
    emotion in the assistant's role. ``rotation``: angle (radians) of the assistant's axes. ``absorption``: share by
    which a calm context weakens a shock. ``half_life``: exchanges. The others must change nothing: ``tint`` (joy on
    every state), ``rogue`` (size of the rogue dimensions), ``norm`` (scale of all states), ``drift`` (common mean per
    exchange). ``noise`` and ``scenario``: standard deviations of what an item and its scenario add.
    """

    gain: float = 1.0
    mood: float = 0.0
    persona: float = 0.0
    role_gain: float = 1.0
    rotation: float = 0.0
    absorption: float = 0.0
    half_life: float = 6.0
    tint: float = 0.0
    rogue: float = 30.0
    norm: float = 1.0
    drift: float = 1.0
    noise: float = 1.0
    scenario: float = 0.5


@dataclass(frozen=True)
class Geometry:
    """Where things lie, the same for all phantoms: orthonormal rows of a fixed random frame."""

    emotions: Floats
    rotated: Floats
    topics: Floats
    role: Floats
    drift: Floats
    mean: Floats
    rogue: Floats


@cache
def geometry() -> Geometry:
    """The frame (made once)."""
    rng = np.random.default_rng(20260)
    k = len(NAMES)
    frame = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    rogue = np.zeros(WIDTH)
    rogue[:2] = 1.0
    return Geometry(
        frame[:k], frame[k : 2 * k], frame[2 * k : 2 * k + TOPICS], frame[-1], frame[-2], rng.normal(size=WIDTH), rogue
    )


@cache
def reference_layout() -> Layout:
    """The design of the shipped reference suite."""
    rows = [
        {c: getattr(i, c) for c in INDEX_COLUMNS if c in type(i).model_fields}
        | {"item": i.id, "role": i.messages[-1].role, "read": i.reads[0], "lag": i.reads[0] // 2, "tokens": 1.0}
        for i in get_suite("reference").items
    ]
    return Layout(pd.DataFrame(rows, columns=INDEX_COLUMNS))


@cache
def design_layout(design: str, scenarios: int) -> Layout:
    """The design of a trait suite with any number of scenarios, crossed as the shipped one is."""
    rows = []
    for s in range(scenarios):
        name = f"s{s:03d}"

        def row(item: str, scenario: str = name, **own: Any) -> dict[str, Any]:
            usual = dict.fromkeys(INDEX_COLUMNS, "") | {"intensity": 0, "split": "test", "keyworded": True}
            return (
                usual | {"role": "user", "read": 0, "lag": 0, "tokens": 1.0, "item": item, "scenario": scenario} | own
            )

        if design == "circumplex":
            rows.append(row(f"{name}/n", emotion=NEUTRAL))
            rows += [row(f"{name}/{e}{i}", emotion=e, intensity=i, twin=f"{name}/n") for e in NAMES for i in (1, 2, 3)]
        elif design == "shock":
            for context in CONTEXTS:
                for role in ("user", "assistant"):
                    stem = f"{name}/{context}/{role}"
                    for dose in range(4):
                        own: dict[str, Any] = {
                            "emotion": ("anger", "sadness")[s % 2],
                            "intensity": dose,
                            "context": context,
                        }
                        rows.append(row(f"{stem}/{dose}", role=role, twin=f"{stem}/0" if dose else "", **own))
        else:
            for filler, step in (("short", 20.0), ("long", 60.0)):
                for opening in (NEUTRAL, "emotional"):
                    twin = f"{name}/{filler}/{NEUTRAL}" if opening != NEUTRAL else ""
                    for lag in LAGS:
                        own = {"emotion": NAMES[s % len(NAMES)], "intensity": 3 if twin else 0, "filler": filler}
                        at: dict[str, Any] = {"lag": lag, "read": 2 * lag, "tokens": 20.0 + step * lag}
                        rows.append(row(f"{name}/{filler}/{opening}", twin=twin, **own, **at))
    return Layout(pd.DataFrame(rows, columns=INDEX_COLUMNS))


def felt(index: pd.DataFrame, knobs: Knobs) -> Floats:
    """What every readout feels, (n, n_emotions), before rotation."""
    out = np.zeros((len(index), len(NAMES)))
    assistant = (index["role"] == "assistant").to_numpy()
    own = index["intensity"].to_numpy(np.float64) * np.where(assistant, knobs.role_gain, 1.0)
    own = own * np.where(index["context"] == "calm", 1 - knobs.absorption, 1.0)
    own = own * np.exp2(-index["lag"].to_numpy(np.float64) / knobs.half_life) ** (index["filler"] != "").to_numpy()
    for k, name in enumerate(NAMES):
        out[:, k] += own * (index["emotion"] == name)
        out[:, k] += index["context"].map(lambda c, name=name: float(CONTEXTS.get(c) == name)).to_numpy(np.float64)
    joy = NAMES.index("joy")
    out[:, joy] += knobs.mood * np.clip(1 - out.sum(axis=1) / LEVEL_FULL, 0, None)
    out[:, joy] += knobs.persona * assistant
    return out * knobs.gain


@lru_cache(maxsize=16)
def expected(layout: Layout, knobs: Knobs) -> Floats:
    """States (n, WIDTH) without noise, topic and scenario."""
    g, index = geometry(), layout.index
    assistant = (index["role"] == "assistant").to_numpy(np.float64)[:, None]
    turned = np.cos(knobs.rotation) * g.emotions + np.sin(knobs.rotation) * g.rotated
    emotion = felt(index, knobs)
    h = g.mean + knobs.rogue * g.rogue + knobs.tint * g.emotions[NAMES.index("joy")]
    h = h + 2.0 * assistant * g.role + knobs.drift * index["lag"].to_numpy(np.float64)[:, None] * g.drift
    return np.asarray(h + np.where(assistant > 0, emotion @ turned, emotion @ g.emotions)) * knobs.norm


def neutral_covariance(knobs: Knobs) -> Floats:
    """Of one neutral state of a role around its mean, (WIDTH, WIDTH)."""
    g = geometry()
    own = (knobs.noise**2 + knobs.scenario**2) * np.eye(WIDTH) + TOPIC_VARIANCE * g.topics.T @ g.topics
    return np.asarray(own + (0.3 * knobs.rogue) ** 2 * np.diag(g.rogue)) * knobs.norm**2


def draw(layout: Layout, knobs: Knobs, rng: np.random.Generator) -> States:
    """States of a design."""
    g, n = geometry(), len(layout.index)
    scenario, own = layout.made(_shared)
    topics, rogue = rng.normal(size=(n, TOPICS))[own], rng.normal(size=(n, 2))[own]
    noise = knobs.noise * rng.normal(size=(n, WIDTH))
    noise += (knobs.scenario * rng.normal(size=(scenario.max() + 1, WIDTH)))[scenario]
    noise += np.sqrt(TOPIC_VARIANCE) * topics @ g.topics
    noise[:, :2] += 0.3 * knobs.rogue * rogue  # the rogue dimensions
    states = (expected(layout, knobs) + knobs.norm * noise).astype(np.float32)[:, None, :]
    return States(states, states, layout.index, (Point("resid", 0),), (), None)


def _shared(index: pd.DataFrame) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Whose scenario's, and whose topic and rogue values a readout has: a turn of a conversation has its own words
    whatever the opening was, so that twins share them."""
    scenario = pd.factorize(index["scenario"])[0]
    turn = pd.factorize(index["scenario"] + "|" + index["lag"].astype(str) + "|" + index["filler"])[0]
    return scenario, turn if (index["filler"] != "").any() else np.arange(len(index))


def directions(knobs: Knobs, metric: Metric | None = None) -> Floats:
    """The axes in the population: (n_scores, WIDTH) in neutral SD per unit of h, in the population's own metric, or in
    one that was fitted."""
    layout, covariance = reference_layout(), neutral_covariance(knobs)
    index, h = layout.index, expected(layout, knobs)
    role, emotion = index["role"].to_numpy(), index["emotion"].to_numpy()
    if metric is None:
        fit, neutral = (index["split"] == "fit").to_numpy(), emotion == NEUTRAL
        values, vectors = np.linalg.eigh(covariance)
        mean = {r: h[fit & neutral & (role == r)].mean(axis=0) for r in np.unique(role)}
        metric = Metric(mean, vectors.T[::-1][: n_nuisance(values[::-1])])
    z = metric.z(h, role)
    means = np.stack([z[(emotion == e) & (index["split"] == "fit").to_numpy()].mean(axis=0) for e in NAMES])
    axes = combine(means)
    return np.asarray(axes / np.maximum(np.sqrt(np.einsum("kp,pq,kq->k", axes, covariance, axes)), 1e-12)[:, None])


def planted_traits(
    design: str, scenarios: int, knobs: Knobs, metric: Metric | None = None, ranked: bool = False
) -> dict[str, float]:
    """The true traits of a design with so many scenarios (or those with ranks), from the knobs alone; in the metric of
    a fit (what remains of the truth when the metric is taken as given) or in the population's own."""
    if design == "reference":  # the emotions of all topics lie in the same four directions
        return {"backbone": 1.0 if knobs.gain else math.nan}
    layout = design_layout(design, _FEW)  # noise-free scenarios are all alike
    axes = directions(knobs, metric)
    emotions = axes[: len(NAMES)]
    noise = emotions @ neutral_covariance(knobs) @ emotions.T
    # no role's mean is taken away here, so that none is missing
    true = TrueScores(layout, expected(layout, knobs) @ axes.T, noise, np.zeros(len(axes)))
    return true_traits(true, design, scenarios / _FEW, ranked)
