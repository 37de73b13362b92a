"""Noise floors of traits, and the command that prints them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from handmade import Cli

from llmct_bench import LoadedModel, LoadOptions, Suite, get_suite, load, scan
from llmct_bench.affect import AffectFit, fit_affect
from llmct_bench.calibration import floor as flooring
from llmct_bench.calibration.floor import Floor, noise_floor
from llmct_bench.commands import calibration as command
from llmct_bench.errors import SuiteError
from llmct_bench.models import get_model
from llmct_bench.traits import ESTIMANDS

PHANTOM = "phantom/neutral"


@cache
def model(dtype: str = "float32") -> LoadedModel:
    return load(get_model(PHANTOM), LoadOptions("cpu", dtype))


@cache
def fit() -> AffectFit:
    return fit_affect(scan(model(), get_suite("reference")))


@cache
def suites() -> tuple[Suite, ...]:
    """Twelve scenarios that a phantom reads in each."""
    return tuple(get_suite(name).limited(n) for name, n in (("circumplex", 28), ("shock", 14)))


@cache
def floors() -> dict[str, Floor]:
    return noise_floor(model(), suites(), fit(), splits=2)


# --- noise floors ---------------------------------------------------------------------------------------------------


def test_other_passes_change_nothing_that_could_be_seen() -> None:
    """A ten-thousandth of the standard error, or a millionth: a phantom's words differ by hardly more."""
    found = floors()
    assert list(found) == [e.name for e in ESTIMANDS.values() if e.design in ("circumplex", "shock") and not e.needs]
    for name, f in found.items():
        assert f.trait == name
        assert f.suite.startswith(ESTIMANDS[name].design)
        assert math.isfinite(f.estimate)
        assert not f.rounding > max(1e-4 * f.se, 1e-6)
    assert sum(f.rounding > 0 for f in found.values()) >= 3  # the passes were other ones


def test_half_precision_is_a_change_that_can_be_seen_and_stays_outside_of_the_model() -> None:
    found = floors()
    counted = ("default_share", "selectivity", "text_internal_gap")  # shares of decisions need not move
    assert all(f.dtype > 10 * f.rounding for n, f in found.items() if n not in counted)
    assert model().dtype == "float32"
    half = noise_floor(model("bfloat16"), suites()[1:], fit(), budgets=(), splits=0)
    assert all(math.isnan(f.dtype) and math.isnan(f.rounding) and math.isnan(f.forms) for f in half.values())


def test_parallel_forms_of_a_mean_have_its_standard_error() -> None:
    """Of n numbers with variance s^2, the difference of the means of random halves has variance 4 s^2 / n, so half of
    it is s / sqrt(n): exact for shock absorption, which is a mean, and near that for dampening, a ratio."""
    found = noise_floor(model(), suites()[1:], fit(), budgets=(), splits=24)
    assert found["shock_absorption"].forms == pytest.approx(found["shock_absorption"].se, rel=0.25)
    assert found["dampening"].forms == pytest.approx(found["dampening"].se, rel=0.5)


def test_the_worst_of_the_passes_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One budget of several that changes the assistant's scores is found, by as much as it changes the trait."""
    usual = flooring._scores
    budgets = []

    def wrong(model: Any, suite: Suite, fit: Any, budget: int | None, progress: Any) -> Any:
        scores = usual(model, suite, fit, budget, progress)
        budgets.append(budget)
        gain = np.where(scores.index["role"] == "assistant", 1.1 if budget == 700 else 1.0, 1.0)
        return replace(scores, values=scores.values * gain[:, None, None])

    monkeypatch.setattr(flooring, "_scores", wrong)
    found = noise_floor(model(), suites()[1:], fit(), budgets=(500, 700, 4000), splits=0)["dampening"]
    assert budgets == [None, 500, 700, 4000, None]
    assert found.rounding == pytest.approx(0.1 * (1 - found.estimate), rel=1e-3)


def test_too_few_scenarios_have_no_parallel_forms() -> None:
    found = noise_floor(model(), [get_suite("shock").limited(8)], fit(), budgets=(), splits=3)
    assert all(math.isnan(f.forms) for f in found.values())
    assert all(math.isfinite(f.estimate) for f in found.values())


def test_one_suite_a_design() -> None:
    with pytest.raises(SuiteError, match=r"one suite a design: shock@\S+, shock@\S+$"):
        noise_floor(model(), [suites()[1], get_suite("shock")], fit())


def test_a_suite_that_cannot_be_read_has_no_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    own = fit()
    monkeypatch.setattr(model().module.config, "max_position_embeddings", 8)
    found = noise_floor(model(), suites(), own)
    assert len(found) == sum(e.design in ("circumplex", "shock") and not e.needs for e in ESTIMANDS.values())
    for f in found.values():
        assert not f.valid
        assert "context 8 tokens" in f.reason
        assert all(math.isnan(v) for v in (f.estimate, f.rounding, f.dtype, f.forms))


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One suite, few passes."""
    monkeypatch.setattr(command, "_SUITES", ("shock",))
    monkeypatch.setattr(flooring, "noise_floor", partial(noise_floor, budgets=(700,), splits=2))
    monkeypatch.setattr("llmct_bench.evaluation.fitted", lambda name, options: (load(name, options), fit()))


@pytest.mark.usefixtures("quick")
def test_the_command_prints_what_it_found(cli: Cli) -> None:
    done = cli("spike", PHANTOM, "--limit", 6, "--device", "cpu")
    assert done.code == 0, done.err
    assert "1.000000 [1.000000, 1.000000]" in done.out
    lines = [line.split() for line in done.out.splitlines()]
    plants = {tuple(w[:2]): w for w in lines if w[:1] in (["dampened"], ["absorbing"])}
    assert plants["dampened", "dampening"][3] == "0.300"
    assert float(plants["dampened", "dampening"][-1]) == pytest.approx(0.3, abs=1e-5)
    assert float(plants["absorbing", "shock_absorption"][-1]) == pytest.approx(1.0, abs=1e-5)
    assert any(w[:2] == ["dampening", "shock@1.0.0~limit6"] for w in lines)


@pytest.mark.usefixtures("quick")
def test_the_command_gives_strict_json(cli: Cli) -> None:
    done = cli("spike", PHANTOM, "--limit", 6, "--device", "cpu", "--json")
    assert done.code == 0, done.err
    found = done.json
    assert set(found) == {"spike", "planted", "floor"}
    at = [r for r in found["spike"]["responses"] if r["planted"] == r["read"]]
    assert at
    assert all(abs(r["slope"]["estimate"] - 1) < 1e-5 for r in at)
    assert found["floor"]["dampening"]["forms"] is None  # six scenarios have no halves
    assert {p["trait"] for p in found["planted"]} == {"dampening", "shock_absorption"}


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("phantom/neutrel",), 1, "did you mean phantom/neutral"),
        (("/no/such/folder",), 1, "no config.json there"),
        ((PHANTOM, "--dtype", "int3"), 1, "unknown dtype 'int3'"),
        ((PHANTOM, "--limit", 3), 2, "at least 6"),
        ((), 2, "Missing argument"),
    ],
)
def test_bad_input_is_one_line(cli: Cli, arguments: tuple[Any, ...], code: int, line: str) -> None:
    done = cli("spike", *arguments)
    assert done.code == code
    assert line in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert code == 2 or done.err.count("error:") == 1
    assert torch.is_inference_mode_enabled() is False
