"""The result of one model on one suite, as plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from llmct_bench.errors import ResultError
from llmct_bench.traits import TraitEstimate

#: Raised whenever the meaning of a stored number changes; older results are then measured again.
SCHEMA_VERSION = 7


@dataclass(frozen=True)
class ResultCard:
    """Everything about one model on one suite except the scores themselves (`scores.parquet` beside it).

    ``key`` is a hash of all that determines the content. ``fit`` says at which layer and on which reference the
    scores were taken; ``raw`` are the seed-compatible numbers; ``left_out`` the readouts that the model cannot read.
    """

    key: str
    model: dict[str, Any]
    commit: str
    suite: str
    suite_hash: str
    design: str
    subset: str
    n_readouts: int
    n_scenarios: int
    left_out: list[str]
    fit: dict[str, Any]
    traits: list[TraitEstimate]
    raw: dict[str, Any]
    certificate: dict[str, Any]
    run: dict[str, Any]
    #: the planted values of a phantom, from its closed form; empty for everything else
    truth: dict[str, float | None] = field(default_factory=dict)
    #: what the model would say next, where that was read (see `NextWords`)
    next_words: dict[str, Any] | None = None
    #: of a translation: how its emotions lie to those of the original (see `Transfer`)
    transfer: dict[str, Any] | None = None
    #: readouts left out of a comparison because another model cannot read them; never stored
    not_shared: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    schema: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """Indented JSON, strict (no NaN)."""
        data = {**asdict(self), "traits": [t.to_json() for t in self.traits]}
        return json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str) -> ResultCard:
        """Back from `to_json`. Raises ResultError on anything else."""
        try:
            data = json.loads(text)
            traits = [TraitEstimate.from_json(t) for t in data.pop("traits")]
            card = ResultCard(**data, traits=traits)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ResultError(f"not a result card: {' '.join(str(error).split())[:120]}") from error
        if card.schema != SCHEMA_VERSION:
            raise ResultError(f"a result of schema {card.schema}, this version reads {SCHEMA_VERSION}")
        return card


def result_key(**determinants: str | int | float | bool) -> str:
    """A hash of everything that determines the content of a result."""
    text = json.dumps({"schema": SCHEMA_VERSION, **determinants}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def labels(results: Sequence[ResultCard]) -> dict[tuple[str, str], str]:
    """What each (model, commit) is called: the model's name, with the commit where it was measured at several."""
    commits: dict[str, set[str]] = {}
    for r in results:
        commits.setdefault(str(r.model["name"]), set()).add(r.commit)
    return {
        (name, commit): name if len(found) == 1 else f"{name}@{commit[:8]}"
        for name, found in commits.items()
        for commit in sorted(found)
    }
