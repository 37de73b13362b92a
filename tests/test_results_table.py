"""The table of the stored results says what the cards say, in types that do not depend on what lies there."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from handmade import Cli, card, trait

import llmct_bench
from llmct_bench import results_table
from llmct_bench.errors import ResultError
from llmct_bench.results import ResultStore, results_frame
from llmct_bench.results.table import COLUMNS
from llmct_bench.traits import ESTIMANDS, no_estimate

pytest_plugins = ("stored_run",)


def test_every_trait_of_every_card_is_a_row(stored: Path) -> None:
    """Read from the files themselves: all numbers, the facts of the model, the planted value; nothing twice."""
    frame = results_table(stored)
    rows = frame.set_index(["model", "suite", "trait"])
    assert rows.index.is_unique
    names = {"estimate", "low", "high", "se", "se_axes", "p_value", "effect", "valid", "reason"}
    n = 0
    for path in stored.glob("results/*/*/*/card.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        for t in data["traits"]:
            row = rows.loc[data["model"]["name"], data["suite"], t["trait"]]
            for name in names:
                wanted = math.nan if t[name] is None else t[name]
                assert row[name] == wanted or (math.isnan(row[name]) and math.isnan(wanted))
            assert (row["n"], row["commit"]) == (t["n_clusters"], data["commit"])
            assert (row["suite_hash"], row["readouts"]) == (data["suite_hash"], data["n_readouts"])
            assert (row["layers"], row["d_model"]) == (data["model"]["layers"], data["model"]["d_model"])
            planted = data["truth"].get(t["trait"])
            assert row["truth"] == planted or (planted is None and math.isnan(row["truth"]))
            n += 1
    assert (
        len(frame)
        == n
        == 2 * sum(e.design in ("reference", "circumplex", "shock") and not e.needs for e in ESTIMANDS.values())
    )
    assert frame["valid"].any()
    assert not frame["valid"].all()
    assert set(frame.loc[frame["suite"].str.startswith("shock"), "trait"]) == {
        e.name for e in ESTIMANDS.values() if e.design == "shock"
    }


def test_types_do_not_depend_on_the_rows() -> None:
    """No row, one without any number, one with an unknown size: the same columns with the same types."""
    bare = replace(card("m", no_estimate("dampening", "nothing read")), model={"name": "m", "layers": 0})
    frames = [results_frame(r) for r in ([], [bare], [card("a", trait()), bare])]
    for frame in frames:
        assert list(frame.columns) == list(COLUMNS)
        assert (frame.dtypes == frames[0].dtypes).all()
    assert math.isnan(frames[1]["layers"][0])
    assert math.isnan(frames[1]["estimate"][0])
    assert frames[1]["reason"][0] == "nothing read"


def test_it_is_part_of_the_public_api(tmp_path: Path) -> None:
    """And says where there are no results."""
    assert "results_table" in llmct_bench.__all__
    with pytest.raises(ResultError, match="no results under"):
        llmct_bench.results_table(tmp_path)


def test_csv_and_json_hold_the_same_table(cli: Cli, stored: Path, tmp_path: Path) -> None:
    """To the last digit; the CSV is read back with the types of the table."""
    frame, path = results_table(stored), tmp_path / "deep" / "results.csv"
    done = cli("results", "--output", stored, "--csv", path)
    assert (done.code, done.out) == (0, f"{path}\n")
    read = pd.read_csv(StringIO(path.read_text(encoding="utf-8")), dtype=COLUMNS, keep_default_na=False, na_values="")
    texts = [c for c, kind in COLUMNS.items() if kind == "str"]
    read[texts] = read[texts].fillna("")
    pd.testing.assert_frame_equal(read, frame, check_exact=True)
    done = cli("results", "--output", stored, "--json")
    assert done.code == 0
    pd.testing.assert_frame_equal(pd.DataFrame(done.json, columns=list(COLUMNS)).astype(COLUMNS), frame)


def test_infinities_are_text_in_json(cli: Cli, tmp_path: Path) -> None:
    """Strict JSON knows no infinity: an interval without an upper end has "inf" there, as in a card."""
    ResultStore(tmp_path / "results").save(card("m", trait(high=math.inf, p_value=math.nan)), None)
    (row,) = cli("results", "--output", tmp_path, "--json").json
    assert (row["high"], row["p_value"], row["truth"]) == ("inf", None, None)


def test_results_for_people(cli: Cli, tmp_path: Path) -> None:
    """A valid estimate with its interval, an invalid one with its reason and no number."""
    cards = card("m", trait(), trait("shock_absorption", 3.25, valid=False, reason="no shock"))
    ResultStore(tmp_path / "results").save(cards, None)
    lines = cli("results", "--output", tmp_path).out.splitlines()
    assert "0.500" in lines[2]
    assert "[0.400, 0.600]" in lines[2]
    assert "invalid: no shock" in lines[3]
    assert "3.25" not in lines[3]


def test_a_csv_that_cannot_be_written_exits_1(cli: Cli, stored: Path, tmp_path: Path) -> None:
    """One line names it."""
    (tmp_path / "file").write_text("in the way")
    done = cli("results", "--output", stored, "--csv", tmp_path / "file" / "x.csv")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: cannot write")
