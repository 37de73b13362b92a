"""The gate: a sound suite has no findings, and every planted defect is found at its line, and nothing besides it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from handmade import Cli, Done

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
        "The ferry to the island left at nine, and the crew stacked forty crates of the red apples beside the rail.",
        "The ferry brought my cousin home at nine, and I was thrilled to see her wave from beside the rail.",
        "The ferry left early with our crates, and I was irate that nobody had rung the bell beside the rail.",
        "The ferry took my cousin away at nine, and I stood there bereft with her scarf beside the rail.",
    ),
    "market": (
        "test",
        True,
        "At the fish market the scales are checked on Mondays, and a clerk writes the results in a long green book.",
        "At the fish market they gave my stall the first prize, and I was delighted to sign the long green book.",
        "At the fish market someone had loosened our scales, and I was furious when the clerk closed the green book.",
        "At the fish market my late father's stall stood bare, and I felt forlorn as I signed the long green book.",
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
    file.write_bytes(b"\xef\xbb\xbf\r\n\r\n" + file.read_bytes()[3:] + b"nonsense\r\n")
    (finding,) = check(folder)
    assert finding.where == f"{file}:{3 + len(sound().rows['test'])}"


def test_the_words_of_other_languages_are_not_looked_up(tmp_path: Path) -> None:
    """The lexicon is English: in a German suite *irate* is a word like others."""
    parts = sound()
    parts.card["language"] = "de"
    replace(parts, "bakery/neutral", "the older", "irate delighted")
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


FIRST = line_of("ferry/neutral")


@defect(*((line_of(f"market/{e}"), ("leakage", "scenario 'market'", "in fit", FIRST)) for e in EMOTIONS))
def scenario_in_two_splits(parts: Parts) -> None:
    for row in parts.rows["fit"]:
        row["scenario"] = "market"


@defect(
    (line_of("lamp/neutral"), ("duplicate", "same conversation", FIRST)),
    (line_of("lamp/neutral"), ("duplicate", "same text", FIRST)),
    (line_of("lamp/neutral"), ("leakage", "the text", "in fit", FIRST)),
)
def text_in_two_splits(parts: Parts) -> None:
    at(parts, "lamp/neutral")["messages"] = at(parts, "ferry/neutral")["messages"]


@defect((line_of("lamp/joy"), ("28 words and marks", "twin has 25", "10 %")))
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
    changes = (
        "blank citation",
        "malformed canary",
        "near duplicate",
        "missing twin",
        "reference word in a trait suite",
    )
    for name in changes:
        DEFECTS[name][0](parts)
    folder = parts.write(tmp_path / "harbour")
    expected = [str(folder / place) for name in changes for place, _ in DEFECTS[name][1]]
    assert sorted(f.where for f in check(folder)) == sorted(expected)


# --- other designs ----------------------------------------------------------------------------------------------


def exchange(first: str, *turns: str) -> list[dict[str, str]]:
    """User and assistant in turn."""
    return [{"role": ("user", "assistant")[n % 2], "content": t} for n, t in enumerate((first, *turns))]


OPENINGS = {
    "ring": ("joy", "We found the ring of my mother today.", "We put the ring in the drawer today."),
    "roof": ("sadness", "The storm has taken our roof and the cat.", "The builder has measured our roof and the wall."),
}


def retention() -> Parts:
    """Emotional and neutral openings before the same exchange, which ends on a filler that all scenarios share."""
    parts = Parts({**CARD, "design": "retention"}, {"test": []})
    for name, (emotion, *openings) in OPENINGS.items():
        for intensity, text in zip((3, 0), openings, strict=True):
            row = {"id": f"{name}/{intensity}", "scenario": name, "emotion": emotion, "intensity": intensity}
            row |= {"messages": exchange(text, "I see.", "Which bus goes to the museum of clocks on a Tuesday?")}
            parts.rows["test"].append(row | {"reads": [0, 2], "twin": f"{name}/0" if intensity else ""})
    return parts


def test_retention_may_end_on_shared_fillers(tmp_path: Path) -> None:
    """The last message is the same everywhere, by design: it is the openings that count."""
    assert check(retention().write(tmp_path / "a")) == []
    parts = retention()
    at(parts, "roof/3")["messages"][0]["content"] = "We found the ring of my mother today, at last!"
    findings = check(parts.write(tmp_path / "b"))
    assert [f.where.rsplit(":", 1)[1] for f in findings] == ["3"]
    assert "near-duplicate" in findings[0].what


def test_twins_of_retention_differ_in_the_opening(tmp_path: Path) -> None:
    """An opening that is too long is found, though the messages after it are the same."""
    parts = retention()
    at(parts, "ring/3")["messages"][0]["content"] += " She wept and sang and hugged the whole street."
    (finding,) = check(parts.write(tmp_path / "a"))
    assert finding.where.endswith("test.jsonl:1")
    assert "19 words and marks, its twin has 9" in finding.what


def test_emotions_may_go_with_scenarios_outside_of_the_circumplex(tmp_path: Path) -> None:
    """In retention every scenario has its own emotion; as a circumplex the same suite is not balanced."""
    parts = retention()
    parts.card["design"] = "circumplex"
    found = [f.what for f in check(parts.write(tmp_path / "a")) if "balanced" in f.what]
    assert len(found) == 1
    assert "sadness 3 user too many" in found[0]


# --- cards that name a source -----------------------------------------------------------------------------------

FROM_HUB = {"repo": "someone/feelings", "revision": COMMIT, "columns": {"text": "text", "label": "label"}}
FROM_HUB |= {"labels": {"0": "joy", "1": "anger"}, "sample": {"blocks": 8}}
FROM_FILES = {k: v for k, v in FROM_HUB.items() if k not in ("repo", "revision")}
ADDRESS = "https://example.org/someone/feelings/{}/texts.csv"
SOURCES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "commit": ({}, ()),
    "branch": ({"revision": "main"}, ("unpinned", "source.revision must be a commit", "branch")),
    "short commit": ({"revision": COMMIT[:12]}, ("unpinned", "40 hex digits")),
    "no revision": ({"revision": ""}, ("unpinned", "40 hex digits")),
    "address with a commit": ({"files": [ADDRESS.format(COMMIT)]}, ()),
    "address with a branch": ({"files": [ADDRESS.format("main")]}, ("unpinned", "no commit in the address")),
    "one address of two": ({"files": [ADDRESS.format(c) for c in (COMMIT, "main")]}, ("unpinned", "no commit")),
    "repository and files": ({"repo": "a/b", "files": [ADDRESS.format(COMMIT)]}, ("either `repo` or `files`",)),
    "unknown emotion": ({"labels": {"0": "joy", "1": "envy"}}, ("labels: unknown emotion envy",)),
}


@pytest.mark.parametrize(("change", "says"), SOURCES.values(), ids=SOURCES.keys())
def test_a_source_must_be_pinned(change: dict[str, Any], says: tuple[str, ...], tmp_path: Path) -> None:
    """A repository at a commit or addresses that name one pass without canary and network; all else is a finding."""
    card = {k: v for k, v in CARD.items() if k != "canary"}
    base = FROM_FILES if "files" in change else FROM_HUB
    folder = Parts({**card, "source": {**base, **change}}, {}).write(tmp_path / "mine")
    findings = check(folder)
    assert len(findings) == bool(says)
    for finding in findings:
        assert finding.where == str(folder / "suite.yaml")
        assert [s for s in says if s not in finding.what] == []


def test_texts_of_others_need_licence_and_citation_too(tmp_path: Path) -> None:
    """A sampled suite names who made the texts and under which licence."""
    card = {**CARD, "licence": "", "citation": "", "source": FROM_HUB}
    folder = Parts(card, {}).write(tmp_path / "mine")
    assert [str(f) for f in check(folder)] == [
        f"{folder / card_line('licence')}: no licence",
        f"{folder / card_line('citation')}: no citation",
    ]


# --- files that cannot be read ----------------------------------------------------------------------------------


def test_a_folder_without_a_card_is_told_how_to_get_one(tmp_path: Path) -> None:
    """An empty folder is one finding that names the command."""
    (finding,) = check(tmp_path)
    assert finding.where == str(tmp_path / "suite.yaml")
    assert "llmct-bench suites init" in finding.what


@pytest.mark.parametrize(("text", "says"), [(b"name: [1\n", "broken YAML"), (b"name: \xfc", "not UTF-8 (byte 6)")])
def test_a_card_that_cannot_be_read_is_one_finding(text: bytes, says: str, tmp_path: Path) -> None:
    """Broken YAML and other encodings are said in one line."""
    folder = sound().write(tmp_path / "harbour")
    (folder / "suite.yaml").write_bytes(text)
    (finding,) = check(folder)
    assert says in finding.what
    assert "\n" not in str(finding)


# --- what passes can be read ------------------------------------------------------------------------------------


def latin_bytes(folder: Path) -> None:
    """A text in another encoding."""
    file = folder / "data" / "test.jsonl"
    file.write_bytes(file.read_bytes().replace(b"customs house", b"customs\xfchouse"))


def dangling_twin_of_a_neutral_item(folder: Path) -> None:
    """A neutral item names a twin that is not there."""
    file = folder / "data" / "test.jsonl"
    file.write_text(file.read_text("utf-8").replace('"twin": ""', '"twin": "nobody"', 1), encoding="utf-8")


@pytest.mark.parametrize(
    "damage",
    [
        latin_bytes,
        pytest.param(
            dangling_twin_of_a_neutral_item,
        ),
    ],
)
def test_what_cannot_be_read_does_not_pass(damage: Callable[[Path], None], tmp_path: Path) -> None:
    """A suite that `get_suite` refuses has findings."""
    folder = sound().write(tmp_path / "harbour")
    damage(folder)
    with pytest.raises(SuiteError):
        read_folder(folder)
    assert check(folder)


@pytest.mark.parametrize(
    ("fitted", "scored"),
    [
        ("gladly", "glad"),
        pytest.param(
            "glad",
            "gladly",
        ),
    ],
)
def test_lemmas_overlap_in_both_directions(fitted: str, scored: str, tmp_path: Path) -> None:
    """A word and its inflected form are one lemma, whichever of them the axes are fitted on."""
    parts = sound()
    replace(parts, "ferry/joy", "thrilled", fitted)
    replace(parts, "market/joy", "delighted", scored)
    found = [f.what for f in check(parts.write(tmp_path / "harbour"))]
    assert len(found) == 1
    assert "lemma overlap" in found[0]


# --- the commands -----------------------------------------------------------------------------------------------


def test_check_passes_a_sound_suite(cli: Cli, tmp_path: Path) -> None:
    """Exit code 0 and one line."""
    folder = sound().write(tmp_path / "harbour")
    assert cli("suites", "check", folder) == Done(0, f"{folder}: ok\n", "")


def test_check_prints_findings_and_exits_1(cli: Cli, tmp_path: Path) -> None:
    """Findings on stdout as `check` gives them, each on a line of its own, then their number; sound ones are named."""
    parts = sound()
    for name in ("no citation", "broken json", "missing twin"):
        DEFECTS[name][0](parts)
    bad, good = parts.write(tmp_path / "bad"), sound().write(tmp_path / "good")
    done = cli("suites", "check", bad, good)
    assert (done.code, done.err) == (1, "")
    findings = [str(f) for f in check(bad)]
    assert len(findings) == 3
    assert done.out.splitlines() == [*findings, f"{bad}: 3 defects", f"{good}: ok"]


def test_check_without_names_checks_what_is_shipped(cli: Cli) -> None:
    """All shipped suites, none of them fetched."""
    assert cli("suites", "check") == Done(0, "".join(f"{name}: ok\n" for name in list_suites()), "")


def test_check_of_a_folder_that_is_not_there_exits_1(cli: Cli, tmp_path: Path) -> None:
    """A misspelt name is not passed over."""
    done = cli("suites", "check", tmp_path / "nowhere")
    assert done.code == 1
    assert str(tmp_path / "nowhere" / "suite.yaml") in done.out


def test_init_writes_a_suite_that_passes(cli: Cli, tmp_path: Path) -> None:
    """The skeleton is sound, can be read, and has a canary that no other skeleton has."""
    canaries = set()
    for name in ("mine", "deep/down/My Suite"):
        folder = tmp_path / name
        done = cli("suites", "init", folder)
        assert (done.code, done.err) == (0, "")
        *written, hint = done.out.splitlines()
        assert sorted(written) == sorted(str(p) for p in folder.rglob("*") if p.is_file())
        assert hint.endswith(f"llmct-bench suites check {folder}")
        assert cli("suites", "check", folder) == Done(0, f"{folder}: ok\n", "")
        suite = read_folder(folder)
        assert suite.card.name == folder.name.lower().replace(" ", "-")
        assert len(suite.items) > 1
        canaries.add(suite.card.canary)
    assert len(canaries) == 2


def test_init_fills_an_empty_folder(cli: Cli, tmp_path: Path) -> None:
    """A folder that is there already will do, as long as it is empty."""
    assert cli("suites", "init", tmp_path).code == 0
    assert check(tmp_path) == []


def test_init_leaves_what_is_there(cli: Cli, tmp_path: Path) -> None:
    """A folder that holds anything is refused in one line, and nothing in it is touched."""
    (tmp_path / "notes.txt").write_text("mine")
    assert cli("suites", "init", tmp_path) == Done(1, "", f"error: {tmp_path} is not empty: choose a new folder\n")
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["_mine_", "2024", "1.5", "true", "tränen"])
def test_any_folder_name_gives_a_sound_skeleton(name: str, tmp_path: Path) -> None:
    """Names that YAML reads as numbers or truth values, and letters beyond a to z, make a card that is read."""
    init(tmp_path / name)
    assert [str(f) for f in check(tmp_path / name)] == []


def test_init_on_a_file_is_one_line(cli: Cli, tmp_path: Path) -> None:
    """A file in the place of the folder is told, without a traceback."""
    (tmp_path / "mine").write_text("mine")
    done = cli("suites", "init", tmp_path / "mine")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
