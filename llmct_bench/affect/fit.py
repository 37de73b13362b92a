"""Fitting what emotion looks like inside a model, on the reference suite only.

z = P_perp D^-1 (h - mu_role): mu is the neutral mean of the role, D the standard deviation of neutral text per
dimension, P_perp removes the leading principal components of neutral text (Mu & Viswanath 2018,
arXiv:1702.01417). An emotion axis is the difference of means v_e = unit(mean_e - grand mean). A score is
<z, v_e> / sigma_e, sigma_e the standard deviation of held-out (DEV) neutral projections: the unit is the neutral SD.
All of that is linear in h, so a fit is one direction per point and emotion plus one offset per role.

mu is fitted per role; D, P_perp and sigma are pooled over the roles, because a role of its own unit would hide or
feign a difference of gain between the roles.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from llmct_bench.affect.layers import LayerChoice, choose_layer
from llmct_bench.emotions import BY_NAME, NAMES, NEUTRAL
from llmct_bench.errors import ModelError
from llmct_bench.scanner import States

Floats = NDArray[np.float64]

#: Scores beside those of the emotions: differences of the quadrants.
PLANE = ("valence", "arousal")
#: Share of the neutral variance whose leading components are removed.
NUISANCE_SHARE = 0.5
#: Dimensions that hardly vary in neutral text are not allowed to blow up: D is at least this share of its median.
_FLOOR = 0.05


@dataclass(frozen=True)
class AffectFit:
    """A fitted readout of emotion.

    ``directions`` (n_points, n_scores, d_model) and ``offsets`` (n_roles, n_points, n_scores), float32/float64:
    score = <h, direction> - offset[role]. ``references`` (n_points, n_emotions, d_model): the raw states of the
    seed-compatible reference prompts. ``role_cosine`` (n_points, n_emotions): cosine between the axes fitted on the
    user's and on the assistant's items alone (a low value means rotation, not dampening).
    """

    scores: tuple[str, ...]
    roles: tuple[str, ...]
    directions: NDArray[np.float32]
    offsets: Floats
    references: NDArray[np.float32]
    role_cosine: Floats
    layer: LayerChoice
    nuisance_dims: tuple[int, ...]

    def save(self, path: Path) -> None:
        """Write as safetensors; everything that is not an array goes into the header."""
        header = {
            "fit": json.dumps(
                {
                    "scores": self.scores,
                    "roles": self.roles,
                    "layer": self.layer.to_json(),
                    "nuisance_dims": self.nuisance_dims,
                }
            )
        }
        arrays = {
            "directions": self.directions,
            "offsets": self.offsets,
            "references": self.references,
            "role_cosine": self.role_cosine,
        }
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path, metadata=header)


def load_fit(path: Path) -> AffectFit:
    """Read what `AffectFit.save` wrote."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["fit"])
    arrays = load_file(path)
    return AffectFit(
        scores=tuple(header["scores"]),
        roles=tuple(header["roles"]),
        layer=LayerChoice.from_json(header["layer"]),
        nuisance_dims=tuple(header["nuisance_dims"]),
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
    per_point = [_fit_point(states.array[:, p], index, roles) for p in range(len(states.points))]
    directions = np.stack([f[0] for f in per_point])
    offsets = np.stack([f[1] for f in per_point], axis=1)
    scores = (*NAMES, *PLANE)
    dev = project(states.array[dev_rows.to_numpy()], index[dev_rows], directions, offsets, roles)
    layer = choose_layer(dev[:, :, : len(NAMES)], index[dev_rows])
    return AffectFit(
        scores,
        roles,
        directions.astype(np.float32),
        offsets,
        _references(states),
        np.stack([f[2] for f in per_point]),
        layer,
        tuple(f[3] for f in per_point),
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
    unknown = set(index["role"]) - set(roles)
    if unknown:
        raise ModelError(f"no reference items in the role {', '.join(sorted(unknown))}")
    role = np.array([roles.index(r) for r in index["role"]])
    return np.asarray(projections - offsets[role])


def _fit_point(
    h: NDArray[np.float32], index: pd.DataFrame, roles: tuple[str, ...]
) -> tuple[Floats, Floats, Floats, int]:
    h = h.astype(np.float64)
    split, emotion, role = (index[c].to_numpy() for c in ("split", "emotion", "role"))
    neutral_fit = (split == "fit") & (emotion == NEUTRAL)
    mean = {r: h[neutral_fit & (role == r)].mean(axis=0) for r in roles}
    centred = h - np.stack([mean[r] for r in role])
    spread = centred[neutral_fit].std(axis=0)
    spread = np.maximum(spread, _FLOOR * np.median(spread[spread > 0]) if (spread > 0).any() else 1.0)
    z = centred / spread
    nuisance = _leading(z[neutral_fit], NUISANCE_SHARE)
    z = z - (z @ nuisance.T) @ nuisance
    axes = _axes(z, split == "fit", emotion)
    held_out = (split == "dev") & (emotion == NEUTRAL)
    sigma = _within(z[held_out] @ axes.T, role[held_out])
    # the axes lie in the complement of the nuisance, so projecting z once more changes nothing
    direction = axes / spread / sigma[:, None]
    offsets = np.stack([direction @ mean[r] for r in roles])
    by_role = [_axes(z, (split == "fit") & (role == r), emotion)[: len(NAMES)] for r in roles]
    cosine = np.abs((by_role[0] * by_role[-1]).sum(axis=1)) if len(roles) > 1 else np.ones(len(NAMES))
    return direction, offsets, cosine, len(nuisance)


def _axes(z: Floats, rows: NDArray[np.bool_], emotion: NDArray[np.object_]) -> Floats:
    """Unit difference-of-means axes (n_emotions + 2, d): the emotions, valence, arousal."""
    means = np.stack([z[rows & (emotion == e)].mean(axis=0) for e in NAMES])
    valence = np.array([BY_NAME[e].valence for e in NAMES]) @ means
    arousal = np.array([BY_NAME[e].arousal for e in NAMES]) @ means
    raw = np.concatenate([means - means.mean(axis=0), [valence, arousal]])
    return np.asarray(raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12))


def _leading(z: Floats, share: float) -> Floats:
    """The fewest principal components (k, d) that hold ``share`` of the variance of z (n, d)."""
    _, s, vt = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)
    part = np.cumsum(s**2) / max(float((s**2).sum()), 1e-300)
    return np.asarray(vt[: int(np.searchsorted(part, share)) + 1])


def _within(p: Floats, role: NDArray[np.object_]) -> Floats:
    """Pooled within-role standard deviation of each column."""
    names = np.unique(role)
    residual = p.copy()
    for r in names:
        residual[role == r] -= p[role == r].mean(axis=0)
    sigma = np.sqrt((residual**2).sum(axis=0) / max(len(p) - len(names), 1))
    return np.asarray(np.maximum(sigma, 1e-12))


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
