"""Where there is nothing to find: shuffled labels, and compiled phantoms seed by seed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps

from llmct_bench import evaluate, get_suite, load
from llmct_bench.calibration import seeds, study
from llmct_bench.calibration.activations import Knobs, design_layout, draw, reference_layout
from llmct_bench.calibration.performance import truths
from llmct_bench.calibration.report import Certificate, to_markdown
from llmct_bench.calibration.seeds import Rejections, rejections, run_seeds
from llmct_bench.calibration.shuffle import shuffled, shuffled_rows
from llmct_bench.calibration.study import MIXED, Cell, replicate
from llmct_bench.models import PANEL, get_model, phantom_tokenizer
from llmct_bench.scanner import render
from llmct_bench.traits import ESTIMANDS

DESIGNS = ("reference", "circumplex", "shock", "retention")
#: What a label may change hands among: items that are alike in all of this.
ALIKE = {
    "reference": ["scenario", "role", "read"],
    "circumplex": ["scenario", "role", "keyworded", "read"],
    "shock": ["scenario", "role", "context", "read"],
    "retention": ["scenario", "role", "filler", "read"],
}


def designs(design: str) -> list[pd.DataFrame]:
    """The readouts of a design as it is drawn, and as the shipped suite has it."""
    drawn = reference_layout() if design == "reference" else design_layout(design, 7)
    shipped = render(get_suite(design).limited(6), phantom_tokenizer(), 4096)
    return [drawn.index, shipped.index]


# --- shuffled labels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", DESIGNS)
def test_labels_change_hands_among_like_items(design: str) -> None:
    """Every state is given to one readout, of the same scenario, slot and turn; what is neutral in the reference and
    the circumplex stays; the same seed gives the same order, another another."""
    for index in designs(design):
        rows = shuffled_rows(index, np.random.default_rng(3))
        assert sorted(rows) == list(range(len(index)))
        own, given = (index.iloc[r][ALIKE[design]].reset_index(drop=True) for r in (np.arange(len(index)), rows))
        pd.testing.assert_frame_equal(own, given)
        if design in ("reference", "circumplex"):
            neutral = np.flatnonzero(index["emotion"] == "neutral")
            assert len(neutral) > 0
            assert np.array_equal(rows[neutral], neutral)
            assert (rows != np.arange(len(index)))[index["emotion"] != "neutral"].mean() > 0.8
        assert np.array_equal(rows, shuffled_rows(index, np.random.default_rng(3)))
        assert not np.array_equal(rows, shuffled_rows(index, np.random.default_rng(4)))


def test_an_episode_stays_whole() -> None:
    """All lags of an opening are given to the same opening, its own or its twin's, each about every other time."""
    for index in designs("retention"):
        swaps = []
        for seed in range(20):
            rows = shuffled_rows(index, np.random.default_rng(seed))
            given = pd.Series(index["item"].to_numpy()[rows]).groupby(index["item"].to_numpy())
            assert (given.nunique() == 1).all()
            swaps += [item != other for item, other in given.first().items()]
        assert sps.binomtest(sum(swaps) // 2, len(swaps) // 2).pvalue > 1e-4  # both of a pair move, or none


def test_every_order_is_as_likely() -> None:
    """Doses of a shock: each of the four states comes to each dose, the one without a shock included, as often as to
    another one; emotions: each of twelve to each of twelve. Chi-squared over many orders."""
    for design, items in (("shock", 4), ("circumplex", 12)):
        index = design_layout(design, 40).index
        if design == "circumplex":
            index = index[index["emotion"] != "neutral"].reset_index(drop=True)
        place = np.arange(len(index)) % items
        table = np.zeros((items, items))
        for seed in range(40):
            rows = shuffled_rows(index, np.random.default_rng(seed))
            np.add.at(table, (place, place[rows]), 1)
        expected = table.sum() / items**2
        p = sps.chi2.sf(((table - expected) ** 2 / expected).sum(), (items - 1) ** 2)
        assert p > 1e-4


def test_states_move_and_the_design_stays() -> None:
    """Both readouts of a state move together; the index is the same."""
    states = draw(design_layout("shock", 3), Knobs(), np.random.default_rng(1))
    states = replace(states, last=states.array + 1)
    found = shuffled(states, np.random.default_rng(2))
    assert found.index is states.index
    np.testing.assert_array_equal(found.last, found.array + 1)
    np.testing.assert_array_equal(np.sort(found.array, axis=0), np.sort(states.array, axis=0))
    assert not np.array_equal(found.array, states.array)


def test_shuffled_labels_know_of_no_emotion() -> None:
    """The truth in a shuffled cell: emotions are not told apart, and nothing else exists. The phantom is the mixed one,
    at every size."""
    cells = [c for c in study.cells() if c.shuffled]
    assert [(c.name, c.knobs, c.scenarios) for c in cells] == [(f"shuffled-{n}", MIXED, n) for n in (24, 96, 192)]
    found = dict(truths(cells[0]))
    assert found.pop("separability") == found.pop("selectivity") == found.pop("persona_offset") == 0.0
    assert all(np.isnan(v) for v in found.values())


def test_shuffled_labels_find_nothing_in_a_phantom_full_of_emotion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under their labels emotions are told apart; under shuffled ones the distance is below 0 or above it in eight data
    sets, and (nearly) never significant; nor is anything else of the circumplex and of shocks."""
    monkeypatch.setattr(study, "DESIGNS", ("circumplex", "shock"))
    cell = Cell("shuffled-12", MIXED, 12, shuffled=True)
    mixed = [replicate(cell, s) for s in range(8)]
    plain = [replicate(replace(cell, shuffled=False), s) for s in range(2)]

    def significant(found: list[dict[str, Any]], trait: str) -> int:
        return sum(valid == 1 and p is not None and p <= 0.05 for _, _, _, p, valid, _ in (r[trait] for r in found))

    assert significant(plain, "separability") == 2
    assert all(r["separability"][5] == 0.0 for r in mixed)
    assert {r["separability"][0] > 0 for r in mixed} == {True, False}
    counts = {trait: significant(mixed, trait) for trait in mixed[0]}
    assert max(counts.values()) <= 3  # 4 of 8 at .05: p = .0004
    assert sum(counts.values()) <= 5


# --- compiled phantoms ------------------------------------------------------------------------------------------


#: A phantom that several tests read is read once.
read_once = cache(seeds.states)


@pytest.fixture
def shocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Seeds with the suite of shocks only, cut down to six scenarios."""
    monkeypatch.setattr(seeds, "DESIGNS", ("shock",))
    monkeypatch.setattr(seeds, "SCENARIOS", 6)
    monkeypatch.setattr(seeds, "states", read_once)
    made = (seeds._suites, seeds._rendered)
    for f in made:
        f.cache_clear()
    yield
    for f in made:
        f.cache_clear()


@pytest.mark.usefixtures("shocks")
def test_a_seed_is_measured_as_a_run_measures_it() -> None:
    """The joyful phantom as the main job evaluates it: the same numbers, but for the rounding of projections."""
    spec = next(s for s in PANEL if s.name == "joyful")
    found = seeds.traits(seeds.states(spec))
    (result,) = [
        r for r in evaluate(load(get_model("phantom/joyful")), [get_suite("shock").limited(6)]) if r.design == "shock"
    ]
    assert set(found) == {t.trait for t in result.traits} == {"dampening", "persona_offset", "shock_absorption"}
    for t in result.traits:
        wanted = [t.estimate, t.low, t.high, t.p_value, float(t.valid)]
        assert found[t.trait][:5] == pytest.approx(wanted, rel=2e-3, abs=2e-3)


@pytest.mark.usefixtures("shocks")
def test_seeds_are_made_once_and_differ(tmp_path: Path) -> None:
    """Two seeds of both runs in strict JSON, all different; a torn line and a line of another method are made again;
    what is there is neither changed nor made again, and other phantoms are never read for nothing."""
    told: list[int] = []
    run_seeds(tmp_path, 2, told.append)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["seeds-shuffled.jsonl", "seeds-zero-emotion.jsonl"]
    rows = {run: seeds.read(tmp_path, run) for run in seeds.RUNS}
    assert told == [0, 1, 1, 0, 1, 1]
    for own in rows.values():
        assert [r["seed"] for r in own] == [0, 1]
        assert set(own[0]["traits"]) == {"dampening", "persona_offset", "shock_absorption"}
    estimates = [r["traits"]["shock_absorption"][0] for own in rows.values() for r in own]
    assert len(set(estimates)) == 4
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    run_seeds(tmp_path, 2)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    path = tmp_path / "seeds-shuffled.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(first.replace(f'"method": {study.METHOD}', '"method": 0') + "\n" + second[:-9])
    assert seeds.read(tmp_path, "shuffled") == []
    run_seeds(tmp_path, 2)
    assert seeds.read(tmp_path, "shuffled") == rows["shuffled"]


def line(run: str, seed: int, estimate: list[float | None]) -> str:
    """A seed in which all traits have the same numbers."""
    traits = dict.fromkeys(ESTIMANDS, estimate)
    return json.dumps({"seed": seed, **seeds._condition(run), "traits": traits}) + "\n"


def test_rejections_by_hand(tmp_path: Path) -> None:
    """Twelve seeds: five valid, of which two have p ≤ .05; p of an invalid one does not count, nor does one that is not
    known. The interval is Clopper and Pearson's, by quantiles of the beta distribution."""
    p_valid = [(0.01, 1.0), (0.05, 1.0), (0.2, 1.0), (None, 1.0), (0.9, 1.0)] + [(0.001, 0.0)] * 7
    text = "".join(line("zero-emotion", s, [0.1, 0.0, 0.2, p, v, None]) for s, (p, v) in enumerate(p_valid))
    (tmp_path / "seeds-zero-emotion.jsonl").write_text(text)
    found = rejections(tmp_path)
    assert [(r.run, r.trait) for r in found] == [("zero-emotion", t) for t in ESTIMANDS]
    low, high = sps.beta.ppf(0.025, 2, 11), sps.beta.ppf(0.975, 3, 10)
    for r in found:
        assert (r.seeds, r.valid, r.rejected) == (12, 5, 2)
        assert (r.low, r.high) == pytest.approx((low, high))
        assert not r.beyond  # .021 to .484
    assert rejections(tmp_path / "elsewhere") == []


def test_the_page_tells_what_was_found_by_chance() -> None:
    """10 of 200 are what .05 is; 30 of 200 are surely more, and marked; nothing of that without seeds."""

    def rejected(k: int) -> tuple[float, float]:
        interval = sps.binomtest(k, 200).proportion_ci()
        return interval.low, interval.high

    usual = Rejections("zero-emotion", "dampening", 200, 120, 10, *rejected(10))
    many = Rejections("shuffled", "dampening", 200, 190, 30, *rejected(30))
    page = to_markdown(Certificate(seeds=[usual, many]))
    rows = [[c.strip() for c in row.strip("|").split("|")] for row in page.splitlines() if "dampening" in row]
    assert rows == [
        ["zero emotion", "dampening", "200", "120", "10", "0.024 to 0.090"],
        ["shuffled labels", "dampening", "200", "190", "**30** beyond", "0.104 to 0.207"],
    ]
    assert "1 of 2 shares lies surely above" in " ".join(page.split())
    assert "where there is nothing" not in to_markdown(Certificate())
    assert asdict(many)["rejected"] == 30
