"""The command line: a thin layer over the public API.

Exit codes: 0 all well, 1 something failed (one line says what and what to do), 2 wrong usage.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llmct_bench import __version__
from llmct_bench.commands import calibration, compare, models, reports, results, seed, suites
from llmct_bench.commands.options import (
    AUTO,
    ERRORS,
    AsJson,
    Bars,
    Device,
    Dtype,
    Loading,
    Models,
    Offline,
    Output,
    Pickle,
    RemoteCode,
    Suites,
    loads_models,
    print_table,
)
from llmct_bench.errors import LlmctError, ResultError

app = typer.Typer(
    name="llmct-bench",
    help="How language models process emotion inside: joy bias, calm dampening, memory decay.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(models.app, name="models")
app.add_typer(suites.app, name="suites")
app.command()(seed.seed)
app.command()(calibration.calibrate)
app.command()(calibration.spike)
app.command()(reports.report)
app.command()(reports.verify)
app.command()(results.results)
app.command()(results.push)
app.command()(compare.compare)


@app.command()
def run(
    models: Models = "",
    suites: Suites = "",
    output: Output = Path("."),
    preset: Annotated[str, typer.Option(help="quick (12 scenarios a suite), standard (48), full (all).")] = "full",
    limit: Annotated[int, typer.Option(help="Scenarios per trait suite; overrides the preset.", min=0)] = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    token_budget: Annotated[int, typer.Option(help="Tokens per pass; 0: from the free memory.", min=0)] = 0,
    offline: Offline = False,
    existing: Annotated[str, typer.Option(help="Stored results: skip, overwrite, error.")] = "skip",
    trust_remote_code: RemoteCode = False,
    allow_pickle: Pickle = False,
    as_json: AsJson = False,
) -> None:
    """Measure models on suites and write the leaderboard of all results in --output.

    Resumable: what is stored is not measured again.
    """
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from llmct_bench.benchmark import PRESETS
    from llmct_bench.benchmark import run as run_job
    from llmct_bench.evaluation import Session
    from llmct_bench.models import LoadOptions

    if preset not in PRESETS:
        raise typer.BadParameter(f"{preset!r} is not one of {', '.join(PRESETS)}", param_hint="--preset")
    if existing not in ("skip", "overwrite", "error"):
        raise typer.BadParameter(f"{existing!r} is not one of skip, overwrite, error", param_hint="--existing")
    failed: list[str] = []

    def failure(name: str, error: LlmctError) -> None:
        failed.append(name)
        ERRORS.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)

    bars = Bars()
    with bars.bars:
        board = run_job(
            _split(models) or None,
            _split(suites) or None,
            output,
            limit=limit or PRESETS[preset],
            options=LoadOptions(device, dtype, offline, trust_remote_code, allow_pickle),
            existing=existing,  # type: ignore[arg-type]
            session=Session(token_budget or None, bars),
            on_failure=failure,
        )
    if as_json:
        print(json.dumps(_board_json(board), allow_nan=False))
    elif board.results:
        _print_board(board)
        print()
        for name in ("leaderboard.html", "leaderboard.md"):
            print(f"leaderboard: {output / 'reports' / name}")
    if failed:
        raise typer.Exit(1)


@app.command()
@loads_models
def scan(
    model: Annotated[str, typer.Argument(help="Name, Hub id or local folder.")],
    conversation: Annotated[str, typer.Argument(help="A conversation or Activation Lab file (YAML); ct-scan: ours.")],
    output: Annotated[Path | None, typer.Option(help="Write all messages x points as CSV here.")] = None,
    to: Annotated[Path | None, typer.Option(help="Write the page ct-scan.html and its figures to this folder.")] = None,
    generate: Annotated[
        int, typer.Option(help="Let the model answer the last user message itself with so many tokens.", min=0)
    ] = 0,
    loading: Loading = AUTO,
    as_json: AsJson = False,
) -> None:
    """The CT picture of one conversation: raw cosines with its reference states, and corrected scores.

    With --generate the messages up to the last one of the user are given to the model, and what it answers (greedily)
    is scanned in their place in the conversation, token by token.
    """
    from llmct_bench.ctscan import ct_scan, get_conversation
    from llmct_bench.evaluation import fitted

    read = get_conversation(conversation)
    if generate:
        read = read.heard()  # what cannot be answered is told before a model is loaded
    loaded, fit = fitted(model, loading.options)
    found = ct_scan(loaded, read, fit, generate=generate)
    written: list[Path] = []
    if output is not None:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            found.frame.to_csv(output, index=False)
        except OSError as error:
            raise ResultError(f"cannot write {output}: {error.strerror or error}") from error
        written.append(output)
    if to is not None:
        from llmct_bench.ctpage import write

        written += write(found, to)
    if as_json:
        print(found.frame.to_json(orient="records"))
        return
    table = found.table()
    raw = [f"raw_{label}" for label in found.labels]
    header = ["message", "role", "stage", "joy", "anger", "sadness", "calm", *(["raw: nearest"] if raw else [])]
    spread = float(table[raw].max().max() - table[raw].min().min()) if raw else 1.0
    digits = min(8, max(3, 1 - math.floor(math.log10(max(spread, 1e-9)))))  # as many as tell cosines apart
    rows = []
    for row in table.to_dict("records"):
        nearest = max(raw, key=lambda c: row[c], default="")
        cells = [row["message"], row["role"], row["stage"], *(f"{row[e]:+.2f}" for e in header[3:7])]
        rows.append([*cells, *([f"{nearest.removeprefix('raw_')} {row[nearest]:.{digits}f}"] if raw else [])])
    print_table(rows, header)
    minus = ", minus the control's" if read.control else " (no control: drift is not taken away)"
    print(f"scores in neutral SD at point {found.point}{minus}; raw: cosine of the last state, seed-compatible")
    for path in written:
        print(path)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _board_json(board: Any) -> list[dict[str, Any]]:
    return [
        {
            "trait": t.estimand.name,
            "suite": t.suite,
            "rows": [
                {
                    "model": r.model,
                    "rank": r.rank,
                    **{k: v for k, v in r.estimate.to_json().items() if k != "per_cluster"},
                }
                for r in t.rows
            ],
        }
        for t in board.tables
    ]


def _print_board(board: Any) -> None:
    from llmct_bench.leaderboards.tables import number

    for t in board.tables:
        rows = []
        for r in t.rows:
            e = r.estimate
            span = f" [{r.rank_low}–{r.rank_high}]" if r.rank_low is not None else ""
            interval = f"[{number(e.low)}, {number(e.high)}]" if e.valid else f"invalid: {e.reason}"
            value = number(e.estimate) if e.valid else "–"
            rows.append([f"{r.rank or '–'}{span}", r.model, value, interval, number(r.truth)])
        planted = any(r.truth is not None for r in t.rows)
        header = ["rank", "model", "estimate", "95 % CI", "planted"][: 5 if planted else 4]
        print(f"\n{t.estimand.title} ({t.estimand.unit})")
        print_table([r[: len(header)] for r in rows], header)


def _version(show: bool) -> None:
    if show:
        print(f"llmct-bench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """How language models process emotion inside: joy bias, calm dampening, memory decay."""


def main() -> None:
    """Entry point: errors that a user may cause are one line on stderr and exit code 1."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # small models: threads that spin cost more than they give
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except LlmctError as error:
        ERRORS.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        ERRORS.print("interrupted: what is stored is kept; run the same command again to go on")
        sys.exit(130)


if __name__ == "__main__":
    main()
