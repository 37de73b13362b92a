"""Tables as data: columns, and cells that hold both what is shown and what it is sorted by. They know no rendering."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")
#: What stands where there is nothing.
DASH = "–"


@dataclass(frozen=True)
class Mark:
    """An estimate with its interval on the axis of the table, and the planted value where there is one."""

    estimate: float
    low: float
    high: float
    planted: float | None = None


@dataclass(frozen=True)
class Cell:
    """The text at one place and what it is sorted by: a number, or None for the text itself. A `DASH` is nothing and
    comes last. The text may come from anywhere, save in columns of numbers and intervals; renderings escape it."""

    text: str
    sort: float | None = None
    mark: Mark | None = None


@dataclass(frozen=True)
class Column:
    """The head of a column. ``kind`` says how cells look: ``name`` is what a row is about. ``about`` explains the head.
    ``find``: its texts are what a reader may filter models by. ``optional``: left out where no row has anything in it.
    ``page_only``: not in Markdown. ``foreign``: the title comes from data and not from us."""

    title: str
    kind: Literal["name", "number", "text", "interval", "note"] = "text"
    about: str = ""
    find: bool = False
    optional: bool = False
    page_only: bool = False
    foreign: bool = False


@dataclass(frozen=True)
class Line:
    """One row of a table. Lines that are not ``valid`` stay last however the table is sorted."""

    cells: tuple[Cell, ...]
    valid: bool = True


@dataclass(frozen=True)
class Fact:
    """One entry of the definition above a table. ``page_only``: not in Markdown."""

    label: str
    text: str
    code: bool = False
    page_only: bool = False


@dataclass(frozen=True)
class Table:
    """A table with what one must know to read it. ``intro`` is our own text, in which backquotes make code; ``null`` is
    where the axis of its intervals has a line; a table that stands ``apart`` is no result of the benchmark."""

    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    facts: tuple[Fact, ...] = ()
    intro: str = ""
    null: float | None = None
    page_only: bool = False
    apart: bool = False


def table_of(
    title: str,
    columns: Sequence[tuple[Column, Callable[[T], Cell]]],
    items: Iterable[T],
    valid: Callable[[T], bool] = lambda _: True,
) -> Table:
    """One line an item, one cell a column; optional columns only where they say something."""
    items = list(items)
    made = [(column, [cell(item) for item in items]) for column, cell in columns]
    made = [(c, cells) for c, cells in made if not c.optional or any(cell.text != DASH for cell in cells)]
    lines = tuple(Line(tuple(cells[i] for _, cells in made), valid(item)) for i, item in enumerate(items))
    return Table(title, tuple(c for c, _ in made), lines)


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table; a dash where there is none."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{digits}f}".replace("-", "−")


def p_text(p: float) -> str:
    """A p-value for a table."""
    return DASH if math.isnan(p) else "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0")


def number_cell(value: float | None, digits: int = 3) -> Cell:
    """A number that is sorted by its value."""
    return Cell(number(value, digits), value)
