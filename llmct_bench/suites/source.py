"""Where the texts of others come from: the part of a suite's card that says which rows of a data set become items."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from llmct_bench.emotions import ALL_NAMES, NEUTRAL

_COMMIT = r"^[0-9a-f]{40}$"


class Columns(BaseModel):
    """Names of the columns that are read.

    ``label`` may hold one label or several (a list, or text with ``separator``). Instead of it ``valence`` and
    ``arousal`` may name columns of ratings. Of rows with the same ``cluster`` one is drawn at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    text: str
    label: str = ""
    separator: str = ""
    valence: str = ""
    arousal: str = ""
    cluster: str = ""


class Ratings(BaseModel):
    """How ratings become emotions: ``low`` to ``high`` is mapped to -1 to +1; at ``margin`` or more from the middle in
    both, the quadrant is the emotion; below half of it in both, the text is neutral; other rows are not used."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    low: float
    high: float
    margin: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _is_sound(self) -> Ratings:
        if not self.low < self.high:
            raise ValueError("ratings: low must be less than high")
        return self


class Sample(BaseModel):
    """``blocks`` texts of each emotion at most, drawn by a hash of ``seed`` and text: the order of the rows, and
    whether they are streamed, makes no difference. One text of each emotion makes a block, the suite's cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    blocks: int = Field(gt=0)
    seed: int = 0


def _text_keys(value: object) -> object:
    return {str(k): v for k, v in value.items()} if isinstance(value, dict) else value


class Source(BaseModel):
    """A data set on the Hub (``repo`` at a pinned ``revision``) or ``files`` at addresses that name a commit.

    ``labels`` maps a label, as it stands in the column or by its name, to an emotion or to neutral; rows with other
    labels, or with labels of several emotions, are not used. ``words``: fewest and most words of a text. ``header``
    names the columns of csv and tsv files without a first row of names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    repo: str = Field(default="", pattern=r"^$|^[\w.-]+/[\w.-]+$")
    revision: str = ""
    configuration: str = ""
    files: tuple[str, ...] = ()
    format: Literal["csv", "tsv", "json", "parquet"] = "csv"
    header: tuple[str, ...] = ()
    split: str = "train"
    streaming: bool = False
    columns: Columns
    labels: Annotated[dict[str, str], BeforeValidator(_text_keys)] = {}
    ratings: Ratings | None = None
    words: tuple[int, int] = (4, 60)
    sample: Sample

    @property
    def name(self) -> str:
        """What a message calls it."""
        return self.repo or self.files[0]

    @property
    def pinned(self) -> bool:
        """Whether the same rows come back for ever."""
        if self.repo:
            return re.match(_COMMIT, self.revision) is not None
        return all(re.search(r"[0-9a-f]{40}", f) for f in self.files)

    @model_validator(mode="after")
    def _is_sound(self) -> Source:
        if bool(self.repo) == bool(self.files):
            raise ValueError("a source needs either `repo` or `files`")
        unknown = sorted(set(self.labels.values()) - {*ALL_NAMES, NEUTRAL})
        if unknown:
            raise ValueError(f"labels: unknown emotion {', '.join(unknown)}; known: {', '.join((*ALL_NAMES, NEUTRAL))}")
        rated = [bool(self.columns.valence), bool(self.columns.arousal), self.ratings is not None]
        labelled = [bool(self.columns.label), bool(self.labels)]
        if not (all(rated) and not any(labelled)) and not (all(labelled) and not any(rated)):
            raise ValueError("a source needs either a label column with `labels`, or two rating columns with `ratings`")
        if not 1 <= self.words[0] <= self.words[1]:
            raise ValueError("words: the fewest (at least 1) and the most words of a text, in this order")
        return self
