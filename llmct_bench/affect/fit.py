"""Fitting what emotion looks like inside a model, on the reference suite only.

In the metric of neutral text (`Metric`) a state is z = P_perp (h - mu_role). An emotion axis is the difference of
means v_e = unit(mean_e - grand mean). A score is <z, v_e> / sigma_e, sigma_e the standard deviation of held-out (DEV)
neutral projections: the unit is the neutral SD. All of that is linear in h, so a fit is one direction per point and
emotion plus one offset per role.

The axes and their unit are estimates: from a few words per emotion, and from a few topics. What a score would be
without one of these is again a linear mix of projections on the words' own means (`Versions`), so that the error of
the axes can be carried into every interval without another pass. The metric is taken as given. Like it, sigma is
pooled over the roles.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from llmct_bench.affect.backbone import Backbone, Wordings, fit_backbone
from llmct_bench.affect.layers import LayerChoice, averages, choose_layer
from llmct_bench.affect.metric import Metric, fit_metric
from llmct_bench.emotions import BY_NAME, NAMES, NEUTRAL
from llmct_bench.errors import ModelError
from llmct_bench.scanner import States
from llmct_bench.stats import crossed, disattenuated

Floats = NDArray[np.float64]

#: Scores beside those of the emotions: differences of the quadrants.
PLANE = ("valence", "arousal")
#: Groups in which wordings of one cell, and held-out topics, are left out: all that there are, up to so many.
_MOST_UNITS, _TOPIC_GROUPS = 6, 8


@dataclass(frozen=True)
class Versions:
    """The axes at the chosen point with one unit of the reference left out at a time.

    ``parts`` (n_parts, d_model) float32: the means of the reference's wordings (one emotion word in one emotion and
    intensity), as directions; ``offsets`` (n_roles, n_parts). Scores of version v are (<h, parts> - offset[role]) @
    mixes[v].T with ``mixes`` (n_versions, n_scores, n_parts). ``strata`` (n_versions,): versions of one stratum leave
    out units of one sample; the last stratum leaves out held-out topics, from which the unit comes.
    """

    parts: NDArray[np.float32]
    offsets: Floats
    mixes: Floats
    plain: Floats
    strata: NDArray[np.int64]


@dataclass(frozen=True)
class AffectFit:
    """A fitted readout of emotion.

    ``directions`` (n_points, n_scores, d_model) and ``offsets`` (n_roles, n_points, n_scores), float32/float64:
    score = <h, direction> - offset[role]. ``references`` (n_points, n_emotions, d_model): the raw states of the
    seed-compatible reference prompts. ``role_cosine`` (n_points, n_emotions, 2): cosine between the axes of the user's
    and of the assistant's items, without what noise takes from it, and its upper 97.5 % bound over topics (where that
    is low, emotion is turned between the slots, not dampened); NaN where an axis is not surely more than noise.
    ``role_random``: how far the assistant's role shifts neutral text along a random direction at the chosen point,
    neutral SD (root mean square over directions); NaN where the reference has one role. ``backbone``: at the chosen
    point, where it is known.
    ``nuisance`` (k, d_model): what the metric removes at the chosen point, orthonormal.
    """

    scores: tuple[str, ...]
    roles: tuple[str, ...]
    directions: NDArray[np.float32]
    offsets: Floats
    references: NDArray[np.float32]
    role_cosine: Floats
    layer: LayerChoice
    nuisance_dims: tuple[int, ...]
    versions: Versions
    nuisance: NDArray[np.float32]
    role_random: float = math.nan
    backbone: Backbone | None = None

    @property
    def axis_cosines(self) -> list[list[float | None]]:
        """``role_cosine`` at the chosen point as plain data."""
        found = self.role_cosine[self.layer.point].tolist()
        return [[v if math.isfinite(v) else None for v in own] for own in found]

    @property
    def role_shift(self) -> Floats:
        """(n_scores,): neutral text in the assistant's role minus in the user's at the chosen point, neutral SD. It is
        what centring every role on its own mean takes away; NaN where the reference lacks one of them."""
        return self._assistant_minus_user(self.offsets[:, self.layer.point])

    @property
    def role_shift_parts(self) -> Floats:
        """(n_parts,): the same along the directions of ``versions.parts``."""
        return self._assistant_minus_user(self.versions.offsets)

    def _assistant_minus_user(self, by_role: Floats) -> Floats:
        if not {"assistant", "user"} <= set(self.roles):
            return np.full(by_role.shape[1], np.nan)
        return np.asarray(by_role[self.roles.index("assistant")] - by_role[self.roles.index("user")])

    def save(self, path: Path) -> None:
        """Write as safetensors; everything that is not an array goes into the header."""
        header = {
            "fit": json.dumps(
                {
                    "scores": self.scores,
                    "roles": self.roles,
                    "layer": self.layer.to_json(),
                    "nuisance_dims": self.nuisance_dims,
                    "role_random": self.role_random,
                    "backbone": self.backbone.to_json() if self.backbone is not None else None,
                }
            )
        }
        arrays = {
            "directions": self.directions,
            "offsets": self.offsets,
            "references": self.references,
            "role_cosine": self.role_cosine,
            "nuisance": self.nuisance,
            **{f"versions.{k}": v for k, v in vars(self.versions).items()},
        }
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path, metadata=header)


def load_fit(path: Path) -> AffectFit:
    """Read what `AffectFit.save` wrote."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["fit"])
    arrays = load_file(path)
    versions = Versions(**{k: arrays.pop(f"versions.{k}") for k in Versions.__dataclass_fields__})
    return AffectFit(
        scores=tuple(header["scores"]),
        roles=tuple(header["roles"]),
        layer=LayerChoice.from_json(header["layer"]),
        nuisance_dims=tuple(header["nuisance_dims"]),
        versions=versions,
        role_random=header["role_random"],
        backbone=Backbone.from_json(header["backbone"]) if header["backbone"] is not None else None,
        **arrays,
    )


def fit_affect(states: States) -> AffectFit:
    """Fit axes on the FIT split and choose the layer on the DEV split of a scanned reference suite.

    Raises ModelError where a split, an emotion or the neutral items are missing (for example because they did not
    fit into the model's context).
    """
    index = states.index
    fit_rows, dev_rows = (index["split"] == s for s in ("fit", "dev"))
    for name, rows in (("fit", fit_rows), ("dev", dev_rows)):
        missing = {*NAMES, NEUTRAL} - set(index.loc[rows, "emotion"])
        if missing:
            raise ModelError(f"the reference suite has no {name} items of {', '.join(sorted(missing))} for this model")
    roles = tuple(sorted(index["role"].unique()))
    metrics = [fit_metric(states.array[:, p], index, roles) for p in range(len(states.points))]
    axes = [_fit_axes(states.array[:, p], index, metric) for p, metric in enumerate(metrics)]
    directions, offsets = np.stack([a[0] for a in axes]), np.stack([a[1] for a in axes], axis=1)
    dev = project(states.array[dev_rows.to_numpy()], index[dev_rows], directions, offsets, roles)
    layer = choose_layer(dev[:, :, : len(NAMES)], index[dev_rows])
    chosen, metric = states.array[:, layer.point], metrics[layer.point]
    z = metric.z(chosen, index["role"].to_numpy())
    words = _wordings(z, index)
    return AffectFit(
        (*NAMES, *PLANE),
        roles,
        directions.astype(np.float32),
        offsets,
        _references(states),
        np.stack([a[2] for a in axes]),
        layer,
        tuple(len(m.nuisance) for m in metrics),
        _versions(z, index, metric, words),
        metric.nuisance.astype(np.float32),
        _role_random(z, index, metric),
        fit_backbone(z, index, words, z.shape[1] - len(metric.nuisance)),
    )


def project(
    array: NDArray[np.float32],
    index: pd.DataFrame,
    directions: NDArray[np.floating],
    offsets: Floats,
    roles: tuple[str, ...],
) -> Floats:
    """Scores (n_readouts, n_points, n_scores) of states (n_readouts, n_points, d_model), in neutral SD."""
    return shift(np.einsum("rpd,pkd->rpk", array, directions, dtype=np.float64), index, offsets, roles)


def shift(projections: Floats, index: pd.DataFrame, offsets: Floats, roles: tuple[str, ...]) -> Floats:
    """Scores from projections on the axes: the offset of each readout's role is taken away. Raises ModelError where
    the reference has no such role."""
    place, names = pd.factorize(index["role"])
    unknown = set(names) - set(roles)
    if unknown:
        raise ModelError(f"no reference items in the role {', '.join(sorted(unknown))}")
    return np.asarray(projections - offsets[[roles.index(n) for n in names]][place])


def _fit_axes(h: NDArray[np.float32], index: pd.DataFrame, metric: Metric) -> tuple[Floats, Floats, Floats]:
    """Directions (n_scores, d), offsets (n_roles, n_scores) and the cosine between the roles' own axes
    (n_emotions, 2) at a point."""
    split, emotion, role = (index[c].to_numpy() for c in ("split", "emotion", "role"))
    z = metric.z(h, role)
    axes = _axes(z, split == "fit", emotion)
    held_out = (split == "dev") & (emotion == NEUTRAL)
    sigma = _within(z[held_out] @ axes.T, role[held_out])
    # the axes lie in the complement of the nuisance, so projecting z once more changes nothing
    direction = axes / sigma[:, None]
    roles = list(metric.mean)
    offsets = np.stack([direction @ metric.mean[r] for r in roles])
    cosine = _role_cosine(z[split == "fit"], index[split == "fit"], roles)
    return direction, offsets, cosine


def _role_cosine(z: Floats, index: pd.DataFrame, roles: list[str]) -> Floats:
    """(n_emotions, 2): see `AffectFit.role_cosine`, from pairs of topics that both roles have whole."""
    if len(roles) < 2:
        return np.full((len(NAMES), 2), np.nan)
    keys = [index[c].to_numpy() for c in ("role", "scenario", "emotion")]
    means = pd.DataFrame(z).groupby(keys).mean()
    found = {(str(r), str(s)): set(own) for (r, s), own in means.reset_index(level=2).groupby(level=[0, 1])["level_2"]}
    whole = [s for s in dict.fromkeys(index["scenario"]) if all(found.get((r, s), set()) >= {*NAMES} for r in roles)]
    cells = pd.MultiIndex.from_tuples([(r, s, e) for r in (roles[0], roles[-1]) for s in whole for e in NAMES])
    felt = means.reindex(cells).to_numpy().reshape(2, len(whole), len(NAMES), -1)
    one, other = felt - felt.mean(axis=2, keepdims=True)
    out = []
    for e in range(len(NAMES)):
        a, b = one[:, e], other[:, e]
        angle = disattenuated(*(crossed(x, y) for x, y in ((a, b), (a, a), (b, b))))
        out.append((angle.estimate, angle.high))
    return np.array(out)


def _wordings(z: Floats, index: pd.DataFrame) -> Wordings:
    """The emotional wordings of the FIT split, from z (n_readouts, d) of all readouts."""
    where = np.flatnonzero(((index["split"] == "fit") & index["emotion"].isin(NAMES)).to_numpy())
    fit, own = index.iloc[where], z[where]
    # topics differ, and a wording stands in some of them only: what a topic adds to all emotions is no wording's error
    topic = pd.factorize(fit["scenario"])[0]
    own = own + (own.mean(axis=0) - (averages(topic, int(topic.max()) + 1) @ own)[topic])
    wording = fit["item"].str.rsplit("/", n=1).str[-1].to_numpy()  # .../joy-2-merry
    means, counts = [], []
    units: list[tuple[int, int, int]] = []  # emotion, level and stratum of each wording
    for emotion, name in enumerate(NAMES):
        for level in sorted(fit.loc[fit["emotion"] == name, "intensity"].unique()):
            cell = ((fit["emotion"] == name) & (fit["intensity"] == level)).to_numpy()
            names, place = np.unique(wording[cell], return_inverse=True)
            place, stratum = place % _MOST_UNITS, units[-1][2] + 1 if units else 0
            for unit in range(min(len(names), _MOST_UNITS)):
                rows = np.flatnonzero(cell)[place == unit]
                means.append(own[rows].mean(axis=0))
                counts.append(float(len(rows)))
                units.append((emotion, int(level), stratum))
    owner, levels, strata = np.array(units).T
    return Wordings(np.stack(means), np.array(counts), owner.astype(np.intp), levels, strata)


def _versions(z: Floats, index: pd.DataFrame, metric: Metric, words: Wordings) -> Versions:
    """What the axes are without each of the wordings."""
    split, emotion, role = (index[c].to_numpy() for c in ("split", "emotion", "role"))
    parts = words.means
    held_out = (split == "dev") & (emotion == NEUTRAL)
    seen, place = z[held_out] @ parts.T, role[held_out]
    group = pd.factorize(index.loc[held_out, "scenario"])[0] % _TOPIC_GROUPS
    groups = np.unique(group) if len(np.unique(group)) > 1 else np.empty(0, np.intp)
    plain = combine(words.shares())
    versions = [(combine(words.shares(int(u))), _spread(seen, place)) for u in words.removable]
    versions += [(plain, _spread(seen[group != g], place[group != g])) for g in groups]
    labels = np.array([*words.stratum[words.removable], *[words.stratum.max() + 1] * len(groups)], np.int64)
    versions.append((plain, _spread(seen, place)))
    mixes = [m / np.sqrt(np.maximum(np.einsum("kp,pq,kq->k", m, s, m), 1e-24))[:, None] for m, s in versions]
    offsets = np.stack([parts @ metric.mean[r] for r in metric.mean])
    mixed = np.stack(mixes)
    return Versions(parts.astype(np.float32), offsets, mixed[:-1], mixed[-1], labels)


def _role_random(z: Floats, index: pd.DataFrame, metric: Metric) -> float:
    """sqrt(|P_perp delta|^2 / tr Sigma), delta = mu_assistant - mu_user and Sigma the covariance of neutral z: the root
    mean square over random directions of the role's shift, in the SD of such a direction. |P_perp delta|^2 is the
    product of a FIT and a DEV estimate of delta, to which noise adds nothing."""
    if not {"assistant", "user"} <= set(metric.mean):
        return math.nan
    split, emotion, role = (index[c].to_numpy() for c in ("split", "emotion", "role"))
    held_out = (split == "dev") & (emotion == NEUTRAL)
    z, place = z[held_out], role[held_out]
    fitted = metric.mean["assistant"] - metric.mean["user"]
    fitted = fitted - (fitted @ metric.nuisance.T) @ metric.nuisance
    found = fitted + z[place == "assistant"].mean(axis=0) - z[place == "user"].mean(axis=0)
    residual = np.concatenate([z[place == r] - z[place == r].mean(axis=0) for r in metric.mean])
    total = float((residual**2).sum()) / max(len(z) - len(metric.mean), 1)
    return float(np.sqrt(max(float(fitted @ found), 0.0) / max(total, 1e-24)))


def _axes(z: Floats, rows: NDArray[np.bool_], emotion: NDArray[np.object_]) -> Floats:
    """Unit difference-of-means axes (n_emotions + 2, d): the emotions, valence, arousal."""
    raw = combine(np.stack([z[rows & (emotion == e)].mean(axis=0) for e in NAMES]))
    return np.asarray(raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12))


def combine(means: Floats) -> Floats:
    """Raw axes (n_emotions + 2, ...) from the means of the emotions: each minus the grand mean, valence, arousal."""
    plane = [np.array([getattr(BY_NAME[e], k) for e in NAMES]) @ means for k in PLANE]
    return np.concatenate([means - means.mean(axis=0), plane])


def _within(p: Floats, role: NDArray[np.object_]) -> Floats:
    """Pooled within-role standard deviation of each column."""
    return np.asarray(np.maximum(np.sqrt(np.diag(_spread(p, role))), 1e-12))


def _spread(p: Floats, role: NDArray[np.object_]) -> Floats:
    """Pooled within-role covariance of the columns."""
    names = np.unique(role)
    residual = np.concatenate([p[role == r] - p[role == r].mean(axis=0) for r in names])
    return np.asarray(residual.T @ residual / max(len(p) - len(names), 1))


def _references(states: States) -> NDArray[np.float32]:
    """Raw last-token states of one reference prompt per emotion: the user's statement of the highest intensity on
    the suite's first topic (the seed system used one prompt per emotion)."""
    index = states.index
    first = index["scenario"].iloc[0]
    rows = []
    for emotion in NAMES:
        own = index[(index["emotion"] == emotion) & (index["role"] == "user") & (index["scenario"] == first)]
        rows.append(states.last[own["intensity"].idxmax()])
    return np.stack(rows, axis=1)
