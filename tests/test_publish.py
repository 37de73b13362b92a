"""Results as a data set on the Hub: what was pushed is what was stored, and what goes wrong is said in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
import yaml
from handmade import Cli, card, trait
from hub import Hub
from huggingface_hub import constants

from llmct_bench.benchmark import load_results, results_table
from llmct_bench.publish import dataset_card
from llmct_bench.results import ResultStore
from llmct_bench.traits import ESTIMANDS
from llmct_bench.verify import verify

pytest_plugins = ("stored_run",)

LOAD = """
import sys
from datasets import load_dataset
load_dataset("someone/results", split="train").to_pandas().to_parquet(sys.argv[1])
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub that this process talks to: huggingface_hub has read its environment already."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "mine")
    with Hub(tmp_path / "hub", tokens={"mine": True, "reader": False}) as served:
        changed = {"ENDPOINT": served.url, "HF_TOKEN_PATH": str(tmp_path / "none"), "HF_HUB_OFFLINE": False}
        for name, value in {**changed, "HF_HUB_DISABLE_XET": True}.items():
            monkeypatch.setattr(constants, name, value)
        yield served


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output folder with one result."""
    ResultStore(tmp_path / "output" / "results").save(card("m", trait()), None)
    return tmp_path / "output"


def loaded(hub: Hub, folder: Path) -> pd.DataFrame:
    """What ``load_dataset`` makes of the data set, in a process with a cache of its own."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", LOAD, str(folder / "loaded.parquet")]
    subprocess.run(command, env=env, check=True, timeout=120)
    return pd.read_parquet(folder / "loaded.parquet")


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_pushed_is_what_is_stored(cli: Cli, hub: Hub, stored: Path, tmp_path: Path) -> None:
    """One commit; the table that `load_dataset` gives is the table of the results; the files are those that were
    pushed, so that they verify. A second push, of fewer results, takes away what is there no more."""
    done = cli("push", "someone/results", "--output", stored)
    assert (done.code, done.out) == (0, f"{hub.url}/datasets/someone/results\n")
    assert hub.messages == [f"Results of 2 models, llmct-bench {version('llmct-bench')}"]
    pd.testing.assert_frame_equal(loaded(hub, tmp_path), results_table(stored))
    there = hub.root / "datasets" / "someone" / "results"
    pushed = files(there)
    assert {k: v for k, v in pushed.items() if k.startswith(("results/", "reports/"))} == files(stored)
    assert pushed.keys() - files(stored).keys() == {"README.md", "data/results.parquet"}
    assert verify(there, there / "reports") == []

    smaller = Path(shutil.copytree(stored, tmp_path / "smaller"))
    gone = next(smaller.glob("results/phantom--neutral"))
    shutil.rmtree(gone)
    (smaller / "results" / ".killed").mkdir()
    (smaller / "results" / ".killed" / "card.json").write_text("half")
    assert cli("push", "someone/results", "--output", smaller).code == 0
    assert len(hub.messages) == 2
    assert files(there).keys() == {k for k in pushed if not k.startswith(f"results/{gone.name}/")}
    pd.testing.assert_frame_equal(pd.read_parquet(there / "data" / "results.parquet"), results_table(smaller))


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "no token for the Hub: set HF_TOKEN or log in with `hf auth login`"),
        ("other", "someone/results: the token is not known there"),
        ("reader", "someone/results: the token may not write there"),
    ],
)
def test_a_push_without_the_right_says_why(
    token: str, message: str, cli: Cli, hub: Hub, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1, one line, nothing made."""
    monkeypatch.setenv("HF_TOKEN", token)
    done = cli("push", "someone/results", "--output", output)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"error: {message}")
    assert done.err.count("\n") == 1
    assert not hub.root.exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("HF_HUB_OFFLINE", True, "the Hub may not be asked (HF_HUB_OFFLINE)"),
        ("ENDPOINT", "http://127.0.0.1:9", "the Hub cannot be reached"),
    ],
)
def test_a_push_without_a_network_says_so(
    name: str, value: object, message: str, cli: Cli, hub: Hub, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same."""
    monkeypatch.setattr(constants, name, value)
    done = cli("push", "someone/results", "--output", output)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"error: someone/results: {message}")
    assert done.err.count("\n") == 1
    assert hub.requests == []


def test_a_name_that_no_data_set_can_have_is_refused(cli: Cli, hub: Hub, output: Path) -> None:
    """Before anything is sent."""
    done = cli("push", "a/b/c", "--output", output)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: 'a/b/c' is no name of a data set on the Hub (OWNER/NAME)")
    assert hub.requests == []


def test_a_name_without_an_owner_is_the_users(cli: Cli, hub: Hub, output: Path) -> None:
    """The Hub says who that is; the card of the data set names both."""
    assert cli("push", "mine", "--output", output, "--private").out == f"{hub.url}/datasets/me/mine\n"
    assert 'load_dataset("me/mine"' in (hub.root / "datasets" / "me" / "mine" / "README.md").read_text()


def test_the_card_of_the_data_set(stored: Path) -> None:
    """Its head is YAML that says the licence and where the table lies; hostile names stay text."""
    text = dataset_card("someone/results", load_results(stored), "cc0-1.0")
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "cc0-1.0"
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "data/results.parquet"}]
    number = 2 * sum(e.design in ("reference", "circumplex", "shock") and not e.needs for e in ESTIMANDS.values())
    assert f"{number} estimates" in " ".join(text.split())
    assert "phantom/absorbing, phantom/neutral" in text
    hostile = dataset_card("a/b", [card("<script>[x](y)|*{0}", trait(), suite="---\nx: {y}@1")], "a: b\n---")
    assert yaml.safe_load(hostile.split("\n---\n\n# ")[0].removeprefix("---\n"))["license"] == "a: b\n---"
    assert "<script>" not in hostile
    assert "[x](y)" not in hostile
