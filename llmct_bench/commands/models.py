"""`llmct-bench models`: the registry, certificates, architectures."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from llmct_bench.commands.options import AsJson, Device, Dtype, Offline, Pickle, RemoteCode, print_table

app = typer.Typer(help="The registry of models.", no_args_is_help=True)


@app.command("list")
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
    print_table(rows, header)
    print(f"{len(cards)} models")


@app.command("show")
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


@app.command("certify")
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


@app.command("architectures")
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


def _card_json(card: Any) -> dict[str, Any]:
    data = asdict(card)
    phantom = data.pop("phantom")
    return {**data, **({"planted": phantom} if phantom else {})}
