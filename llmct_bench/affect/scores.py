"""Scores of a suite: all that the traits need, and all that is stored."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.affect.backbone import Backbone
from llmct_bench.affect.fit import AffectFit, project, shift
from llmct_bench.affect.transfer import Transfer
from llmct_bench.emotions import NAMES
from llmct_bench.scanner import NextWords, Projections, States

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ScoreVersions:
    """What the scores at the chosen point would be on other axes (see `affect.fit.Versions`).

    ``parts`` (n_readouts, n_parts): projections on the wordings of the reference, offset taken away; ``mixes``
    (n_versions, n_scores, n_parts), ``plain`` (n_scores, n_parts): that of all wordings; ``strata`` (n_versions,);
    ``role_shift`` (n_parts,): see `FitConstants`.
    """

    parts: Floats
    mixes: Floats
    plain: Floats
    strata: NDArray[np.int64]
    role_shift: Floats

    def __iter__(self) -> Iterator[Floats]:
        """Scores (n_readouts, n_scores) of one version after the other."""
        return iter(self._scores)

    @cached_property
    def _scores(self) -> Floats:
        """(n_versions, n_readouts, n_scores), made once for all estimands."""
        versions, names, parts = self.mixes.shape
        mixed = self.parts @ self.mixes.reshape(versions * names, parts).T
        return np.ascontiguousarray(mixed.reshape(-1, versions, names).transpose(1, 0, 2))

    @property
    def usual(self) -> Floats:
        """Scores (n_readouts, n_scores) on the axes of all wordings: those that were measured, but where a topic of the
        reference lacks some of them."""
        return np.asarray(self.parts @ self.plain.T)

    def rows(self, keep: NDArray[np.bool_]) -> ScoreVersions:
        """Those of some readouts."""
        return replace(self, parts=self.parts[keep])


@dataclass(frozen=True)
class FitConstants:
    """What a fit knows at its chosen point that no score tells: ``role_shift`` (n_scores,), neutral text in the
    assistant's role minus in the user's, which centring takes away, and ``role_random``, how large it is along random
    directions, both in neutral SD; ``backbone`` (see `AffectFit`)."""

    role_shift: Floats
    role_random: float
    backbone: Backbone | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data; numbers that are not known as None."""
        return {
            "role_shift": [_known(v) for v in self.role_shift.tolist()],
            "role_random": _known(self.role_random),
            "backbone": self.backbone.to_json() if self.backbone is not None else None,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> FitConstants:
        """Back from `to_json`."""
        shift = np.array([math.nan if v is None else v for v in data["role_shift"]], np.float64)
        random, backbone = data["role_random"], data["backbone"]
        return FitConstants(
            shift,
            math.nan if random is None else float(random),
            Backbone.from_json(backbone) if backbone is not None else None,
        )


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Scores:
    """``values`` (n_readouts, n_points, n_scores): corrected scores in neutral SD, columns ``names``; ``raw``
    (n_readouts, n_points, n_emotions): seed-compatible cosines with the reference prompts, columns ``raw_names``;
    ``index`` as in `States`; ``versions``: the scores on other axes, and ``constants`` of the fit, where they are
    known; ``next_words``: what the model would say, where that was read; ``transfer`` from the language of which the
    suite is a translation."""

    values: Floats
    raw: Floats
    index: pd.DataFrame
    names: tuple[str, ...]
    raw_names: tuple[str, ...] = NAMES
    versions: ScoreVersions | None = None
    constants: FitConstants | None = None
    next_words: NextWords | None = None
    transfer: Transfer | None = None

    def to_frame(self) -> pd.DataFrame:
        """Long table: one row a readout x point, one column a score (``joy``) and a cosine (``raw_joy``)."""
        n, points, _ = self.values.shape
        frame = self.index.loc[self.index.index.repeat(points)].reset_index(drop=True)
        frame["point"] = np.tile(np.arange(points), n)
        for k, name in enumerate(self.names):
            frame[name] = self.values[:, :, k].reshape(-1)
        for k, name in enumerate(self.raw_names):
            frame[f"raw_{name}"] = self.raw[:, :, k].reshape(-1)
        return frame

    @staticmethod
    def from_frame(frame: pd.DataFrame) -> Scores:
        """Back from `to_frame`."""
        points = int(frame["point"].max()) + 1
        columns = list(frame.columns)
        at = columns.index("point")
        names = tuple(c for c in columns[at + 1 :] if not c.startswith("raw_"))
        raw = tuple(c.removeprefix("raw_") for c in columns[at + 1 :] if c.startswith("raw_"))
        index = frame.loc[frame["point"] == 0, columns[:at]].reset_index(drop=True)
        values = frame[list(names)].to_numpy(np.float64).reshape(len(index), points, len(names))
        cosines = frame[[f"raw_{r}" for r in raw]].to_numpy(np.float64).reshape(len(index), points, len(raw))
        return Scores(values, cosines, index, names, raw)


def score(states: States, fit: AffectFit) -> Scores:
    """Project scanned states on the fitted axes and take the raw cosines."""
    values = project(states.array, states.index, fit.directions, fit.offsets, fit.roles)
    parts = states.array[:, fit.layer.point].astype(np.float64) @ fit.versions.parts.T.astype(np.float64)
    versions = _versions(parts, states.index, fit)
    raw = _cosines(states.last, fit.references)
    return Scores(values, raw, states.index, fit.scores, versions=versions, constants=constants(fit))


def from_projections(found: Projections, fit: AffectFit) -> Scores:
    """The scores of a suite whose projections on ``fit.directions`` and ``fit.references`` were taken in the pass: the
    same numbers as `score` gives for its states. Without those on ``fit.versions.parts`` there are no versions."""
    values = shift(found.values, found.index, fit.offsets, fit.roles)
    versions = _versions(found.parts, found.index, fit) if found.parts.shape[1] else None
    return Scores(values, found.cosines, found.index, fit.scores, versions=versions, constants=constants(fit))


def constants(fit: AffectFit) -> FitConstants:
    """Those of a fit."""
    return FitConstants(fit.role_shift, fit.role_random, fit.backbone)


def _versions(parts: Floats, index: pd.DataFrame, fit: AffectFit) -> ScoreVersions:
    v = fit.versions
    own = shift(parts[:, None, :], index, v.offsets[:, None, :], fit.roles)[:, 0]
    return ScoreVersions(own, v.mixes, v.plain, v.strata, fit.role_shift_parts)


def _cosines(last: NDArray[np.float32], references: NDArray[np.float32]) -> Floats:
    h, r = last.astype(np.float64), references.astype(np.float64)
    h = h / np.maximum(np.linalg.norm(h, axis=-1, keepdims=True), 1e-12)
    r = r / np.maximum(np.linalg.norm(r, axis=-1, keepdims=True), 1e-12)
    return np.asarray(np.einsum("npd,pkd->npk", h, r))
