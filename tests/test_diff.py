"""What moved between two sets of results, and the gate that `report --diff` is."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from handmade import Cli, card, trait
from hypothesis import example, given
from hypothesis import strategies as st

from llmct_bench.leaderboards.diff import Change, diff
from llmct_bench.results import ResultCard, ResultStore
from llmct_bench.traits import TraitEstimate, no_estimate

VALUES = st.floats(-5, 5)
ERRORS = st.floats(1e-4, 2)
SWAPPED = {"became valid": "became invalid", "became invalid": "became valid"}


def saved(folder: Path, *cards: ResultCard) -> Path:
    """An output folder that holds these results."""
    for c in cards:
        ResultStore(folder / "results").save(c, None)
    return folder


@example(0.0, 0.3, 1.95, 0.2)
@example(0.0, 0.3, -1.97, 0.2)
@example(0.0, 0.3, 6.9e-4, 0.2)
@example(0.0, 0.3, 7.2e-4, 0.2)
@given(VALUES, ERRORS, st.floats(-4, 4), ERRORS)
def test_a_difference_is_rounding_a_change_or_a_move(value: float, se: float, steps: float, other: float) -> None:
    """A difference of so many standard errors of a difference: moved from 1.96 on, rounding below a thousandth of the
    pooled one (the latter is the former over sqrt 2)."""
    unit = math.sqrt(se * se + other * other)
    change = Change("m", "s", trait(value=value, se=se), trait(value=value + steps * unit, se=other))
    size = abs(change.difference)
    wanted = "moved" if size > 1.96 * unit else "same" if size <= max(unit / math.sqrt(2) / 1000, 1e-6) else "changed"
    assert change.kind == wanted
    assert (abs(steps) > 1.961) <= (change.kind == "moved")


def test_without_standard_errors_nothing_is_said_to_have_moved() -> None:
    """Rounding is then what is below one in a million."""
    kinds = [Change("m", "s", trait(value=0.0, se=math.nan), trait(value=v)).kind for v in (9e-7, 2e-6, 3.0)]
    assert kinds == ["same", "changed", "changed"]


def test_equal_results_without_an_error_have_not_moved() -> None:
    """A standard error of 0 makes no difference of rounding a move."""
    assert Change("m", "s", trait(se=0.0), trait(value=0.5 + 1e-9, se=0.0)).kind == "same"
    assert Change("m", "s", trait(se=0.0), trait(value=0.6, se=0.0)).kind == "moved"


def estimates() -> st.SearchStrategy[TraitEstimate]:
    """Valid and invalid estimates of one trait."""
    valid = st.builds(lambda v, se: trait("joy_bias", v, se=se), VALUES, ERRORS)
    return valid | st.just(no_estimate("joy_bias", "too few"))


@given(st.dictionaries(st.sampled_from("abcd"), estimates()), st.dictionaries(st.sampled_from("abcd"), estimates()))
def test_the_other_way_round(old: dict[str, TraitEstimate], new: dict[str, TraitEstimate]) -> None:
    """Swapping the sides turns signs, swaps what appeared and vanished, and leaves every size as it is; every result
    is told of exactly once."""
    sides = [[card(m, t) for m, t in side.items()] for side in (old, new)]
    there, back = diff(*sides), diff(*sides[::-1])
    assert (there.appeared, there.vanished) == (back.vanished, back.appeared)
    for a, b in zip(there.changes, back.changes, strict=True):
        assert a.model == b.model
        assert b.kind == SWAPPED.get(a.kind, a.kind)
        assert a.difference == -b.difference or (math.isnan(a.difference) and math.isnan(b.difference))
    told = [*(c.model for c in there.changes), *there.appeared, *there.vanished]
    assert sorted(told) == sorted(old.keys() | new.keys())


@given(st.dictionaries(st.sampled_from("abcd"), estimates()))
def test_nothing_moved_between_results_and_themselves(side: dict[str, TraitEstimate]) -> None:
    """All the same, or invalid on both sides."""
    results = [card(m, t) for m, t in side.items()]
    found = diff(results, results)
    assert {c.kind for c in found.changes} <= {"same", "invalid"}
    assert not found.appeared + found.vanished + found.incomparable
    assert not found.violations({"joy_bias": 1e-12}) or not results


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"suite_hash": "f" * 16}, "a · shock@1.0.0: other items (suite 01234567, now ffffffff)"),
        ({"fit": {"reference_hash": "abcdef0123"}}, "a · shock@1.0.0: other axes (reference , now abcdef01)"),
        ({"subset": "keyworded"}, "a · shock@1.0.0: all items, now keyworded"),
    ],
)
def test_other_items_or_axes_are_not_compared(changed: dict, why: str) -> None:
    """It is said why, and no difference is made up."""
    found = diff([card("a", trait())], [card("a", trait(value=9.0), **changed)])
    assert (found.changes, found.incomparable) == ((), (why,))


def test_what_is_on_one_side_only_is_named_as_a_whole() -> None:
    """A model, a suite of a model that both have, a trait of a suite that both have."""
    old = [card("a", trait(), trait("shock_absorption")), card("b", trait()), card("b", trait(), suite="other@1")]
    found = diff(old, [card("a", trait())])
    assert found.vanished == ("a · shock@1.0.0 · shock_absorption", "b")
    assert diff([card("a", trait())], [card("a", trait()), card("a", trait(), suite="x@1")]).appeared == ("a · x@1",)


def test_a_new_commit_is_held_against_the_last_one() -> None:
    """By name where each side has one commit, with a note; by commit where a side has several."""
    one, two = card("a", trait(), commit="1" * 40), card("a", trait(value=5.0), commit="2" * 40)
    (change,) = diff([one], [two]).changes
    assert (change.kind, change.notes) == ("moved", (f"commit {'1' * 12}, now {'2' * 12}",))
    found = diff([one], [one, two])
    assert [(c.model, c.kind) for c in found.changes] == [("a@11111111", "same")]
    assert found.appeared == ("a@22222222",)


def test_notes_tell_what_else_differs() -> None:
    """Versions, device and readouts left out; nothing where nothing differs."""
    new = card(
        "a",
        trait(),
        left_out=["x[0]"],
        run={"dtype": "float32", "device": "cuda:0"},
        provenance={"packages": {"numpy": "2.1"}},
    )
    (change,) = diff([card("a", trait())], [new]).changes
    assert change.notes == ("device cpu, now cuda:0", "numpy 2.0, now 2.1", "0 readouts left out, now 1")
    assert diff([new], [new]).changes[0].notes == ()


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two outputs: one model the same, one by 0.3 higher (MDC95 0.139), one that became invalid."""
    old = [card(m, trait()) for m in "abc"]
    new = [old[0], card("b", trait(value=0.8)), card("c", replace(no_estimate("dampening", "no shock was seen")))]
    return saved(tmp_path / "old", *old), saved(tmp_path / "new", *new)


def test_diff_tells_what_moved(cli: Cli, folders: tuple[Path, Path]) -> None:
    """The two that differ and why, not the third; exit code 0, nothing written."""
    before = sorted(p for f in folders for p in f.rglob("*"))
    done = cli("report", "--diff", *folders)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["b", "c"]
    assert "+0.3 " in lines[2]
    assert lines[2].endswith("moved")
    assert lines[3].endswith("became invalid: no shock was seen")
    assert lines[-1].startswith("3 estimates: 1 same, 1 moved, 1 became invalid")
    assert sorted(p for f in folders for p in f.rglob("*")) == before


def test_diff_as_json(cli: Cli, folders: tuple[Path, Path]) -> None:
    """The same for programs; a results folder may be named itself."""
    done = cli("report", "--diff", folders[0] / "results", folders[1], "--json")
    assert done.code == 0
    kinds = {c["model"]: c["kind"] for c in done.json["changes"]}
    assert kinds == {"a": "same", "b": "moved", "c": "became invalid"}
    (moved,) = (c for c in done.json["changes"] if c["model"] == "b")
    assert moved["difference"] == pytest.approx(0.3)
    assert moved["mdc95"] == pytest.approx(1.96 * math.sqrt(2) * 0.05)
    assert done.json["violations"] == []


@pytest.mark.parametrize(("limit", "failed"), [("0.299", "bc"), ("0.301", "c"), ("1e-9", "bc")])
def test_fail_on_is_a_gate(cli: Cli, folders: tuple[Path, Path], limit: str, failed: str) -> None:
    """Exit code 1 with one line for each that went too far or became invalid."""
    done = cli("report", "--diff", *folders, "--fail-on", f"dampening:{limit}")
    assert done.code == 1
    lines = [line for line in done.out.splitlines() if line.startswith("FAILED")]
    assert [line.split()[2] for line in lines] == list(failed)
    assert cli("report", "--diff", folders[0], folders[0], "--fail-on", f"dampening:{limit}").code == 0


def test_a_gate_through_which_nothing_went_is_not_passed(cli: Cli, folders: tuple[Path, Path]) -> None:
    """A trait without a comparable result fails."""
    done = cli("report", "--diff", *folders, "--fail-on", "joy_bias:1", "--json")
    assert done.code == 1
    assert done.json["violations"] == ["joy_bias: there is no model and suite with comparable results on both sides"]


@pytest.mark.parametrize(
    "options",
    [
        ["--fail-on", "joy:0.1"],
        ["--fail-on", "joy_bias"],
        ["--fail-on", "joy_bias:much"],
        ["--fail-on", "joy_bias:0"],
        ["--fail-on", "joy_bias:nan"],
    ],
    ids=" ".join,
)
def test_wrong_limits_exit_2(cli: Cli, folders: tuple[Path, Path], options: list[str]) -> None:
    """Before anything is compared."""
    done = cli("report", "--diff", *folders, *options)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err


@pytest.mark.parametrize("options", [["--json"], ["--fail-on", "joy_bias:0.1"]], ids=" ".join)
def test_options_of_diff_without_it_exit_2(cli: Cli, options: list[str], tmp_path: Path) -> None:
    """Nothing is written."""
    assert cli("report", "--output", tmp_path, *options).code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_results_exits_1(cli: Cli, folders: tuple[Path, Path], tmp_path: Path) -> None:
    """One line names it."""
    done = cli("report", "--diff", folders[0], tmp_path / "none")
    assert (done.code, done.out) == (1, "")
    assert str(tmp_path / "none" / "results") in "".join(done.err.split("\n"))
