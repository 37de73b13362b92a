"""The tables of the calibration page, in Markdown. Each is text, empty where there are no data for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from llmct_bench.calibration.levels import Recovered, agreement
from llmct_bench.calibration.performance import (
    COVERAGE,
    INTEREST,
    NOMINAL,
    OFF_DIAGONAL,
    POWER,
    REJECTION,
    Summary,
    at_null,
    by_cell,
    changes,
    missed,
    needed,
    planted_change,
)
from llmct_bench.calibration.seeds import Rejections
from llmct_bench.calibration.study import SIZES, TURNED
from llmct_bench.leaderboards.markdown import escape
from llmct_bench.traits import ESTIMANDS

# --- level 1 ----------------------------------------------------------------------------------------------------------


def coverage(found: Sequence[Summary]) -> str:
    """Bias, spread and coverage of every trait at every size."""
    by, rows = by_cell(found), []
    for trait, n in _tried(by, "coverage"):
        s = by[f"coverage-{n}", trait]
        shown = [_plain(s.truth), _plain(s.bias, "+"), _plain(s.empirical_se)]
        held = (_judged(share, s.error(share), COVERAGE) for share in (s.conditional, s.coverage))
        rows.append([trait, str(n), *shown, *held])
    return _table(
        rows, ["trait", "scenarios", "truth", "bias", "empirical SE", "holds the truth", "… of the population"]
    )


def nulls(found: Sequence[Summary]) -> str:
    """How often a trait that is absent is found, by what makes it absent."""
    by, rows = by_cell(found), []
    for trait, n in _tried(by, "null"):
        s = by[f"null-{n}", trait]
        plain = _judged(s.rejected, s.error(s.rejected), REJECTION) if at_null(s) else "not null there"
        others = (_significant(by.get((f"{kind}-{n}", trait))) for kind in ("shuffled", "nothing"))
        away = _plain(s.truth - ESTIMANDS[trait].null, "+")
        rows.append([trait, str(n), away, plain, *others])
    header = ["trait", "scenarios", "truth − null", "rejected, plain phantom", "shuffled labels", "no emotion"]
    return _table(rows, header)


def detectable(found: Sequence[Summary]) -> str:
    """What a suite of each size sees with 80 % power, and the size that the smallest effect of interest asks for."""
    by, rows = by_cell(found), []
    for trait in dict.fromkeys(t for t, _ in _tried(by, "coverage")):
        seen = [by.get((f"coverage-{n}", trait)) for n in SIZES]
        if any(s is not None and math.isfinite(s.empirical_se) for s in seen):
            sizes = ("–" if s is None else _plain(POWER * s.empirical_se) for s in seen)
            rows.append([trait, *sizes, f"{INTEREST[trait]:g}", _scenarios(needed(found, trait))])
    header = ["trait", *(f"{n} scenarios" for n in SIZES), "of interest", "asks for"]
    return _table(rows, header)


def asked(found: Sequence[Summary]) -> str:
    """The same in one sentence: which number of scenarios power justifies."""
    most = max(SIZES)
    sizes = {t: n for t in ESTIMANDS if not math.isnan(n := needed(found, t))}
    enough = [f"{_scenarios(n)} in {t}" for t, n in sizes.items() if n <= most]
    more = [f"{_scenarios(n)} in {t}" for t, n in sizes.items() if most < n < math.inf]
    never = [t for t, n in sizes.items() if n == math.inf]
    parts = [
        f"{most} scenarios are enough for the smallest effect of interest in {len(enough)} of {len(sizes)} traits"
        + (f" ({', '.join(enough)})" if enough else ""),
        f"it would ask for {', '.join(more)}" if more else "",
        f"for {', '.join(never)} no number is enough, since the axes alone vary more" if never else "",
    ]
    return "; ".join(p for p in parts if p) + "." if sizes else ""


def matrix(found: Sequence[Summary]) -> str:
    """The change of each trait by each knob, and what the closed form says."""
    knobs, traits, table = changes(found)
    by, rows = by_cell(found), []
    for i, knob in enumerate(knobs):
        row = [f"{knob} = {TURNED[knob][0]:g}"]
        for j, trait in enumerate(traits):
            valid = by[f"matrix-{knob}", trait].valid > 0.5
            moved = TURNED[knob][1] != trait and abs(table[i, j]) > OFF_DIAGONAL
            value = f"{table[i, j]:+.2f}" if math.isfinite(table[i, j]) else "–"
            planted = planted_change(found, knob, trait)
            note = (f" ({planted:+.2f})" if math.isfinite(planted) else "") + ("" if valid else ", invalid")
            row.append(f"**{value}**{note}" if moved and valid else value + note)
        rows.append(row)
    return _table(rows, ["knob turned", *traits])


# --- levels 2 and 3 ---------------------------------------------------------------------------------------------------


def panel(found: Sequence[Recovered]) -> str:
    """Every trait over the compiled phantoms."""
    rows = [
        [a.trait, str(a.phantoms), f"{a.hold} of {a.phantoms}", _plain(a.worst), _plain(a.tau)]
        for a in agreement(found)
    ]
    return _table(rows, ["trait", "valid phantoms", "hold the truth", "worst error, SE", "Kendall's tau"])


def seeds(found: Sequence[Rejections]) -> str:
    """How often each trait was significant where there is nothing to find."""
    rows = [
        [_RUNS[r.run], r.trait, str(r.seeds), str(r.valid),
         f"**{r.rejected}** beyond" if r.beyond else str(r.rejected), f"{r.low:.3f} to {r.high:.3f}"]
        for r in found
    ]  # fmt: skip
    return _table(rows, ["run", "trait", "seeds", "valid", "significant", "share, 95 % interval (nominal .05)"])


_RUNS = {"zero-emotion": "zero emotion", "shuffled": "shuffled labels"}


def doses(spikes: Sequence[dict[str, Any]]) -> str:
    """Recovered over planted doses."""
    rows = [
        [escape(s["model"]), str(line["planted"]), str(line["read"]), *_estimate(line["slope"], 4),
         f"{line['intercept']:+.0e}"]
        for s in spikes for line in s["lines"]
    ]  # fmt: skip
    return _table(rows, ["model", "planted at", "read at", "slope", "95 % CI", "intercept"])


def planted(spikes: Sequence[dict[str, Any]]) -> str:
    """Recovered and planted traits."""
    rows = [
        [escape(s["model"]), t["plant"], t["trait"], f"{t['planted']:.3f}",
         *(_estimate({"estimate": t["recovered"], "low": t["low"], "high": t["high"]}, 3)
           if t["valid"] else ["–", "invalid"])]
        for s in spikes for t in s["traits"]
    ]  # fmt: skip
    return _table(rows, ["model", "plant", "trait", "planted", "recovered", "95 % CI"])


# --- cells ------------------------------------------------------------------------------------------------------------


def _tried(by: dict[tuple[str, str], Summary], kind: str) -> list[tuple[str, int]]:
    return [(trait, n) for trait in ESTIMANDS for n in SIZES if (f"{kind}-{n}", trait) in by]


def _table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True) if rows else ""


def _plain(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if math.isfinite(value) else "–"


def _judged(share: float, error: float, band: tuple[float, float]) -> str:
    """A share, marked where even two Monte-Carlo errors do not bring it into the band."""
    if not math.isfinite(share):
        return "–"
    text = f"{share:.3f} ± {error:.3f}"
    return f"**{text}** missed" if missed(share, error, band) else text


def _significant(s: Summary | None) -> str:
    """How many of all replicates are valid and reject."""
    return "–" if s is None else f"{_judged(*s.significant, NOMINAL)} (valid {s.valid:.2f})"


def _scenarios(n: float) -> str:
    """A number of scenarios; below the smallest size that was tried none is known."""
    if not math.isfinite(n):
        return "–" if math.isnan(n) else "∞"
    return str(math.ceil(n)) if n > min(SIZES) else f"≤ {min(SIZES)}"


def _estimate(i: dict[str, Any], digits: int) -> list[str]:
    value, low, high = ("–" if i[k] is None else f"{i[k]:.{digits}f}" for k in ("estimate", "low", "high"))
    return [value, f"[{low}, {high}]"]
