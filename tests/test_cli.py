"""The command line: exit codes 0, 1 and 2, one line per error, strict JSON on stdout."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import entry_points, version
from pathlib import Path
from subprocess import CompletedProcess, run
from typing import Any

import pytest
from handmade import Cli, Done, card, trait

from llmct_bench.cli import main
from llmct_bench.models import PANEL
from llmct_bench.results import ResultStore
from llmct_bench.suites import list_suites, shipped_root
from llmct_bench.traits import ESTIMANDS

pytest_plugins = ("measured_run",)

QUICK = ("run", "--models", "phantom/neutral", "--preset", "quick", "--output")


# --- small commands ---------------------------------------------------------------------------------------------


def test_version(cli: Cli) -> None:
    """The installed command tells the version of the installed package."""
    assert entry_points(group="console_scripts")["llmct-bench"].load() is main
    assert cli("--version") == Done(0, f"llmct-bench {version('llmct-bench')}\n", "")


def test_the_package_is_the_command_too() -> None:
    done = run([sys.executable, "-m", "llmct_bench", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"llmct-bench {version('llmct-bench')}\n")


def test_models_list_json(cli: Cli) -> None:
    """The registry as JSON: phantoms with what is planted in them, and more than 60 others."""
    done = cli("models", "list", "--json")
    assert (done.code, done.err) == (0, "")
    phantoms = [m for m in done.json if "planted" in m]
    assert [m["name"] for m in phantoms] == [f"phantom/{s.name}" for s in PANEL]
    assert len(done.json) - len(phantoms) >= 60


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        (["--family", "qwen"], lambda m: m["family"].lower().startswith("qwen")),
        (["--stage", "DPO"], lambda m: m["stage"] == "dpo"),
        (["--attention", "mqa"], lambda m: m["attention"] == "MQA"),
        (["--max-params", "0.5"], lambda m: m["params_b"] <= 0.5),
        (["--family", "gemma", "--stage", "base"], lambda m: m["family"][:5] == "Gemma" and m["stage"] == "base"),
        (["--family", "nobody"], lambda m: False),
    ],
)
def test_models_list_filters(cli: Cli, options: list[str], fits: Callable[[dict[str, Any]], bool]) -> None:
    """A filter keeps exactly the models that it describes, in order."""
    everything, kept = cli("models", "list", "--json").json, cli("models", "list", "--json", *options).json
    assert kept == [m for m in everything if fits(m)]
    assert len(kept) < len(everything)


def test_models_list_for_people(cli: Cli) -> None:
    """The table ends with a count of its rows."""
    done = cli("models", "list", "--family", "tinyllama")
    assert done.code == 0
    assert done.out.splitlines()[-1] == "2 models"


def test_models_show(cli: Cli) -> None:
    """A card by name, as JSON and for people."""
    assert cli("models", "show", "gpt2", "--json").json["layers"] == 12
    assert "openai-community/gpt2" in cli("models", "show", "gpt2").out


@pytest.mark.parametrize(
    "command", [["models", "show", "qwen2.5-3b-instrct"], ["run", "--models", "qwen2.5-3b-instrct"]]
)
def test_unknown_models_exit_1_with_near_names(cli: Cli, command: list[str], tmp_path: Path) -> None:
    """One line on stderr with the right name in it, nothing on stdout, nothing written."""
    done = cli(*command, *(["--output", tmp_path] if command[0] == "run" else []))
    assert (done.code, done.out) == (1, "")
    assert done.err.strip().count("\n") == 0
    assert "qwen2.5-3b-instruct" in done.err
    assert list(tmp_path.iterdir()) == []


def test_suites_list_json(cli: Cli) -> None:
    """Counts of items and readouts are those of the files; suites that are sampled elsewhere have a source instead."""
    rows = {s["name"]: s for s in cli("suites", "list", "--json").json}
    assert list(rows) == list_suites()
    for name, row in rows.items():
        if row["source"]:
            assert not (shipped_root() / name / "data").exists()
            continue
        lines = [x for f in (shipped_root() / name / "data").iterdir() for x in f.read_text("utf-8").split("\n") if x]
        assert row["items"] == len(lines)
        assert row["readouts"] == sum(len(json.loads(x)["reads"]) for x in lines)
    shown = cli("suites", "show", "shock", "--json").json
    assert rows["shock"] == {k: v for k, v in shown.items() if k != "bag_of_words"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--preset", "fast"],
        ["run", "--existing", "maybe"],
        ["run", "--limit", "-1"],
        ["run", "--limit", "few"],
        ["run", "--colour", "red"],
        ["models", "list", "--max-params", "big"],
        ["paint"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2(cli: Cli, arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Wrong options are refused before anything is done, without a traceback."""
    monkeypatch.chdir(tmp_path)
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "Error" in done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_report_without_results_exits_1_with_a_hint(cli: Cli, tmp_path: Path) -> None:
    """One line says where was looked and what to do; no empty report is written."""
    done = cli("report", "--output", tmp_path / "empty")
    assert (done.code, done.out) == (1, "")
    assert done.err == f"error: no results under {tmp_path / 'empty' / 'results'}: run `llmct-bench run` first\n"
    assert list(tmp_path.iterdir()) == []


def test_report_lists_what_it_wrote(cli: Cli, tmp_path: Path) -> None:
    """Every printed path exists, and nothing else was written."""
    ResultStore(tmp_path / "results").save(card("m", trait()), None)
    done = cli("report", "--output", tmp_path)
    assert done.code == 0
    assert {Path(p) for p in done.out.splitlines()} == {p for p in (tmp_path / "reports").rglob("*") if p.is_file()}


def test_report_goes_where_it_is_told(cli: Cli, tmp_path: Path) -> None:
    """``--to`` names another folder, title and remark stand on top of the page."""
    ResultStore(tmp_path / "results").save(card("m", trait()), None)
    done = cli("report", "--output", tmp_path, "--to", tmp_path / "there", "--title", "Mine", "--note", "A remark.")
    assert done.code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results", "there"]
    page = (tmp_path / "there" / "leaderboard.md").read_text(encoding="utf-8")
    assert page.startswith("# Mine\n\n> A remark.\n")


@pytest.mark.parametrize("suite", ["circumplexx", "./nowhere"])
def test_unknown_suites_exit_1(cli: Cli, suite: str, tmp_path: Path) -> None:
    """A suite that is not there ends the run in one line before any model is loaded."""
    done = cli("run", "--models", "phantom/neutral", "--suites", suite, "--output", tmp_path)
    assert (done.code, done.out) == (1, "")
    assert done.err.strip().count("\n") == 0
    assert suite.strip("./") in done.err


# --- runs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def output(measured: tuple[Path, CompletedProcess[str]], tmp_path: Path) -> Path:
    """A copy of the output of the measured run."""
    return Path(shutil.copytree(measured[0], tmp_path / "output"))


def test_run_writes_the_leaderboard(measured: tuple[Path, CompletedProcess[str]]) -> None:
    """Exit code 0, a page and figures, four results a model, the tables on stdout and the progress on stderr."""
    folder, done = measured
    assert done.returncode == 0
    for name in ("phantom/neutral", "phantom/joyful"):
        place = f"results/{name.replace('/', '--')}/*"
        assert f"| {name} " in (folder / "reports" / "leaderboard.md").read_text(encoding="utf-8")
        assert len(list(folder.glob(f"{place}/*~limit12/scores.parquet"))) == 3
        assert len(list(folder.glob(f"{place}/reference@*/fit.safetensors"))) == 1
    assert list((folder / "reports" / "figures").glob("*.svg"))
    assert "Joy bias" in done.stdout
    pages = [folder / "reports" / f"leaderboard.{kind}" for kind in ("html", "md")]
    assert done.stdout.splitlines()[-2:] == [f"leaderboard: {page}" for page in pages]
    assert all(page.is_file() for page in pages)
    assert "100%" in done.stderr


def test_run_json_tells_the_stored_estimates(cli: Cli, output: Path) -> None:
    """Stdout is one strict JSON document with the estimates of the cards; the words go to stderr."""
    done = cli(*QUICK, output, "--json")
    assert done.code == 0
    rows = {row["trait"]: row for table in done.json for row in table["rows"] if row["model"] == "phantom/neutral"}
    assert {row["model"] for table in done.json for row in table["rows"]} == {"phantom/neutral", "phantom/joyful"}
    stored = [json.loads(p.read_text("utf-8")) for p in output.glob("results/phantom--neutral/*/*/card.json")]
    wanted = {t["trait"]: t["estimate"] for c in stored for t in c["traits"]}
    assert {k: row["estimate"] for k, row in rows.items()} == wanted
    assert len(wanted) == sum(not e.needs for e in ESTIMANDS.values())
    assert done.err.count("stored, kept") == 4


def test_run_json_is_strict_without_numbers(cli: Cli, output: Path) -> None:
    """Three scenarios, two of them keyworded, are too few for any estimate: null instead of NaN, no rank, a reason."""
    arguments = ("--suites", "circumplex", "--limit", "3", "--output", output, "--json")
    done = cli("run", "--models", "phantom/neutral", *arguments)
    assert done.code == 0
    rows = [row for table in done.json if table["suite"].endswith("~limit3") for row in table["rows"]]
    assert len(rows) == sum(e.design == "circumplex" and not e.needs for e in ESTIMANDS.values())
    for row in rows:
        assert (row["estimate"], row["rank"], row["valid"]) == (None, None, False)
        assert "2 whole scenarios" in row["reason"]


def broken_config(folder: Path) -> None:
    """A checkpoint whose configuration is cut off."""
    folder.mkdir()
    (folder / "config.json").write_text("{")


def broken_weights(folder: Path) -> None:
    """A checkpoint whose weights are cut off."""
    from llmct_bench.adapters import load

    model = load("phantom/neutral")
    model.module.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


@pytest.mark.parametrize("make", [broken_config, broken_weights])
def test_a_bad_model_does_not_stop_a_good_one(cli: Cli, output: Path, make: Callable[[Path], None]) -> None:
    """Exit code 1, the bad one named on stderr, the good one on the page."""
    bad = output.parent / "bad-model"
    make(bad)
    (output / "reports" / "leaderboard.md").unlink()
    done = cli("run", "--models", f"{bad},phantom/neutral", "--preset", "quick", "--output", output)
    assert done.code == 1
    assert "error: bad-model: " in done.err
    assert "phantom/neutral" in done.out
    page = (output / "reports" / "leaderboard.md").read_text(encoding="utf-8")
    assert "phantom/neutral" in page
    assert "bad-model" not in page


def test_only_bad_models_exit_1(cli: Cli, tmp_path: Path) -> None:
    """Nothing measured: exit code 1, the reason on stderr, no report."""
    broken_config(tmp_path / "bad-model")
    done = cli("run", "--models", tmp_path / "bad-model", "--preset", "quick", "--output", tmp_path / "out")
    assert (done.code, done.out) == (1, "")
    assert "error: bad-model: " in done.err
    assert not (tmp_path / "out").exists()


def test_an_error_is_one_line(cli: Cli, tmp_path: Path) -> None:
    """The reason of a bad model is told once, in one line."""
    broken_config(tmp_path / "bad-model")
    done = cli("run", "--models", tmp_path / "bad-model", "--preset", "quick", "--output", tmp_path / "out")
    assert len([line for line in done.err.splitlines() if line.strip()]) == 1


def test_existing_error_exits_1(cli: Cli, output: Path) -> None:
    """What is stored is not touched, and the message says what to do."""
    done = cli(*QUICK, output, "--existing", "error")
    assert (done.code, done.out) == (1, "")
    assert "use --existing skip or" in " ".join(done.err.split())
