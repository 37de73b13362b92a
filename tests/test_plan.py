"""The planner: exact arithmetic on token sequences, against brute force."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmct_bench.models import phantom_tokenizer
from llmct_bench.scanner import Batch, Packing, Plan, Readout, make_plan, render
from llmct_bench.scanner.trie import build_trie, chains
from llmct_bench.suites import get_suite

EVERYTHING = 10**9
tokens = st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple)
sequences = st.lists(tokens, min_size=1, max_size=30)
packings = st.one_of(
    st.none(),
    st.builds(
        Packing,
        st.sampled_from([3, 6, EVERYTHING]),
        st.sampled_from([0.0, 0.5, 2.0]),
        st.integers(1, 60),
        st.integers(0, 20),
    ),
)


@st.composite
def readouts(draw: st.DrawFn) -> list[Readout]:
    out = []
    for s in draw(sequences):
        start = draw(st.integers(0, len(s) - 1))
        out.append(Readout(s, start, draw(st.integers(start + 1, len(s)))))
    return out


def prefixes(found: list[tuple[int, ...]]) -> set[tuple[int, ...]]:
    return {s[:n] for s in found for n in range(1, len(s) + 1)}


def seen_by(batch: Batch) -> dict[int, tuple[int, ...]]:
    """For every place of a batch, in the flattened rows, the tokens that it may attend to and itself: what a causal
    model's state there depends on."""
    found = {}
    for row, given_tokens in enumerate(batch.rows):
        for i in range(len(given_tokens)):
            found[row * batch.width + i] = given_tokens[: i + 1]
    for s in batch.segments:
        past = tuple(t for a, b in s.past for t in batch.rows[0][a:b])
        assert len(past) == s.depth
        for i in range(s.start, s.stop):
            found[i] = past + batch.rows[0][s.start : i + 1]
    return found


#: A beginning that is read itself, with one branch that is packed and one that is too long for that.
_SPLIT = [Readout(t, 0, 1) for t in ((1,), (1, 1, 0), (1, 1, 1), (1, 0, 0, 0))]


@given(readouts(), st.integers(1, 60), packings)
@example(_SPLIT, 1, Packing(3, 0.0, 1))
@settings(max_examples=500, deadline=None)
def test_every_readout_is_found_exactly_once_with_its_own_past(
    given_: list[Readout], budget: int, packing: Packing | None
) -> None:
    """At every place that a readout takes its states from, the tokens that may be attended to are its own."""
    plan = make_plan(given_, budget, packing)
    numbers = []
    for batch in plan.batches:
        seen = seen_by(batch)
        for read in batch.reads:
            wanted = given_[read.index]
            places = [i for a, b in read.pieces for i in range(a, b)]
            assert [seen[i] for i in places] == [wanted.tokens[: n + 1] for n in range(wanted.start, wanted.stop)]
            assert seen[read.last] == wanted.tokens
            numbers.append(read.index)
    assert sorted(numbers) == list(range(len(given_)))


@given(readouts(), st.integers(1, 60), packings)
@settings(max_examples=300, deadline=None)
def test_budget_counts_and_determinism(given_: list[Readout], budget: int, packing: Packing | None) -> None:
    """A pass exceeds its budget only where one sequence alone does; the same input gives the same plan."""
    plan = make_plan(given_, budget, packing)
    for batch in plan.batches:
        own = packing.budget if batch.segments and packing is not None else budget
        longest = max(len(seen) for seen in seen_by(batch).values())
        assert batch.width * len(batch.rows) <= max(own, longest)
        assert not batch.segments or longest <= packing.longest
    assert plan == make_plan(given_, budget, packing)
    assert plan.minimum == len(prefixes([r.tokens for r in given_]))
    assert plan.separate == sum(len(r.tokens) for r in given_)
    assert plan.minimum <= plan.tokens <= plan.padded
    assert plan.tokens <= plan.separate


@given(readouts())
@settings(max_examples=300, deadline=None)
def test_a_row_that_holds_everything_runs_the_minimum(given_: list[Readout]) -> None:
    plan = make_plan(given_, EVERYTHING, Packing(EVERYTHING, 0.0, EVERYTHING))
    assert plan.tokens == plan.minimum


@given(sequences)
@settings(max_examples=300, deadline=None)
def test_trie_against_brute_force(found: list[tuple[int, ...]]) -> None:
    trie = build_trie(found)
    assert trie.tokens == len(prefixes(found))
    for i, node in enumerate(trie.nodes):
        assert node.parent < i
        assert node.tokens
    for sequence in found:
        path = trie.path(trie.ends[sequence])
        spelled = tuple(t for n in path for t in trie.nodes[n].tokens)
        assert spelled[: len(sequence)] == sequence
        assert trie.nodes[path[-1]].depth < len(sequence)


@given(sequences)
@settings(max_examples=300, deadline=None)
def test_chains_against_brute_force(found: list[tuple[int, ...]]) -> None:
    """Each owner begins with its sequence, and no owner is a prefix of another sequence."""
    owners = chains(found)
    for sequence, owner in zip(found, owners, strict=True):
        assert owner[: len(sequence)] == sequence
    for owner in set(owners):
        assert not any(s[: len(owner)] == owner and s != owner for s in found)


def test_a_conversation_costs_one_pass() -> None:
    """Readouts after every turn run the longest prefix only."""
    turns = [Readout(tuple(range(n)), n - 1, n) for n in (3, 7, 12, 20)]
    plan = make_plan(turns)
    assert plan.tokens == plan.minimum == 20
    assert len(plan.batches) == 1


def test_a_conversation_is_one_stretch_of_its_row() -> None:
    """The longest path comes first and whole, whatever branches off; a branch attends to one stretch of it."""
    spine = tuple(range(100, 140))
    found = [Readout(spine[:n], n - 1, n) for n in (10, 20, 30, 40)]
    found += [Readout((*spine[:n], 7, 7, 7), n, n + 3) for n in (10, 20, 30)]
    (batch,) = make_plan(found, 1024, Packing(EVERYTHING, 0.0, EVERYTHING)).batches
    assert batch.rows[0][:40] == spine
    assert [(s.start, s.stop, s.depth, s.past) for s in batch.segments] == [
        (0, 40, 0, ()),
        (40, 43, 30, ((0, 30),)),
        (43, 46, 20, ((0, 20),)),
        (46, 49, 10, ((0, 10),)),
    ]


def test_a_tree_is_packed_only_where_it_pays() -> None:
    """Ten suffixes of two tokens on a prefix of twenty: 10 segments save 9 x 20 tokens, 18 each."""
    stem = tuple(range(100, 120))
    suffixes = [Readout((*stem, n, n), 20, 22) for n in range(10)]

    def packed(worth: float, longest: int = 22) -> Plan:
        return make_plan(suffixes, 1024, Packing(longest, worth, 1024))

    assert [packed(w).tokens for w in (17.9, 18.1)] == [40, 220]
    assert packed(0.0, longest=21).tokens == 220  # longer than the window that the self-test vouches for
    assert make_plan(suffixes, 1024).tokens == 220


def test_a_tree_stays_whole_where_others_begin_a_new_row() -> None:
    """Three trees of 20 + 5 x 2 tokens: each has a row of its own where rows of 40 are asked for, two share one of 60,
    and none is torn apart by a row of 10 so long as the budget holds it."""
    suffixes = [Readout((*range(100 * t, 100 * t + 20), n, n), 20, 22) for t in (1, 2, 3) for n in range(5)]

    def rows(row: int, budget: int = 60) -> list[int]:
        return [b.width for b in make_plan(suffixes, 1024, Packing(22, 0.0, budget, row)).batches]

    assert rows(40) == rows(10) == [30, 30, 30]
    assert rows(60) == rows(0) == [60, 30]
    assert rows(0, budget=24) == rows(10, budget=24) == [24, 24, 22] * 3  # a tree that does not fit is torn


def test_shipped_suites_run_close_to_the_minimum() -> None:
    """The exact counts of the shipped suites for the phantoms' tokenizer: at most 1.05 x the unique prefixes."""
    for name in ("reference", "circumplex", "shock", "retention"):
        plan = make_plan(
            render(get_suite(name), phantom_tokenizer(), 4096).readouts, 1024, Packing(EVERYTHING, 0, 4096)
        )
        assert plan.tokens <= 1.05 * plan.minimum, name
        assert plan.padded <= 1.05 * plan.tokens, name
