"""Results on disk: whole or absent, never stale, never outside of their root, and a killed run goes on."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from handmade import ENVIRONMENT, RUN, card, command, trait

from llmct_bench.affect import AffectFit, Scores, Versions
from llmct_bench.affect.layers import LayerChoice
from llmct_bench.benchmark import PRESETS, load_results, run
from llmct_bench.errors import ResultError
from llmct_bench.evaluation import Session, Silent
from llmct_bench.results import SCHEMA_VERSION, ResultCard, ResultStore, result_key, store

pytest_plugins = ("measured_run",)

MODELS = ("phantom/neutral", "phantom/joyful")
NAN, INF = math.nan, math.inf


def some_scores() -> Scores:
    """Scores with NaN, infinities, empty texts and Unicode in the index."""
    values = np.random.default_rng(1).normal(size=(5, 3, 4))
    values[0, 0, 0], values[1, 2, 3], values[4, 1, 1] = NAN, INF, -INF
    index = pd.DataFrame(
        {
            "item": ["a/1", "a/2", "ü/1", "b|<x>", "c"],
            "twin": ["", "a/1", "", "", "ü/1"],
            "intensity": [0, 1, 2, 3, 0],
            "keyworded": [True, False, True, True, False],
            "tokens": [0.5, 12.5, 3.0, 7.0, 1.0],
        }
    )
    return Scores(values, values[..., :2] / 3, index, ("joy", "anger", "sadness", "calm"), ("joy", "calm"))


def some_fit() -> AffectFit:
    """A small fit."""
    rng = np.random.default_rng(2)
    return AffectFit(
        ("joy", "anger"),
        ("assistant", "user"),
        rng.normal(size=(3, 2, 4)).astype(np.float32),
        rng.normal(size=(2, 3, 2)),
        rng.normal(size=(3, 4, 4)).astype(np.float32),
        rng.normal(size=(3, 4)),
        LayerChoice(1, 0.5, True, ((1.0, 0.1), (2.0, 0.2), (3.0, 0.3)), (0.1, 0.7, 0.2)),
        (3, 2, 1),
        Versions(
            rng.normal(size=(5, 4)).astype(np.float32),
            rng.normal(size=(2, 5)),
            rng.normal(size=(7, 2, 5)),
            rng.normal(size=(2, 5)),
            np.arange(7) // 2,
        ),
        rng.normal(size=(2, 4)).astype(np.float32),
    )


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


# --- round trips ------------------------------------------------------------------------------------------------


def test_a_card_survives_its_json() -> None:
    """Estimates with NaN and infinities come back as they were, and the JSON is strict."""
    odd = trait(low=-INF, high=INF, effect=NAN, p_value=NAN, valid=False, reason='a\n"b" <ü>')
    made = card("ü/<x>", odd, trait("half_life", 3.5), truth={"half_life": 4.0, "dampening": None})
    text = made.to_json()
    json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    back = ResultCard.from_json(text)
    assert replace(back, traits=[]) == replace(made, traits=[])
    assert back.traits[1] == made.traits[1]
    one, other = (
        [getattr(t.traits[0], k) for k in ("estimate", "low", "high", "effect", "p_value")] for t in (back, made)
    )
    np.testing.assert_array_equal(one, other)
    assert replace(back.traits[0], effect=0, p_value=0) == replace(odd, effect=0, p_value=0)


def test_a_card_is_never_written_with_nan() -> None:
    """A number that JSON does not know is refused rather than written as NaN."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        card("a", raw={"spread": NAN}).to_json()


def test_values_per_scenario_that_are_not_finite_survive_too() -> None:
    """Infinities in ``per_cluster`` come back as numbers."""
    odd = trait(per_cluster={"a": 1.0, "b": INF, "c": -INF}, valid=False)
    assert ResultCard.from_json(card("a", odd).to_json()).traits[0].per_cluster == odd.per_cluster


def test_scores_survive_parquet(tmp_path: Path) -> None:
    """Values, cosines, names and the index come back from the store exactly."""
    made, results = some_scores(), ResultStore(tmp_path)
    results.save(card(), made)
    back = results.scores(card())
    np.testing.assert_array_equal(back.values, made.values)
    np.testing.assert_array_equal(back.raw, made.raw)
    assert (back.names, back.raw_names) == (made.names, made.raw_names)
    pd.testing.assert_frame_equal(back.index, made.index)


def test_a_fit_survives_its_file(tmp_path: Path) -> None:
    """Arrays come back bit by bit, the layer and the names too."""
    made, results = some_fit(), ResultStore(tmp_path)
    results.save(card(), None, made)
    back = results.fit("a", card().commit, card().suite)
    for name in ("directions", "offsets", "references", "role_cosine"):
        np.testing.assert_array_equal(getattr(back, name), getattr(made, name))
        assert getattr(back, name).dtype == getattr(made, name).dtype
    wanted = (made.layer, made.nuisance_dims, made.scores, made.roles)
    assert (back.layer, back.nuisance_dims, back.scores, back.roles) == wanted


def test_missing_scores_are_named(tmp_path: Path) -> None:
    """A result without scores says which suite to run again."""
    results = ResultStore(tmp_path)
    results.save(card(), None)
    with pytest.raises(ResultError, match=r"scores\.parquet is missing: run the model on shock@1\.0\.0 again"):
        results.scores(card())


# --- what is taken ----------------------------------------------------------------------------------------------


def test_the_key_changes_with_every_determinant() -> None:
    """Two results whose making differs in one fact have different keys; the order of the facts does not matter."""
    facts: dict[str, Any] = {"model": "a", "commit": "1", "dtype": "float32", "limit": 0}
    changed = [{**facts, k: f"{v}x"} for k, v in facts.items()]
    keys = [result_key(**f) for f in (facts, *changed)]
    assert len(set(keys)) == len(keys)
    assert result_key(**dict(reversed(facts.items()))) == keys[0]


def test_only_the_same_key_is_taken(tmp_path: Path) -> None:
    """A stored result is found by its exact key and by no other, under its own model, commit and suite."""
    results, mine = ResultStore(tmp_path), card("a", trait())
    results.save(mine, None)
    assert results.find("a", mine.commit, mine.suite, mine.key) == mine
    assert results.holds("a", mine.commit, mine.suite)
    for other in (("a", mine.commit, mine.suite, "other"), ("a", mine.commit, "shock@2.0.0", mine.key)):
        assert results.find(*other) is None
    for other in (("b", mine.commit, mine.suite, mine.key), ("a", "0", mine.suite, mine.key)):
        assert results.find(*other) is None


DAMAGE: list[Any] = [
    pytest.param(lambda b: b[: len(b) // 2], id="half a file"),
    pytest.param(lambda b: b"", id="empty"),
    pytest.param(lambda b: b"[]", id="a list"),
    pytest.param(lambda b: b"null", id="null"),
    pytest.param(lambda b: b'{"traits": []}', id="fields missing"),
    pytest.param(lambda b: b.replace(b'"commit"', b'"comit"'), id="unknown field"),
    pytest.param(lambda b: b.replace(b'"estimate"', b'"x"'), id="broken estimate"),
    pytest.param(lambda b: b"\xff" + b, id="not UTF-8"),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_broken_card_is_not_taken(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """A damaged card counts as no result, and reading all results names the file."""
    results, mine = ResultStore(tmp_path), card("a", trait())
    path = results.save(mine, None) / "card.json"
    path.write_bytes(damage(path.read_bytes()))
    assert results.find("a", mine.commit, mine.suite, mine.key) is None
    with pytest.raises(ResultError) as caught:
        list(results.cards())
    assert str(caught.value).startswith(f"{path}: ")


def test_another_schema_is_not_taken(tmp_path: Path) -> None:
    """A result whose numbers may mean something else is measured again."""
    results, old = ResultStore(tmp_path), card("a", schema=SCHEMA_VERSION - 1)
    results.save(old, None)
    assert results.find("a", old.commit, old.suite, old.key) is None


# --- interrupted saves ------------------------------------------------------------------------------------------

DISK_FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
WRITES = {
    "scores": (pd.DataFrame, "to_parquet"),
    "fit": (AffectFit, "save"),
    "card": (Path, "write_text"),
    "rename": (store.os, "replace"),
}


def fail_at(monkeypatch: pytest.MonkeyPatch, write: str, fault: BaseException) -> None:
    """Make one write of a save leave half a file and raise."""
    owner, name = WRITES[write]

    def broken(self: Any, target: Any, *_: Any, **__: Any) -> None:
        if write != "rename":
            with open(self if write == "card" else target, "wb") as stream:
                stream.write(b"half of a fi")
        raise fault

    monkeypatch.setattr(owner, name, broken)


@pytest.mark.parametrize("fault", [DISK_FULL, KeyboardInterrupt()], ids=["disk full", "Ctrl-C"])
@pytest.mark.parametrize("before", [True, False], ids=["replacing", "new"])
@pytest.mark.parametrize("write", WRITES)
def test_an_interrupted_save_leaves_no_half_result(
    write: str, before: bool, fault: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever write fails, the place holds the old result as a whole or none, and nothing else lies about."""
    results, old, new = ResultStore(tmp_path), card("a", trait(value=1.0)), card("a", trait(value=2.0), key="new")
    if before:
        results.save(old, some_scores(), some_fit())
    files = tree(tmp_path)
    with monkeypatch.context() as patch:
        fail_at(patch, write, fault)
        with pytest.raises(ResultError if isinstance(fault, OSError) else KeyboardInterrupt) as caught:
            results.save(new, some_scores(), some_fit())
    assert results.find("a", new.commit, new.suite, "new") is None
    kept = results.find("a", old.commit, old.suite, old.key)
    assert kept in ([old, None] if before else [None])
    assert tree(tmp_path) == (files if kept else {})
    assert list(results.cards()) == ([kept] if kept else [])
    if isinstance(fault, OSError):
        assert "No space left on device" in str(caught.value)
    results.save(new, some_scores(), some_fit())
    assert list(results.cards()) == [new]


def test_nothing_stored_is_lost_when_the_rename_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error promises that nothing stored was lost."""
    results, old = ResultStore(tmp_path), card("a", trait())
    results.save(old, some_scores())
    fail_at(monkeypatch, "rename", DISK_FULL)
    with pytest.raises(ResultError, match="nothing stored was lost"):
        results.save(card("a", key="new"), some_scores())
    assert results.find("a", old.commit, old.suite, old.key) == old


@pytest.mark.parametrize("write", ["card", "rename"])
def test_what_a_killed_save_leaves_is_not_a_result(write: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SIGKILL runs no clean-up; the scratch folder that stays must not show up among the results."""
    results, old = ResultStore(tmp_path), card("a", trait())
    with monkeypatch.context() as patch:
        fail_at(patch, write, KeyboardInterrupt())
        patch.setattr(store.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            results.save(card("a", key="new"), some_scores())
    results.save(old, some_scores())
    assert list(results.cards()) == [old]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
@pytest.mark.parametrize("what", ["scores", "fit", "card"])
def test_a_write_that_the_system_refuses_is_a_result_error(what: str, tmp_path: Path) -> None:
    """The operating system itself stops the write after 200 bytes: one line names the place, nothing half is left."""
    import resource

    results = ResultStore(tmp_path)
    parts = {"scores": (some_scores(), None), "fit": (None, some_fit()), "card": (None, None)}[what]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(ResultError) as caught:
            results.save(card(), *parts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(results.place("a", card().commit, card().suite)) in str(caught.value)
    assert "File too large" in str(caught.value)
    assert tree(tmp_path) == {}


def test_a_root_that_cannot_be_made_is_a_result_error(tmp_path: Path) -> None:
    """A file where the folder should be is said in one line."""
    (tmp_path / "results").write_text("in the way")
    with pytest.raises(ResultError, match="cannot write results under"):
        ResultStore(tmp_path / "results").save(card(), None)


# --- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "owner/model",
        "../../up",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a/../../b",
        "..\\..\\b",
        "~root",
        "模型/ü é",
        "a\0b",
        ".x",
    ],
)
def test_no_name_leaves_the_root(name: str, tmp_path: Path) -> None:
    """Model, commit and suite may be called anything: the result lies three folders below the root and is found."""
    root = tmp_path / "deep" / "results"
    results = ResultStore(root)
    for mine in (card(name), card("m", commit=name), card("m", suite=name)):
        place = results.save(mine, None)
        assert len(place.resolve().relative_to(root.resolve()).parts) == 3
        assert results.find(str(mine.model["name"]), mine.commit, mine.suite, mine.key) == mine
    assert [p.name for p in tmp_path.iterdir()] == ["deep"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["results"]
    assert len(list(results.cards())) == 3


# --- runs -------------------------------------------------------------------------------------------------------


class Log(Silent):
    """Remembers what was scanned and what was kept."""

    def __init__(self) -> None:
        self.scans: list[str] = []
        self.kept: list[str] = []

    def start(self, task: str, tokens: int) -> None:
        self.scans.append(task)

    def message(self, text: str) -> None:
        self.kept.append(text)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in `ENVIRONMENT`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def whole(measured: tuple[Path, Any]) -> Path:
    """The output of an uninterrupted run."""
    return measured[0]


def stored(output: Path) -> dict[str, tuple[int, str]]:
    """Model and suite of every stored result, with the time of its file and the time that it tells."""
    found = {}
    for path in output.glob("results/[!.]*/[!.]*/[!.]*/card.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        told = data["provenance"]["time"] + str(data["timings"])
        found[f"{data['model']['name']} · {data['suite']}"] = (path.stat().st_mtime_ns, told)
    return found


def test_a_killed_run_goes_on_where_it_was(whole: Path, tmp_path: Path) -> None:
    """SIGKILL after the second trait suite: what was stored stays untouched, the rest is measured, and the reports
    are those of an uninterrupted run, byte for byte."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": ENVIRONMENT}
    process = subprocess.Popen(command(*RUN, tmp_path), **quiet)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("results/*/*/retention*/card.json")):
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    before, log = stored(tmp_path), Log()
    assert 3 <= len(before) < 8
    run(MODELS, output=tmp_path, limit=PRESETS["quick"], session=Session(progress=log))
    after = stored(tmp_path)
    assert len(after) == 8
    assert {k: after[k] for k in before} == before
    assert sorted(log.scans) == sorted(set(after) - set(before))
    assert sorted(log.kept) == sorted(f"{k}: stored, kept" for k in before)
    assert min(after[k][0] for k in log.scans) > max(v[0] for v in before.values())
    assert tree(tmp_path / "reports") == tree(whole / "reports")


def test_stored_estimates_are_those_of_the_run(whole: Path) -> None:
    """What `report` would read gives the page that the run wrote."""
    from llmct_bench.leaderboards import leaderboard

    page = leaderboard(load_results(whole)).to_markdown()
    assert page == (whole / "reports" / "leaderboard.md").read_text(encoding="utf-8")
    assert "phantom/joyful" in page


def test_existing_error_refuses_and_touches_nothing(whole: Path, tmp_path: Path) -> None:
    """A result in the way stops a model before anything is scanned or written."""
    shutil.copytree(whole / "results", tmp_path / "results")
    files, log = tree(tmp_path), Log()
    with pytest.raises(ResultError, match="holds a result already: use --existing skip or overwrite"):
        run(
            ["phantom/neutral"],
            output=tmp_path,
            limit=PRESETS["quick"],
            existing="error",
            session=Session(progress=log),
        )
    assert log.scans == []
    assert tree(tmp_path) == files


def test_existing_overwrite_measures_again(whole: Path, tmp_path: Path) -> None:
    """The same numbers come out, in a file of today."""
    shutil.copytree(whole / "results", tmp_path / "results")
    before, log, name = stored(tmp_path), Log(), "phantom/neutral · reference@"
    run(["phantom/neutral"], ["reference"], tmp_path, existing="overwrite", session=Session(progress=log))
    assert [s.startswith(name) for s in log.scans] == [True]
    after = stored(tmp_path)
    assert {k for k in after if after[k] != before[k]} == {k for k in after if k.startswith(name)}
    fits = [{c.key: c.fit for c in load_results(o)} for o in (whole, tmp_path)]
    assert fits[0] == fits[1]


def test_another_suite_of_the_same_name_is_measured(whole: Path, tmp_path: Path) -> None:
    """A stored result under the same name whose content has changed is not taken."""
    shutil.copytree(whole / "results", tmp_path / "results")
    path = next(tmp_path.glob("results/phantom--neutral/*/circumplex*/card.json"))
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**data, "key": "of another time"}), encoding="utf-8")
    log = Log()
    run(["phantom/neutral"], output=tmp_path, limit=PRESETS["quick"], session=Session(progress=log))
    assert [s.split("@")[0] for s in log.scans] == ["phantom/neutral · circumplex"]
    assert ResultCard.from_json(path.read_text(encoding="utf-8")).key == data["key"]


def test_a_lost_fit_is_made_again(whole: Path, tmp_path: Path) -> None:
    """A reference result whose fit is gone is measured again instead of ending in a traceback."""
    shutil.copytree(whole / "results", tmp_path / "results")
    next(tmp_path.glob("results/phantom--neutral/*/reference*/fit.safetensors")).unlink()
    lost = next(tmp_path.glob("results/phantom--neutral/*/circumplex*"))
    before = ResultCard.from_json((lost / "card.json").read_text(encoding="utf-8"))
    shutil.rmtree(lost)
    run(["phantom/neutral"], output=tmp_path, limit=PRESETS["quick"])
    again = ResultCard.from_json((lost / "card.json").read_text(encoding="utf-8"))
    assert [t.to_json() for t in again.traits] == [t.to_json() for t in before.traits]
