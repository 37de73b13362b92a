"""The statistics of a suite as Markdown, for its dataset card: counted anew whenever the suite is composed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from llmct_bench.emotions import ALL_NAMES, NEUTRAL
from llmct_bench.suites.baseline import bag_of_words
from llmct_bench.suites.schema import Item, Suite
from llmct_bench.suites.words import units

BEGIN, END = "<!-- statistics: written by llmct_bench.suites.compose -->", "<!-- end of statistics -->"
_HALVES = {"keyworded": True, "keyword-free": False}


def statistics(suite: Suite) -> str:
    """Counts, lengths, examples and the bag-of-words baseline."""
    readouts = sum(len(i.reads) for i in suite.items)
    parts = [
        f"{len(suite.scenarios)} scenarios, {len(suite.items)} items, {readouts} readouts.",
        _cells(suite),
        _twins(suite),
        _baseline(suite),
        _examples(suite),
    ]
    return "\n\n".join(p for p in parts if p)


def update(readme: Path, suite: Suite) -> bool:
    """Put the statistics between their marks in a dataset card; False where there is no such place."""
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if BEGIN not in text or END not in text:
        return False
    before, rest = text.split(BEGIN, 1)
    readme.write_text(f"{before}{BEGIN}\n\n{statistics(suite)}\n\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")
    return True


def _table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> str:
    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True)


def _text(item: Item, design: str) -> str:
    return item.messages[item.reads[0] if design == "retention" else item.reads[-1]].content


def _cells(suite: Suite) -> str:
    design = suite.card.design
    groups: dict[tuple[str, int], list[Item]] = {}
    for i in suite.items:
        groups.setdefault((i.emotion, i.intensity), []).append(i)
    order = sorted(groups, key=lambda k: ((NEUTRAL, *ALL_NAMES).index(k[0]), k[1]))
    rows: list[list[str]] = []
    for emotion, intensity in order:
        found = groups[emotion, intensity]
        n = [len(units(t)) for t in dict.fromkeys(_text(i, design) for i in found)]
        halves = [str(sum(i.keyworded is half for i in found)) for half in _HALVES.values()]
        rows.append([emotion, str(intensity), str(len(found)), *halves, f"{np.mean(n):.1f} ({min(n)}–{max(n)})"])
    header = ["emotion", "intensity", "items", *_HALVES, "words and marks a text, mean (range)"]
    if all(row[4] == "0" for row in rows):
        rows, header = [[*r[:3], r[5]] for r in rows], [*header[:3], header[5]]
    return _table(rows, header)


def _twins(suite: Suite) -> str:
    by_id = {i.id: i for i in suite.items}
    design = suite.card.design
    ratios = [len(units(_text(i, design))) / len(units(_text(by_id[i.twin], design))) for i in suite.items if i.twin]
    if not ratios:
        return ""
    low, median, high = np.quantile(ratios, [0.025, 0.5, 0.975])
    return (
        f"Length of an item over that of its twin (words and marks): median {median:.2f}, middle 95 % {low:.2f} to "
        f"{high:.2f}."
    )


def _baseline(suite: Suite) -> str:
    if suite.card.design != "circumplex" or suite.card.language == "zh":
        return ""
    rows = []
    emotions = [e for e in ALL_NAMES if any(i.emotion == e for i in suite.items)]
    for title, half in _HALVES.items():
        found = bag_of_words([i for i in suite.items if i.keyworded is half])
        if found is not None:
            a = found.accuracy
            recall = [f"{found.recall[e]:.2f}" if e in found.recall else "" for e in emotions]
            accuracy = [f"{found.chance:.2f}", f"**{a.estimate:.3f}**", f"{a.low:.3f}–{a.high:.3f}"]
            rows.append([title, str(found.items), *accuracy, *recall])
    header = ["half", "items", "chance", "balanced accuracy", "95 % CI", *emotions]
    text = (
        "What a bag of words makes of it (multinomial naive Bayes, leave-one-scenario-out, neutral items left out; "
        "the last columns are the recalls):"
    )
    return f"{text}\n\n{_table(rows, header)}"


def _examples(suite: Suite) -> str:
    if suite.card.design != "circumplex":
        return ""
    rows = []
    chosen = {}
    for title, half in _HALVES.items():
        scenarios = list(dict.fromkeys(i.scenario for i in suite.items if i.keyworded is half))
        if scenarios:
            chosen[title] = scenarios[len(scenarios) // 2]
    texts = {(i.scenario, i.emotion, i.intensity): _text(i, "circumplex") for i in suite.items}
    cells = [k[1:] for k in texts if k[0] == next(iter(chosen.values()))]
    for emotion, intensity in cells:
        rows.append([emotion, intensity, *(texts[s, emotion, intensity].replace("|", "\\|") for s in chosen.values())])
    return "One scenario of each half:\n\n" + _table(
        rows, ["emotion", "intensity", *(f"{title} (`{s}`)" for title, s in chosen.items())]
    )
