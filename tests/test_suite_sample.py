"""Sampling foreign data sets: the draw depends on the texts and the seed alone, is balanced, and refuses what it does
not understand."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from llmct_bench.errors import SuiteError
from llmct_bench.suites import Item
from llmct_bench.suites.sample import by_ratings, sample
from llmct_bench.suites.source import Ratings, Source

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LABELS = {"0": "joy", "1": "anger", "2": "sadness", "3": "neutral"}
Rows = list[dict[str, Any]]


def source(**changes: Any) -> Source:
    """Labelled texts of a repository."""
    facts: dict[str, Any] = {"repo": "someone/feelings", "revision": COMMIT, "labels": LABELS, "words": (1, 60)}
    facts |= {"columns": {"text": "text", "label": "label"}, "sample": {"blocks": 5}}
    return Source.model_validate({**facts, **changes})


def rated(**changes: Any) -> Source:
    """Rated texts, from 0 to 8: steps of a rating are exact in binary."""
    facts: dict[str, Any] = {"labels": {}, "columns": {"text": "text", "valence": "V", "arousal": "A"}}
    return source(**{**facts, "ratings": {"low": 0, "high": 8, "margin": 0.25}, **changes})


def texts(items: list[Item], emotion: str = "") -> list[str]:
    """The texts of an emotion in order of the blocks; of all without one."""
    return [i.messages[0].content for i in items if emotion in ("", i.emotion)]


def many(n: int, labels: tuple[int, ...] = (0, 1, 2, 3)) -> Rows:
    """``n`` different texts of each label, label after label."""
    return [{"text": f"text number {k} of label {label}", "label": label} for label in labels for k in range(n)]


#: few words, so that equal texts and texts that differ in case or blanks come up
some_text = st.lists(st.sampled_from(["a", "b", "B", " c", "d\n"]), min_size=1, max_size=4).map(" ".join)
some_rows = st.lists(
    st.fixed_dictionaries({"text": some_text, "label": st.integers(0, 4), "author": st.sampled_from("uvwxyz")}),
    max_size=30,
).map(lambda rows: rows + [{**r, "author": r["text"]} for r in many(1)])


# --- the draw ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(data=st.data(), rows=some_rows, clustered=st.booleans(), seed=st.integers(0, 3))
def test_the_order_of_the_rows_makes_no_difference(data: st.DataObject, rows: Rows, clustered: bool, seed: int) -> None:
    """Any permutation of any rows gives the same items, with and without clusters."""
    columns = {"text": "text", "label": "label", **({"cluster": "author"} if clustered else {})}
    chosen = source(columns=columns, sample={"blocks": 3, "seed": seed})
    assert sample(data.draw(st.permutations(rows)), chosen) == sample(rows, chosen)


@settings(deadline=None, max_examples=60)
@given(rows=some_rows, clustered=st.booleans())
def test_more_blocks_keep_the_earlier_texts(rows: Rows, clustered: bool) -> None:
    """Of every emotion the texts of a shorter draw are the first of a longer one."""
    columns = {"text": "text", "label": "label", **({"cluster": "author"} if clustered else {})}
    draws = [sample(rows, source(columns=columns, sample={"blocks": b})) for b in range(1, 8)]
    for short, long in pairwise(draws):
        assert long[: len(short)] == short
        for emotion in LABELS.values():
            assert texts(long, emotion)[: len(texts(short, emotion))] == texts(short, emotion)


@settings(deadline=None, max_examples=60)
@given(rows=some_rows, blocks=st.integers(1, 6))
def test_blocks_are_balanced(rows: Rows, blocks: int) -> None:
    """A block holds one text of every emotion; ids are unique; there are as many blocks as asked for, or as the rarest
    emotion has texts."""
    items = sample(rows, source(sample={"blocks": blocks}))
    cells = Counter((i.scenario, i.emotion) for i in items)
    scenarios = list(dict.fromkeys(i.scenario for i in items))
    assert cells == {(s, e): 1 for s in scenarios for e in LABELS.values()}
    assert len({i.id for i in items}) == len(items)
    holders: dict[str, set[str]] = {}
    for row in rows:
        holders.setdefault(" ".join(row["text"].lower().split()), set()).add(LABELS.get(str(row["label"]), ""))
    clear = Counter(e for found in holders.values() if len(found - {""}) == 1 for e in found - {""})
    unclear = sum(len(found - {""}) > 1 for found in holders.values())  # one text, several labels: either is right
    rarest = min(clear[e] for e in LABELS.values())
    assert min(blocks, rarest) <= len(scenarios) <= min(blocks, rarest + unclear)


@settings(deadline=None, max_examples=60)
@given(rows=some_rows)
def test_equal_texts_count_once(rows: Rows) -> None:
    """Texts that differ in case or blanks alone are one text, and every text is that of a row with its label."""
    items = sample(rows, source(sample={"blocks": 30}))
    drawn = [t.lower() for t in texts(items)]
    assert len(set(drawn)) == len(drawn)
    known = {(" ".join(r["text"].split()), LABELS.get(str(r["label"]))) for r in rows}
    assert {(i.messages[0].content, i.emotion) for i in items} <= known


@settings(deadline=None, max_examples=60)
@given(authors=st.lists(st.integers(0, 9), min_size=24, max_size=24))
def test_one_row_a_cluster_at_most(authors: list[int]) -> None:
    """However rows fall on clusters, no cluster gives two texts."""
    rows = [{**row, "author": a} for row, a in zip(many(6), authors, strict=True)]
    rows += [{"text": f"one more of {k}", "label": k, "author": f"own {k}"} for k in range(4)]
    by_text = {row["text"]: row["author"] for row in rows}
    columns = {"text": "text", "label": "label", "cluster": "author"}
    items = sample(rows, source(columns=columns, sample={"blocks": 24}))
    drawn = [by_text[t] for t in texts(items)]
    assert len(set(drawn)) == len(drawn) >= 4


def test_seeds_draw_different_texts() -> None:
    """Two seeds choose differently among many, and order the same few differently."""
    rows = many(40)
    some, others = (texts(sample(rows, source(sample={"blocks": 8, "seed": s}))) for s in (0, 1))
    assert set(some) != set(others)
    every, again = (texts(sample(rows, source(sample={"blocks": 40, "seed": s}))) for s in (0, 1))
    assert every != again
    assert set(every) == set(again) == {r["text"] for r in rows}


def test_the_draw_does_not_favour_the_front() -> None:
    """Of 2 000 rows in order 500 are drawn: those of the first half are half of them, within five standard errors."""
    rows = many(2000, labels=(0,))
    chosen = source(labels={"0": "joy"}, sample={"blocks": 500})
    place = {row["text"]: n for n, row in enumerate(rows)}
    front = sum(place[t] < 1000 for t in texts(sample(rows, chosen)))
    assert abs(front - 250) < 5 * (500 * 0.25 * (1500 / 1999)) ** 0.5


def test_rows_may_come_one_by_one() -> None:
    """A stream gives what a list gives."""
    assert sample(iter(many(20)), source()) == sample(many(20), source())


def test_items_are_what_a_scan_needs() -> None:
    """One message of the user, read; foreign labels count as clear, neutral as none; the texts are not keyworded."""
    for item in sample(many(6), source()):
        assert ([m.role for m in item.messages], item.reads, item.split) == (["user"], (0,), "test")
        assert item.intensity == (0 if item.emotion == "neutral" else 2)
        assert not item.keyworded
        assert (item.twin, item.valence, item.arousal) == ("", None, None)


@pytest.mark.parametrize(("words", "kept"), [((1, 60), 8), ((3, 5), 3), ((3, 3), 1), ((8, 8), 1), ((9, 60), 0)])
def test_texts_outside_of_the_word_limits_are_not_used(words: tuple[int, int], kept: int) -> None:
    """Both limits belong to what is kept; blanks at the ends and between words do not count."""
    rows = [{"text": "  " + " \n ".join(f"w{k}" for k in range(n)) + " ", "label": 0} for n in range(1, 9)]
    chosen = source(labels={"0": "joy"}, words=words, sample={"blocks": 100})
    if not kept:
        with pytest.raises(SuiteError, match="no text of joy"):
            sample(rows, chosen)
        return
    drawn = texts(sample(rows, chosen))
    assert len(drawn) == kept
    assert all(words[0] <= len(t.split(" ")) <= words[1] for t in drawn)


def test_missing_texts_are_not_used() -> None:
    """Empty cells, and cells without a value, are no texts."""
    rows = [*many(2), *({"text": t, "label": 0} for t in (None, "", "  "))]
    assert len(sample(rows, source(sample={"blocks": 9}))) == 8


def test_a_text_without_a_word_cannot_be_asked_for() -> None:
    """A lower limit of 0 is refused: an empty message is no item."""
    with pytest.raises(ValidationError, match="at least 1"):
        source(words=(0, 60))


# --- labels -----------------------------------------------------------------------------------------------------

MERGED = {"17": "joy", "13": "joy", "2": "anger", "27": "neutral"}
CELLS: list[tuple[Any, str]] = [
    (17, "joy"),
    ("17", "joy"),
    ([17], "joy"),
    ((17,), "joy"),
    ([17, 13], "joy"),
    ([17, 17], "joy"),
    (["2"], "anger"),
    ([17, 2], ""),
    ([17, 27], ""),
    ([17, 5], ""),
    (5, ""),
    ([], ""),
    (None, ""),
    ("17,13", ""),
]


def emotion_of(cell: Any, chosen: Source, names: dict[str, str] | None = None) -> str:
    """The emotion that a row with this cell gets, beside one sound row of every emotion."""
    sure = {"joy": 17, "anger": 2, "neutral": 27}
    label = chosen.columns.label
    rows = [{"text": f"sure {e}", label: [k]} for e, k in sure.items()] + [{"text": "the row", label: cell}]
    found = [i.emotion for s in range(40) for i in sample(rows, with_seed(chosen, s), names) if is_the_row(i)]
    assert len(set(found)) <= 1
    return found[0] if found else ""


def with_seed(chosen: Source, seed: int) -> Source:
    """The same with one block and another seed: over seeds each of two texts of an emotion comes to be drawn."""
    return Source.model_validate({**chosen.model_dump(), "sample": {"blocks": 1, "seed": seed}})


def is_the_row(item: Item) -> bool:
    return item.messages[0].content == "the row"


@pytest.mark.parametrize(("cell", "emotion"), CELLS, ids=lambda v: repr(v))
def test_several_labels_count_when_all_map_to_one_emotion(cell: Any, emotion: str) -> None:
    """One label or a list; labels of several emotions, and labels that are not mapped, take the row out."""
    assert emotion_of(cell, source(labels=MERGED)) == emotion


@pytest.mark.parametrize(
    ("cell", "emotion"),
    [("17", "joy"), ("17, 13", "joy"), (" 17 ,13 ", "joy"), ("17, 2", ""), ("17, 5", ""), ("", ""), (None, "")],
)
def test_labels_in_a_text_are_split_at_the_separator(cell: Any, emotion: str) -> None:
    """Blanks around the labels do not matter."""
    columns = {"text": "text", "label": "label", "separator": ","}
    assert emotion_of(cell, source(labels=MERGED, columns=columns)) == emotion


@pytest.mark.parametrize(
    "labels", [{"17": "joy", "2": "anger"}, {"gladness": "joy", "wrath": "anger"}, {"17": "joy", "wrath": "anger"}]
)
def test_names_may_stand_for_numbers(labels: dict[str, str]) -> None:
    """A map by number, by name or by both draws the same items."""
    rows = [{"text": f"text {n}", "label": [17, 2, 5][n % 3]} for n in range(30)]
    names = {"17": "gladness", "2": "wrath", "5": "surprise"}
    found = sample(rows, source(labels=labels, sample={"blocks": 10}), names)
    assert found == sample(rows, source(labels={"17": "joy", "2": "anger"}, sample={"blocks": 10}))
    assert len(found) == 20


def test_yaml_numbers_are_labels() -> None:
    """``{0: joy}`` of a card is the label 0 of a column, as number and as text."""
    assert source(labels={0: "joy", 1: "anger"}).labels == {"0": "joy", "1": "anger"}


def test_a_text_with_two_labels_has_the_same_one_every_time() -> None:
    """Of rows with one text and different labels the same counts, whichever comes first."""
    double = [{"text": "the row", "label": k} for k in (0, 1)]
    drawn = [
        sample([*rows, *many(1, (0, 1))], source(labels={"0": "joy", "1": "anger"})) for rows in (double, double[::-1])
    ]
    assert drawn[0] == drawn[1]


def test_further_emotions_are_drawn_too() -> None:
    """Whatever the map names is an emotion of the suite."""
    items = sample(many(3), source(labels={0: "joy", 1: "fear", 2: "disgust", 3: "love"}))
    assert Counter(i.emotion for i in items) == dict.fromkeys(("joy", "fear", "disgust", "love"), 3)


# --- ratings ----------------------------------------------------------------------------------------------------

#: V and A from 0 to 8, the emotion by hand: at 5 and 3 the distance from the middle is a quarter of the way (the
#: margin), between 3.5 and 4.5 it is below half of the margin
QUADRANTS = [
    (8, 8, "joy"),
    (5, 5, "joy"),
    (0, 8, "anger"),
    (3, 5, "anger"),
    (0, 0, "sadness"),
    (3, 3, "sadness"),
    (8, 0, "calm"),
    (5, 3, "calm"),
    (4, 4, "neutral"),
    (4.4, 3.6, "neutral"),
    (4.5, 4, ""),
    (4, 3.5, ""),
    (4.9, 8, ""),
    (8, 4, ""),
    (4, 0, ""),
    (4.9, 4.9, ""),
]


@pytest.mark.parametrize(("valence", "arousal", "emotion"), QUADRANTS)
def test_ratings_fall_into_quadrants(valence: float, arousal: float, emotion: str) -> None:
    """The sign of both is the emotion at the margin and beyond it; the middle is neutral; what lies between is not
    used. The ratings of an item run from -1 to +1."""
    rule = Ratings(low=0, high=8, margin=0.25)
    assert by_ratings(valence / 4 - 1, arousal / 4 - 1, rule) == emotion
    row = {"text": "the row", "V": valence, "A": str(arousal)}
    corners = [{"text": f"corner {v} {a}", "V": v, "A": a} for v in (0, 8) for a in (0, 8)]
    items = [i for s in range(40) for i in sample([*corners, row], with_seed(rated(), s)) if is_the_row(i)]
    assert {i.emotion for i in items} == ({emotion} if emotion else set())
    for item in items:
        assert (item.valence, item.arousal) == (valence / 4 - 1, arousal / 4 - 1)


@pytest.mark.parametrize(
    ("valence", "arousal", "emotion"),
    [(3.2, 3.2, "joy"), (2.8, 3.2, "anger"), (2.8, 2.8, "sadness"), (3.2, 2.8, "calm"), (3.19, 3.2, "")],
)
def test_the_margin_holds_for_decimal_ratings(valence: float, arousal: float, emotion: str) -> None:
    """On a scale from 1 to 5 a tenth of the way to the end is 3.2 and 2.8, though neither is a binary number."""
    corners = [{"text": f"corner {v} {a}", "V": v, "A": a} for v in (1, 5) for a in (1, 5)]
    chosen = rated(ratings={"low": 1, "high": 5, "margin": 0.1}, sample={"blocks": 2})
    items = sample([*corners, *({**c, "text": f"{c['text']} again"} for c in corners)], chosen)
    assert len(items) == 8
    row = {"text": "the row", "V": valence, "A": arousal}
    found = {i.emotion for s in range(40) for i in sample([*corners, row], with_seed(chosen, s)) if is_the_row(i)}
    assert found == ({emotion} if emotion else set())


def test_neutral_is_drawn_where_there_is_some() -> None:
    """Ratings need the four quadrants; neutral comes in when the middle holds texts."""
    corners = [{"text": f"corner {v} {a} {n}", "V": v, "A": a} for v in (0, 8) for a in (0, 8) for n in range(3)]
    middle = [{"text": f"middle {n}", "V": 4, "A": 4} for n in range(2)]
    assert Counter(i.emotion for i in sample(corners, rated())) == dict.fromkeys(("joy", "anger", "sadness", "calm"), 3)
    counts = Counter(i.emotion for i in sample([*corners, *middle], rated()))
    assert counts == dict.fromkeys(("joy", "anger", "sadness", "calm", "neutral"), 2)


@pytest.mark.parametrize("value", [-0.01, 8.01, "9", float("nan"), float("inf"), "-inf"])
def test_ratings_outside_of_the_scale_are_refused(value: Any) -> None:
    """A rating that cannot be on the scale says that low or high are wrong."""
    with pytest.raises(SuiteError, match=r"someone/feelings: A = .* lies outside of 0 to 8"):
        sample([{"text": "the row", "V": 1, "A": value}], rated())


@pytest.mark.parametrize("value", [None, "", "high", "3,5", [3]])
def test_ratings_that_are_no_numbers_are_refused(value: Any) -> None:
    """The message shows column and value."""
    with pytest.raises(SuiteError) as caught:
        sample([{"text": "the row", "V": value, "A": 1}], rated())
    assert str(caught.value) == f"someone/feelings: column 'V' holds {value!r}, not a number"


# --- what is missing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["text", "label", "cluster"])
def test_a_missing_column_names_those_that_there_are(column: str) -> None:
    """The right name can be read off the message."""
    columns = {"text": "text", "label": "label", column: "nothing"}
    with pytest.raises(SuiteError) as caught:
        sample(many(1), source(columns=columns))
    assert str(caught.value) == "someone/feelings: no column 'nothing'; there are text, label"


def test_a_missing_column_of_ratings_is_named() -> None:
    """The same for ratings, and with the first address where there is no repository."""
    address = f"https://example.org/{COMMIT}/a.csv"
    chosen = rated(repo="", revision="", files=[address])
    with pytest.raises(SuiteError) as caught:
        sample([{"text": "the row", "V": 1}], chosen)
    assert str(caught.value) == f"{address}: no column 'A'; there are text, V"


def test_an_emotion_without_text_is_an_error() -> None:
    """The message names every emotion that is missing, and none that is not."""
    with pytest.raises(SuiteError, match="no text of anger, sadness: check labels, columns and words"):
        sample(many(3, labels=(0, 3)), source())
    with pytest.raises(SuiteError, match="no text of joy, anger, sadness, neutral"):
        sample([], source())
    with pytest.raises(SuiteError, match="no text of anger, sadness, calm: check"):
        sample([{"text": "the row", "V": 8, "A": 8}], rated())


# --- the card ---------------------------------------------------------------------------------------------------

ADDRESS = f"https://example.org/{COMMIT}/a.csv"
UNSOUND: dict[str, tuple[dict[str, Any], str]] = {
    "repository and files": ({"files": [ADDRESS]}, "either `repo` or `files`"),
    "neither": ({"repo": ""}, "either `repo` or `files`"),
    "not owner/name": ({"repo": "feelings"}, "repo"),
    "unknown emotion": ({"labels": {"0": "joy", "1": "envy"}}, "labels: unknown emotion envy; known: joy, anger"),
    "label column without labels": ({"labels": {}}, "either a label column with `labels`"),
    "labels without label column": ({"columns": {"text": "text"}}, "either a label column with `labels`"),
    "labels and ratings": (
        {
            "columns": {"text": "text", "label": "label", "valence": "V", "arousal": "A"},
            "ratings": {"low": 0, "high": 8, "margin": 0.25},
        },
        "either a label column with `labels`",
    ),
    "one column of ratings": (
        {"labels": {}, "columns": {"text": "text", "valence": "V"}, "ratings": {"low": 0, "high": 8, "margin": 0.25}},
        "two rating columns with `ratings`",
    ),
    "columns without a scale": (
        {"labels": {}, "columns": {"text": "text", "valence": "V", "arousal": "A"}},
        "two rating columns with `ratings`",
    ),
    "no text column": ({"columns": {"label": "label"}}, "columns.text"),
    "unknown column": ({"columns": {"text": "text", "label": "label", "colour": "c"}}, "columns.colour"),
    "no block": ({"sample": {"blocks": 0}}, "sample.blocks"),
    "unknown format": ({"format": "xlsx"}, "format"),
    "margin of 1": ({"ratings": {"low": 0, "high": 8, "margin": 1}}, "ratings.margin"),
    "margin of 0": ({"ratings": {"low": 0, "high": 8, "margin": 0}}, "ratings.margin"),
}


@pytest.mark.parametrize(("change", "says"), UNSOUND.values(), ids=UNSOUND.keys())
def test_unsound_sources_are_refused(change: dict[str, Any], says: str) -> None:
    """Contradictions and unknown names in a card are said when it is read."""
    with pytest.raises(ValidationError) as caught:
        source(**change)
    assert says in str(caught.value)


UNSEEN: dict[str, dict[str, Any]] = {
    "scale without columns beside labels": {"ratings": {"low": 0, "high": 8, "margin": 0.25}},
    "scale upside down": {
        "labels": {},
        "columns": {"text": "text", "valence": "V", "arousal": "A"},
        "ratings": {"low": 8, "high": 0, "margin": 0.25},
    },
    "scale without length": {
        "labels": {},
        "columns": {"text": "text", "valence": "V", "arousal": "A"},
        "ratings": {"low": 8, "high": 8, "margin": 0.25},
    },
    "labels beside rating columns": {
        "columns": {"text": "text", "valence": "V", "arousal": "A"},
        "ratings": {"low": 0, "high": 8, "margin": 0.25},
    },
    "most words below least": {"words": (60, 4)},
}


@pytest.mark.parametrize("change", UNSEEN.values(), ids=UNSEEN.keys())
def test_more_unsound_sources_are_refused(change: dict[str, Any]) -> None:
    """What cannot work is refused when the card is read."""
    with pytest.raises(ValidationError):
        source(**change)


@pytest.mark.parametrize(
    ("change", "pinned"),
    [
        ({}, True),
        ({"revision": "main"}, False),
        ({"revision": ""}, False),
        ({"revision": COMMIT[:39]}, False),
        ({"revision": COMMIT + "0"}, False),
        ({"revision": COMMIT.upper()}, False),
        ({"repo": "", "files": [ADDRESS]}, True),
        ({"repo": "", "files": [ADDRESS, ADDRESS]}, True),
        ({"repo": "", "files": [ADDRESS, "https://example.org/main/a.csv"]}, False),
        ({"repo": "", "files": ["https://example.org/main/a.csv"], "revision": COMMIT}, False),
    ],
)
def test_only_a_whole_commit_pins(change: dict[str, Any], pinned: bool) -> None:
    """A branch, a short commit, or one address without a commit do not."""
    assert source(**change).pinned is pinned
