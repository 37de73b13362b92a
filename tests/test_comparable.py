"""Models are compared on what all of them can read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmct_bench import evaluate, get_suite, load
from llmct_bench.benchmark import comparable
from llmct_bench.errors import ResultError
from llmct_bench.results import ResultCard, ResultStore
from llmct_bench.suites import Suite
from llmct_bench.traits import unavailable


@pytest.fixture(scope="module")
def suite() -> Suite:
    """Eight scenarios of shock."""
    return get_suite("shock").limited(8)


@pytest.fixture(scope="module")
def measured(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> tuple[ResultStore, ResultCard, ResultCard]:
    """Two phantoms on it, in one store."""
    store = ResultStore(tmp_path_factory.mktemp("results"))
    return store, *(evaluate(load(f"phantom/{n}"), [suite], store=store)[1] for n in ("absorbing", "neutral"))


def numbers(card: ResultCard) -> list[list[float]]:
    """Estimate and interval of every trait."""
    return [[t.estimate, t.low, t.high] for t in card.traits]


def test_what_one_model_cannot_read_is_left_out_for_the_other(
    measured: tuple[ResultStore, ResultCard, ResultCard], suite: Suite
) -> None:
    """As if one model could not read two scenarios: the other's estimates are those of a suite without them."""
    store, one, other = measured
    gone = suite.scenarios[2:4]
    reads = [(i, r) for i in suite.items for r in i.reads]
    short = replace(other, left_out=[f"{i.id}[{r}]" for i, r in reads if i.scenario in gone])
    first, second = comparable([one, short], store)
    smaller = replace(suite, items=tuple(i for i in suite.items if i.scenario not in gone))
    truth = evaluate(load("phantom/absorbing"), [smaller])[1]
    np.testing.assert_allclose(numbers(first), numbers(truth), rtol=1e-6, atol=1e-8)
    assert numbers(first) != numbers(one)
    assert first.not_shared == sorted(short.left_out)
    assert second == short


def test_nothing_changes_where_all_can_read_all(measured: tuple[ResultStore, ResultCard, ResultCard]) -> None:
    """The very same results come back."""
    store, one, other = measured
    assert comparable([one, other], store) == [one, other]


def test_a_model_without_a_valid_trait_takes_nothing_away(
    measured: tuple[ResultStore, ResultCard, ResultCard], suite: Suite
) -> None:
    """One that can read nothing is not compared, so the other is shown on everything."""
    store, one, other = measured
    everything = [f"{i.id}[{r}]" for i in suite.items for r in i.reads]
    blind = replace(other, left_out=everything, traits=unavailable("shock", "reads nothing"))
    assert comparable([one, blind], store) == [one, blind]


def test_missing_scores_are_said(measured: tuple[ResultStore, ResultCard, ResultCard], tmp_path: Path) -> None:
    """Without the stored scores there is no new estimate: one line says what to do."""
    _, one, other = measured
    with pytest.raises(ResultError, match="run the model on shock"):
        comparable([one, replace(other, left_out=["x[0]"])], ResultStore(tmp_path))


def test_a_phantom_says_that_it_reads_no_chinese() -> None:
    """Where a model can read no item, every trait is invalid for that reason, and no planted value stands beside it."""
    card = evaluate(load("phantom/neutral"), [get_suite("circumplex-zh").limited(2)])[1]
    assert {t.reason for t in card.traits} == {"the model can read no item (context 4096 tokens)"}
    assert (card.n_readouts, card.truth) == (0, {})
