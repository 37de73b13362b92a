"""`llmct-bench report` and `verify`: the pages of the stored results, what moved between two folders of results, and
whether what lies there is what was measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmct_bench.commands.options import AsJson, Output, print_table

if TYPE_CHECKING:
    from llmct_bench.leaderboards.diff import Diff

Title = Annotated[str, typer.Option(help="Title of the page.")]
Note = Annotated[str, typer.Option(help="A remark under the title.")]


def report(
    output: Output = Path("."),
    to: Annotated[Path | None, typer.Option(help="Folder of the report; default: reports/ of --output.")] = None,
    title: Title = "Leaderboard",
    note: Note = "",
    diff: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Write nothing: tell what moved from the results of one folder to those of another."),
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(help="TRAIT:DELTA, repeatable: exit code 1 where a model moved by DELTA or more.", metavar="T:D"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the leaderboard again from the stored results: the same results give the same bytes.

    With --diff OLD NEW nothing is written: every model x suite x trait of two folders of results is compared.
    """
    if diff is None:
        if fail_on or as_json:
            raise typer.BadParameter("--fail-on and --json belong to --diff OLD NEW", param_hint="--diff")
        from llmct_bench.benchmark import load_results
        from llmct_bench.leaderboards import leaderboard

        for path in leaderboard(load_results(output), title, note).write(to or output / "reports"):
            print(path)
        return
    limits = _limits(fail_on or [])
    from llmct_bench.benchmark import stored_results
    from llmct_bench.leaderboards.diff import diff as compare

    found = compare(*(stored_results(folder) for folder in diff))
    violations = found.violations(limits)
    if as_json:
        print(json.dumps(_json(found, violations), allow_nan=False))
    else:
        _print(found)
        for line in violations:
            print(f"FAILED {line}")
    if violations:
        raise typer.Exit(1)


def _limits(texts: list[str]) -> dict[str, float]:
    from llmct_bench.traits import ESTIMANDS

    limits = {}
    for text in texts:
        trait, _, delta = text.partition(":")
        if trait not in ESTIMANDS:
            raise typer.BadParameter(f"no trait {trait!r}: {', '.join(ESTIMANDS)}", param_hint="--fail-on")
        try:
            limits[trait] = float(delta)
        except ValueError:
            limits[trait] = math.nan
        if not limits[trait] > 0:
            raise typer.BadParameter(f"{text!r} is not TRAIT:DELTA with DELTA above 0", param_hint="--fail-on")
    return limits


def _print(found: Diff) -> None:
    from llmct_bench.leaderboards.tables import number

    shown = [c for c in found.changes if c.kind not in ("same", "invalid")]
    if shown:
        header = ["model", "suite", "trait", "old", "new", "difference", "MDC95", "what"]
        rows = []
        for c in shown:
            why = {"became invalid": f": {c.new.reason}", "became valid": f" (was: {c.old.reason})"}.get(c.kind, "")
            values = [number(e.estimate) if e.valid else "–" for e in (c.old, c.new)]
            size = "–" if math.isnan(c.difference) else f"{c.difference:+.2g}".replace("-", "−")
            rows.append([c.model, c.suite, c.trait, *values, size, number(c.mdc95), c.kind + why])
        print_table(rows, header)
        print()
    for head, lines in (("new", found.appeared), ("gone", found.vanished), ("not comparable", found.incomparable)):
        for line in lines:
            print(f"{head}: {line}")
    notes: dict[str, list[str]] = {}
    for c in found.changes:
        for note in c.notes:
            notes.setdefault(note, []).append(c.model)
    for note, models in notes.items():
        names = list(dict.fromkeys(models))
        print(f"{note}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}")
    kinds = [c.kind for c in found.changes]
    counts = ", ".join(f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds)) or "nothing to compare"
    print(f"{len(kinds)} estimates: {counts} (moved: beyond MDC95; changed: beyond rounding)")


def _json(found: Diff, violations: list[str]) -> dict[str, Any]:
    def plain(value: float) -> float | None:
        return value if math.isfinite(value) else None

    changes = [
        {
            "model": c.model,
            "suite": c.suite,
            "trait": c.trait,
            "kind": c.kind,
            "old": plain(c.old.estimate),
            "new": plain(c.new.estimate),
            "difference": plain(c.difference),
            "floor": plain(c.floor),
            "mdc95": plain(c.mdc95),
            "notes": list(c.notes),
            "reason": c.new.reason or c.old.reason,
        }
        for c in found.changes
    ]
    rest = {"appeared": found.appeared, "vanished": found.vanished, "incomparable": found.incomparable}
    return {"changes": changes, **{k: list(v) for k, v in rest.items()}, "violations": violations}


def verify(
    output: Output = Path("."),
    reports: Annotated[
        Path | None, typer.Option(help="Folder of the report; default: reports/ of --output, where there is one.")
    ] = None,
    title: Title = "Leaderboard",
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """Is what lies there what was measured? Exit code 1 where it is not, with one line for each finding.

    Files are held against their checksums, estimates against those computed again from the stored scores, certificates
    and fits against what the results tell of them, and the leaderboard against the one that the results give (with the
    --title and --note that it was written with).
    """
    from llmct_bench.benchmark import result_store
    from llmct_bench.verify import verify as look

    pages = reports or output / "reports"
    looked = reports is not None or pages.is_dir()
    findings = look(output, pages if looked else None, title, note)
    if as_json:
        print(json.dumps([{"place": str(f.place), "problem": f.problem} for f in findings]))
    else:
        for finding in findings:
            print(finding)
        what = f"{len(result_store(output).places())} results{' and their reports' if looked else ', no reports'}"
        print(f"{what}: {len(findings) or 'no'} finding{'' if len(findings) == 1 else 's'}")
    if findings:
        raise typer.Exit(1)
