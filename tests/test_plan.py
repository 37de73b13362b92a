"""The planner: exact arithmetic on token sequences."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from llmct_bench.scanner import Readout, make_plan
from llmct_bench.scanner.plan import chains

tokens = st.lists(st.integers(0, 3), min_size=1, max_size=9).map(tuple)


@st.composite
def readouts(draw: st.DrawFn) -> list[Readout]:
    sequences = draw(st.lists(tokens, min_size=1, max_size=40))
    out = []
    for s in sequences:
        start = draw(st.integers(0, len(s) - 1))
        out.append(Readout(s, start, draw(st.integers(start + 1, len(s)))))
    return out


@given(readouts(), st.integers(1, 60))
@settings(max_examples=300, deadline=None)
def test_every_readout_is_found_exactly_once_where_the_plan_says(given_: list[Readout], budget: int) -> None:
    """Looking the tokens up in the planned rows gives back the readout's own tokens, whatever the budget."""
    plan = make_plan(given_, budget)
    seen = []
    for batch in plan.batches:
        for read in batch.reads:
            wanted = given_[read.index]
            assert batch.rows[read.row][: read.last + 1] == wanted.tokens
            assert (read.start, read.stop) == (wanted.start, wanted.stop)
            seen.append(read.index)
    assert sorted(seen) == list(range(len(given_)))


@given(st.lists(tokens, min_size=1, max_size=40))
@settings(max_examples=300, deadline=None)
def test_chains_against_brute_force(sequences: list[tuple[int, ...]]) -> None:
    """Each owner begins with its sequence, and no owner is a prefix of another sequence."""
    owners = chains(sequences)
    for sequence, owner in zip(sequences, owners, strict=True):
        assert owner[: len(sequence)] == sequence
    for owner in set(owners):
        assert not any(s[: len(owner)] == owner and s != owner for s in sequences)


@given(readouts(), st.integers(1, 60))
@settings(max_examples=200, deadline=None)
def test_budget_and_determinism(given_: list[Readout], budget: int) -> None:
    """A pass exceeds the budget only where one sequence alone does; the same input gives the same plan."""
    plan = make_plan(given_, budget)
    for batch in plan.batches:
        assert batch.width * len(batch.rows) <= max(budget, batch.width)
    assert plan == make_plan(given_, budget)
    assert plan.tokens <= plan.padded


def test_a_conversation_costs_one_pass() -> None:
    """Readouts after every turn run the longest prefix only."""
    prefixes = [Readout(tuple(range(n)), n - 1, n) for n in (3, 7, 12, 20)]
    plan = make_plan(prefixes)
    assert plan.tokens == 20
    assert len(plan.batches) == 1
