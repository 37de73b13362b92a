"""The page of a comparison, Markdown and HTML: the leaderboard's pages with other tables."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from llmct_bench.comparison.compare import Comparison
from llmct_bench.comparison.content import page
from llmct_bench.comparison.figure import CAPTION, profile, profile_rows
from llmct_bench.errors import ResultError
from llmct_bench.leaderboards.html import page_html
from llmct_bench.leaderboards.markdown import page_markdown
from llmct_bench.plotting import drawing, save

#: File names may have 255 bytes on most disks; suffixes and temporary names need some.
_LONGEST = 160


def file_name(models: Sequence[str]) -> str:
    """``compare-A-vs-B`` with nothing in it that a disk, a shell or a link could take for something else; where models
    would lose a part of their names to that, a hash of the names is added."""
    plain = "compare-" + "-vs-".join(m.replace("/", "--") for m in models)
    safe = re.sub(r"[^\w.@+-]+", "_", plain, flags=re.ASCII)[:_LONGEST]
    return safe if safe == plain else f"{safe}-{hashlib.sha256(repr(tuple(models)).encode()).hexdigest()[:8]}"


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``compare-A-vs-B.md`` and ``.html`` and ``figures/compare-A-vs-B.{svg,png}``, the figure where two models
    share a trait. The same results give the same bytes. Raises ResultError when the disk refuses."""
    name, rows = file_name(comparison.models), profile_rows(comparison)
    figures: list[Path] = []
    with drawing(folder / "figures", comparison.models):
        if rows:
            figures = save(profile(comparison, rows), folder / "figures", name)
    captions = {name: CAPTION} if figures else {}
    shown = page(comparison)
    pages = {
        f"{name}.md": page_markdown(shown, captions),
        f"{name}.html": page_html(shown, captions, {p.stem: p for p in figures if p.suffix == ".svg"}),
    }
    try:
        for path, text in pages.items():
            (folder / path).write_bytes(text.encode("utf-8", "replace"))
    except OSError as error:
        raise ResultError(f"cannot write the comparison to {folder}: {error.strerror or error}") from error
    return [*(folder / path for path in pages), *figures]
