"""`llmct-bench results` and `push`: the stored results as a table, and as a data set on the Hub."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from llmct_bench.commands.options import AsJson, Output, print_table
from llmct_bench.errors import ResultError


def results(
    output: Output = Path("."),
    csv: Annotated[Path | None, typer.Option(help="Write all columns as CSV here.")] = None,
    as_json: AsJson = False,
) -> None:
    """The stored results as a tidy table: one row for each model x suite x trait."""
    from llmct_bench.benchmark import results_table
    from llmct_bench.leaderboards.tables import number, p_text

    frame = results_table(output)
    if csv is not None:
        try:
            csv.parent.mkdir(parents=True, exist_ok=True)
            frame.to_csv(csv, index=False)
        except OSError as error:
            raise ResultError(f"cannot write {csv}: {error.strerror or error}") from error
    if as_json:
        plain = [{k: _plain(v) for k, v in row.items()} for row in frame.to_dict("records")]
        print(json.dumps(plain, allow_nan=False))
        return
    if csv is not None:
        print(csv)
        return
    rows = []
    for r in frame.to_dict("records"):
        interval = f"[{number(r['low'])}, {number(r['high'])}]" if r["valid"] else f"invalid: {r['reason']}"
        estimate, p = (number(r["estimate"]), p_text(r["p_value"])) if r["valid"] else ("–", "–")
        rows.append([r["suite"], r["trait"], r["model"], estimate, interval, p, r["n"]])
    print_table(rows, ["suite", "trait", "model", "estimate", "95 % CI", "p", "n"])


def _plain(value: Any) -> Any:
    """As strict JSON: what is not a number is null, infinities are text as in the cards."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def push(
    repo_id: Annotated[str, typer.Argument(help="OWNER/NAME of a data set; it is made where there is none.")],
    output: Output = Path("."),
    private: Annotated[bool, typer.Option("--private", help="Make a new data set private.")] = False,
    licence: Annotated[str, typer.Option(help="Licence of the results, as the Hub writes it.")] = "cc-by-4.0",
) -> None:
    """Upload the stored results and their reports as a data set on the Hugging Face Hub, in one commit.

    The token is taken from HF_TOKEN or from `hf auth login`.
    """
    from llmct_bench.publish import push as upload

    print(upload(repo_id, output, private=private, licence=licence))
