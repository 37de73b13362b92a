"""The seed's reading as tables, for the terminal and as a Markdown page. Names from files and models are escaped."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from llmct_bench.errors import ResultError
from llmct_bench.leaderboards.markdown import escape
from llmct_bench.leaderboards.tables import number
from llmct_bench.seed.reading import SeedReading
from llmct_bench.seed.summary import READINGS, best_source, by_layer, excess, summary, trajectory

LABEL = "raw: never ranked, no controls"
_CONTROLS = READINGS[1:]
_WHAT = """Cosine, mean absolute error and Jaccard index of the top 1 % of dimensions between the last state after each
message and each reference state said by the user, as the seed of this benchmark computes them. A model without emotion
produces such numbers, too: most of a raw cosine is the common mean of all states. The columns *− neutral* and
*− random* are therefore what the same number exceeds that of neutral and of random text by, in the same roles. For
numbers with controls, intervals and a noise floor use the leaderboards.
"""


#: By table the columns of a summary, their headings, and whether the excess over the controls stands beside them.
_QUANTITIES: dict[str, Sequence[tuple[str, str, bool]]] = {
    "Backbone: mean over turns, references and layers": (
        ("cosine", "cosine", True),
        ("low", "least turn", False),
        ("high", "most", False),
        ("mae", "MAE", True),
        ("jaccard", "Jaccard", True),
    ),
    "References apart (max − min over the user's turns, where it is largest); roles apart (all layers)": (
        ("layer", "layer", False),
        ("spread", "spread", True),
        ("gap", "user − assistant", True),
    ),
    "Course over the user's turns at that layer": (
        ("first", "first", False),
        ("last", "last", False),
        ("fading", "first − last", True),
        ("common", "common share", True),
        ("joy_wins", "joy wins", False),
        ("nearest", "nearest", False),
    ),
    "Drift within the run: cosine, mean over layers": (
        ("previous_cosine", "with previous", True),
        ("first_cosine", "with first", True),
        ("last_cosine", "last with first", False),
    ),
}


@dataclass(frozen=True)
class Table:
    """A title, the names of the columns, and cells as text."""

    title: str
    header: list[str]
    rows: list[list[str]]


def tables(reading: SeedReading) -> list[Table]:
    """The summary: backbone, references and roles, course, drift; one row a source."""
    return [_table(reading, title, columns) for title, columns in _QUANTITIES.items()]


def course(reading: SeedReading, source: str) -> Table:
    """The trajectory of a source at its layer, one row a message."""
    found = trajectory(reading, source)
    layer = int(summary(reading).query("reading == 'conversation' and source == @source")["layer"].iloc[0])
    labels = [c for c in found.columns if c.startswith("cosine_")]
    header = ["message", "role", "stage", *(c.removeprefix("cosine_") for c in labels), "mean", "nearest"]
    rows = [
        [str(r["snapshot"]), r["role"], r["stage"], *(number(r[c]) for c in labels), number(r["mean"]), r["nearest"]]
        for r in found.to_dict("records")
    ]
    return Table(f"Cosine by message: {source}, layer {layer}", header, rows)


def profile(reading: SeedReading) -> Table:
    """Mean cosine by layer and what it exceeds the controls by, spread and gap of the conversation, for each source."""
    cosine = by_layer(reading).pivot(index=["source", "layer"], columns="reading", values="cosine")
    cosine = cosine.reindex(columns=list(READINGS))
    rows = []
    for row in by_layer(reading).query("reading == 'conversation'").to_dict("records"):
        values = cosine.loc[(row["source"], row["layer"])]
        over = [_signed(values["conversation"] - values[name]) for name in _CONTROLS]
        others = [number(row[c]) for c in ("mae", "jaccard", "spread", "gap")]
        rows.append([row["source"], str(row["layer"]), number(row["cosine"]), *over, *others])
    minus = [f"− {name}" for name in _CONTROLS]
    return Table(
        "By layer", ["source", "layer", "cosine", *minus, "MAE", "Jaccard", "spread", "user − assistant"], rows
    )


def to_markdown(reading: SeedReading) -> str:
    """The page."""
    notes = "".join(f"- {escape(note)}\n" for note in reading.notes)
    best = best_source(reading)
    parts = [*tables(reading), *(course(reading, s) for s in reading.sources), profile(reading)]
    head = f"# {escape(reading.model)} reads {escape(reading.conversation)}\n\n**{LABEL}**\n\n{_WHAT}\n{notes}"
    return "\n".join([head, f"Source with the largest spread: {best}.\n", *map(_markdown, parts)])


def write(reading: SeedReading, folder: Path) -> list[Path]:
    """``seed.csv`` (the long table) and ``seed.md`` into a folder. Raises ResultError where the disk refuses."""
    page, table = folder / "seed.md", folder / "seed.csv"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reading.frame().to_csv(table, index=False)
        page.write_text(to_markdown(reading), encoding="utf-8")
    except OSError as error:
        raise ResultError(f"cannot write into {folder}: {error.strerror or error}") from error
    return [table, page]


def _table(reading: SeedReading, title: str, columns: Sequence[tuple[str, str, bool]]) -> Table:
    spoken = summary(reading).query("reading == 'conversation'").to_dict("records")
    beyond = excess(reading).set_index(["over", "source"])
    minus = [f"− {name}" for name in _CONTROLS]
    header = ["source", *(text for _, heading, over in columns for text in (heading, *(minus if over else ())))]
    rows = []
    for row in spoken:
        cells = [str(row["source"])]
        for column, _, over in columns:
            cells.append(_cell(row, column))
            if over:
                cells += [_signed(beyond[column].get((name, row["source"]), math.nan)) for name in _CONTROLS]
        rows.append(cells)
    return Table(title, header, rows)


def _cell(row: Mapping[Hashable, Any], column: str) -> str:
    value = row[column]
    if column == "nearest":
        return f"{value} {100 * row['nearest_share']:.0f} %"
    if column == "joy_wins" and not math.isnan(value):
        return f"{value:.0f} of {row['user_turns']}"
    return str(value) if isinstance(value, int) else number(value)


def _signed(value: float) -> str:
    """A difference with its sign."""
    text = number(value)
    return f"+{text}" if value >= 0 else text


def _markdown(table: Table) -> str:
    cells = [[escape(c) for c in row] for row in table.rows]
    grid = tabulate(cells, [escape(c) for c in table.header], tablefmt="pipe", disable_numparse=True)
    return f"## {escape(table.title)}\n\n{grid}\n"
