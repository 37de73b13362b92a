"""The shipped suites keep the promises of their designs, and broken suites are refused with file and line."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import datasets
import pytest

from llmct_bench.emotions import NAMES, NEUTRAL, lexicon
from llmct_bench.errors import SuiteError, UnknownName
from llmct_bench.models.phantoms.tokenizer import split_words
from llmct_bench.suites import (
    DEFAULT_SUITES,
    Item,
    Suite,
    SuiteCard,
    Turn,
    get_suite,
    list_suites,
    read_folder,
    shipped_root,
)
from llmct_bench.suites import compose as composer

SHIPPED = ("reference", "circumplex", "shock", "retention")
TRAIT_SUITES = SHIPPED[1:]
CONTEXTS = ("calm", "neutral", "positive", "negative")
ROLES = ("user", "assistant")


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of a shipped suite as they stand in its files, read without the package."""
    files = [shipped_root() / name / "data" / f"{split}.jsonl" for split in ("fit", "dev", "test")]
    lines = [line for f in files if f.exists() for line in f.read_text(encoding="utf-8").split("\n") if line]
    return [json.loads(line) for line in lines]


def emotion_words(text: str) -> list[str]:
    """The lexicon words of a text."""
    return [w for w in re.findall(r"[a-z]+", text.lower()) if w in lexicon()]


def all_words(name: str) -> set[str]:
    """Every lexicon word that a suite shows to a model."""
    return {w for row in rows_of(name) for m in row["messages"] for w in emotion_words(m["content"])}


def said(row: dict[str, Any]) -> str:
    """The last message of a row."""
    return str(row["messages"][-1]["content"])


# --- files ------------------------------------------------------------------------------------------------------


def test_the_list_names_the_reference_first() -> None:
    """What is measured by default comes first, the reference in front of it, and every folder with a card is listed."""
    assert list_suites()[:4] == list(SHIPPED) == list(DEFAULT_SUITES)
    assert sorted(list_suites()) == sorted(p.parent.name for p in shipped_root().glob("*/suite.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_composing_the_parts_gives_the_data(name: str, tmp_path: Path) -> None:
    """The authored parts alone determine every byte of data/*.jsonl."""
    shutil.copytree(shipped_root() / name / "parts", tmp_path / name / "parts")
    composer.main(str(tmp_path))
    made = {p.name: p.read_bytes() for p in (tmp_path / name / "data").iterdir()}
    assert made == {p.name: p.read_bytes() for p in (shipped_root() / name / "data").iterdir()}


@pytest.mark.parametrize("name", SHIPPED)
def test_hugging_face_datasets_reads_the_same_rows(name: str, tmp_path: Path) -> None:
    """`load_dataset(folder)` finds the data files, not the parts, and gives back every row of the JSONL."""
    loaded = datasets.load_dataset(str(shipped_root() / name), cache_dir=str(tmp_path))
    assert sorted(loaded) == sorted(p.stem for p in (shipped_root() / name / "data").iterdir())
    by_id = {row["id"]: row for split in loaded.values() for row in split}
    assert by_id == {row["id"]: row for row in rows_of(name)}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_package_reads_every_row(name: str) -> None:
    """`get_suite` gives the rows of the files, in order, and nothing else."""
    assert [i.to_json() for i in get_suite(name).items] == rows_of(name)


def test_line_separators_in_a_text_survive_the_file(tmp_path: Path) -> None:
    """A text with Unicode line separators is written and read back unchanged."""
    item = good(id="odd", messages=[{"role": "user", "content": "one\u2028two\u0085three"}])
    broken_suite(tmp_path, [])
    composer.write(tmp_path, [Item.model_validate(item)])
    assert read_folder(tmp_path).items[0].messages[0].content == "one\u2028two\u0085three"


# --- words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAIT_SUITES)
def test_reference_words_never_stand_in_a_trait_suite(name: str) -> None:
    """What scores are taken on shares no word with what the axes are fitted on."""
    found = all_words(name)
    assert found
    assert {w for w in found if lexicon()[w].use != "trait"} == set()


def test_trait_words_never_stand_in_the_reference() -> None:
    """The reference holds reference words only."""
    found = all_words("reference")
    assert found
    assert {w for w in found if lexicon()[w].use != "reference"} == set()


def test_fit_and_dev_words_are_disjoint() -> None:
    """No axis is judged on a word that it was fitted on; together the splits use the whole reference lexicon."""
    words = {
        split: {w for r in rows_of("reference") if r["split"] == split for w in emotion_words(said(r))}
        for split in ("fit", "dev")
    }
    assert words["fit"] & words["dev"] == set()
    assert words["fit"] | words["dev"] == {w for w, e in lexicon().items() if e.use == "reference"}


def test_reference_statements_hold_one_word_of_their_cell() -> None:
    """An emotional statement names its own emotion at its own intensity, once; a neutral one names none."""
    for row in rows_of("reference"):
        found = [(lexicon()[w].emotion, lexicon()[w].intensity) for w in emotion_words(said(row))]
        assert found == ([] if row["emotion"] == NEUTRAL else [(row["emotion"], row["intensity"])]), row["id"]


def test_circumplex_words_agree_with_the_labels() -> None:
    """Keyworded items hold words of their own cell and no others; keyword-free and neutral items hold none."""
    kinds = Counter()
    for row in rows_of("circumplex"):
        found = {(lexicon()[w].emotion, lexicon()[w].intensity) for w in emotion_words(said(row))}
        wanted = row["keyworded"] and row["emotion"] != NEUTRAL
        assert found == ({(row["emotion"], row["intensity"])} if wanted else set()), row["id"]
        kinds[bool(wanted)] += 1
    assert min(kinds[True], kinds[False]) > 100


@pytest.mark.parametrize("name", ["shock", "retention"])
def test_no_shock_twins_and_neutral_openings_hold_no_emotion_word(name: str) -> None:
    """The neutral text that is subtracted names no emotion."""
    place = -1 if name == "shock" else 0
    twins = [r for r in rows_of(name) if r["intensity"] == 0]
    assert twins
    assert [r["id"] for r in twins if emotion_words(r["messages"][place]["content"])] == []


# --- twins ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAIT_SUITES)
def test_twins_are_as_long_as_their_items(name: str) -> None:
    """The text that differs is within 10 % or 2 phantom tokens of its twin, which is neutral, in the same scenario
    and without a twin of its own."""
    rows = {r["id"]: r for r in rows_of(name)}
    place = 0 if name == "retention" else -1
    paired = [r for r in rows.values() if r["twin"]]
    assert len(paired) == sum(r["intensity"] > 0 for r in rows.values()) > 0
    for row in paired:
        twin = rows[row["twin"]]
        assert (twin["intensity"], twin["twin"], twin["scenario"]) == (0, "", row["scenario"])
        own, other = (len(split_words(r["messages"][place]["content"])) for r in (row, twin))
        assert abs(own - other) <= max(2, 0.1 * other), f"{row['id']}: {own} tokens, twin {other}"


def test_retention_openings_are_followed_by_identical_messages() -> None:
    """Emotional and neutral opening differ, and nothing after them does."""
    rows = {r["id"]: r for r in rows_of("retention")}
    for row in rows.values():
        if row["twin"]:
            twin = rows[row["twin"]]
            assert row["messages"][0] != twin["messages"][0]
            assert (row["messages"][1:], row["reads"]) == (twin["messages"][1:], twin["reads"])


def test_the_same_shock_stands_in_both_slots_and_all_contexts() -> None:
    """A scenario has one text per dose, whoever says it and after whatever came before; the slots share all that
    precedes."""
    texts: dict[tuple[str, int], set[str]] = {}
    openings: dict[tuple[str, str], set[str]] = {}
    for row in rows_of("shock"):
        assert row["messages"][-1]["role"] == row["id"].split("/")[2]
        texts.setdefault((row["scenario"], row["intensity"]), set()).add(said(row))
        opening = json.dumps(row["messages"][:4])
        openings.setdefault((row["scenario"], row["context"]), set()).add(opening)
    assert {len(t) for t in texts.values()} == {1}
    assert {len(o) for o in openings.values()} == {1}
    assert len({t for found in texts.values() for t in found}) == len(texts)


# --- designs ----------------------------------------------------------------------------------------------------


def test_reference_is_crossed_completely() -> None:
    """Every topic has every emotion x intensity once and every frame neutral twice, in both roles; a frame carries
    all four emotions of a topic or none, and every third topic is held out."""
    rows = rows_of("reference")
    cells = Counter((r["scenario"], r["messages"][-1]["role"], r["emotion"], r["intensity"]) for r in rows)
    topics = dict.fromkeys(r["scenario"] for r in rows)
    wanted = dict.fromkeys(product(topics, ROLES, NAMES, (1, 2, 3)), 1)
    assert cells == wanted | {(t, role, NEUTRAL, 0): 8 for t, role in product(topics, ROLES)}
    frames: dict[tuple[str, str, str], Counter[str]] = {}
    for r in rows:
        if r["intensity"]:
            key = (r["scenario"], r["messages"][-1]["role"], r["template"])
            frames.setdefault(key, Counter())[r["emotion"]] += 1
    assert all(set(f) == set(NAMES) and len(set(f.values())) == 1 for f in frames.values())
    held_out = {r["scenario"] for r in rows if r["split"] == "dev"}
    assert held_out & {r["scenario"] for r in rows if r["split"] == "fit"} == set()
    assert len(held_out) * 3 == len(topics)


def test_circumplex_is_crossed_completely() -> None:
    """Every scenario has all emotions at all intensities and one neutral text; half of them are keyword-free."""
    rows = rows_of("circumplex")
    kinds = {r["scenario"]: r["keyworded"] for r in rows}
    cells = Counter((r["scenario"], r["keyworded"], r["emotion"], r["intensity"]) for r in rows)
    factors = [*product(NAMES, (1, 2, 3)), (NEUTRAL, 0)]
    assert cells == {(s, k, e, i): 1 for (s, k), (e, i) in product(kinds.items(), factors)}
    assert Counter(kinds.values()) == {True: len(kinds) // 2, False: len(kinds) // 2}


def test_shock_is_crossed_completely() -> None:
    """Every scenario has four contexts x two slots x (twin, three doses), read after the last message."""
    rows = rows_of("shock")
    cells = Counter((r["scenario"], r["context"], r["messages"][-1]["role"], r["intensity"]) for r in rows)
    scenarios = dict.fromkeys(r["scenario"] for r in rows)
    assert cells == dict.fromkeys(product(scenarios, CONTEXTS, ROLES, range(4)), 1)
    assert all(r["reads"] == [len(r["messages"]) - 1] for r in rows)
    assert all(r["twin"] == r["id"].rsplit("/", 1)[0] + "/0" for r in rows if r["intensity"])


def test_retention_is_crossed_completely() -> None:
    """Every episode has both openings x both filler lengths, is read on the user's message at ten lags and on the
    probe, which is the same text everywhere, and roles alternate."""
    rows = rows_of("retention")
    cells = Counter((r["scenario"], r["filler"], r["intensity"]) for r in rows)
    assert cells == dict.fromkeys(product(dict.fromkeys(r["scenario"] for r in rows), ("short", "long"), (0, 3)), 1)
    for row in rows:
        assert row["reads"] == [0, 2, 4, 6, 8, 12, 16, 24, 32, 48, 50]
        assert [m["role"] for m in row["messages"]] == ["user", "assistant"] * 25 + ["user"]
    assert len({row["messages"][-1]["content"] for row in rows}) == 1


def test_no_filler_sits_at_one_lag() -> None:
    """The order of the fillers differs between episodes: each lag is read on many different fillers."""
    rows = [r for r in rows_of("retention") if r["twin"] and r["filler"] == "short"]
    for read in (2, 16, 32, 48):
        assert len({r["messages"][read]["content"] for r in rows}) == 48  # all that there are


@pytest.mark.parametrize("name", ["shock", "retention"])
def test_emotions_are_equally_frequent(name: str) -> None:
    """Scenarios are spread evenly over the emotions that a suite uses."""
    counts = Counter({r["scenario"]: r["emotion"] for r in rows_of(name)}.values())
    assert len(counts) > 1
    assert len(set(counts.values())) == 1


# --- cutting down and hashing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAIT_SUITES)
@pytest.mark.parametrize("n", [1, 4, 7, 8])
def test_limited_keeps_whole_scenarios(name: str, n: int) -> None:
    """``limited(n)`` keeps every item of n scenarios, in order, spread over the emotions, under a name of its own."""
    suite = get_suite(name)
    cut = suite.limited(n)
    assert len(cut.scenarios) == n
    assert cut.items == tuple(i for i in suite.items if i.scenario in set(cut.scenarios))
    full, kept = (Counter({i.scenario: i.emotion for i in s.items if i.intensity}.values()) for s in (suite, cut))
    assert name == "circumplex" or max(kept[e] for e in full) - min(kept[e] for e in full) <= 1
    assert cut.key == f"{suite.key}~limit{n}"
    assert cut.content_hash != suite.content_hash


def test_limited_leaves_what_must_not_be_cut() -> None:
    """The reference is never cut; 0 and more scenarios than there are mean all."""
    reference, shock = get_suite("reference"), get_suite("shock")
    assert reference.limited(2) is reference
    for n in (0, len(shock.scenarios), 10_000):
        assert shock.limited(n).items == shock.items
        assert shock.limited(n).key == shock.key


CHANGES: dict[str, dict[str, Any]] = {
    "text": {"messages": [{"role": "user", "content": "A day at work!"}]},
    "role": {"messages": [{"role": "assistant", "content": "A day at work."}]},
    "scenario": {"scenario": "other"},
    "intensity": {"intensity": 2},
    "emotion": {"emotion": "anger"},
    "split": {"split": "dev"},
    "keyworded": {"keyworded": False},
    "id": {"id": "other"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_hash_changes_with_content(change: dict[str, Any]) -> None:
    """Any change of what is shown, or of how it is labelled, gives another hash."""
    hashes = {suite_of([good(), row]).content_hash for row in (good(id="b"), {**good(id="b"), **change})}
    assert len(hashes) == 2


def test_the_hash_changes_with_order_and_design() -> None:
    """The order of the items and the design count."""
    a, b = good(), good(id="b")
    hashes = {suite_of([a, b]).content_hash, suite_of([b, a]).content_hash, suite_of([a, b], "shock").content_hash}
    assert len(hashes) == 3


def test_the_hash_does_not_depend_on_the_files(tmp_path: Path) -> None:
    """Order of keys, escapes, omitted defaults, splitting over files, name and version leave the hash alone."""
    rows = [good(), good(id="b", messages=[{"role": "user", "content": "Über Œuvre"}])]
    plain = broken_suite(tmp_path / "a", [json.dumps(r) for r in rows])
    defaults = {"split": "test", "keyworded": True, "twin": "", "template": "", "context": "", "filler": ""}
    long = [dict(reversed(list({**defaults, **r}.items()))) for r in rows]
    other = broken_suite(tmp_path / "b", [json.dumps(long[1], ensure_ascii=False, indent=None)], version="9")
    (other / "data" / "fit.jsonl").write_text(json.dumps(long[0]), encoding="utf-8")
    assert read_folder(plain).content_hash == read_folder(other).content_hash
    assert read_folder(plain).key != read_folder(other).key


# --- broken suites ----------------------------------------------------------------------------------------------


def good(**changes: Any) -> dict[str, Any]:
    """A row without fault."""
    row = {"id": "a", "scenario": "work", "emotion": "joy", "intensity": 1}
    return {**row, "messages": [{"role": "user", "content": "A day at work."}], "reads": [0], **changes}


def suite_of(rows: list[dict[str, Any]], design: str = "circumplex") -> Suite:
    """A suite in memory."""
    card = {"name": "mine", "version": "1", "design": design, "summary": "s", "licence": "l", "canary": "c"}
    return Suite(SuiteCard.model_validate(card), tuple(Item.model_validate(r) for r in rows))


def broken_suite(folder: Path, lines: list[str], **card: str) -> Path:
    """A suite folder with these lines as its test split."""
    (folder / "data").mkdir(parents=True)
    facts = {"name": "mine", "version": "1", "design": "circumplex", "summary": "s", "licence": "l", "canary": "c"}
    (folder / "suite.yaml").write_text("\n".join(f"{k}: {v!r}" for k, v in {**facts, **card}.items()))
    (folder / "data" / "test.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def message(**changes: Any) -> str:
    return json.dumps(good(id="b", messages=[{"role": "user", "content": "Yes.", **changes}]))


FAULTS = {
    "bad JSON": ('{"id": "b", ', "not JSON"),
    "not an object": ("[1]", "row: "),
    "wrong role": (message(role="narrator"), "messages.0.role"),
    "empty content": (message(content=""), "messages.0.content"),
    "unknown field of a message": (message(tone="glad"), "messages.0.tone"),
    "no messages": (json.dumps(good(id="b", messages=[])), "messages"),
    "read out of range": (json.dumps(good(id="b", reads=[1])), "item b: reads [1]"),
    "negative read": (json.dumps(good(id="b", reads=[-1])), "item b: reads [-1]"),
    "no reads": (json.dumps(good(id="b", reads=[])), "reads"),
    "read twice": (json.dumps(good(id="b", reads=[0, 0])), "increasing and unique"),
    "intensity out of range": (json.dumps(good(id="b", intensity=4)), "intensity"),
    "unknown split": (json.dumps(good(id="b", split="train")), "split"),
    "unknown field": (json.dumps(good(id="b", colour="red")), "colour"),
    "missing field": (json.dumps({k: v for k, v in good(id="b").items() if k != "scenario"}), "scenario"),
    "missing twin": (json.dumps(good(id="b", twin="nobody")), "twin 'nobody'"),
}
ROWS = [
    *(pytest.param(*v, id=k) for k, v in FAULTS.items()),
    pytest.param(json.dumps(good(id="b", emotion="envy")), "envy", id="unknown emotion"),
]


@pytest.mark.parametrize(("line", "says"), ROWS)
def test_a_broken_row_is_named_by_file_and_line(line: str, says: str, tmp_path: Path) -> None:
    """The second line is at fault, and the error begins with its place."""
    folder = broken_suite(tmp_path / "mine", [json.dumps(good()), line, json.dumps(good(id="c"))])
    with pytest.raises(SuiteError) as caught:
        get_suite(str(folder))
    assert str(caught.value).startswith(f"{folder / 'data' / 'test.jsonl'}:2: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_duplicate_id_names_both_places(tmp_path: Path) -> None:
    """Two rows with one id are refused, across files too."""
    folder = broken_suite(tmp_path / "mine", [json.dumps(good(id="b")), json.dumps(good())])
    (folder / "data" / "fit.jsonl").write_text(json.dumps(good()))
    with pytest.raises(SuiteError) as caught:
        get_suite(str(folder))
    first, second = folder / "data" / "fit.jsonl", folder / "data" / "test.jsonl"
    assert str(caught.value) == f"{second}:2: item id 'a' stands already at {first}:1"


CARDS = {
    "broken YAML": ("name: mine\nversion: [1\n", "line 3"),
    "unknown field": (None, "colour"),
    "unknown design": ("design", "design"),
    "not a mapping": ("- a\n", "suite.yaml: "),
    "empty": ("", "suite.yaml: "),
}


@pytest.mark.parametrize(("text", "says"), CARDS.values(), ids=CARDS.keys())
def test_a_broken_card_is_named(text: str | None, says: str, tmp_path: Path) -> None:
    """Faults of suite.yaml name the file and the field, broken YAML its line."""
    extra = {"colour": "red"} if text is None else {"design": "mandala"} if text == "design" else {}
    folder = broken_suite(tmp_path / "mine", [json.dumps(good())], **extra)
    if not extra:
        (folder / "suite.yaml").write_text(text or "")
    with pytest.raises(SuiteError) as caught:
        get_suite(str(folder))
    assert str(caught.value).startswith(f"{folder / 'suite.yaml'}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["suite.yaml", "data/test.jsonl"])
def test_bytes_that_are_not_utf8_are_a_suite_error(file: str, tmp_path: Path) -> None:
    """A file in another encoding is refused by name."""
    folder = broken_suite(tmp_path / "mine", [json.dumps(good())])
    (folder / file).write_bytes("name: Überraschung".encode("latin-1"))
    with pytest.raises(SuiteError, match=Path(file).name):
        get_suite(str(folder))


def test_a_suite_without_data_says_which_files_it_needs(tmp_path: Path) -> None:
    """No data folder and empty data are refused, and so is a folder without suite.yaml."""
    folder = broken_suite(tmp_path / "mine", [])
    for _ in range(2):
        with pytest.raises(SuiteError, match=r"mine: no items; data/fit\.jsonl, dev\.jsonl or test\.jsonl"):
            get_suite(str(folder))
        shutil.rmtree(folder / "data", ignore_errors=True)
    (folder / "suite.yaml").unlink()
    with pytest.raises(SuiteError, match=r"no suite\.yaml there"):
        get_suite(str(folder))


def test_an_unknown_suite_names_near_ones() -> None:
    """A misspelt name is answered with the right one."""
    with pytest.raises(UnknownName, match="did you mean circumplex"):
        get_suite("circumplexx")


def test_items_are_frozen() -> None:
    """What a hash was taken of cannot be changed afterwards."""
    with pytest.raises(ValueError, match="frozen"):
        Turn(role="user", content="a").content = "b"  # type: ignore[misc]
