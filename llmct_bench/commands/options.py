"""What several commands share: options, progress, tables."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from tabulate import tabulate

if TYPE_CHECKING:
    from llmct_bench.models import LoadOptions

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


@dataclass(frozen=True)
class Loading:
    """The options that say how a model is loaded."""

    device: Device = "auto"
    dtype: Dtype = "auto"
    offline: Offline = False
    trust_remote_code: RemoteCode = False
    allow_pickle: Pickle = False

    @property
    def options(self) -> LoadOptions:
        """As the library takes them."""
        from llmct_bench.models import LoadOptions

        return LoadOptions(**asdict(self))


AUTO = Loading()


def loads_models(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `Loading` in place of its parameter ``loading``."""
    own, more = (list(inspect.signature(f, eval_str=True).parameters.values()) for f in (command, Loading))
    at = [p.name for p in own].index("loading")
    parameters = [*own[:at], *more, *own[at + 1 :]]

    @wraps(command)
    def loading(**given: Any) -> None:
        command(loading=Loading(**{p.name: given.pop(p.name) for p in more}), **given)

    loading.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    loading.__annotations__ = {p.name: p.annotation for p in parameters}
    return loading


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
