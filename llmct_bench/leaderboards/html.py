"""The leaderboard as one HTML file: tables, figures, style and script inside, nothing loaded from anywhere.

All text is escaped here, whoever wrote it. The file's content policy allows its own style and its own script, by their
hashes, and nothing else: no request, no inline handler.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from llmct_bench.leaderboards.content import Page
from llmct_bench.leaderboards.strip import Axis, axis_of, head, strip
from llmct_bench.leaderboards.tables import DASH, Cell, Column, Fact, Line, Table

if TYPE_CHECKING:
    from llmct_bench.leaderboards.board import Leaderboard

_KEY = (
    '<p class="key"><svg width="60" height="14"><path d="M4 7H56"/><path class="e" d="M30 7h0"/></svg> estimate, '
    '95 % interval <svg width="14" height="14"><path class="n" d="M7 0V14"/></svg> null '
    '<svg width="14" height="14"><path class="t" d="M7 1l5 6l-5 6l-5-6z"/></svg> planted value (phantoms)</p>'
)


#: Bytes of a page. Figures that do not fit in beside the tables are linked instead.
LARGEST = 3_000_000


def to_html(board: Leaderboard, figures: Iterable[Path] = ()) -> str:
    """The whole page, with those of the written ``figures`` that are SVG, as long as it stays below `LARGEST` bytes."""
    from llmct_bench.leaderboards.figures import available

    drawn = {p.stem: p for p in figures if p.suffix == ".svg"}
    captions = {name: caption for name, caption in available(board) if name in drawn}
    return page_html(board.page, captions, drawn, _FILTER)


def page_html(shown: Page, captions: Mapping[str, str], drawn: Mapping[str, Path], search: str = "") -> str:
    """Any such page, with the ``drawn`` figures (SVG files) that ``captions`` name, below `LARGEST` bytes; ``search``:
    the form that filters its rows by their first cell."""
    traits, appendix = _sections(shown.traits), _sections(shown.appendix)
    entries = [*traits, *([("figures", "Figures", "")] if captions else []), *appendix]
    style, script = (_asset(name) for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    note = f'<p class="remark">{_flat(shown.note)}</p>' if shown.note else ""
    before = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">',
        f"<title>{_flat(shown.title)}</title>\n<style>{style}</style>\n</head>\n<body>",
        f"<header><h1>{_flat(shown.title)}</h1>{note}<p>{_prose(shown.intro)} {_prose(shown.ties)}</p>{_KEY}",
        f'<p class="made">{" · ".join(f"<bdi>{_flat(t)}</bdi>" for t in shown.provenance)}</p></header>',
        '<nav aria-label="Contents"><h2>Contents</h2><ul>',
        *(f'<li><a href="#{name}">{_flat(title)}</a></li>' for name, title, _ in entries),
        "</ul></nav>\n" + search + "\n<main>",
        *(text for *_, text in traits),
    ]
    after = [*(text for *_, text in appendix), f"</main>\n<script>{script}</script>\n</body>\n</html>\n"]
    room = LARGEST - sum(len(part.encode("utf-8", "replace")) for part in (*before, *after))
    return "\n".join([*before, *([_figures(captions, drawn, room)] if captions else []), *after])


#: Shown by the script: without it there is nothing to filter with.
_FILTER = (
    '<form role="search" hidden><label for="filter">Filter models</label> <input id="filter" type="search" '
    'autocomplete="off" placeholder="name, family or stage"> <output for="filter"></output></form>'
)


def _sections(tables: Sequence[Table]) -> list[tuple[str, str, str]]:
    """Anchor, title and HTML of each table; a trait measured on several suites has its suite in the contents."""
    titles = [t.title for t in tables]
    made: list[tuple[str, str, str]] = []
    for table in tables:
        suite = next((f.text for f in table.facts if f.label == "suite"), "")
        title = f"{table.title} ({suite})" if titles.count(table.title) > 1 else table.title
        name = anchor = re.sub(r"[^a-z0-9]+", "-", table.title.lower()).strip("-")
        while anchor in (a for a, *_ in made):
            anchor = f"{name}-{len(made)}"
        made.append((anchor, title, _section(anchor, table)))
    return made


def _section(anchor: str, table: Table) -> str:
    facts = "".join(_fact(f) for f in table.facts if f.text)
    return "".join(
        [
            f'<section id="{anchor}"{" class=apart" * table.apart}><h2 id="{anchor}-head">{escape(table.title)}</h2>',
            f"<p>{_prose(table.intro)}</p>" if table.intro else "",
            f"<dl>{facts}</dl>" if facts else "",
            f'<div class="box" role="region" tabindex="0" aria-labelledby="{anchor}-head">',
            _table(table),
            "</div></section>",
        ]
    )


def _table(table: Table) -> str:
    """Closing tags and quotation marks that HTML does not need are left out of the rows: in a large page they are a
    fifth of it."""
    marks = [c.mark for line in table.lines for c in line.cells if c.mark is not None]
    axis = axis_of(marks, table.null)
    heads = "".join(_head(c, axis) for c in table.columns)
    lines = "\n".join(_line(line, table.columns, axis) for line in table.lines)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>\n{lines}</tbody></table>"


def _head(column: Column, axis: Axis | None) -> str:
    about = f' title="{escape(column.about)}"' if column.about else ""
    find = " data-find" if column.find else ""
    drawn = head(axis) if column.kind == "interval" and axis else ""
    title = _flat(column.title)
    return f'<th scope="col" class="{column.kind}"{about}{find}><span class="title">{title}</span>{drawn}</th>'


def _line(line: Line, columns: Sequence[Column], axis: Axis | None) -> str:
    cells = "".join(_cell(cell, column, axis) for cell, column in zip(line.cells, columns, strict=True))
    return f"<tr>{cells}" if line.valid else f"<tr class=invalid>{cells}"


#: Classes of the cells by the kind of their column; the number is the default and needs none.
_CLASS = {"name": "", "number": "", "text": " class=x", "interval": " class=i", "note": " class=o"}


def _cell(cell: Cell, column: Column, axis: Axis | None) -> str:
    text = _flat(cell.text)
    if column.kind == "name":
        return f"<th scope=row>{text.replace('/', '/<wbr>')}"
    value = "" if cell.sort is None or math.isnan(cell.sort) or cell.text == DASH else f" data-v={_js(cell.sort)}"
    drawn = strip(cell.mark, axis) if cell.mark is not None and axis is not None else ""
    return f"<td{_CLASS[column.kind]}{value}>{drawn}{text}"


def _js(value: float) -> str:
    """A number as the script reads it."""
    return f"{value:.6g}".replace("inf", "Infinity")


#: Facts of at most so many characters stand beside each other.
_SHORT = 28


def _fact(fact: Fact) -> str:
    text = f"<code>{escape(fact.text)}</code>" if fact.code else _linked(_flat(fact.text))
    short = ' class="short"' if len(fact.text) <= _SHORT else ""
    return f"<div{short}><dt>{escape(fact.label)}</dt><dd>{text}</dd></div>"


def _linked(text: str) -> str:
    """Escaped text whose DOIs are links."""
    return re.sub(r"doi:(10\.[\w./()-]+\w)", r'<a href="https://doi.org/\1">doi:\1</a>', text)


def _prose(text: str) -> str:
    """Our own prose, in which `...` is code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(" ".join(text.split())))


def _flat(text: str) -> str:
    return escape(" ".join(text.split()))


def _figures(captions: Mapping[str, str], drawn: Mapping[str, Path], room: int) -> str:
    """Figures as images, so that what is inside of one cannot touch the page or another; what finds no ``room`` (bytes)
    is a link to the file beside the page."""
    made = []
    for name, caption in captions.items():
        data = base64.b64encode(drawn[name].read_bytes()).decode("ascii")
        text = escape(caption)
        image = f'<img alt="{text}" src="data:image/svg+xml;base64,{data}">'
        image = f'<div class="box" role="region" tabindex="0" aria-label="{text}">{image}</div>'
        shown = f"{image}<figcaption>{text}</figcaption>"
        if len(shown) + 500 > room:
            shown = f'<figcaption>{text}: <a href="figures/{name}.svg">figures/{name}.svg</a></figcaption>'
        room -= len(shown)
        made.append(f"<figure>{shown}</figure>")
    return '<section id="figures"><h2>Figures</h2>' + "\n".join(made) + "</section>"


def _asset(name: str) -> str:
    return resources.files("llmct_bench.leaderboards").joinpath("page", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
