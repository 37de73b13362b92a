"""One model on suites: certificate, axes, states, scores, traits, results."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import pandas as pd
import transformers
from numpy.typing import NDArray

from llmct_bench import __version__
from llmct_bench.adapters import AdapterCertificate, LoadedModel, Point, certificate_subject, certify, load, subject_key
from llmct_bench.affect import (
    AffectFit,
    Scores,
    Transfer,
    constants,
    fit_affect,
    fit_transfer,
    from_projections,
    score,
)
from llmct_bench.calibration import planted, planted_words
from llmct_bench.errors import ModelError, ResultError
from llmct_bench.models import LoadOptions, get_model
from llmct_bench.results import ResultCard, ResultStore, provenance, result_key
from llmct_bench.scanner import Projections, Rendered, States, plan_scan, read_next_words, render, scan, scan_projected
from llmct_bench.suites import Suite, get_suite
from llmct_bench.traits import estimate_all, measure, raw_summary, unavailable

#: ``skip``: keep a stored result whose key matches, measure everything else. ``overwrite``: measure everything
#: again. ``error``: stop when a result lies where one would be written.
Existing = Literal["skip", "overwrite", "error"]
#: How much is read again for the noise floor, and in which passes.
_FLOOR_SCENARIOS, _FLOOR_BUDGETS = 2, (100, 700)


class Progress(Protocol):
    """What a caller may show while the job runs."""

    def start(self, task: str, tokens: int) -> None:
        """A scan of ``tokens`` tokens begins."""

    def advance(self, tokens: int) -> None:
        """So many tokens are done."""

    def message(self, text: str) -> None:
        """One line for the user."""


class Silent:
    """Shows nothing."""

    def start(self, task: str, tokens: int) -> None:
        """Nothing."""

    def advance(self, tokens: int) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""


@dataclass
class Session:
    """One run over several models: options, and renderings shared by models with the same tokenizer."""

    budget: int | None = None
    progress: Progress = field(default_factory=Silent)
    _rendered: dict[tuple[str, str, int], Rendered] = field(default_factory=dict)

    def render(self, model: LoadedModel, suite: Suite) -> Rendered:
        """A suite through a model's template, made once per tokenizer and context."""
        key = (model.tokenizer_hash, suite.content_hash, model.context)
        if key not in self._rendered:
            self._rendered[key] = render(suite, model.tokenizer, model.context)
        return self._rendered[key]

    def scan(self, model: LoadedModel, suite: Suite, points: Sequence[Point] | None = None) -> States:
        """Scan a suite, telling the progress."""
        rendered = self._start(model, suite)
        return scan(model, suite, points=points, rendered=rendered, budget=self.budget, progress=self.progress.advance)

    def project(self, model: LoadedModel, suite: Suite, fit: AffectFit) -> Projections:
        """Project a suite on a fit inside the pass, telling the progress."""
        return scan_projected(
            model,
            suite,
            fit.directions,
            fit.references,
            parts=(fit.layer.point, fit.versions.parts),
            whole=bool(suite.card.original),
            rendered=self._start(model, suite),
            budget=self.budget,
            progress=self.progress.advance,
        )

    def _start(self, model: LoadedModel, suite: Suite) -> Rendered:
        rendered = self.render(model, suite)
        if rendered.readouts:
            tokens = plan_scan(model, rendered.readouts, self.budget).tokens
            self.progress.start(f"{model.card.name} · {suite.key}", tokens)
        return rendered


def evaluate(
    model: LoadedModel,
    suites: Sequence[Suite],
    *,
    store: ResultStore | None = None,
    existing: Existing = "skip",
    session: Session | None = None,
) -> list[ResultCard]:
    """Measure one model on suites, one result each, the reference first.

    The reference suite is added where it is missing: everything is measured on its axes. With a ``store`` each
    result is written as soon as it is there, and stored results with the same key are not measured again.
    Raises ModelError when the model fails its certificate or cannot be scanned on the reference.
    """
    reference = next((s for s in suites if s.card.design == "reference"), None) or get_suite("reference")
    job = _Job(model, reference, session or Session(), store, existing)
    return [job.result(s) for s in (reference, *(s for s in suites if s.card.design != "reference"))]


@dataclass
class _Job:
    """One model on one reference. The certificate and the fit are made when the first result needs them."""

    model: LoadedModel
    reference: Suite
    session: Session
    store: ResultStore | None
    existing: Existing
    #: states at the fit's point, and the factors of the readouts, by suite and scenarios
    _originals: dict[tuple[str, tuple[str, ...]], tuple[NDArray[np.float32], pd.DataFrame]] = field(
        default_factory=dict
    )

    def result(self, suite: Suite) -> ResultCard:
        """The stored result of a suite, or a new one."""
        name, commit, key = self.model.card.name, self.model.commit, self._key(suite)
        if self.store is not None:
            found = self.store.find(name, commit, suite.key, key)
            if found is not None and self.existing == "skip":
                self.session.progress.message(f"{name} · {suite.key}: stored, kept")
                return found
            if self.existing == "error" and self.store.holds(name, commit, suite.key):
                raise ResultError(
                    f"{self.store.place(name, commit, suite.key)} holds a result already: "
                    "use --existing skip or overwrite"
                )
        self._certificate  # noqa: B018 - a model that fails is refused before anything is scored
        card, scores = self._measure(suite, key)
        if self.store is not None:
            self.store.save(card, scores, self._fit if suite is self.reference else None)
        return card

    @cached_property
    def _certificate(self) -> AdapterCertificate:
        name, commit = self.model.card.name, self.model.commit
        key = subject_key(certificate_subject(self.model))
        certificate = self.store.certificate(name, commit, key) if self.store is not None else None
        if certificate is None:
            certificate = certify(self.model)
            if self.store is not None:
                self.store.save_certificate(name, commit, certificate)
        if not certificate.passed:
            hint = "" if self.model.dtype == "float32" else f" (in {self.model.dtype}: try --dtype float32)"
            raise ModelError(f"{name} fails its adapter certificate and is not scored{hint}: {certificate.failures()}")
        return certificate

    @cached_property
    def _fit(self) -> AffectFit:
        name, commit, suite = self.model.card.name, self.model.commit, self.reference.key
        stored = None
        if self.store is not None and self.store.find(name, commit, suite, self._key(self.reference)):
            stored = self.store.fit(name, commit, suite)
        return stored or fit_affect(self._reference_states)

    @cached_property
    def _reference_states(self) -> States:
        return self.session.scan(self.model, self.reference)

    def _measure(self, suite: Suite, key: str) -> tuple[ResultCard, Scores | None]:
        fit, design, subset = self._fit, suite.card.design, self._subset(suite)
        rendered = self.session.render(self.model, suite)
        began = time.perf_counter()
        scores: Scores | None = None
        tokens, floor = 0, None
        if rendered.readouts:
            if suite is self.reference:
                states = self._reference_states
                plan, scores = states.plan, score(states, fit)
            else:
                found = self.session.project(self.model, suite, fit)
                spoken = read_next_words(self.model, suite, self.session.budget)
                scores = from_projections(found, fit)
                plan, scores = found.plan, replace(scores, next_words=spoken, transfer=self._transfer(suite, found))
                floor = self._floor(suite, scores)
            tokens = plan.tokens if plan is not None else 0
            cosine = fit.axis_cosines
            traits = estimate_all(measure(scores, fit.layer, cosine, subset == "keyworded"), design)
        else:
            self.session.progress.message(f"{self.model.card.name} · {suite.key}: the model can read no item")
            traits = unavailable(design, f"the model can read no item (context {self.model.context} tokens)")
        known = constants(fit).to_json()
        if suite is not self.reference:
            known["backbone"] = None  # a trait of the reference; others need not carry it
        card = ResultCard(
            key=key,
            model=self.model.facts(),
            commit=self.model.commit,
            suite=suite.key,
            suite_hash=suite.content_hash,
            design=design,
            subset=subset,
            n_readouts=len(rendered.readouts),
            n_scenarios=int(rendered.index["scenario"].nunique()),
            left_out=list(rendered.left_out),
            fit={
                "reference": self.reference.key,
                "reference_hash": self.reference.content_hash,
                "layer": fit.layer.to_json(),
                "nuisance_dims": list(fit.nuisance_dims),
                "role_cosine": fit.axis_cosines,
                **known,
            },
            traits=traits,
            raw=raw_summary(scores, design) if scores else {},
            certificate=self._certificate.to_json(),
            run={
                "dtype": self.model.dtype,
                "device": str(self.model.device),
                "attention": self.model.attention,
                "context": self.model.context,
                "tokenizer": self.model.tokenizer_hash,
                "floor": floor,
            },
            truth=self._truth(suite),
            next_words=scores.next_words.to_json() if scores and scores.next_words else None,
            transfer=scores.transfer.to_json() if scores and scores.transfer else None,
            provenance=provenance(),
            timings={"seconds": round(time.perf_counter() - began, 3), "tokens": float(tokens)},
        )
        return card, scores

    def _transfer(self, suite: Suite, found: Projections) -> Transfer | None:
        """How the emotions of a translation lie to those of its original, of which its scenarios are read once."""
        if not suite.card.original:
            return None
        told = tuple(sorted(suite.scenarios))
        key = suite.card.original, told
        if key not in self._originals:
            whole = get_suite(suite.card.original)
            original = replace(whole, items=tuple(i for i in whole.items if i.scenario in told))
            point = self.model.adapter.residual_points()[self._fit.layer.point]
            states = self.session.scan(self.model, original, [point])
            self._originals[key] = states.array[:, 0], states.index
        own = found.whole, found.index
        return fit_transfer(suite.card.language, own, self._originals[key], self._fit.nuisance)

    def _floor(self, suite: Suite, scores: Scores) -> float:
        """Zero change: the largest difference of a score, in neutral SD at the chosen point, when a few scenarios are
        read again in other passes and in the opposite order."""
        few = set(scores.index["scenario"].unique()[:_FLOOR_SCENARIOS])
        again = replace(suite, items=tuple(i for i in suite.items[::-1] if i.scenario in few))
        fit, point = self._fit, self._fit.layer.point
        place = {k: i for i, k in enumerate(_readouts(scores))}
        floor = 0.0
        for budget in _FLOOR_BUDGETS:
            found = scan_projected(self.model, again, fit.directions, fit.references, budget=budget)
            other = from_projections(found, fit)
            usual = scores.values[[place[k] for k in _readouts(other)], point]
            floor = max(floor, float(np.abs(other.values[:, point] - usual).max()))
        return floor

    def _truth(self, suite: Suite) -> dict[str, float | None]:
        spec = self.model.card.phantom
        if spec is None or suite is self.reference or not any(i.keyworded for i in suite.items):
            return {}
        vocabulary = self.model.tokenizer.get_vocab()
        words = sorted(vocabulary, key=lambda w: int(vocabulary[w]))
        reference, rendered = (self.session.render(self.model, s) for s in (self.reference, suite))
        if not rendered.readouts:
            return {}
        said = None
        if suite.card.design == "circumplex":
            said = planted_words(spec, self.model.tokenizer, suite, self.model.context)
        true = planted(spec, words, reference, rendered, suite.card.design, said)
        return {k: v if math.isfinite(v) else None for k, v in true.items()}

    def _key(self, suite: Suite) -> str:
        m = self.model
        return result_key(
            model=m.card.name,
            commit=m.commit,
            tokenizer=m.tokenizer_hash,
            suite=suite.content_hash,
            reference=self.reference.content_hash,
            subset=self._subset(suite),
            dtype=m.dtype,
            device=m.device.type,
            attention=m.attention,
            transformers=transformers.__version__,
            llmct_bench=__version__,
            **({"original": get_suite(suite.card.original).content_hash} if suite.card.original else {}),
        )

    def _subset(self, suite: Suite) -> str:
        """Phantoms read lexicon words and nothing else, so they are scored on the keyworded items, where there are
        some."""
        some = suite.card.design == "circumplex" and any(i.keyworded for i in suite.items)
        return "keyworded" if self.model.card.phantom and some else "all"


def fitted(name: str, options: LoadOptions | None = None) -> tuple[LoadedModel, AffectFit]:
    """A certified model and the axes fitted on the shipped reference. Raises ModelError where it cannot be scored."""
    job = _Job(load(get_model(name), options), get_suite("reference"), Session(), None, "skip")
    job._certificate  # noqa: B018 - a model that fails is refused
    return job.model, job._fit


def _readouts(scores: Scores) -> list[tuple[str, int]]:
    return list(zip(scores.index["item"], scores.index["read"], strict=True))
