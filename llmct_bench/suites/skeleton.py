"""A new suite to begin with: a folder that loads, passes its check and says what to change."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

from llmct_bench.errors import SuiteError

_CARD = """\
# The card of this suite. `llmct-bench suites check {folder}` says what is wrong with it and with data/*.jsonl.
name: '{name}'
version: 0.1.0
# What the items are for:
#   circumplex  scenarios told in several emotions and intensities (separability, joy bias, neutral offset)
#   shock       the same news after different contexts, in the user's and the assistant's slot (dampening)
#   retention   emotional and neutral openings before identical exchanges (memory decay)
#   reference   graded statements on which the axes are fitted, with the splits fit and dev
design: circumplex
summary: One sentence on what is in it.
language: en
licence: CC-BY-4.0
citation: Who made this, when, and where it is described.
# Texts of this suite must not appear in training data: search for this string.
canary: {canary}
# Instead of data/*.jsonl the items may be sampled from a data set on the Hub. Then the card needs no canary:
# source:
#   repo: owner/name
#   revision: 0123456789abcdef0123456789abcdef01234567    # a commit, never a branch
#   configuration: default
#   split: test
#   streaming: false                                     # true: rows are read on the way, nothing is stored
#   columns: {{text: text, label: label, cluster: author}}  # one row a cluster is drawn at most
#   labels: {{0: joy, 1: anger, 2: sadness, 3: neutral}}    # other rows are not used
#   words: [5, 40]                                       # shortest and longest text
#   sample: {{blocks: 192, seed: 0}}                        # texts of each emotion
"""

_README = """\
---
license: cc-by-4.0
language:
- en
pretty_name: {name}
configs:
- config_name: default
  data_files:
  - split: test
    path: data/test.jsonl
---

# {name}

## What it measures and why

## Composition

## How the texts were written and checked

## What it is not for, and limits

## Licence, citation, version
"""

_TEXTS = {
    "neutral": (0, "The bus to the harbour left at eight, and I sat beside a man with a folded paper map."),
    "joy": (2, "The bus to the harbour brought my sister at eight, home for good, running past a man with a map."),
    "anger": (2, "The bus to the harbour drove off at eight with my bag, and a man with a map laughed at me."),
    "sadness": (2, "The bus to the harbour left at eight without her, and I gave the man her half of our map."),
    "calm": (2, "The bus to the harbour hummed along at eight, and I dozed beside a man with a folded map."),
}


def init(folder: Path) -> list[Path]:
    """Write a commented skeleton. Raises SuiteError where the folder holds something already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SuiteError(f"{folder} is {'not empty' if folder.is_dir() else 'a file'}: choose a new folder")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower()).strip("._-") or "suite"
    rows = [
        {
            "id": f"harbour-bus/{emotion}",
            "scenario": "harbour-bus",
            "emotion": emotion,
            "intensity": intensity,
            "messages": [{"role": "user", "content": text}],
            "reads": [0],
            "split": "test",
            "keyworded": False,
            "twin": "harbour-bus/neutral" if intensity else "",
        }
        for emotion, (intensity, text) in _TEXTS.items()
    ]
    texts = {
        "suite.yaml": _CARD.format(folder=folder, name=name, canary=f"{name}:{uuid.uuid4()}"),
        "README.md": _README.format(name=name),
        "data/test.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
    }
    for path, text in texts.items():
        (folder / path).write_text(text, encoding="utf-8")
    return [folder / path for path in texts]
