"""The leaderboard as a Markdown page. Names come from models and data and are escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tabulate import tabulate

from llmct_bench.leaderboards.content import Page
from llmct_bench.leaderboards.tables import Cell, Column, Fact, Table

if TYPE_CHECKING:
    from llmct_bench.leaderboards.board import Leaderboard


def escape(text: object) -> str:
    """Text as it is, in a Markdown table cell: nothing in it acts as HTML, link, emphasis or column border."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]#+|~])", r"\\\1", html.escape(flat, quote=False))


def to_markdown(board: Leaderboard) -> str:
    """The whole page."""
    from llmct_bench.leaderboards.figures import available

    return page_markdown(board.page, dict(available(board)))


def page_markdown(shown: Page, captions: Mapping[str, str]) -> str:
    """Any such page, with the figures that ``captions`` name."""
    parts = [
        f"# {escape(shown.title)}\n",
        f"> {escape(shown.note)}\n" if shown.note else "",
        shown.intro,
        " · ".join(map(escape, shown.provenance)) + "\n",
        *map(_table, shown.traits),
        _figures(captions),
        *(_table(t) for t in shown.appendix if not t.page_only),
    ]
    return "\n".join(p for p in parts if p).rstrip() + "\n"


def _table(table: Table) -> str:
    columns = [(i, c) for i, c in enumerate(table.columns) if not c.page_only]
    rows = [[_cell(line.cells[i], c) for i, c in columns] for line in table.lines]
    header = [escape(c.title) if c.foreign else c.title for _, c in columns]
    facts = " · ".join(_fact(f) for f in table.facts if not f.page_only)
    body = tabulate(rows, header, tablefmt="pipe", disable_numparse=True, colalign=["left"] * len(header))
    return "\n\n".join(p for p in (f"## {table.title}", facts, table.intro, body) if p) + "\n"


def _cell(cell: Cell, column: Column) -> str:
    return cell.text if column.kind in ("number", "interval") else escape(cell.text)


def _fact(fact: Fact) -> str:
    return f"`{fact.text}`" if fact.code else f"{fact.label}: {escape(fact.text)}"


def _figures(captions: Mapping[str, str]) -> str:
    return "\n".join(["## Figures\n", *(f"![{caption}](figures/{name}.svg)\n" for name, caption in captions.items())])
