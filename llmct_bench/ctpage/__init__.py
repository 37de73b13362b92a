"""The CT picture of a conversation: figures, and one page that needs nothing else."""

from __future__ import annotations

from pathlib import Path

from llmct_bench.ctpage.figures import draw_all
from llmct_bench.ctpage.page import page
from llmct_bench.ctpage.picture import Picture, picture
from llmct_bench.ctscan import CTScan
from llmct_bench.errors import ResultError

__all__ = ["Picture", "draw_all", "page", "picture", "write"]


def write(scan: CTScan, folder: Path) -> list[Path]:
    """Write ``ct-scan.html`` and the figures of the first conversation of a scan into ``folder``: the same bytes for
    the same scan. Raises ResultError when the disk refuses."""
    shown = picture(scan)
    path = folder / "ct-scan.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(page(shown), encoding="utf-8", newline="\n")
    except OSError as error:
        raise ResultError(f"cannot write {path}: {error.strerror}") from error
    return [path, *draw_all(shown, folder)]
