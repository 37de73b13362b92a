"""The command line: a thin layer over the public API.

Exit codes: 0 all well, 1 something failed (one line says what and what to do), 2 wrong usage.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from llmct_bench import __version__
from llmct_bench.errors import LlmctError

app = typer.Typer(
    name="llmct-bench",
    help="How language models process emotion inside: joy bias, calm dampening, memory decay.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="The registry of models.", no_args_is_help=True)
suites_app = typer.Typer(help="The prompt suites.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(suites_app, name="suites")
_err = Console(stderr=True)

Models = Annotated[
    str, typer.Option(help="Comma-separated names, Hub ids or local folders; default: the phantom panel.")
]
Suites = Annotated[str, typer.Option(help="Comma-separated names or folders; default: all shipped suites.")]
Output = Annotated[Path, typer.Option(help="Folder for results/ and reports/.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")]
Offline = Annotated[bool, typer.Option(help="Use the local cache only.")]
RemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that a checkpoint brings along.")]
Pickle = Annotated[bool, typer.Option("--allow-pickle", help="Load weights that are not safetensors.")]


class _Bars:
    """Progress of the main job: one bar for the scan under way."""

    def __init__(self) -> None:
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TaskProgressColumn(),
            TextColumn("{task.fields[total_text]}"),
            TimeElapsedColumn(),
            console=_err,
        )
        self._task: Any = None

    def start(self, task: str, tokens: int, unit: str = "tokens") -> None:
        self._task = self.bars.add_task(task, total=tokens, total_text=f"{tokens} {unit}")

    def advance(self, tokens: int) -> None:
        self.bars.advance(self._task, tokens)

    def message(self, text: str) -> None:
        self.bars.console.print(text, highlight=False, markup=False)


@app.command()
def run(
    models: Models = "",
    suites: Suites = "",
    output: Output = Path("."),
    preset: Annotated[str, typer.Option(help="quick (12 scenarios a suite), standard (24), full (all).")] = "full",
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
    """Measure models on suites and write the leaderboard. Resumable: what is stored is not measured again."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from llmct_bench.benchmark import PRESETS, Session
    from llmct_bench.benchmark import run as run_job
    from llmct_bench.models import LoadOptions

    if preset not in PRESETS:
        raise typer.BadParameter(f"{preset!r} is not one of {', '.join(PRESETS)}", param_hint="--preset")
    if existing not in ("skip", "overwrite", "error"):
        raise typer.BadParameter(f"{existing!r} is not one of skip, overwrite, error", param_hint="--existing")
    failed: list[str] = []

    def failure(name: str, error: LlmctError) -> None:
        failed.append(name)
        _err.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)

    bars = _Bars()
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
        print(f"\nleaderboard: {output / 'reports' / 'leaderboard.md'}")
    if failed:
        raise typer.Exit(1)


@app.command()
def scan(
    model: Annotated[str, typer.Argument(help="Name, Hub id or local folder.")],
    conversation: Annotated[str, typer.Argument(help="A conversation or Activation Lab file (YAML); ct-scan: ours.")],
    output: Annotated[Path | None, typer.Option(help="Write all messages x points as CSV here.")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    offline: Offline = False,
    trust_remote_code: RemoteCode = False,
    allow_pickle: Pickle = False,
    as_json: AsJson = False,
) -> None:
    """The CT picture of one conversation: raw cosines with its reference states, and corrected scores."""
    from llmct_bench.benchmark import fitted
    from llmct_bench.ctscan import ct_scan, get_conversation
    from llmct_bench.models import LoadOptions

    read = get_conversation(conversation)
    loaded, fit = fitted(model, LoadOptions(device, dtype, offline, trust_remote_code, allow_pickle))
    found = ct_scan(loaded, read, fit)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        found.frame.to_csv(output, index=False)
    if as_json:
        print(found.frame.to_json(orient="records"))
        return
    table = found.table()
    raw = [f"raw_{label}" for label in found.labels]
    header = ["message", "role", "stage", "joy", "anger", "sadness", "calm", *(["raw: nearest"] if raw else [])]
    rows = []
    for row in table.to_dict("records"):
        nearest = max(raw, key=lambda c: row[c], default="")
        cells = [row["message"], row["role"], row["stage"], *(f"{row[e]:+.2f}" for e in header[3:7])]
        rows.append([*cells, *([f"{nearest.removeprefix('raw_')} {row[nearest]:.3f}"] if raw else [])])
    _print_table(rows, header)
    minus = ", minus the control's" if read.control else " (no control: drift is not taken away)"
    print(f"scores in neutral SD at point {found.point}{minus}; raw: cosine of the last state, seed-compatible")
    if output is not None:
        print(output)


@app.command()
def report(
    output: Output = Path("."),
    to: Annotated[Path | None, typer.Option(help="Folder of the report; default: reports/ of --output.")] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Leaderboard",
    note: Annotated[str, typer.Option(help="A remark under the title.")] = "",
) -> None:
    """Write the leaderboard again from the stored results: the same results give the same bytes."""
    from llmct_bench.benchmark import load_results
    from llmct_bench.leaderboards import leaderboard

    for path in leaderboard(load_results(output), title, note).write(to or output / "reports"):
        print(path)


@app.command()
def calibrate(
    output: Output = Path("."),
    replicates: Annotated[
        int, typer.Option(help="In the cells of coverage and nulls; a tenth elsewhere.", min=2)
    ] = 2000,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few replicates, in about two minutes: a look, no proof.")
    ] = False,
) -> None:
    """The simulation study on planted states: coverage, false positives, power, and which knob moves which trait.

    Restartable: what lies in calibration/ is not done again. 2000 replicates take hours on one core.
    """
    from llmct_bench.calibration.report import planned, write
    from llmct_bench.calibration.study import run_study

    wanted = planned(7 if quick else replicates)
    bars = _Bars()
    with bars.bars:
        bars.start("replicates", sum(wanted.values()), "")
        run_study(output / "calibration", lambda c: wanted[c.name], lambda _, n: bars.advance(n))
    for path in write(output / "calibration", output / "reports"):
        print(path)


@models_app.command("list")
def models_list(
    family: Annotated[str, typer.Option(help="Family prefix, for example qwen.")] = "",
    stage: Annotated[str, typer.Option(help="base, instruct, sft, dpo, rl.")] = "",
    attention: Annotated[str, typer.Option(help="MHA, GQA, MQA, MLA, hybrid, recurrent.")] = "",
    max_params: Annotated[float, typer.Option(help="Largest size in billions of parameters.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """List the registry."""
    from llmct_bench.models.cards import find_models

    cards = find_models(family, stage, attention, max_params)
    if as_json:
        print(json.dumps([_card_json(c) for c in cards]))
        return
    header = ["name", "size", "blocks", "width", "attention", "stage", "licence", "released"]
    rows = [
        [c.name, f"{c.params_b:.3g} B", c.layers, c.d_model, c.attention, c.stage, c.licence, c.released] for c in cards
    ]
    _print_table(rows, header)
    print(f"{len(cards)} models")


@models_app.command("show")
def models_show(name: str, as_json: AsJson = False) -> None:
    """Show one card, or the nearest names."""
    from llmct_bench.models.cards import get_model

    data = _card_json(get_model(name))
    if as_json:
        print(json.dumps(data))
        return
    for key, value in data.items():
        if value not in ("", 0, None):
            print(f"{key:12} {value}")


@models_app.command("certify")
def models_certify(
    name: str,
    device: Device = "auto",
    dtype: Dtype = "auto",
    offline: Offline = False,
    trust_remote_code: RemoteCode = False,
    allow_pickle: Pickle = False,
    as_json: AsJson = False,
) -> None:
    """Run the adapter certificate: measured errors beside tolerances."""
    from llmct_bench.adapters import CHECKS, certify, load
    from llmct_bench.models import LoadOptions

    certificate = certify(load(name, LoadOptions(device, dtype, offline, trust_remote_code, allow_pickle)))
    if as_json:
        print(json.dumps(certificate.to_json()))
    else:
        for check in certificate.checks:
            limit = "" if check.required else " (a limit of the model, not needed here)"
            print(f"{'passed' if check.passed else 'FAILED'}  {check}: {CHECKS[check.name]}{limit}")
        print(f"noise floor: {certificate.floor:.1e} of the largest state")
    if not certificate.passed:
        raise typer.Exit(1)


@models_app.command("architectures")
def models_architectures(
    types: Annotated[
        list[str] | None, typer.Argument(help="Model types; default: all that transformers knows.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Write the page here (Markdown).")] = None,
) -> None:
    """Certify every architecture that transformers knows, at tiny random size (about a minute)."""
    import torch

    from llmct_bench.adapters.coverage import model_types, sweep, write_page

    unknown = sorted(set(types or ()) - set(model_types()))
    if unknown:
        raise typer.BadParameter(f"no causal language model in this transformers: {', '.join(unknown)}")
    torch.set_num_threads(1)  # models this small are slower on several threads
    rows = sweep(types, lambda row: print(f"{row.model_type:28} {row.status:14} {row.reason}", flush=True))
    counts = {status: sum(r.status == status for r in rows) for status in dict.fromkeys(r.status for r in rows)}
    print(", ".join(f"{n} {status}" for status, n in counts.items()))
    if to is not None:
        print(write_page(rows, to))
    if counts.get("failed"):
        raise typer.Exit(1)


@suites_app.command("list")
def suites_list(as_json: AsJson = False) -> None:
    """List the shipped suites; those sampled from other data sets are not fetched."""
    from llmct_bench.suites import get_card, get_suite, list_suites

    rows = []
    for name in list_suites():
        card = get_card(name)
        rows.append(
            _suite_json(get_suite(name)) if card.source is None else {**card.model_dump(mode="json"), "name": name}
        )
    if as_json:
        print(json.dumps(rows))
        return
    header = ["name", "version", "language", "scenarios", "items", "readouts", "summary"]
    _print_table([[r.get(k, "sampled" if k == "items" else "") for k in header] for r in rows], header)


@suites_app.command("show")
def suites_show(name: str, as_json: AsJson = False) -> None:
    """Show a suite's card, counts, what a bag of words makes of it, and some items."""
    from llmct_bench.suites import get_suite
    from llmct_bench.suites.baseline import bag_of_words

    suite = get_suite(name)
    data = _suite_json(suite)
    halves = {"keyworded": True, "keyword-free": False}
    parts = {title: [i for i in suite.items if i.keyworded is half] for title, half in halves.items()}
    found = {title: bag_of_words(part) for title, part in parts.items() if part}
    data["bag_of_words"] = {
        title: {"items": b.items, "accuracy": b.accuracy.estimate, "low": b.accuracy.low, "high": b.accuracy.high}
        | {"chance": b.chance, "recall": b.recall}
        for title, b in found.items()
        if b is not None
    }
    if as_json:
        print(json.dumps(data))
        return
    for key, value in data.items():
        if key not in ("bag_of_words", "source") and value not in ("", None):
            print(f"{key:12} {value}")
    if suite.card.source is not None:
        print(f"{'source':12} {suite.card.source.name} {suite.card.source.revision}".rstrip())
    _print_table(_cells(suite), ["emotion", "intensity 0", "1", "2", "3"])
    for title, b in data["bag_of_words"].items():
        recall = ", ".join(f"{e} {r:.2f}" for e, r in b["recall"].items())
        accuracy = f"{b['accuracy']:.3f} [{b['low']:.3f}, {b['high']:.3f}]"
        print(f"bag of words, {title}: balanced accuracy {accuracy}, chance {b['chance']:.2f}; {recall}")
    step = max(len(suite.items) // 4, 1)
    for item in suite.items[::step][:4]:
        print(f"\n{item.id}")
        for message in item.messages[-2:]:
            print(f"  {message.role}: {message.content}")


@suites_app.command("check")
def suites_check(
    suites: Annotated[list[str] | None, typer.Argument(help="Names or folders; default: all shipped suites.")] = None,
    tokenizer: Annotated[
        list[str] | None, typer.Option(help="Also report lengths for this tokenizer (Hub id or folder); repeatable.")
    ] = None,
    offline: Offline = False,
) -> None:
    """The gate: every defect with file and line. Exit code 1 where there are some."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from llmct_bench.suites import get_suite, list_suites, shipped_root
    from llmct_bench.suites.check import check

    defects = 0
    for name in suites or list_suites():
        folder = shipped_root() / name if name in list_suites() else Path(name)
        findings = check(folder)
        defects += len(findings)
        for finding in findings:
            print(finding)
        print(f"{name}: {len(findings)} defects" if findings else f"{name}: ok")
        if tokenizer and not findings:
            suite = get_suite(name)
            for each in tokenizer:
                defects += not _print_lengths(suite, each)
    if defects:
        raise typer.Exit(1)


@suites_app.command("init")
def suites_init(folder: Path) -> None:
    """Write a commented skeleton of a suite into a new folder."""
    from llmct_bench.suites.skeleton import init

    for path in init(folder):
        print(path)
    print(f"change it, then: llmct-bench suites check {folder}")


def _print_lengths(suite: Any, tokenizer: str) -> bool:
    from transformers import AutoTokenizer

    from llmct_bench.suites.lengths import token_lengths

    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError) as error:
        raise LlmctError(f"tokenizer {tokenizer}: {str(error).splitlines()[0]}") from None
    found = token_lengths(suite.items, loaded, opening=suite.card.design == "retention")
    ratio = f"item / twin median {found.median:.3f}, middle 95 % {found.low:.2f} to {found.high:.2f}"
    beyond = f", {found.off:.0%} of the items beyond 10 %"
    verdict = "" if found.balanced else " NOT BALANCED"
    twins = ratio + beyond if found.pairs else "no twins"
    print(f"  {tokenizer}: {twins}; longest conversation {found.longest} tokens{verdict}")
    return found.balanced


def _cells(suite: Any) -> list[list[Any]]:
    from collections import Counter

    counts = Counter((i.emotion, i.intensity) for i in suite.items)
    emotions = list(dict.fromkeys(i.emotion for i in suite.items))
    return [[e, *(counts[e, n] or "" for n in range(4))] for e in emotions]


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _card_json(card: Any) -> dict[str, Any]:
    data = asdict(card)
    phantom = data.pop("phantom")
    return {**data, **({"planted": phantom} if phantom else {})}


def _suite_json(suite: Any) -> dict[str, Any]:
    return {
        **suite.card.model_dump(mode="json"),
        "hash": suite.content_hash,
        "scenarios": len(suite.scenarios),
        "items": len(suite.items),
        "readouts": sum(len(i.reads) for i in suite.items),
    }


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


def _print_table(rows: list[list[Any]], header: list[str]) -> None:
    from tabulate import tabulate

    print(tabulate(rows, header, tablefmt="simple", disable_numparse=True))


def _print_board(board: Any) -> None:
    from llmct_bench.leaderboards.markdown import number

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
        _print_table([r[: len(header)] for r in rows], header)


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
        _err.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        _err.print("interrupted: what is stored is kept; run the same command again to go on")
        sys.exit(130)


if __name__ == "__main__":
    main()
