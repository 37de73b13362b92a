"""What several commands share: options, progress, tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from tabulate import tabulate

ERRORS = Console(stderr=True)

Models = Annotated[
    str, typer.Option(help="Comma-separated names, Hub ids or local folders; default: the phantom panel.")
]
Suites = Annotated[
    str, typer.Option(help="Comma-separated names or folders; default: reference, circumplex, shock, retention.")
]
Output = Annotated[Path, typer.Option(help="Folder for results/ and reports/.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")]
Offline = Annotated[bool, typer.Option(help="Use the local cache only.")]
RemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that a checkpoint brings along.")]
Pickle = Annotated[bool, typer.Option("--allow-pickle", help="Load weights that are not safetensors.")]


class Bars:
    """Progress of the main job: one bar for the scan under way."""

    def __init__(self) -> None:
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TaskProgressColumn(),
            TextColumn("{task.fields[total_text]}"),
            TimeElapsedColumn(),
            console=ERRORS,
        )
        self._task: Any = None

    def start(self, task: str, tokens: int, unit: str = "tokens") -> None:
        self._task = self.bars.add_task(task, total=tokens, total_text=f"{tokens} {unit}")

    def advance(self, tokens: int) -> None:
        self.bars.advance(self._task, tokens)

    def message(self, text: str) -> None:
        self.bars.console.print(text, highlight=False, markup=False)


def print_table(rows: list[list[Any]], header: list[str]) -> None:
    """Print a table; what looks like a number stays as it is written."""
    print(tabulate(rows, header, tablefmt="simple", disable_numparse=True))
