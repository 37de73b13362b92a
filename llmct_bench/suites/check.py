"""The gate: what must hold before a suite may be measured on. Every finding names file and line."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from llmct_bench.emotions import NEUTRAL, lexicon
from llmct_bench.suites.schema import Item, SuiteCard
from llmct_bench.suites.words import lemma, shingles, units, words

#: Two texts of different scenarios with at least this share of their three-word runs in common are near-duplicates.
LIKENESS = 0.6
#: Twins may differ in length by this share or by two words and marks, whichever is more.
LENGTH = 0.10
_CANARY = re.compile(r"^[\w.-]+:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")


@dataclass(frozen=True)
class Finding:
    """A defect: ``file:line`` (or the file) and what is wrong."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Row:
    """An item and where it stands."""

    where: str
    item: Item

    @property
    def text(self) -> str:
        """The message that is read (the last one, where there are several)."""
        return self.item.messages[self.item.reads[-1]].content


def check(folder: Path) -> list[Finding]:
    """All defects of a suite folder, in the order of its files; empty when it is sound."""
    card, findings = _card(folder / "suite.yaml")
    if card is None:
        return findings
    if card.source is not None:
        if not card.source.pinned:
            what = (
                "source.revision must be a commit of 40 hex digits" if card.source.repo else "no commit in the address"
            )
            findings.append(Finding(str(folder / "suite.yaml"), f"unpinned: {what}; what a branch holds may change"))
        return findings
    rows, broken = _rows(folder)
    findings += broken
    if not rows:
        return [*findings, Finding(str(folder), "no items: data/fit.jsonl, dev.jsonl or test.jsonl must hold some")]
    for rule in RULES:
        findings += rule(rows, card)
    return findings


def _card(path: Path) -> tuple[SuiteCard | None, list[Finding]]:
    try:
        text = path.read_text(encoding="utf-8")
        card = SuiteCard.model_validate(yaml.safe_load(text))
    except FileNotFoundError:
        return None, [Finding(str(path), "missing: `llmct-bench suites init FOLDER` writes one")]
    except UnicodeDecodeError as error:
        return None, [Finding(str(path), f"not UTF-8 (byte {error.start})")]
    except yaml.YAMLError as error:
        return None, [Finding(str(path), f"broken YAML: {' '.join(str(error).split())}")]
    except ValidationError as error:
        return None, [
            Finding(str(path), f"{'.'.join(map(str, e['loc'])) or 'card'}: {e['msg']}") for e in error.errors()
        ]

    def line(key: str) -> str:
        found = next((n for n, each in enumerate(text.split("\n"), 1) if each.startswith(f"{key}:")), None)
        return f"{path}:{found}" if found else str(path)

    findings = [Finding(line(k), f"no {k}") for k in ("licence", "citation", "summary") if not getattr(card, k).strip()]
    if card.source is None and not _CANARY.match(card.canary):
        findings.append(
            Finding(line("canary"), "no canary: a line `canary: NAME:UUID` by which the texts can be found")
        )
    return card, findings


def _rows(folder: Path) -> tuple[list[Row], list[Finding]]:
    rows: list[Row] = []
    findings: list[Finding] = []
    seen: dict[str, str] = {}
    for path in (folder / "data" / f"{split}.jsonl" for split in ("fit", "dev", "test")):
        if not path.is_file():
            continue
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line_number = path.read_bytes()[: error.start].count(b"\n") + 1
            findings.append(Finding(f"{path}:{line_number}", f"not UTF-8 (byte {error.start}); save the file as UTF-8"))
            continue
        for n, line in enumerate(text.split("\n"), 1):
            where = f"{path}:{n}"
            if not line.strip():
                continue
            try:
                item = Item.model_validate(json.loads(line))
            except json.JSONDecodeError as error:
                findings.append(Finding(where, f"not JSON ({error.msg})"))
                continue
            except ValidationError as error:
                findings += [
                    Finding(where, f"{'.'.join(map(str, e['loc'])) or 'row'}: {e['msg']}") for e in error.errors()
                ]
                continue
            if item.split != path.stem:
                findings.append(Finding(where, f"split {item.split!r} in the file of {path.stem!r}"))
            if item.id in seen:
                findings.append(Finding(where, f"item id {item.id!r} stands already at {seen[item.id]}"))
            seen[item.id] = where
            rows.append(Row(where, item))
    return rows, findings


Rule = Callable[[list[Row], SuiteCard], Iterator[Finding]]


def texts_and_roles(rows: list[Row], card: SuiteCard) -> Iterator[Finding]:
    """No empty text; a system message only in front; user and assistant take turns, the user first."""
    for row in rows:
        for n, message in enumerate(row.item.messages):
            if not message.content.strip():
                yield Finding(row.where, f"message {n} is empty")
            if message.role == "system" and n:
                yield Finding(row.where, f"message {n} is a system message: it may only be the first")
        roles = [m.role for m in row.item.messages if m.role != "system"]
        if roles[:1] != ["user"] or any(a == b for a, b in pairwise(roles)):
            yield Finding(row.where, "roles must alternate, the user first: " + ", ".join(roles))
        if any(row.item.messages[r].role == "system" for r in row.item.reads):
            yield Finding(row.where, "reads a system message: only the user's and the assistant's can be read")


def duplicates(rows: list[Row], card: SuiteCard) -> Iterator[Finding]:
    """No conversation twice, and no read text in two scenarios."""
    conversations: dict[Any, str] = {}
    texts: dict[str, Row] = {}
    for row in rows:
        key = (row.item.messages, row.item.reads)
        if key in conversations:
            yield Finding(row.where, f"duplicate: the same conversation stands at {conversations[key]}")
        conversations.setdefault(key, row.where)
        text = " ".join(words(row.text))
        first = texts.setdefault(text, row)
        if card.design != "retention" and first.item.scenario != row.item.scenario:
            yield Finding(row.where, f"duplicate: the same text stands in another scenario at {first.where}")


def near_duplicates(rows: list[Row], card: SuiteCard) -> Iterator[Finding]:
    """No text that is nearly one of another scenario. The reference is made of templates, and retention ends on shared
    fillers: there it is the first message that counts."""
    if card.design == "reference":
        return
    place = 0 if card.design == "retention" else -1
    unique = {row.item.messages[row.item.reads[place]].content: row for row in rows}
    known: list[tuple[frozenset[tuple[str, ...]], Row]] = []
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for text, row in unique.items():
        own = shingles(text)
        shared = Counter(n for s in own for n in holders[s])
        for n, common in shared.items():
            other, first = known[n]
            if first.item.scenario != row.item.scenario and common >= LIKENESS * len(own | other):
                yield Finding(row.where, f"near-duplicate of {first.where} ({common / len(own | other):.0%} in common)")
        for s in own:
            holders[s].append(len(known))
        known.append((own, row))


def leakage(rows: list[Row], card: SuiteCard) -> Iterator[Finding]:
    """No scenario and no text in two splits."""
    for kind, key in (("scenario", lambda r: r.item.scenario), ("text", lambda r: " ".join(words(r.text)))):
        first: dict[str, Row] = {}
        for row in rows:
            other = first.setdefault(key(row), row)
            if other.item.split != row.item.split:
                what = f" {row.item.scenario!r}" if kind == "scenario" else ""
                yield Finding(
                    row.where, f"leakage: the {kind}{what} stands in {other.item.split} too, at {other.where}"
                )


def twins(rows: list[Row], card: SuiteCard) -> Iterator[Finding]:
    """Where a suite has twins, every emotional item has a neutral one in its scenario, of nearly its length."""
    by_id = {row.item.id: row for row in rows}
    if not any(row.item.twin for row in rows):
        return
    place = 0 if card.design == "retention" else -1
    for row in rows:
        item = row.item
        if item.intensity == 0 and (not item.twin or item.twin in by_id):
            continue
        twin = by_id.get(item.twin)
        if twin is None:
            yield Finding(row.where, f"twin {item.twin!r} is not there" if item.twin else "no twin")
            continue
        if twin.item.intensity > 0 or twin.item.scenario != item.scenario:
            yield Finding(row.where, f"twin {item.twin!r} is not a neutral item of the same scenario")
        own, other = (len(units(r.item.messages[r.item.reads[place]].content)) for r in (row, twin))
        if abs(own - other) > max(2, LENGTH * other):
            yield Finding(row.where, f"{own} words and marks, its twin has {other}: more than 10 % apart")


def balance(rows: list[Row], card: SuiteCard) -> Iterator[Finding]:
    """Every scenario (of a kind, where emotions go with scenarios) has the same cells as often."""
    cells: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    first: dict[tuple[str, str], str] = {}
    for row in rows:
        i = row.item
        key: tuple[str, str] = (i.split, i.scenario)
        emotion = (
            i.emotion if card.design in ("reference", "circumplex") else ("neutral" if i.intensity == 0 else "own")
        )
        role = i.messages[i.reads[-1]].role
        # templates and neutral fillers of the reference rotate over topics
        cells[key][" ".join(map(str, filter(None, (emotion, i.intensity or "", role, i.context, i.filler))))] += 1
        first.setdefault(key, row.where)
    usual = Counter(frozenset(c.items()) for c in cells.values()).most_common(1)[0][0]
    wanted = Counter(dict(usual))
    for (split, scenario), found in cells.items():
        missing, extra = wanted - found, found - wanted
        if missing or extra:
            parts = [f"{n} × {c} missing" for c, n in missing.items()] + [
                f"{n} × {c} too many" for c, n in extra.items()
            ]
            yield Finding(
                first[split, scenario], f"scenario {scenario!r} is not balanced like the others: {', '.join(parts[:4])}"
            )


def emotion_words(rows: list[Row], card: SuiteCard) -> Iterator[Finding]:
    """No lemma of the lexicon shared between what axes are fitted on and what is scored; none in neutral texts or in
    items that are called keyword-free."""
    if card.language != "en":
        return
    fit: dict[str, dict[str, Row]] = defaultdict(dict)
    stems = {lemma(w): e for w, e in lexicon().items()}
    forbidden = {lemma(w) for w, e in lexicon().items() if e.use == "reference"} - {
        lemma(w) for w, e in lexicon().items() if e.use == "trait"
    }
    for row in rows:
        if row.item.split == "fit":
            for w in words(row.text):
                if lemma(w) in stems:
                    fit[row.item.emotion].setdefault(lemma(w), row)
    for row in rows:
        i = row.item
        found = [w for w in words(row.text) if w in lexicon()]
        for w in words(row.text):
            if i.split != "fit" and lemma(w) in fit[i.emotion]:
                yield Finding(row.where, f"lemma overlap: {w!r} stands in FIT too, at {fit[i.emotion][lemma(w)].where}")
        for w in found:
            if card.design != "reference" and lemma(w) in forbidden:
                yield Finding(row.where, f"lemma overlap: the axes are fitted on {w!r}, no other suite may hold it")
        if found and i.emotion == NEUTRAL:
            yield Finding(row.where, f"a neutral text names an emotion: {', '.join(found)}")
        elif found and not i.keyworded and card.design == "circumplex":
            yield Finding(row.where, f"called keyword-free, holds {', '.join(found)}")


RULES: tuple[Rule, ...] = (
    texts_and_roles,
    duplicates,
    near_duplicates,
    leakage,
    twins,
    balance,
    emotion_words,
)
