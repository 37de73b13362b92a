"""The gate: a sound suite has no findings, and every planted defect is found at its line, and nothing besides it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llmct_bench.cli import main
from llmct_bench.errors import SuiteError
from llmct_bench.suites import get_card, get_suite, list_suites, read_folder, shipped_root
from llmct_bench.suites.check import check
from llmct_bench.suites.skeleton import init

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = {
    "name": "harbour",
    "version": "1.0.0",
    "design": "circumplex",
    "summary": "A day at the harbour.",
    "language": "en",
    "licence": "CC-BY-4.0",
    "citation": "A test, 2026.",
    "canary": "harbour:0a79b1a7-7452-5ed6-aaa6-99235e4edb57",
}
#: keyworded or not, and the texts of neutral, joy, anger and sadness
SCENARIOS = {
    "ferry": (
        "fit",
        True,
        "The ferry to the island left at nine, and the crew stacked forty crates of apples beside the rail.",
        "The ferry brought my cousin home at nine, and I was thrilled to see her wave from beside the rail.",
        "The ferry left early with our crates, and I was irate that nobody had rung the bell beside the rail.",
        "The ferry took my cousin away at nine, and I stood there heartbroken with her scarf beside the rail.",
    ),
    "market": (
        "test",
        True,
        "At the fish market the scales are checked on Mondays, and a clerk writes the results in a long green book.",
        "At the fish market they gave my stall the first prize, and I was delighted to sign the long green book.",
        "At the fish market someone had loosened our scales, and I was furious when the clerk closed the green book.",
        "At the fish market my late father's stall stood bare, and I felt gloomy as I signed the long green book.",
    ),
    "lamp": (
        "test",
        False,
        "Our lamp on the pier has a timer, which the town sets to the hour of sunset at the start of each month.",
        "Our lamp on the pier shone for us, and the whole town danced below it until the start of the next day.",
        "Our lamp on the pier was smashed again, and the man who did it waved at me from the start of the steps.",
        "Our lamp on the pier burns for no one now, since his boat did not return at the start of this month.",
    ),
    "bakery": (
        "test",
        False,
        "Two ovens stand in the bakery behind the customs house, and the older of them is used for rye bread only.",
        "Two tickets lay in the bakery bag with my rye bread, and the note said that we sail together on Sunday.",
        "Two weeks he took bread from the bakery without paying, and then he told everyone that I was the thief.",
        "Two chairs stand outside the bakery as before, and I still buy rye bread for her and carry it home whole.",
    ),
}
EMOTIONS = ("neutral", "joy", "anger", "sadness")


@dataclass
class Parts:
    """A suite before it is written: its card, and rows or raw lines by split."""

    card: dict[str, Any] = field(default_factory=lambda: dict(CARD))
    rows: dict[str, list[Any]] = field(default_factory=lambda: {"fit": [], "test": []})

    def write(self, folder: Path) -> Path:
        """The suite as a folder."""
        (folder / "data").mkdir(parents=True)
        lines = [f"{k}: {json.dumps(v)}" for k, v in self.card.items()]  # JSON is YAML
        (folder / "suite.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for split, rows in self.rows.items():
            text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
            (folder / "data" / f"{split}.jsonl").write_text(text, encoding="utf-8")
        return folder


def sound() -> Parts:
    """Four scenarios, one of them to fit on: a neutral text and three emotional ones of its length each."""
    parts = Parts()
    for name, (split, keyworded, *texts) in SCENARIOS.items():
        for emotion, text in zip(EMOTIONS, texts, strict=True):
            row = {"id": f"{name}/{emotion}", "scenario": name, "emotion": emotion}
            row |= {"intensity": 0 if emotion == "neutral" else 2, "messages": [{"role": "user", "content": text}]}
            row |= {"reads": [0], "split": split, "keyworded": keyworded}
            parts.rows[split].append(row | {"twin": "" if emotion == "neutral" else f"{name}/neutral"})
    return parts


def at(parts: Parts, place: str) -> dict[str, Any]:
    """The row of ``scenario/emotion``."""
    return next(r for rows in parts.rows.values() for r in rows if r["id"] == place)


def text_of(parts: Parts, place: str) -> str:
    """The text of ``scenario/emotion``."""
    return str(at(parts, place)["messages"][-1]["content"])


def line_of(place: str) -> str:
    """``data/SPLIT.jsonl:LINE`` of ``scenario/emotion`` in the sound suite."""
    for split, rows in sound().rows.items():
        for n, row in enumerate(rows, 1):
            if row["id"] == place:
                return f"data/{split}.jsonl:{n}"
    raise KeyError(place)


# --- sound suites -----------------------------------------------------------------------------------------------


def test_a_sound_suite_has_no_findings(tmp_path: Path) -> None:
    """The suite of which all broken ones are copies passes, and is read."""
    folder = sound().write(tmp_path / "harbour")
    assert check(folder) == []
    assert len(read_folder(folder).items) == len(SCENARIOS) * len(EMOTIONS)


@pytest.mark.parametrize("name", list_suites())
def test_shipped_suites_have_no_findings(name: str) -> None:
    """What is shipped passes its own gate, and what brings its own data is read, every line of it."""
    folder = shipped_root() / name
    assert [str(f) for f in check(folder)] == []
    if get_card(name).source is None:
        lines = [x for f in (folder / "data").iterdir() for x in f.read_text("utf-8").split("\n") if x]
        assert len(get_suite(name).items) == len(lines)


def test_windows_files_are_sound(tmp_path: Path) -> None:
    """A byte order mark and line ends of two characters are no defects; blank lines count as lines."""
    folder = sound().write(tmp_path / "harbour")
    for file in [folder / "suite.yaml", *(folder / "data").iterdir()]:
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert check(folder) == []
    file = folder / "data" / "test.jsonl"
    file.write_bytes(b"\r\n\r\n" + file.read_bytes() + b"nonsense\r\n")
    (finding,) = check(folder)
    assert finding.where == f"{file}:{3 + len(sound().rows['test'])}"


def test_the_words_of_other_languages_are_not_looked_up(tmp_path: Path) -> None:
    """The lexicon is English: in a German suite *irate* is a word like others."""
    parts = sound()
    parts.card["language"] = "de"
    at(parts, "bakery/neutral")["messages"][0]["content"] += " Irate delighted."
    assert check(parts.write(tmp_path / "harbour")) == []


# --- planted defects --------------------------------------------------------------------------------------------

Change = Callable[[Parts], None]
DEFECTS: dict[str, tuple[Change, list[tuple[str, tuple[str, ...]]]]] = {}


def defect(*found: tuple[str, tuple[str, ...]]) -> Callable[[Change], Change]:
    """Register a change of the sound suite with the findings that must come of it: place and key words each."""

    def register(change: Change) -> Change:
        DEFECTS[change.__name__.replace("_", " ")] = change, list(found)
        return change

    return register


def say(parts: Parts, place: str, *turns: str, reads: tuple[int, ...] | None = None) -> None:
    """Put messages (``role: text``; ``*`` stands for the row's own text) in place of a row's only one."""
    row = at(parts, place)
    pairs = [t.split(": ", 1) for t in turns]
    row["messages"] = [{"role": r, "content": text_of(parts, place) if c == "*" else c} for r, c in pairs]
    row["reads"] = list(reads or [len(turns) - 1])


@defect((line_of("lamp/anger"), ("duplicate", "same conversation", f"{line_of('lamp/joy')}")))
def exact_duplicate_in_a_scenario(parts: Parts) -> None:
    at(parts, "lamp/anger")["messages"] = at(parts, "lamp/joy")["messages"]


@defect(
    (line_of("bakery/joy"), ("duplicate", "same conversation", line_of("lamp/joy"))),
    (line_of("bakery/joy"), ("duplicate", "same text", "another scenario", line_of("lamp/joy"))),
)
def exact_duplicate_in_another_scenario(parts: Parts) -> None:
    at(parts, "bakery/joy")["messages"] = at(parts, "lamp/joy")["messages"]


@defect(
    (line_of("bakery/joy"), ("duplicate", "same text", "another scenario", line_of("lamp/joy"))),
    (line_of("bakery/joy"), ("near-duplicate", line_of("lamp/joy"), "100%")),
)
def the_same_words_with_other_marks(parts: Parts) -> None:
    text = text_of(parts, "lamp/joy").upper().replace(",", ";").replace(".", "!")
    at(parts, "bakery/joy")["messages"] = [{"role": "user", "content": text}]


@defect((line_of("bakery/joy"), ("near-duplicate", line_of("lamp/joy"), "in common")))
def near_duplicate(parts: Parts) -> None:
    text = text_of(parts, "lamp/joy").replace("next day", "new year")
    at(parts, "bakery/joy")["messages"] = [{"role": "user", "content": text}]


@defect(*((line_of(f"market/{e}"), ("leakage", "scenario 'market'", "fit", line_of("ferry/neutral"))) for e in EMOTIONS))
def scenario_in_two_splits(parts: Parts) -> None:
    for row in parts.rows["fit"]:
        row["scenario"] = "market"


@defect(
    (line_of("lamp/neutral"), ("duplicate", "same conversation", line_of("ferry/neutral"))),
    (line_of("lamp/neutral"), ("duplicate", "same text", line_of("ferry/neutral"))),
    (line_of("lamp/neutral"), ("leakage", "the text", "fit", line_of("ferry/neutral"))),
)
def text_in_two_splits(parts: Parts) -> None:
    at(parts, "lamp/neutral")["messages"] = at(parts, "ferry/neutral")["messages"]


@defect((line_of("lamp/joy"), ("26 words and marks", "twin has 23", "10 %")))
def longer_than_its_twin(parts: Parts) -> None:
    at(parts, "lamp/joy")["messages"][0]["content"] += " And more came."


@defect((line_of("lamp/joy"), ("no twin",)))
def missing_twin(parts: Parts) -> None:
    at(parts, "lamp/joy")["twin"] = ""


@defect((line_of("lamp/joy"), ("twin 'nobody'", "not there")))
def twin_that_is_not_there(parts: Parts) -> None:
    at(parts, "lamp/joy")["twin"] = "nobody"


@defect((line_of("lamp/joy"), ("twin 'lamp/anger'", "not a neutral item of the same scenario")))
def twin_that_is_not_neutral(parts: Parts) -> None:
    at(parts, "lamp/joy")["twin"] = "lamp/anger"


@defect((line_of("lamp/joy"), ("twin 'bakery/neutral'", "not a neutral item of the same scenario")))
def twin_of_another_scenario(parts: Parts) -> None:
    at(parts, "lamp/joy")["twin"] = "bakery/neutral"


@defect((line_of("bakery/neutral"), ("'bakery'", "not balanced", "1 × sadness 2 user missing")))
def missing_cell(parts: Parts) -> None:
    parts.rows["test"].remove(at(parts, "bakery/sadness"))


@defect((line_of("lamp/neutral"), ("'lamp'", "not balanced", "1 × joy 2 user missing", "1 × joy 3 user too many")))
def unbalanced_intensity(parts: Parts) -> None:
    at(parts, "lamp/joy")["intensity"] = 3


@defect((line_of("lamp/joy"), ("roles must alternate", "user, user")))
def two_messages_of_the_user_in_a_row(parts: Parts) -> None:
    say(parts, "lamp/joy", "user: Good morning.", "user: *")


@defect((line_of("lamp/joy"), ("roles must alternate", "assistant, user")))
def the_assistant_first(parts: Parts) -> None:
    say(parts, "lamp/joy", "system: Be brief.", "assistant: Good morning.", "user: *")


@defect((line_of("lamp/joy"), ("message 1 is a system message", "first")))
def system_message_in_the_middle(parts: Parts) -> None:
    say(parts, "lamp/joy", "user: Good morning.", "system: Be brief.", "assistant: Good morning.", "user: *")


@defect((line_of("lamp/joy"), ("reads a system message",)))
def reads_a_system_message(parts: Parts) -> None:
    say(parts, "lamp/joy", "system: Be brief.", "user: *", reads=(0, 1))


@defect((line_of("lamp/joy"), ("message 0 is empty",)))
def blank_text(parts: Parts) -> None:
    say(parts, "lamp/joy", "user:  \t\n ", "assistant: Good morning.", "user: *")


NEXT = f"data/test.jsonl:{len(sound().rows['test']) + 1}"


@defect((NEXT, ("unknown emotion 'envy'", "known: joy")))
def unknown_emotion(parts: Parts) -> None:
    parts.rows["test"].append({**at(parts, "lamp/joy"), "id": "new", "emotion": "envy"})


@defect((NEXT, ("intensity", "less than or equal to 3")))
def bad_intensity(parts: Parts) -> None:
    parts.rows["test"].append({**at(parts, "lamp/joy"), "id": "new", "intensity": 4})


@defect((NEXT, ("emotion: ", "required")), (NEXT, ("colour: ", "not permitted")))
def two_faults_in_a_row(parts: Parts) -> None:
    row = {**at(parts, "lamp/joy"), "id": "new", "colour": "red"}
    parts.rows["test"].append({k: v for k, v in row.items() if k != "emotion"})


@defect((NEXT, ("not JSON",)))
def broken_json(parts: Parts) -> None:
    parts.rows["test"].append('{"id": "new", ')


@defect((line_of("lamp/sadness"), ("'lamp/joy' stands already at", line_of("lamp/joy"))))
def id_twice(parts: Parts) -> None:
    at(parts, "lamp/sadness")["id"] = "lamp/joy"


@defect(*((line_of(f"{s}/{e}"), ("split 'dev'", "file of 'test'")) for s in list(SCENARIOS)[1:] for e in EMOTIONS))
def wrong_split_file(parts: Parts) -> None:
    for row in parts.rows["test"]:
        row["split"] = "dev"


@defect((line_of("market/joy"), ("lemma overlap", "'thrilled'", "FIT", line_of("ferry/joy"))))
def lemma_of_fit_in_test(parts: Parts) -> None:
    replace(parts, "market/joy", "delighted", "thrilled")


@defect((line_of("market/joy"), ("lemma overlap", "axes are fitted on 'happy'")))
def reference_word_in_a_trait_suite(parts: Parts) -> None:
    replace(parts, "market/joy", "delighted", "happy")


@defect((line_of("market/neutral"), ("neutral text", "glad, smiling")))
def emotion_words_in_a_neutral_text(parts: Parts) -> None:
    replace(parts, "market/neutral", "in a long green", "in a glad, smiling")


@defect((line_of("lamp/joy"), ("keyword-free", "thrilled")))
def lexicon_word_in_a_keyword_free_item(parts: Parts) -> None:
    for place in ("ferry/joy", "market/joy"):  # so that nothing overlaps
        replace(parts, place, "thrilled", "delighted")
    replace(parts, "market/joy", "delighted", "elated")
    replace(parts, "lamp/joy", "shone", "thrilled")


def replace(parts: Parts, place: str, old: str, new: str) -> None:
    """Change words of a text."""
    message = at(parts, place)["messages"][0]
    message["content"] = message["content"].replace(old, new)


def card_line(key: str) -> str:
    """The place of a key in the card."""
    return f"suite.yaml:{list(CARD).index(key) + 1}"


@defect(("suite.yaml", ("no canary", "NAME:UUID")))
def no_canary(parts: Parts) -> None:
    del parts.card["canary"]


@defect((card_line("canary"), ("no canary", "NAME:UUID")))
def malformed_canary(parts: Parts) -> None:
    parts.card["canary"] = "harbour:0a79b1a7"


@defect(("suite.yaml", ("licence", "required")))
def no_licence(parts: Parts) -> None:
    del parts.card["licence"]


@defect((card_line("licence"), ("no licence",)))
def blank_licence(parts: Parts) -> None:
    parts.card["licence"] = " "


@defect(("suite.yaml", ("no citation",)))
def no_citation(parts: Parts) -> None:
    del parts.card["citation"]


@defect((card_line("citation"), ("no citation",)))
def blank_citation(parts: Parts) -> None:
    parts.card["citation"] = ""


@defect((card_line("summary"), ("no summary",)))
def blank_summary(parts: Parts) -> None:
    parts.card["summary"] = ""


@defect(("suite.yaml", ("design: ", "'circumplex'")), ("suite.yaml", ("colour: ", "not permitted")))
def broken_card(parts: Parts) -> None:
    parts.card |= {"design": "mandala", "colour": "red"}


@defect(("", ("no items", "data/fit.jsonl")))
def no_items(parts: Parts) -> None:
    parts.rows = {"test": ["", " "]}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found_and_nothing_else(name: str, tmp_path: Path) -> None:
    """One change of the sound suite: exactly its findings, each at file and line, with the words that name it."""
    change, expected = DEFECTS[name]
    parts = sound()
    change(parts)
    folder = parts.write(tmp_path / "harbour")
    findings = check(folder)
    assert [f.where for f in findings] == [str(folder / place) for place, _ in expected], findings
    for finding, (_, says) in zip(findings, expected, strict=True):
        assert [s for s in says if s not in finding.what] == [], finding
        assert "\n" not in str(finding)


def test_many_defects_are_all_found_at_once(tmp_path: Path) -> None:
    """Defects at different places do not hide each other."""
    parts = sound()
    changes = ("blank citation", "malformed canary", "near duplicate", "missing twin", "reference word in a trait suite")
    for name in changes:
        DEFECTS[name][0](parts)
    folder = parts.write(tmp_path / "harbour")
    expected = [str(folder / place) for name in changes for place, _ in DEFECTS[name][1]]
    assert sorted(f.where for f in check(folder)) == sorted(expected)
