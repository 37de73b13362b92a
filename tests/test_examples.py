"""The example notebooks run and show what is stored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from llmct_bench import results_table

pytest_plugins = ("stored_run",)

EXAMPLES = Path(__file__).parent.parent / "examples"


def run_cells(name: str) -> dict[str, Any]:
    """The names that a notebook has after all of its cells; what its last line shows is ``shown``."""
    notebook = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))
    sources = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    head, _, last = sources[-1].rpartition("\n")
    names: dict[str, Any] = {}
    for source in (*sources[:-1], head):
        exec(compile(source, name, "exec"), names)
    return names | {"shown": eval(last, names)}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda p: p.name)
def test_notebooks_are_stored_without_output(path: Path) -> None:
    """Nothing of anyone's run lies in the repository, and every cell has an id of its own."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    for cell in notebook["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)
    assert len({c["id"] for c in notebook["cells"]}) == len(notebook["cells"])


def test_results_notebook(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On results that are there: the table, a point for each valid estimate, and the paired t test that scipy makes."""
    shutil.copytree(stored, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    names = run_cells("results.ipynb")
    table = results_table(stored)
    pd.testing.assert_frame_equal(names["table"], table)
    rows = table[(table["trait"] == "shock_absorption") & table["valid"]]
    assert sorted(names["points"].get_offsets()[:, 0]) == pytest.approx(sorted(rows["estimate"]))
    values = {}
    for path in stored.glob("results/*/*/shock*/card.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        (trait,) = (t for t in data["traits"] if t["trait"] == "shock_absorption")
        values[data["model"]["name"]] = trait["per_cluster"]
    one, other = (values[m] for m in ("phantom/neutral", "phantom/absorbing"))
    found = stats.ttest_rel([other[s] for s in one], list(one.values()))
    low, high = found.confidence_interval()
    interval = names["interval"]
    np.testing.assert_allclose([interval.low, interval.high], [low, high])
    assert names["shown"].startswith(f"phantom/absorbing - phantom/neutral: {(low + high) / 2:.2f} [{low:.2f}, ")
