"""What the calibration has found about a trait goes with the package and stands above the trait's table."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import zipfile
from html import escape
from pathlib import Path

import pytest
from handmade import card, trait
from typer.testing import CliRunner

from llmct_bench.calibration.performance import POWER, Summary, needed, verdicts
from llmct_bench.calibration.tables import asked
from llmct_bench.cli import app
from llmct_bench.errors import ResultError
from llmct_bench.leaderboards import leaderboard
from llmct_bench.traits import ESTIMANDS, verdict
from llmct_bench.traits.verdict import Verdict, from_json, to_json

ROOT = Path(__file__).resolve().parent.parent
SIZES = (24, 96, 192)


@pytest.fixture(autouse=True)
def _fresh() -> object:
    """What is read once is read again by the next test."""
    verdict._shipped.cache_clear()
    yield
    verdict._shipped.cache_clear()


def summary(cell: str, name: str, **changes: float) -> Summary:
    """2000 replicates of a trait, all valid, with nothing out of the way."""
    usual = {"replicates": 2000, "valid": 1.0, "truth": ESTIMANDS[name].null, "mean": 0.0, "bias": 0.0}
    shares = {"empirical_se": 0.1, "coverage": 0.95, "conditional": 0.95, "rejected": 0.05}
    return Summary(cell=cell, trait=name, **(usual | shares | changes))


# --- what it says -----------------------------------------------------------------------------------------------


def test_a_verdict_is_a_sentence() -> None:
    """Shares as the field writes them; what is missed is named."""
    good = Verdict(2000, SIZES, (0.951, 0.944, 0.95), (0.05, 0.047, 0.041))
    assert good.sentence == (
        "Calibration: intervals cover .95/.94/.95, nulls reject .05/.05/.04 at 24/96/192 scenarios (2000 draws)."
    )
    bad = Verdict(7, (24,), (1.0,), (), ("coverage at 24", "nulls at 96"))
    assert bad.sentence == (
        "Calibration: intervals cover 1.00 at 24 scenarios (7 draws). "
        "Misses what is asked: coverage at 24, nulls at 96."
    )


def test_a_verdict_by_hand() -> None:
    """.92 of 2000 misses .94 to .96 by more than two errors of .006, .93 does not; .075 misses .04 to .06, .07 does
    not. The population's coverage is not asked."""
    found = [summary("coverage-24", "dampening", conditional=0.92), summary("null-24", "dampening", rejected=0.07)]
    found += [summary("coverage-96", "dampening", conditional=0.93, coverage=0.5)]
    found += [summary("null-96", "dampening", rejected=0.075)]
    assert verdicts(found) == {
        "dampening": Verdict(2000, (24, 96), (0.92, 0.93), (0.07, 0.075), ("coverage at 24", "nulls at 96"))
    }
    assert verdicts([]) == {}


def test_the_null_is_where_the_closed_form_says_that_it_is() -> None:
    """The plain phantom, where the trait is at its null there; otherwise shuffled labels, of which all replicates count
    and too few rejections are no fault; where neither is a null there is none to tell of."""
    for truth, rejected, missed in ((0.0, 0.2, True), (0.019, 0.2, True), (0.021, 0.02, False), (-1.6, 0.02, False)):
        found = [summary("coverage-24", "separability")]
        found += [summary("null-24", "separability", truth=truth, rejected=0.2)]
        found += [summary("shuffled-24", "separability", rejected=0.04, valid=0.5)]
        made = verdicts(found)["separability"]
        assert made.rejected == (rejected,)
        assert made.missed == (("nulls at 24",) if missed else ())
    lost = [found[0], found[1], summary("shuffled-24", "separability", truth=math.nan)]
    assert verdicts(lost)["separability"].rejected == ()
    many = [found[0], summary("shuffled-24", "separability", rejected=0.1)]
    assert verdicts(many)["separability"].missed == ("nulls at 24",)


# --- where it is ------------------------------------------------------------------------------------------------


def test_verdicts_are_stored_and_read() -> None:
    """There and back, in strict JSON; what is no verdict is refused."""
    found = {"a": Verdict(3, SIZES, (0.1, 0.2, 0.3), (), ("coverage at 24",)), "b": Verdict(2, (24,), (1.0,), (0.0,))}
    assert from_json(to_json(found)) == found
    assert from_json(to_json({})) == {}
    for text in ("", "[]", '{"a": {"share": 1}}', '{"a": 3}'):
        with pytest.raises((ValueError, TypeError, AttributeError)):
            from_json(text)


def test_what_is_shipped_is_what_the_report_says() -> None:
    """The package's verdicts follow from the study whose report is committed: `llmct-bench calibrate --ship`."""
    report = ROOT / "reports" / "calibration.json"
    if not report.is_file():
        pytest.skip("no reports beside the tests")
    rows = json.loads(report.read_text(encoding="utf-8"))["drawn"]
    found = [Summary(**{k: math.nan if v is None else v for k, v in r.items()}) for r in rows]
    shipped = (ROOT / "llmct_bench" / "traits" / "calibration.json").read_text(encoding="utf-8")
    assert shipped == to_json(verdicts(found))
    assert {t for t, e in ESTIMANDS.items() if e.ranked} <= set(from_json(shipped))


def test_shipping_writes_into_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file beside the module is replaced and read from then on; where it may not be written one line says so."""
    made = {"dampening": Verdict(5, (24,), (0.5,))}
    monkeypatch.setattr(verdict, "__file__", str(tmp_path / "verdict.py"))
    assert verdict.ship(made) == tmp_path / "calibration.json"
    assert from_json((tmp_path / "calibration.json").read_text()) == made
    monkeypatch.setattr(verdict, "__file__", str(tmp_path / "nowhere" / "verdict.py"))
    with pytest.raises(ResultError, match="cannot write"):
        verdict.ship(made)


def test_a_look_is_not_shipped(tmp_path: Path) -> None:
    """--quick --ship is wrong usage, and nothing is made."""
    done = CliRunner().invoke(app, ["calibrate", "--quick", "--ship", "--output", str(tmp_path)])
    assert done.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_leaderboards_say_it_above_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the description of its trait, in Markdown and HTML, once; a trait without a verdict has none."""
    made = {"dampening": Verdict(11, (24,), (0.5,), (), ("coverage at 24",))}
    monkeypatch.setattr(verdict, "_shipped", lambda: made)
    board = leaderboard(
        [card("m/one", trait("dampening", 0.1), trait("shock_absorption", 0.3, details={"share": [0.2]}))]
    )
    text, page = board.to_markdown(), board.to_html()
    sentence = made["dampening"].sentence
    part = text.split("## Dampening")[1].split("## ")[0]
    intro = next(row for row in part.splitlines() if row.startswith("How to read it"))
    assert intro.endswith(sentence)
    assert text.count("Calibration:") == page.count("Calibration:") == 1
    assert page.split('<h2 id="dampening-head">')[1].split("<table")[0].count(escape(sentence)) == 1
    monkeypatch.undo()
    shipped = leaderboard(board.results).to_markdown()
    for name, found in from_json((ROOT / "llmct_bench/traits/calibration.json").read_text("utf-8")).items():
        if ESTIMANDS[name].design == "shock":
            assert found.sentence in shipped


def test_the_wheel_holds_it(tmp_path: Path) -> None:
    """An installed package knows its verdicts."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: no wheel can be built")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    text = zipfile.ZipFile(wheel).read("llmct_bench/traits/calibration.json").decode()
    assert text == (ROOT / "llmct_bench" / "traits" / "calibration.json").read_text(encoding="utf-8")


# --- power ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "scenario", "wanted"),
    [
        (0.0, 1.0, (POWER / 0.2) ** 2),  # a paired contrast of SD 1: d = .2
        (0.05, 0.6, 0.36 / ((0.2 / POWER) ** 2 - 0.05**2)),
        (0.08, 0.5, math.inf),  # .08 is more than .2 / 2.8
    ],
)
@pytest.mark.parametrize("sizes", [SIZES, (24, 192)])
def test_scenarios_that_power_asks_for(axes: float, scenario: float, wanted: float, sizes: tuple[int, ...]) -> None:
    """Standard errors that are exactly those of the axes and of so many scenarios give the number back."""
    se = {n: math.sqrt(axes**2 + scenario**2 / n) for n in sizes}
    found = [summary(f"coverage-{n}", "dampening", empirical_se=se[n]) for n in sizes]
    assert needed(found, "dampening") == pytest.approx(wanted, rel=1e-6)
    assert math.isnan(needed(found[:1], "dampening"))
    assert math.isnan(needed(found, "joy_bias"))


def test_no_variance_of_the_axes_is_below_zero() -> None:
    """Errors that fall faster than one over the root of the scenarios are taken for those of the scenarios alone."""
    found = [summary(f"coverage-{n}", "dampening", empirical_se=9.0 / n) for n in SIZES]
    n = needed(found, "dampening")
    assert math.isfinite(n)
    assert n > 0


def test_one_sentence_says_what_power_justifies() -> None:
    """What 192 scenarios are enough for, what would need more, and what no number is enough for."""
    spread = {"dampening": (0.0, 1.0), "joy_bias": (0.01, 0.5), "tail_retention": (0.2, 0.1), "half_life": (0.0, 1.0)}
    found = [
        summary(f"coverage-{n}", t, empirical_se=math.sqrt(a**2 + b**2 / n))
        for t, (a, b) in spread.items() for n in SIZES
    ]  # fmt: skip
    assert asked(found) == (
        "192 scenarios are enough for the smallest effect of interest in 2 of 4 traits (51 in joy_bias, ≤ 24 in "
        "half_life); it would ask for 197 in dampening; for tail_retention no number is enough, since the axes alone "
        "vary more."
    )
    assert asked([]) == ""
