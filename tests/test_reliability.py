"""Whether a trait orders models reliably, and that it is not ranked where it does not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from handmade import card, trait

from llmct_bench.leaderboards import leaderboard
from llmct_bench.leaderboards.board import RELIABLE
from llmct_bench.results import ResultCard


def reliability(cards: list[ResultCard]) -> dict[tuple[str, str], float]:
    return {(t.suite, t.estimand.name): t.reliability for t in leaderboard(cards).tables}


def simulated(between: float, within: float, models: int = 150, scenarios: int = 24, seed: int = 0) -> list[ResultCard]:
    """Models whose true values have variance ``between``, scenarios of each ``within``."""
    rng = np.random.default_rng(seed)
    own = rng.normal(0, math.sqrt(between), models)
    values = own[:, None] + rng.normal(0, math.sqrt(within), (models, scenarios))
    rows = ({f"s{i}": float(v) for i, v in enumerate(row)} for row in values)
    return [card(f"m{k}", trait(value=float(own[k]), per_cluster=row)) for k, row in enumerate(rows)]


@pytest.mark.parametrize(("between", "within"), [(1.0, 8.0), (1.0, 24.0), (0.2, 24.0)])
def test_reliability_is_the_share_of_the_variance_between_models(between: float, within: float) -> None:
    """Of the variance of a mean over 24 scenarios: b / (b + w / 24)."""
    found = reliability(simulated(between, within))
    assert found["shock@1.0.0", "dampening"] == pytest.approx(between / (between + within / 24), abs=0.1)


def test_models_that_are_alike_are_not_reliably_ordered() -> None:
    assert reliability(simulated(0.0, 1.0))["shock@1.0.0", "dampening"] < 0.4 < RELIABLE
    assert reliability(simulated(1.0, 1.0))["shock@1.0.0", "dampening"] > 0.95 > RELIABLE


def test_few_models_have_a_reliability_between_0_and_1() -> None:
    """Five models of which halves may agree by -1: stepping up each halving has a pole there."""
    found = [reliability(simulated(b, 24.0, models=5, seed=s)) for b in (0.0, 1.0) for s in range(12)]
    values = [f["shock@1.0.0", "dampening"] for f in found]
    assert min(values) >= 0.0
    assert max(values) <= 1.0
    assert np.median(values[12:]) > np.median(values[:12])


def test_reliability_is_of_valid_estimates_on_shared_scenarios() -> None:
    cards = simulated(1.0, 8.0, models=5)
    key = ("shock@1.0.0", "dampening")
    wanted = reliability(cards)[key]
    noise = {f"s{i}": 1e3 * (-1) ** i for i in range(24)}
    invalid = card("x", trait(valid=False, per_cluster=noise))
    longer = [replace(c, traits=[replace(t, per_cluster={**t.per_cluster, **extra}) for t in c.traits])
              for c, extra in zip(cards, [{"only here": 1e6}, {"or here": -1e6}, {}, {}, {}], strict=True)]  # fmt: skip
    assert reliability([*longer, invalid])[key] == pytest.approx(wanted)
    other = card("a", trait("joy_bias"), suite="circumplex@1.0.0", design="circumplex")
    both = reliability([*cards, other])
    assert both[key] == pytest.approx(wanted)
    assert math.isnan(both["circumplex@1.0.0", "joy_bias"])
    assert math.isnan(reliability(cards[:4])[key])
    assert math.isnan(reliability([invalid])[key])


def test_a_trait_that_does_not_order_the_models_is_not_ranked() -> None:
    """Neither a rank nor an interval of ranks; the estimates stay in order."""
    for cards, ranked in ((simulated(0.0, 1.0, 8), False), (simulated(4.0, 1.0, 8), True)):
        table = next(t for t in leaderboard(cards).tables if t.estimand.name == "dampening")
        assert (table.reliability >= RELIABLE) == ranked
        assert all((r.rank is not None) == ranked == (r.rank_low is not None) for r in table.rows)
        assert sorted((r.estimate.estimate for r in table.rows), reverse=True) == [
            r.estimate.estimate for r in table.rows
        ]
