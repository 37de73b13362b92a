"""What moved between two sets of results: the same items on the same axes, measured twice.

With items and axes unchanged nothing of a difference is sampling noise: it comes from the model, the libraries or
the device. Three sizes tell how much of it there is. Below the floor max(SE / 1000, 1e-6) it is rounding (another
batch, another order of sums). Beyond 1.96 sqrt(se_old^2 + se_new^2), the minimal detectable change of a remeasurement
(Weir 2005, doi:10.1519/15184.1), it has *moved*: so much would be told apart even on other items. Between the two it
has *changed*: a number is not the one it was, though no conclusion rests on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmct_bench.results import ResultCard
from llmct_bench.traits import TraitEstimate

Kind = Literal["same", "changed", "moved", "became invalid", "became valid", "invalid"]


@dataclass(frozen=True)
class Change:
    """One trait of one model on one suite, before and after. ``notes`` say what else differs between the two: commit,
    device, versions, readouts left out."""

    model: str
    suite: str
    old: TraitEstimate
    new: TraitEstimate
    notes: tuple[str, ...] = ()

    @property
    def trait(self) -> str:
        """The name of the trait."""
        return self.old.trait

    @property
    def difference(self) -> float:
        """New - old, in the unit of the trait; NaN where one of them is invalid."""
        return self.new.estimate - self.old.estimate if self.old.valid and self.new.valid else math.nan

    @property
    def floor(self) -> float:
        """Up to here a difference is rounding: max(pooled SE / 1000, 1e-6)."""
        pooled = math.hypot(self.old.se, self.new.se) / math.sqrt(2.0)
        return 1e-6 if math.isnan(pooled) else max(1e-3 * pooled, 1e-6)

    @property
    def mdc95(self) -> float:
        """From here on it has moved: 1.96 sqrt(se_old^2 + se_new^2), the floor at least; NaN where a standard error is
        not known, so that nothing is then said to have moved."""
        change = 1.96 * math.hypot(self.old.se, self.new.se)
        return change if math.isnan(change) else max(change, self.floor)

    @property
    def kind(self) -> Kind:
        """What became of it."""
        if not (self.old.valid and self.new.valid):
            return "became valid" if self.new.valid else "became invalid" if self.old.valid else "invalid"
        size = abs(self.difference)
        return "moved" if size > self.mdc95 else "changed" if size > self.floor else "same"


@dataclass(frozen=True)
class Diff:
    """All that can be compared, and what cannot. ``appeared`` and ``vanished`` name a model, a suite of it (``MODEL ·
    SUITE``) or a trait (``MODEL · SUITE · TRAIT``) that only one side has; ``incomparable`` says of a model and suite
    why their numbers do not belong together."""

    changes: tuple[Change, ...]
    appeared: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()
    incomparable: tuple[str, ...] = ()

    def violations(self, limits: Mapping[str, float]) -> list[str]:
        """One line for each valid estimate that moved by at least the limit of its trait or became invalid, and for
        each limited trait that cannot be compared at all: a gate through which nothing went is not passed."""
        lines = []
        for trait, limit in limits.items():
            found = [c for c in self.changes if c.trait == trait]
            if not found:
                lines.append(f"{trait}: there is no model and suite with comparable results on both sides")
            for c in found:
                where = f"{trait}: {c.model} · {c.suite}"
                if c.kind == "became invalid":
                    lines.append(f"{where} became invalid: {c.new.reason}")
                elif abs(c.difference) >= limit:
                    moved = f"{c.old.estimate:.6g} to {c.new.estimate:.6g}, {c.difference:+.3g}"
                    lines.append(f"{where} went from {moved} (limit {limit:g})")
        return lines


def diff(old: Sequence[ResultCard], new: Sequence[ResultCard]) -> Diff:
    """Compare two sets of results, model by model, suite by suite, trait by trait.

    A model that either side measured at several commits is compared commit by commit, any other by its name, so that a
    new commit of a model can be held against the last one (a note says so). Results on other items (suite hash), other
    axes (reference hash) or another part of the items are not comparable.
    """
    several = {name for side in (old, new) for name, n in _commits(side).items() if n > 1}
    before, after = _by_place(old, several), _by_place(new, several)
    changes: list[Change] = []
    appeared, vanished = _only(after, before), _only(before, after)
    incomparable = []
    for place in sorted(before.keys() & after.keys()):
        a, b = before[place], after[place]
        why = _why_not(a, b)
        if why:
            incomparable.append(f"{' · '.join(place)}: {why}")
            continue
        traits = [{t.trait: t for t in r.traits} for r in (a, b)]
        vanished += [" · ".join((*place, t)) for t in traits[0].keys() - traits[1].keys()]
        appeared += [" · ".join((*place, t)) for t in traits[1].keys() - traits[0].keys()]
        notes = _notes(a, b)
        changes += [Change(*place, t, traits[1][t.trait], notes) for t in a.traits if t.trait in traits[1]]
    return Diff(tuple(changes), tuple(sorted(appeared)), tuple(sorted(vanished)), tuple(incomparable))


Places = dict[tuple[str, str], ResultCard]


def _commits(results: Sequence[ResultCard]) -> dict[str, int]:
    pairs = {(str(r.model["name"]), r.commit) for r in results}
    names = [name for name, _ in pairs]
    return {name: names.count(name) for name in names}


def _by_place(results: Sequence[ResultCard], several: set[str]) -> Places:
    """Results by model and suite."""
    found = {}
    for r in results:
        name = str(r.model["name"])
        found[f"{name}@{r.commit[:8]}" if name in several else name, r.suite] = r
    return found


def _only(here: Places, there: Places) -> list[str]:
    """Models and suites that lie here and not there."""
    models = {model for model, _ in there}
    return list({f"{m} · {s}" if m in models else m: None for m, s in sorted(here) if (m, s) not in there})


def _why_not(a: ResultCard, b: ResultCard) -> str:
    """Why two results of one suite are not of the same items and axes; empty where they are."""
    reference = [r.fit.get("reference_hash", "") for r in (a, b)]
    if a.suite_hash != b.suite_hash:
        return f"other items (suite {a.suite_hash[:8]}, now {b.suite_hash[:8]})"
    if reference[0] != reference[1]:
        return f"other axes (reference {reference[0][:8]}, now {reference[1][:8]})"
    return f"{a.subset} items, now {b.subset}" if a.subset != b.subset else ""


def _notes(a: ResultCard, b: ResultCard) -> tuple[str, ...]:
    """What else differs between two comparable results."""
    before, after = _facts(a), _facts(b)
    notes = [f"{k} {before.get(k, '?')}, now {v}" for k, v in after.items() if before.get(k) != v]
    out = [set(r.left_out) | set(r.not_shared) for r in (a, b)]
    if out[0] != out[1]:
        notes.append(f"{len(out[0])} readouts left out, now {len(out[1])}")
    return tuple(notes)


def _facts(r: ResultCard) -> dict[str, Any]:
    run = {k: r.run[k] for k in ("dtype", "device", "attention") if k in r.run}
    point = {"layer": r.fit["layer"]["point"]} if "layer" in r.fit else {}
    tokenizer = {"tokenizer": str(r.run["tokenizer"])[:8]} if "tokenizer" in r.run else {}
    return {"commit": r.commit[:12], **run, **tokenizer, **point, **r.provenance.get("packages", {})}
