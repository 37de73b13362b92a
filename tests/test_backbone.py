"""The emotional backbone: shares that are known by construction, loops in place of matrices, drawn states."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import ortho_group

from llmct_bench.affect import Backbone, FitConstants, Wordings, fit_affect, fit_backbone, load_fit, score
from llmct_bench.calibration.activations import Knobs, draw, reference_layout
from llmct_bench.emotions import NAMES, NEUTRAL
from llmct_bench.stats import cluster_t
from llmct_bench.traits import ESTIMANDS, Layout, Measurement, TraitEstimate, measure

Floats = NDArray[np.float64]
D = 24
AXES = np.linalg.qr(np.random.default_rng(1).normal(size=(D, D)))[0]


def estimate(backbone: Backbone | None) -> TraitEstimate:
    constants = FitConstants(np.zeros(6), 0.0, backbone)
    nothing = Measurement(Layout(pd.DataFrame()), np.zeros((0, 6)), NAMES, np.zeros((0, 1, 6)), 0.0)
    return ESTIMANDS["backbone"].estimate(replace(nothing, constants=constants))


def row(topic: str, emotion: str, intensity: int, wording: str) -> dict[str, object]:
    """A held-out readout."""
    item = f"{topic}/{wording}"
    return {"scenario": topic, "emotion": emotion, "intensity": intensity, "split": "dev", "item": item}


def held_out(angle: float, noise: float = 0.0, words: float = 0.0, topics: int = 12, seed: int = 0) -> Backbone | None:
    """Emotion e lies along axis e in training, and ``angle`` away from all four training axes in the held-out topics;
    every held-out wording adds a vector of its own that stands at right angles to everything (size ``words``); topics
    of even and of odd numbers have other wordings."""
    rng = np.random.default_rng(seed)
    rows, z = [], []
    for t in range(topics):
        topic = rng.normal(size=D)
        for k, e in enumerate((*NAMES, NEUTRAL)):
            for i in (1, 2, 3) if e != NEUTRAL else (0,):
                rows.append(row(f"t{t}", e, i, f"{e}-{i}-{t % 2}"))
                mean = np.zeros(D)
                if e != NEUTRAL:
                    own = words * AXES[8 + 2 * k + t % 2]
                    mean = 2.0 * (np.cos(angle) * AXES[k] + np.sin(angle) * AXES[4 + k]) + own
                z.append(mean + noise * (topic + rng.normal(size=D)))
    owner = np.repeat(np.arange(4), 3)
    parts = AXES[owner] * 1.5 + 1e-4 * rng.normal(size=(12, D))
    trained = Wordings(parts, np.full(12, 5.0), owner, np.ones(12, int), owner)
    return fit_backbone(np.array(z), pd.DataFrame(rows), trained, D)


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("words", [0.0, 3.0])
def test_the_share_is_the_squared_cosine(angle: float, words: float) -> None:
    """Without noise, whatever single words add. Transfer between axes at right angles is 0."""
    found = held_out(angle, words=words)
    e = estimate(found)
    assert e.estimate == pytest.approx(np.cos(angle) ** 2, abs=1e-4)
    assert found is not None
    assert found.total.mean() == pytest.approx(3 * 4.0)  # four points at distance 2 from neutral, about their mean
    assert e.details["dims"] == 3
    assert e.details["random"] == 3 / D
    for share, _, _ in e.details["transfer"].values():
        assert share == pytest.approx(0.0, abs=1e-4)


def test_noise_and_topics_add_nothing() -> None:
    """60 noisy data sets: the mean of captured and of total scatter are those without noise, within 4 of their standard
    errors; the ordinary scatter of the same class means is far larger."""
    pairs = [held_out(0.6, noise=1.0, seed=s) for s in range(60)]
    for name, truth in (("captured", 12 * np.cos(0.6) ** 2), ("total", 12.0)):
        found = np.array([getattr(b, name).mean() for b in pairs])
        assert abs(found.mean() - truth) < 4 * found.std(ddof=1) / np.sqrt(60)
    shares = [estimate(b) for b in pairs]
    assert sum(e.low <= np.cos(0.6) ** 2 <= e.high for e in shares) >= 52  # P(< 52 | 60, .95) = .006


def test_loops_give_the_same() -> None:
    """Projections on a basis from the singular value decomposition of the class means, pair by pair of topics."""
    rng = np.random.default_rng(3)
    owner, level = np.repeat(np.arange(4), 4), np.tile([1, 1, 2, 2], 4)
    words = Wordings(rng.normal(size=(16, D)), rng.integers(1, 5, 16).astype(float), owner, level, owner * 2 + level)
    rows = [
        row(f"t{t}", e, n + 1 if e != NEUTRAL else 0, f"{n}/{e}-{t % 3}")
        for t in range(9) for e in (*NAMES, NEUTRAL) for n in range(2)
    ]  # fmt: skip
    index, z = pd.DataFrame(rows), rng.normal(size=(len(rows), D)) + 0.5
    found = fit_backbone(z, index, words, D)
    assert found is not None
    means = {key: z[own.index].mean(axis=0) for key, own in index.groupby(["scenario", "emotion"])}
    trained = [np.average(words.means[owner == k], axis=0, weights=words.weight[owner == k]) for k in range(4)]

    def inside(vectors: list[Floats]) -> Floats:
        _, s, basis = np.linalg.svd(np.array(vectors), full_matrices=False)
        return np.asarray(basis[s > 1e-9])

    def scatter(held: dict[str, Floats], basis: Floats) -> float:
        pairs = [(s, t) for s, t in permutations(held, 2) if int(s[1:]) % 3 != int(t[1:]) % 3]
        return float(np.mean([np.sum((held[s] @ basis.T) * (held[t] @ basis.T)) for s, t in pairs]))

    centre = np.mean(trained, axis=0)
    felt = {t: np.array([means[t, e] for e in NAMES]) for t in found.topics}
    about = {t: x - x.mean(axis=0) for t, x in felt.items()}
    basis = inside([v - centre for v in trained])
    assert basis.shape[0] == found.dims == 3
    assert found.captured.mean() == pytest.approx(scatter(about, basis))
    assert found.total.mean() == pytest.approx(scatter(about, np.eye(D)))
    for k, e in enumerate(NAMES):
        alone = {t: (means[t, e] - means[t, NEUTRAL])[None] for t in found.topics}
        others = inside([v for j, v in enumerate(trained) if j != k])
        wanted = scatter(alone, others), scatter(alone, np.eye(D))
        assert found.transfer[k].mean(axis=1) == pytest.approx(wanted)
    # a pseudo-value tells what the mean is without its topic
    fewer = {t: x for t, x in about.items() if t != "t4"}
    n, total = 9, found.total.mean()
    assert scatter(fewer, np.eye(D)) == pytest.approx((n * total - found.total[found.topics.index("t4")]) / (n - 1))


def test_it_knows_neither_basis_nor_units() -> None:
    rotation = ortho_group.rvs(D, random_state=4)
    index = pd.DataFrame([row(f"t{t}", e, int(e != NEUTRAL), f"{e}{t}")
                          for t in range(8) for e in (*NAMES, NEUTRAL)])  # fmt: skip
    rng = np.random.default_rng(5)
    z = rng.normal(size=(len(index), D)) + np.tile(np.vstack([3 * AXES[:4], np.zeros(D)]), (8, 1))
    owner = np.repeat(np.arange(4), 3)
    words = Wordings(AXES[owner] + 0.3 * rng.normal(size=(12, D)), np.ones(12), owner, np.ones(12, int), owner)
    moved = replace(words, means=7.0 * words.means @ rotation)
    a, b = (estimate(fit_backbone(*x, D)) for x in ((z, index, words), (7.0 * z @ rotation, index, moved)))
    assert a.valid
    assert (a.estimate, a.low, a.high, a.p_value) == pytest.approx((b.estimate, b.low, b.high, b.p_value))
    assert a.p_value <= 0.02


def test_what_cannot_be_told_says_why() -> None:
    """One wording in all topics; held-out text without emotion; no backbone at all."""
    index = pd.DataFrame([row(f"t{t}", e, int(e != NEUTRAL), e)
                          for t in range(8) for e in (*NAMES, NEUTRAL)])  # fmt: skip
    owner = np.arange(4)
    words = Wordings(AXES[:4], np.ones(4), owner, np.ones(4, int), owner)
    assert fit_backbone(np.zeros((len(index), D)), index, words, D) is None
    assert "no wording" in estimate(None).reason
    other = index.assign(item=[f"{i}{t}" for i, t in zip(index["item"], index["scenario"], strict=True)])
    assert "no scatter" in estimate(fit_backbone(np.zeros((len(index), D)), other, words, D)).reason


def few_words(seed: int, levels: int, topics: int = 8) -> tuple[Backbone, Floats]:
    """Held-out text without emotion, whose few wordings have random vectors of their own; topics of even and of odd
    numbers have other wordings, and differ little. The backbone, and the vectors (2 sets, 4 emotions, levels, D)."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(2, 4, levels, D))
    rows, z = [], []
    for t in range(topics):
        for k, e in enumerate(NAMES):
            for i in range(levels):
                rows.append(row(f"t{t}", e, i + 1, f"{e}-{i}-{t % 2}"))
                z.append(vectors[t % 2, k, i] + 0.01 * rng.normal(size=D))
        rows.append(row(f"t{t}", NEUTRAL, 0, f"{t}"))
        z.append(0.01 * rng.normal(size=D))
    owner = np.repeat(np.arange(4), 3)
    trained = Wordings(AXES[owner] + 0.1 * rng.normal(size=(12, D)), np.ones(12), owner, np.ones(12, int), owner)
    found = fit_backbone(np.array(z), pd.DataFrame(rows), trained, D)
    assert found is not None
    return found, vectors


def test_what_few_words_add_by_chance_is_no_scatter() -> None:
    """100 data sets without emotion: the topics agree that there is scatter in a third of them and more, because they
    share their words; the words say so in no more than 12 (P = .0015 at .05)."""
    found = [few_words(s, levels=3)[0] for s in range(100)]
    assert sum(cluster_t(b.total).low > 0 for b in found) > 33
    assert sum(b.scatter_p <= 0.05 for b in found) <= 12
    assert sum(estimate(b).valid for b in found) <= 12


@pytest.mark.parametrize("seed", range(4))
def test_the_words_are_permuted_within_an_intensity_and_alike_in_all_their_topics(seed: int) -> None:
    """One intensity, two sets of words: the share of the 24 orders of one set against the other."""
    found, vectors = few_words(seed, levels=1)
    a, b = (v[:, 0] - v[:, 0].mean(axis=0) for v in vectors)
    scatter = [np.sum(a * b[list(order)]) for order in permutations(range(4))]
    share = np.mean(np.array(scatter) >= scatter[0] - 1e-9)
    assert found.total.mean() == pytest.approx(scatter[0], abs=0.3)
    assert found.scatter_p == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 499) + 0.002)


# --- drawn states -------------------------------------------------------------------------------------------------


@cache
def drawn(gain: float, seed: int) -> Measurement:
    """A drawn reference read by its own fit."""
    states = draw(reference_layout(), Knobs(gain=gain), np.random.default_rng(seed))
    fit = fit_affect(states)
    return measure(score(states, fit), fit.layer, np.ones((4, 2)))


def test_emotions_of_one_kind_lie_in_the_backbone() -> None:
    """8 drawn references whose topics share their emotions: the share is 1, also where the training means are noisy (a
    gain of 0.4), whose bias is taken away; permuted words and random dimensions hold less."""
    for gain in (1.0, 0.4):
        found = [ESTIMANDS["backbone"].estimate(drawn(gain, s)) for s in range(8)]
        assert all(e.significant for e in found)
        assert sum(e.low <= 1.0 <= e.high for e in found) >= 6  # P(< 6 | 8, .95) = .006
        assert all(e.details["random"] < e.details["permuted"] < e.estimate for e in found)
    assert np.mean([e.details["axes_bias"] for e in found]) < -0.05


def test_without_emotion_there_is_no_backbone() -> None:
    """8 drawn references: at most one significant (P(> 1 | 8, .05 x P(valid)) < .06, and p alone is uniform)."""
    found = [ESTIMANDS["backbone"].estimate(drawn(0.0, s)) for s in range(8)]
    assert sum(e.significant for e in found) <= 1


def test_it_is_kept_with_the_fit_and_without_topics_that_are_lost(tmp_path: Path) -> None:
    """Through the file of the fit and through plain data; readouts that are left out take their topics with them."""
    states = draw(reference_layout(), Knobs(), np.random.default_rng(0))
    fit = fit_affect(states)
    fit.save(tmp_path / "fit.safetensors")
    again = load_fit(tmp_path / "fit.safetensors")
    assert again.backbone is not None
    own = score(states, again)
    back = FitConstants.from_json(json.loads(json.dumps(own.constants.to_json())))  # type: ignore[union-attr]
    a, b = (estimate(x) for x in (fit.backbone, back.backbone))
    assert a == b
    topic = again.backbone.topics[3]
    lost = [f"{r.item}[{r.read}]" for r in states.index.itertuples() if r.scenario == topic][:1]
    m = measure(own, again.layer, np.ones((4, 2)), without=lost)
    less = ESTIMANDS["backbone"].estimate(m)
    assert sorted(less.per_cluster) == sorted(set(a.per_cluster) - {topic})
    assert less.estimate == pytest.approx(a.estimate, abs=0.02)
    assert less.estimate != a.estimate
