"""States and trait scores must not depend on how the work was cut: the size of batches, the order of a suite's items,
or what stands in the padding. On a phantom with every trait planted, and on trained checkpoints where the shared
folder holds them."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from llmct_bench import LoadedModel, LoadOptions, PhantomSpec, States, Suite, certify, get_model, get_suite, load, scan
from llmct_bench.adapters import Point
from llmct_bench.affect import AffectFit, Scores, fit_affect, score
from llmct_bench.calibration.activations import WIDTH, design_layout, draw, reference_layout
from llmct_bench.calibration.study import DESIGNS, MIXED
from llmct_bench.scanner import Batch, render
from llmct_bench.traits import ESTIMANDS, Measurement, TraitEstimate, estimate_all, measure

ROOT = Path(__file__).resolve().parent.parent
MODELS = Path(os.environ.get("LLMCT_SHARED") or ROOT / ".." / "shared") / "models"
SPEC = PhantomSpec("all", "every knob", 1.3, 0.7, 0.4, 0.5, 0.6, 0.5, 90.0, tint=1.0, seed=21)
PHANTOM, STORIES, CRAFT = "phantom", "stories260k", "craftgpt"

#: How the same work is cut: tokens per pass, and whether the items come in the opposite order. The first is usual.
CUTS = {"usual": (4096, False), "small": (64, False), "large": (8192, False), "reversed": (700, True)}
CUTS |= {"smaller": (300, False)}
OTHERS = [(PHANTOM, "small"), (PHANTOM, "large"), (PHANTOM, "reversed"), (STORIES, "smaller"), (STORIES, "reversed")]
SAME = 1e-4


@cache
def loaded(name: str) -> LoadedModel:
    if name == PHANTOM:
        return load(get_model(SPEC), LoadOptions(device="cpu"))
    folder = MODELS / name
    if not (folder / "config.json").is_file():
        pytest.skip(f"no {name} in the shared folder: set LLMCT_SHARED to the folder that holds models/")
    return load(str(folder), LoadOptions(device="cpu", offline=True))


#: What the certificate allows batches and padding to change in float32, as a share of the largest value.
FLOOR = 1e-5


def reordered(suite: Suite) -> Suite:
    return replace(suite, items=suite.items[::-1])


@cache
def suites() -> tuple[Suite, ...]:
    """Phantoms are scored on the half of the circumplex that holds words of the lexicon: twice as many of it."""
    short = (get_suite(name).limited(n) for name, n in (("circumplex", 16), ("shock", 8), ("retention", 8)))
    return (get_suite("reference"), *short)


@dataclass(frozen=True)
class Job:
    """What one model gives on all suites."""

    states: dict[str, States]
    traits: dict[str, TraitEstimate]
    layer: int
    axes: Any


def measured(scores: Scores, fit: AffectFit, keyworded: bool = False) -> Measurement:
    """The measurement at the fit's layer."""
    return measure(scores, fit.layer, fit.axis_cosines, keyworded)


@cache
def job(name: str, cut: str) -> Job:
    """The benchmark's main job, with one model and without the store."""
    model, (budget, backwards) = loaded(name), CUTS[cut]
    states: dict[str, States] = {}
    traits: dict[str, TraitEstimate] = {}
    for suite in suites():
        shown = reordered(suite) if backwards else suite
        states[suite.card.design] = scan(model, shown, budget=budget)
    fit = fit_affect(states["reference"])
    for design, found in states.items():
        keyworded = name == PHANTOM and design == "circumplex"
        for e in estimate_all(measured(score(found, fit), fit, keyworded), design):
            traits[e.trait] = e
    return Job(states, traits, fit.layer.point, fit.role_cosine)


def aligned(found: States, wanted: States) -> tuple[np.ndarray, np.ndarray]:
    """Content and last states of ``found`` in the order of ``wanted``'s readouts."""
    columns = ["item", "lag", "role"]
    place = pd.Series(range(len(found.index)), pd.MultiIndex.from_frame(found.index[columns]))
    assert place.index.is_unique
    order = place.loc[pd.MultiIndex.from_frame(wanted.index[columns])].to_numpy()
    same = found.index.iloc[order].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, wanted.index)
    return found.array[order], found.last[order]


def scales(values: np.ndarray) -> np.ndarray:
    """The largest value (points) at each point or before it in the stream: a block that takes a massive activation
    away leaves its rounding errors."""
    return np.maximum.accumulate(np.abs(values).max(axis=(0, 2)))


def assert_same_states(found: States, wanted: States) -> None:
    assert found.points == wanted.points
    assert sorted(found.left_out) == sorted(wanted.left_out)
    for value, expected in zip(aligned(found, wanted), (wanted.array, wanted.last), strict=True):
        assert (np.abs(value - expected).max(axis=(0, 2)) <= FLOOR * scales(expected)).all()


def same(a: float, b: float, scale: float) -> bool:
    """Equal to 1e-4 of the larger of the numbers and of the interval's width; no number and no number are equal."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return a == b or (math.isnan(a) and math.isnan(b))
    return abs(a - b) <= SAME * max(abs(a), abs(b), scale)


def assert_same_trait(found: TraitEstimate, wanted: TraitEstimate) -> None:
    assert (found.trait, found.valid, found.reason) == (wanted.trait, wanted.valid, wanted.reason)
    assert found.n_clusters == wanted.n_clusters
    assert found.per_cluster.keys() == wanted.per_cluster.keys()
    scale = wanted.se if math.isfinite(wanted.se) else 0.0
    for name in ("estimate", "low", "high", "se"):
        a, b = getattr(found, name), getattr(wanted, name)
        assert same(a, b, scale), f"{found.trait} {name}: {a} and {b}"
    spread = max((abs(v) for v in wanted.per_cluster.values() if math.isfinite(v)), default=0.0)
    for name, value in wanted.per_cluster.items():
        assert same(found.per_cluster[name], value, spread), f"{found.trait} of {name}"


# --- the main job, cut in other ways ----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "cut"), OTHERS)
def test_states_do_not_depend_on_how_the_work_is_cut(name: str, cut: str) -> None:
    usual, other = job(name, "usual"), job(name, cut)
    for design, wanted in usual.states.items():
        assert_same_states(other.states[design], wanted)


@pytest.mark.parametrize(("name", "cut"), OTHERS)
def test_scores_do_not_depend_on_how_the_work_is_cut(name: str, cut: str) -> None:
    usual, other = job(name, "usual"), job(name, cut)
    assert other.layer == usual.layer
    assert np.allclose(other.axes, usual.axes, atol=SAME)
    assert other.traits.keys() == usual.traits.keys() == {k for k, e in ESTIMANDS.items() if not e.needs}
    for trait, wanted in usual.traits.items():
        assert_same_trait(other.traits[trait], wanted)


def test_the_cuts_are_different_and_the_scores_are_there() -> None:
    """Else the tests above would compare a run with itself, or one lack of a number with another."""
    plans = {cut: job(PHANTOM, cut).states["shock"].plan for name, cut in OTHERS if name == PHANTOM}
    plans["usual"] = job(PHANTOM, "usual").states["shock"].plan
    assert len({len(plan.batches) for plan in plans.values()}) == 4
    assert any(b.segments for b in plans["usual"].batches)  # shared beginnings run once, in packed rows
    assert max(len(b.segments) for b in plans["large"].batches) > 20
    traits = job(PHANTOM, "usual").traits
    assert sum(t.valid for t in traits.values()) >= 5, {n: t.reason for n, t in traits.items() if not t.valid}
    first = [job(PHANTOM, cut).states["shock"].index["item"][0] for cut in ("usual", "reversed")]
    assert first[0] != first[1]


@pytest.mark.parametrize("name", [PHANTOM, STORIES, CRAFT])
def test_the_certificate_holds_at_the_same_floor(name: str) -> None:
    certificate = certify(loaded(name))
    assert certificate.passed, certificate.failures()
    assert certificate.floor <= FLOOR


# --- the truth: each readout alone ------------------------------------------------------------------------------


@torch.inference_mode()
def alone(model: LoadedModel, tokens: tuple[int, ...]) -> np.ndarray:
    """transformers' own states (points but the last, tokens, width) of one text without company or padding."""
    own = model.module(input_ids=torch.tensor([tokens]), use_cache=False, output_hidden_states=True).hidden_states
    return torch.stack(own[:-1])[:, 0].float().numpy()


@pytest.mark.parametrize("name", [PHANTOM, STORIES, CRAFT])
@pytest.mark.parametrize("design", ["circumplex", "shock", "retention"])
def test_states_of_a_batch_are_those_of_each_text_alone(name: str, design: str) -> None:
    """Every twentieth readout of a short suite; learned positions (craftgpt) would show a shift by one token."""
    model, suite = loaded(name), get_suite(design).limited(2)
    rendered = render(suite, model.tokenizer, model.context)
    if not rendered.readouts:
        pytest.skip(f"nothing of {design} fits into {model.context} tokens")
    for budget in (64, 1000, 8192):
        found = scan(model, suite, rendered=rendered, budget=budget)
        scale = scales(found.last)[:-1, None]
        for n in range(0, len(rendered.readouts), 20):
            readout = rendered.readouts[n]
            own = alone(model, readout.tokens)
            mean = own[:, readout.start : readout.stop].mean(axis=1)
            assert (np.abs(found.array[n, :-1] - mean) <= FLOOR * scale).all()
            assert (np.abs(found.last[n, :-1] - own[:, -1]) <= FLOOR * scale).all()


@pytest.mark.parametrize("name", [PHANTOM, CRAFT])
@given(budget=st.integers(1, 9000), order=st.randoms(use_true_random=False))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_states_in_any_order_with_any_budget(name: str, budget: int, order: Any) -> None:
    model, suite = loaded(name), get_suite("circumplex").limited(2)
    items = list(suite.items)
    order.shuffle(items)
    assert_same_states(scan(model, replace(suite, items=tuple(items)), budget=budget), few(name))


@cache
def few(name: str) -> States:
    return scan(loaded(name), get_suite("circumplex").limited(2))


# --- padding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [PHANTOM, STORIES, CRAFT])
def test_states_do_not_depend_on_what_stands_in_the_padding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random tokens in place of zeros, through every block and both readouts."""
    model, suite = loaded(name), get_suite("circumplex").limited(8)
    monkeypatch.setattr("llmct_bench.scanner.states.packing", lambda *_: None)  # a packed row has no padding
    wanted = scan(model, suite)
    module, generator, padded = importlib.import_module("llmct_bench.scanner.capture"), np.random.default_rng(1), []
    size = model.module.config.get_text_config().vocab_size

    def pad(batch: Batch) -> torch.Tensor:
        ids = generator.integers(1, size, (len(batch.rows), batch.width))
        for i, row in enumerate(batch.rows):
            ids[i, : len(row)] = row
            padded.append(batch.width - len(row))
        return torch.from_numpy(ids)

    monkeypatch.setattr(module, "_pad", pad)
    found = scan(model, suite)
    assert sum(padded) > 30
    assert_same_states(found, wanted)


def test_states_at_chosen_points_do_not_depend_on_how_the_work_is_cut() -> None:
    model, suite = loaded(PHANTOM), get_suite("circumplex").limited(4)
    points = [Point("resid", 3), Point("mlp", 2), Point("attn", 0), Point("final_norm")]
    wanted = scan(model, suite, points=points)
    for budget in (64, 8192):
        found = scan(model, reordered(suite), points=points, budget=budget)
        assert_same_states(found, wanted)


# --- what a short context leaves ----------------------------------------------------------------------------------


def test_traits_where_no_scenario_is_whole() -> None:
    """As in a context of 64 tokens: many scenarios are left, none with all of its items. That is a reason, not a
    crash of the whole run."""
    model, suite = loaded(PHANTOM), get_suite("circumplex").limited(16)
    whole = job(PHANTOM, "usual").states["circumplex"]
    rendered = render(suite, model.tokenizer, model.context)
    kept = [n for n, row in whole.index.iterrows() if row["emotion"] != "joy" or row["intensity"] != 3]
    part = replace(
        rendered,
        readouts=tuple(rendered.readouts[n] for n in kept if n % 7),
        index=rendered.index.iloc[[n for n in kept if n % 7]].reset_index(drop=True),
    )
    fit = fit_affect(job(PHANTOM, "usual").states["reference"])
    estimates = estimate_all(measured(score(scan(model, suite, rendered=part), fit), fit), "circumplex")
    assert all(e.reason for e in estimates if not e.valid)


# --- drawn states: what must not matter -------------------------------------------------------------------------------


def drawn(change: Callable[[States], States]) -> dict[str, TraitEstimate]:
    """Every trait of a drawn phantom (24 scenarios) whose states all went through ``change``; without a head, it
    says nothing."""
    rng = np.random.default_rng(1)
    fit = fit_affect(change(draw(reference_layout(), MIXED, rng)))
    found = {}
    for design in DESIGNS:
        scores = score(change(draw(design_layout(design, 24), MIXED, rng)), fit)
        for t in estimate_all(measured(scores, fit), design):
            found[t.trait] = t
    assert not any(found.pop(name).valid for name in ("joy_output", "text_internal_gap"))
    return found


@pytest.mark.parametrize("size", [7.0, 1e-3, "rotation"])
def test_size_and_basis_of_all_states_change_no_estimate(size: float | str) -> None:
    """Scores are in units of neutral text, and the metric knows no basis."""
    turn = ortho_group.rvs(WIDTH, random_state=3) if size == "rotation" else np.eye(WIDTH) * float(size)

    def changed(s: States) -> States:
        return replace(s, array=(s.array @ turn).astype(np.float32), last=(s.last @ turn).astype(np.float32))

    usual, other = drawn(lambda s: s), drawn(changed)
    for trait, t in usual.items():
        assert other[trait].estimate == pytest.approx(t.estimate, abs=1e-4 * t.se), trait
        assert other[trait].se == pytest.approx(t.se, rel=1e-3), trait


def test_names_and_order_of_scenarios_change_no_estimate() -> None:
    """Other names, in another order: every estimate stays but that of the selectivity, whose control task is drawn, and
    every standard error but those of decisions, whose scenarios are left out in groups or folds by their order."""

    def renamed(s: States) -> States:
        if "split" in s.index and (s.index["split"] == "fit").any():
            return s
        names = s.index["scenario"].unique()
        shuffled = np.random.default_rng(2).permutation(len(names))
        new = {name: f"n{k:03d}" for name, k in zip(names, shuffled, strict=True)}
        order = np.random.default_rng(3).permutation(len(s.index))
        index = s.index.assign(scenario=s.index["scenario"].map(new)).iloc[order].reset_index(drop=True)
        return replace(s, array=s.array[order], last=s.last[order], index=index)

    usual, other = drawn(lambda s: s), drawn(renamed)
    for trait, t in usual.items():
        if trait in ("selectivity", "default_share"):
            assert other[trait].estimate == pytest.approx(t.estimate, abs=t.se), trait
            continue
        assert other[trait].estimate == pytest.approx(t.estimate, abs=1e-3 * t.se), trait
        if trait != "joy_bias":
            assert other[trait].se == pytest.approx(t.se, rel=1e-6), trait
