"""`llmct-bench seed`: the raw numbers of one conversation as the seed of this benchmark computes them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from llmct_bench.commands.options import AUTO, AsJson, Loading, loads_models, print_table


@loads_models
def seed(
    model: Annotated[str, typer.Argument(help="Name, Hub id or local folder.")],
    conversation: Annotated[str, typer.Argument(help="A conversation or Activation Lab file (YAML); ct-scan: ours.")],
    to: Annotated[Path | None, typer.Option(help="Write seed.csv and seed.md into this folder.")] = None,
    prompt: Annotated[int, typer.Option(help="Which prompt of the file, from 0 on.", min=0)] = 0,
    generation_prompt: Annotated[
        bool,
        typer.Option(help="Read behind the opening of the next answer, as the seed does, or at the message's end."),
    ] = True,
    loading: Loading = AUTO,
    as_json: AsJson = False,
) -> None:
    """The seed's raw reading of one conversation, beside that of neutral and of random text: never ranked."""
    from llmct_bench.adapters import load
    from llmct_bench.ctscan import get_conversation
    from llmct_bench.models import get_model
    from llmct_bench.seed import seed_reading
    from llmct_bench.seed.page import LABEL, tables, write

    read = get_conversation(conversation)
    loaded = load(get_model(model), loading.options)
    found = seed_reading(loaded, read, prompt=prompt, generation_prompt=generation_prompt)
    paths = write(found, to) if to is not None else []
    if as_json:
        print(json.dumps(_json(found, LABEL), allow_nan=False))
        return
    print(f"{LABEL}; − neutral, − random: what exceeds the same number of neutral and of random text")
    for table in tables(found):
        print(f"\n{table.title}")
        print_table(table.rows, table.header)
    print()
    for line in (*found.notes, *paths):
        print(line)


def _json(reading: Any, label: str) -> dict[str, Any]:
    from llmct_bench.seed import by_layer, excess, summary, trajectory

    frames = {"summary": summary(reading), "excess": excess(reading), "by_layer": by_layer(reading)}
    courses = {f"{s}": trajectory(reading, s) for s in reading.sources}
    return {
        "label": label,
        "model": reading.model,
        "conversation": reading.conversation,
        "references": dict(zip(reading.references, reading.roles, strict=True)),
        "notes": list(reading.notes),
        **{name: _records(frame) for name, frame in frames.items()},
        "trajectory": {source: _records(frame) for source, frame in courses.items()},
    }


def _records(frame: Any) -> list[dict[str, Any]]:
    """Rows as plain data; what is not a number is null."""
    return [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
        for row in frame.to_dict("records")
    ]
