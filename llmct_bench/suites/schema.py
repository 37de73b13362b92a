"""What a suite is: items (conversations with readouts), their design factors, and the card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llmct_bench.emotions import ALL_NAMES, NEUTRAL
from llmct_bench.suites.source import Source

Design = Literal["reference", "circumplex", "shock", "retention"]


class Turn(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1)


class Item(BaseModel):
    """A conversation and the messages after which the model's state is read.

    ``scenario`` is the cluster of the statistics. ``emotion`` and ``intensity`` (0 = neutral, 1 to 3) are the
    designed labels; ``twin`` is the id of the matched item without the emotion. ``reads`` are indices into
    ``messages``. Design factors that a suite does not have are empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str
    scenario: str
    emotion: str
    intensity: int = Field(ge=0, le=3)
    messages: tuple[Turn, ...] = Field(min_length=1)
    reads: tuple[int, ...] = Field(min_length=1)
    split: Literal["fit", "dev", "test"] = "test"
    keyworded: bool = True
    twin: str = ""
    template: str = ""
    context: str = ""
    filler: str = ""
    #: human ratings from -1 to +1, where a data set has them
    valence: float | None = Field(default=None, ge=-1, le=1)
    arousal: float | None = Field(default=None, ge=-1, le=1)

    def to_json(self) -> dict[str, Any]:
        """Plain data; ratings only where there are some."""
        return self.model_dump(mode="json", exclude={k for k in ("valence", "arousal") if getattr(self, k) is None})

    @model_validator(mode="after")
    def _is_sound(self) -> Item:
        known = (*ALL_NAMES, NEUTRAL)
        if self.emotion not in known:
            raise ValueError(f"item {self.id}: unknown emotion {self.emotion!r}; known: {', '.join(known)}")
        if any(not 0 <= r < len(self.messages) for r in self.reads):
            raise ValueError(f"item {self.id}: reads {list(self.reads)} lie outside of its messages")
        if list(self.reads) != sorted(set(self.reads)):
            raise ValueError(f"item {self.id}: reads must be increasing and unique")
        return self


class SuiteCard(BaseModel):
    """``suite.yaml``: what the suite is for and how its content was made.

    A suite either brings its items along (``data/*.jsonl``) or names a ``source`` from which they are sampled.
    ``canary`` is a string by which the texts can be found in a corpus; texts of others have none. ``original``: the
    suite of which this one is a translation, scenario by scenario.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    version: str
    design: Design
    summary: str
    licence: str
    citation: str = ""
    language: str = "en"
    original: str = ""
    canary: str = ""
    source: Source | None = None


@dataclass(frozen=True)
class Suite:
    """A card, its items in order, and a hash of all that determines what a model is shown."""

    card: SuiteCard
    items: tuple[Item, ...]
    #: ``items`` were cut down to this many scenarios; 0 = all of them
    limit: int = 0

    @property
    def key(self) -> str:
        """``name@version``, with ``~limitN`` when cut down: the folder name of results."""
        return f"{self.card.name}@{self.card.version}" + (f"~limit{self.limit}" if self.limit else "")

    @property
    def scenarios(self) -> list[str]:
        """The scenarios (clusters) in order of first appearance."""
        return list(dict.fromkeys(i.scenario for i in self.items))

    @property
    def content_hash(self) -> str:
        """sha256 of the design and of every item, independent of file layout."""
        return content_hash(self.card.design, self.items)

    def limited(self, scenarios: int) -> Suite:
        """The suite cut down to ``scenarios`` scenarios, taken in turn from the groups with the same emotions and
        keyworded or not, so that a short run keeps the design balanced. The reference is never cut."""
        if scenarios <= 0 or self.card.design == "reference" or scenarios >= len(self.scenarios):
            return self
        by_emotion: dict[tuple[str, ...], list[str]] = {}
        for s in self.scenarios:
            items = [i for i in self.items if i.scenario == s]
            own = (str(items[0].keyworded), *sorted({i.emotion for i in items if i.intensity > 0}))
            by_emotion.setdefault(own, []).append(s)
        queues = list(by_emotion.values())
        kept: set[str] = set()
        while len(kept) < scenarios:
            for queue in queues:
                if queue and len(kept) < scenarios:
                    kept.add(queue.pop(0))
        return replace(self, items=tuple(i for i in self.items if i.scenario in kept), limit=scenarios)


def content_hash(design: str, items: Sequence[Item]) -> str:
    """sha256 hex of a design and its items in order."""
    digest = hashlib.sha256(design.encode())
    for item in items:
        digest.update(json.dumps(item.to_json(), sort_keys=True).encode())
    return digest.hexdigest()
