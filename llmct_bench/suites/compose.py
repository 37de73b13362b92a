"""From authored parts to items: how the texts of a scenario are crossed with the factors of its design.

Every shipped suite keeps its authored parts (``parts/*.jsonl``, one scenario a line) beside the composed items
(``data/*.jsonl``); ``python -m llmct_bench.suites.compose suites`` writes the second from the first.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmct_bench.emotions import ALL_NAMES, NAMES, NEUTRAL, words
from llmct_bench.suites.load import read_folder
from llmct_bench.suites.schema import Item, Turn
from llmct_bench.suites.statistics import update

Part = dict[str, Any]

#: Lags of the retention suite, in exchanges after the opening.
LAGS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24)
#: The probe that takes the opening up again comes one exchange after the last lag.
PROBE_LAG = max(LAGS) + 1
#: Words that fill the frame of a reference statement without naming an emotion.
NEUTRAL_WORDS = ("informed", "prepared", "briefed", "neutral")
_PROMPTS = ("How are things?", "What is the news from you?", "And what about you?")
_ACKNOWLEDGE = "Thank you for telling me. What would you like to go through next?"
_PROBE = "Before we stop, please think back to the very first message that I sent you here."
_BRIDGE_ASSISTANT = "All right. And what else is new?"
_BRIDGE_USER = "You go first. What is new with you?"


def _user(text: str) -> Turn:
    return Turn(role="user", content=text)


def _assistant(text: str) -> Turn:
    return Turn(role="assistant", content=text)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def reference(parts: dict[str, list[Part]]) -> Iterator[Item]:
    """Statements: topic x emotion x intensity x role. Templates and words rotate over topics and intensities,
    the same for all emotions of a cell, so that an emotion is never confounded with a frame. Every third topic is
    DEV; FIT uses the first four words of a cell of the lexicon and DEV the other two, so that an axis is never
    judged on a word that it was fitted on."""
    templates = parts["templates"]
    for t, topic in enumerate(parts["topics"]):
        split = "dev" if t % 3 == 2 else "fit"
        rank = t // 3 if split == "dev" else t - t // 3  # among the topics of the split
        rows: list[tuple[str, int, int, str]] = []
        for level in (1, 2, 3):
            for emotion in NAMES:
                cell = words(emotion, level, "reference")
                choice = cell[:4] if split == "fit" else cell[4:]
                word = choice[(rank + rank // len(templates) + level) % len(choice)]
                rows.append((emotion, level, (rank + level) % len(templates), word))
        for f in range(len(templates)):
            for k in range(2):
                word = NEUTRAL_WORDS[(t + f + 2 * k) % len(NEUTRAL_WORDS)]
                rows.append((NEUTRAL, 0, f, word))
        for emotion, level, frame, word in rows:
            template = templates[frame]
            text = _capital(template["text"].format(word=word, topic=topic["phrase"]))
            for role in ("user", "assistant"):
                said = (_user(text),) if role == "user" else (_user(_PROMPTS[t % 3]), _assistant(text))
                yield Item(
                    id=f"{topic['scenario']}/{role}/{template['template']}/{emotion}-{level}-{word}",
                    scenario=topic["scenario"],
                    emotion=emotion,
                    intensity=level,
                    messages=said,
                    reads=(len(said) - 1,),
                    split=split,  # type: ignore[arg-type]
                    template=template["template"],
                )


def circumplex(parts: dict[str, list[Part]]) -> Iterator[Item]:
    """Scenario x emotion x intensity, each with one neutral twin, as a first user message."""
    for part in parts["scenarios"]:
        twin = f"{part['scenario']}/{NEUTRAL}"
        cells = [(NEUTRAL, 0, part[NEUTRAL])]
        cells += [(e, i, text) for e in ALL_NAMES if e in part for i, text in enumerate(part[e], 1)]
        for emotion, level, text in cells:
            yield Item(
                id=twin if emotion == NEUTRAL else f"{part['scenario']}/{emotion}-{level}",
                scenario=part["scenario"],
                emotion=emotion,
                intensity=level,
                messages=(_user(text),),
                reads=(0,),
                keyworded=part["keyworded"] and emotion in (*NAMES, NEUTRAL),
                twin="" if emotion == NEUTRAL else twin,
            )


def shock(parts: dict[str, list[Part]]) -> Iterator[Item]:
    """Scenario x context x slot x (no-shock twin, three doses). The text of the shock is the same in the user's
    and in the assistant's slot; a fixed bridge lets either of them speak."""
    for part in parts["scenarios"]:
        for context, (u1, a1, u2) in part["contexts"].items():
            opening = (_user(u1), _assistant(a1), _user(u2), _assistant(_BRIDGE_ASSISTANT))
            for slot in ("user", "assistant"):
                stem = f"{part['scenario']}/{context}/{slot}"
                for dose, text in enumerate((part["twin"], *part["shock"])):
                    said = (_user(text),) if slot == "user" else (_user(_BRIDGE_USER), _assistant(text))
                    messages = opening + said
                    yield Item(
                        id=f"{stem}/{dose}",
                        scenario=part["scenario"],
                        emotion=part["emotion"],
                        intensity=dose,
                        messages=messages,
                        reads=(len(messages) - 1,),
                        twin=f"{stem}/0" if dose else "",
                        context=context,
                    )


def retention(parts: dict[str, list[Part]]) -> Iterator[Item]:
    """Episode x opening (emotional, neutral) x filler length (short, long), read on the user's message at every
    lag of `LAGS` and on a last message that takes the opening up again without naming anything in it (the probe, at
    `PROBE_LAG`). Both openings are followed by identical exchanges; each episode meets the fillers in an order of its
    own (a stride of 5 through the bank), so that no filler sits at one lag."""
    fillers = parts["fillers"]
    for e, part in enumerate(parts["episodes"]):
        order = [fillers[(7 * e + 5 * k) % len(fillers)] for k in range(1, max(LAGS) + 1)]
        for length in ("short", "long"):
            stem = f"{part['scenario']}/{length}"
            for opening in (NEUTRAL, "emotional"):
                messages = [_user(part[opening]), _assistant(_ACKNOWLEDGE)]
                for filler in order:
                    messages += [_user(filler[length][0]), _assistant(filler[length][1])]
                messages.append(_user(_PROBE))
                emotional = opening != NEUTRAL
                yield Item(
                    id=f"{stem}/{opening}",
                    scenario=part["scenario"],
                    emotion=part["emotion"],
                    intensity=3 if emotional else 0,
                    messages=tuple(messages),
                    reads=tuple(2 * k for k in (*LAGS, PROBE_LAG)),
                    twin=f"{stem}/{NEUTRAL}" if emotional else "",
                    filler=length,
                )


COMPOSERS: dict[str, Callable[[dict[str, list[Part]]], Iterator[Item]]] = {
    "reference": reference,
    "circumplex": circumplex,
    "shock": shock,
    "retention": retention,
}


def read_parts(folder: Path) -> dict[str, list[Part]]:
    """The authored parts of a suite folder by file stem."""
    return {
        p.stem: [json.loads(line) for line in p.read_text(encoding="utf-8").splitlines() if line.strip()]
        for p in sorted((folder / "parts").glob("*.jsonl"))
    }


def compose(folder: Path, design: str) -> list[Item]:
    """All items of the suite in ``folder`` from its parts."""
    return list(COMPOSERS[design](read_parts(folder)))


def write(folder: Path, items: list[Item]) -> None:
    """Write ``data/SPLIT.jsonl`` (one item a line, keys in the order of `Item`)."""
    data = folder / "data"
    data.mkdir(exist_ok=True)
    for split in dict.fromkeys(i.split for i in items):
        lines = [json.dumps(i.to_json(), ensure_ascii=False) for i in items if i.split == split]
        (data / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(root: str) -> None:
    """Compose every suite under ``root`` that has authored parts."""
    for parts in sorted(Path(root).glob("*/parts")):
        items = compose(parts.parent, parts.parent.name.split("-")[0])  # circumplex-de is composed like circumplex
        write(parts.parent, items)
        if (parts.parent / "suite.yaml").is_file():
            update(parts.parent / "README.md", read_folder(parts.parent))
        print(f"{parts.parent.name}: {len(items)} items, {sum(len(i.reads) for i in items)} readouts")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "suites")
