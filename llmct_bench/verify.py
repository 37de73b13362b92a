"""Is what lies there what was measured? Files against their checksums, estimates against the stored scores, pages
against the results."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmct_bench.benchmark import comparable, estimated, result_store
from llmct_bench.errors import ResultError
from llmct_bench.leaderboards import leaderboard
from llmct_bench.results import ResultCard, ResultStore, broken_sums
from llmct_bench.traits import raw_summary, unavailable

#: Relative difference up to which a number that is computed again is the same number.
TOLERANCE = 1e-9
#: Below this (in the units of the traits, which are of the order 1) numbers are zero.
_ZERO = 1e-12
_FIT = "fit.safetensors"
#: What a card whose fields hold anything else than they should makes of a computation.
_MALFORMED = (ResultError, AttributeError, IndexError, KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be, and where."""

    place: Path
    problem: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}"


def verify(
    output: str | Path, reports: str | Path | None = None, title: str = "Leaderboard", note: str = ""
) -> list[Finding]:
    """All that is wrong with the results of ``output`` and with the leaderboard in ``reports`` (None: no look at it).

    Every card must be readable and lie in its own place; every file must have its stored checksum; counts, traits and
    raw numbers computed again from the stored scores must equal the stored ones to a relative 1e-9; the certificate and
    the fit that a card names must lie beside it and be the ones that it tells of; the leaderboard made again (with
    ``title`` and ``note``) must equal the one that lies there byte for byte. What no other file tells (provenance,
    planted values) is held against its checksum only. Raises ResultError where there are no results.
    """
    store = result_store(output)
    places = store.places()
    if not places:
        raise ResultError(f"no results under {store.root}: run `llmct-bench run` first")
    findings: list[Finding] = []
    cards: list[ResultCard] = []
    for place in places:
        broken = broken_sums(place)
        findings += [Finding(place / name, problem) for name, problem in broken.items()]
        try:
            card = store.card(place)
            home = store.place(card.model["name"], card.commit, card.suite)
        except _MALFORMED as error:
            findings.append(Finding(place / "card.json", f"cannot be read: {_one_line(error)}"))
            continue
        cards.append(card)
        if home != place:
            findings.append(Finding(place, f"the result in it belongs into {home}"))
        elif not broken.keys() & {"scores.parquet", "versions.safetensors"}:
            findings += [Finding(place / "card.json", problem) for problem in _recomputed(card, store)]
    named = {f.place for f in findings}
    for card in cards:
        origins = _origins(card, store)
        findings += [f for f in dict.fromkeys(origins) if f.place not in named]
        named |= {f.place for f in origins if f.place.name == _FIT}  # all cards of a model hang on one
    if reports is not None:
        findings += _pages(cards, store, Path(reports), title, note)
    return findings


def _recomputed(card: ResultCard, store: ResultStore) -> Iterator[str]:
    """Where the numbers of a card are not those of its scores: one line for each trait, and for what else there is."""
    found: dict[str, Any] = {"n_readouts": 0, "n_scenarios": 0, "raw": {}}
    try:
        if card.n_readouts:
            scores = store.scores(card)
            scenarios = scores.index["scenario"].nunique()
            found = {"n_readouts": len(scores.index), "n_scenarios": scenarios, "raw": raw_summary(scores, card.design)}
            traits = estimated(card, scores)
        else:
            traits = unavailable(card.design, card.traits[0].reason if card.traits else "")
        stored = {name: getattr(card, name) for name in found} | {t.trait: t.to_json() for t in card.traits}
        found |= {t.trait: t.to_json() for t in traits}
    except _MALFORMED as error:
        yield f"the stored scores give no estimates: {_one_line(error)}"
        return
    for name in dict.fromkeys([*stored, *found]):
        differences = list(_differences(stored.get(name), found.get(name), name))
        if differences:
            more = f" (and {len(differences) - 1} more numbers)" if len(differences) > 1 else ""
            yield f"{differences[0]}{more}"


def _origins(card: ResultCard, store: ResultStore) -> list[Finding]:
    """What is wrong with the certificate and the fit that a card tells of."""
    try:
        return [*_certificate(card, store), *_axes(card, store)]
    except _MALFORMED as error:
        place = store.place(str(card.model["name"]), card.commit, card.suite)
        return [Finding(place / "card.json", f"tells of no certificate or fit: {_one_line(error)}")]


def _certificate(card: ResultCard, store: ResultStore) -> Iterator[Finding]:
    """Whether the certificate that a card holds is on file for its model."""
    folder = store.place(str(card.model["name"]), card.commit, card.suite).parent
    key = str(card.certificate.get("key"))
    path = folder / f"certificate-{key}.json"
    found = store.certificate(str(card.model["name"]), card.commit, key)
    if found is None:
        yield Finding(path, f"is missing or broken; {card.suite} was measured under it")
    elif found.to_json() != card.certificate:
        yield Finding(path, f"is not the certificate that the card of {card.suite} holds")


def _axes(card: ResultCard, store: ResultStore) -> Iterator[Finding]:
    """Whether the fit that a card was scored on lies with the result of its reference."""
    name, reference = str(card.model["name"]), str(card.fit.get("reference"))
    home, own = store.place(name, card.commit, reference), store.place(name, card.commit, card.suite) / "card.json"
    fit = store.fit(name, card.commit, reference)
    if fit is None:
        yield Finding(home / _FIT, f"is missing or broken; {card.suite} was scored on it")
        return
    try:
        version = store.card(home).suite_hash
    except (OSError, ResultError):
        return  # is found by itself
    if version != card.fit.get("reference_hash"):
        yield Finding(own, f"was scored on another version of {reference} than the one in {home}")
    elif json.loads(json.dumps(fit.layer.to_json())) != card.fit.get("layer"):
        yield Finding(own, f"was scored on another fit than the one in {home}")


def _differences(stored: Any, found: Any, name: str) -> Iterator[str]:
    """Every place at which two trees of plain data differ."""
    if isinstance(stored, dict) and isinstance(found, dict) and stored.keys() == found.keys():
        for key in stored:
            yield from _differences(stored[key], found[key], f"{name}.{key}")
    elif isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        for n, (a, b) in enumerate(zip(stored, found, strict=True)):
            yield from _differences(a, b, f"{name}[{n}]")
    elif not _equal(stored, found):
        texts = [" ".join(str(v).split())[:60] for v in (stored, found)]
        yield f"{name} is {texts[0]}, the stored scores give {texts[1]}"


def _equal(a: Any, b: Any) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (a, b))
    return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=_ZERO) if numbers else a == b


def _pages(cards: list[ResultCard], store: ResultStore, reports: Path, title: str, note: str) -> Iterator[Finding]:
    """Files of the leaderboard that are not what the results give."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            made = leaderboard(comparable(cards, store), title, note).write(Path(scratch))
        except _MALFORMED as error:
            yield Finding(reports, f"cannot be made again: {_one_line(error)}")
            return
        for path in made:
            place = reports / path.relative_to(scratch)
            try:
                there = place.read_bytes()
            except OSError as error:
                yield Finding(place, f"cannot be read: {error.strerror}")
                continue
            line = _first_difference(there, path.read_bytes())
            if line:
                yield Finding(place, f"is not what the results give, from line {line} on: `llmct-bench report`")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, ResultError) else f"{type(error).__name__} {text}"


def _first_difference(there: bytes, wanted: bytes) -> int:
    """The line from which two files differ; 0 where they do not."""
    if there == wanted:
        return 0
    length = min(len(there), len(wanted))
    first = next((i for i in range(length) if there[i] != wanted[i]), length)
    return wanted[:first].count(b"\n") + 1
