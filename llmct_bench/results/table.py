"""Results as one tidy table: a row for each model x suite x trait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from llmct_bench.results.schema import ResultCard

#: Facts of a model, as its card and its configuration state them; missing where they are not known.
MODEL_FACTS = ("hub_id", "family", "params_b", "layers", "d_model", "attention", "stage", "licence", "source")
_TEXT, _NUMBER, _COUNT, _FLAG = "str", "float64", "int64", "bool"
#: The columns and their types, in their order.
COLUMNS = {
    "model": _TEXT,
    "commit": _TEXT,
    "suite": _TEXT,
    "suite_hash": _TEXT,
    "design": _TEXT,
    "subset": _TEXT,
    "trait": _TEXT,
    "estimate": _NUMBER,
    "low": _NUMBER,
    "high": _NUMBER,
    "se": _NUMBER,
    "se_axes": _NUMBER,
    "p_value": _NUMBER,
    "effect": _NUMBER,
    "n": _COUNT,
    "valid": _FLAG,
    "reason": _TEXT,
    "truth": _NUMBER,
    "readouts": _COUNT,
    "left_out": _COUNT,
    "not_shared": _COUNT,
    "point": _COUNT,
    "depth": _NUMBER,
    "dtype": _TEXT,
    "device": _TEXT,
    "time": _TEXT,
    **{f: _NUMBER if f in ("params_b", "layers", "d_model") else _TEXT for f in MODEL_FACTS},
}


def results_frame(results: Sequence[ResultCard]) -> pd.DataFrame:
    """The table, ordered by suite, trait and model, with `COLUMNS` of the same types however many rows there are.

    ``estimate``, ``low``, ``high``, ``se``, ``se_axes`` (the part of the axes) are in the unit of the trait, ``effect``
    is d_z, ``n`` counts scenarios, ``truth`` is the planted value of a phantom. Of invalid estimates ``reason`` says
    why; what numbers there are of them are no results. Numbers that do not exist are NaN.
    """
    rows = [_row(r, t) for r in results for t in r.traits]
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    return frame.sort_values(["suite", "trait", "model", "commit"], kind="stable", ignore_index=True)


def _row(r: ResultCard, t: Any) -> dict[str, Any]:
    layer = r.fit["layer"]
    facts = {f: r.model.get(f) or (float("nan") if COLUMNS[f] == _NUMBER else "") for f in MODEL_FACTS}
    planted = r.truth.get(t.trait)
    return {
        "model": r.model["name"],
        **{k: getattr(r, k) for k in ("commit", "suite", "suite_hash", "design", "subset")},
        **{k: getattr(t, k) for k in ("trait", "estimate", "low", "high", "se", "se_axes", "p_value", "effect")},
        "n": t.n_clusters,
        "valid": t.valid,
        "reason": t.reason,
        "truth": float("nan") if planted is None else planted,
        "readouts": r.n_readouts,
        "left_out": len(r.left_out),
        "not_shared": len(r.not_shared),
        "point": layer["point"],
        "depth": layer["depth"],
        "dtype": r.run["dtype"],
        "device": r.run["device"],
        "time": r.provenance.get("time", ""),
        **facts,
    }
