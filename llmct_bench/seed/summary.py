"""What the seed's paper reports of such a reading, each number beside the same number for the controls.

Where the paper does not say how a number was taken, ours is the obvious way, and said here: means run over turns,
references and layers alike; spread, nearest reference and trajectory are taken on the user's turns (as the paper's
figure of discrimination says it does); the layer of a source is that of the largest spread in the conversation, and the
controls are read at the same layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from llmct_bench.seed.metrics import METRICS, Array, common_share
from llmct_bench.seed.reading import SINCE, SeedReading

#: The readings of which the second and third are the controls.
READINGS = ("conversation", "neutral", "random")
JOY = "joy"


def by_layer(reading: SeedReading) -> pd.DataFrame:
    """One row a reading x source x layer. Mean over all turns of cosine, mae and jaccard with the references;
    ``spread``: max − min over references of the mean cosine of the user's turns; ``gap``: mean cosine of the user's
    turns − that of the assistant's (NaN where one of them is missing)."""
    parts = []
    for name in _readings(reading):
        every = reading.rows(name)
        for s, source in enumerate(reading.sources):
            values = {m: v[s][every][..., reading.compared].mean(axis=(0, 2)) for m, v in reading.values.items()}
            layers = {"reading": name, "source": source, "layer": np.arange(reading.layers), **values}
            parts.append(pd.DataFrame({**layers, "spread": _spread(reading, name, s), "gap": _gap(reading, name, s)}))
    return pd.concat(parts, ignore_index=True)


def summary(reading: SeedReading) -> pd.DataFrame:
    """One row a reading x source, numbers that the seed reports:

    - ``cosine``, ``mae``, ``jaccard``: means over turns, references and layers ("backbone").
    - ``low``, ``high``: the least and the largest of the turns' mean cosines ("at all times").
    - ``layer``, ``spread``: the layer of the largest max − min between references; its spread.
    - ``gap``: user − assistant, mean over layers ("shock absorber").
    - at that layer, over the user's turns: ``first``, ``last`` mean cosine over references, and ``fading`` = first −
      last; ``nearest`` and ``nearest_share``: the reference that is nearest most often (of several the first named) and
      how often ("default setting"); ``joy_wins`` of ``user_turns`` (NaN without a reference *joy*).
    - ``common``: share of the trajectory's sum of squares that all references have in common (`common_share`): what the
      fading of any one emotion cannot be told from. ``common_all_layers``: the same for cosines averaged over layers.
    - ``previous_METRIC``, ``first_METRIC``: drift within the run, mean over snapshots and layers; ``last_METRIC``: the
      last snapshot against the first. The seed's own drift is between the end of the prompt and the end of an answer
      that it generates; nothing is generated here.

    NaN where a reading has no order (single neutral statements) or no such turn.
    """
    return pd.DataFrame([_row(reading, n, s) for n in _readings(reading) for s in range(len(reading.sources))])


def excess(reading: SeedReading) -> pd.DataFrame:
    """The numbers of the conversation minus those of each control: one row a control x source (column ``over``), at
    the layer that the conversation chose. Empty where there is no control."""
    table = summary(reading).set_index(["reading", "source"])
    numbers = [c for c in table.columns if c not in ("layer", "nearest", "user_turns")]
    spoken = table.loc["conversation", numbers].astype(float)
    parts = [pd.DataFrame(columns=["over", "source", *numbers])]
    for name in _readings(reading)[1:]:
        part = (spoken - table.loc[name, numbers].astype(float)).reset_index()
        part.insert(0, "over", name)
        parts.append(part)
    return pd.concat(parts[1:] or parts, ignore_index=True)


def best_source(reading: SeedReading) -> str:
    """The source with the largest spread at its layer. A sub-layer that writes next to nothing may be it: the direction
    of a rounding error is a direction, too."""
    return max(reading.sources, key=lambda s: float(_spread(reading, "conversation", reading.sources.index(s)).max()))


def trajectory(reading: SeedReading, source: str, layer: int | None = None) -> pd.DataFrame:
    """One row a message of the conversation: snapshot, role, stage, the cosine with each compared reference (columns
    ``cosine_LABEL``), their mean, and the nearest of them; at a layer, by default that of the largest spread."""
    s = reading.sources.index(source)
    at = int(_spread(reading, "conversation", s).argmax()) if layer is None else layer
    rows = reading.rows("conversation")
    table = reading.values["cosine"][s][rows, at][:, reading.compared]
    labels = _labels(reading)
    out = reading.index.iloc[rows][["snapshot", "role", "stage"]].reset_index(drop=True)
    out[[f"cosine_{label}" for label in labels]] = table
    return out.assign(mean=table.mean(axis=1), nearest=np.asarray(labels, object)[table.argmax(axis=1)])


def _row(reading: SeedReading, name: str, s: int) -> dict[str, Any]:
    every, user = reading.rows(name), reading.rows(name, "user")
    use = reading.compared
    means = {m: float(v[s][every][..., use].mean()) for m, v in reading.values.items()}
    turns = reading.values["cosine"][s][every][..., use].mean(axis=(1, 2))
    layer = int(_spread(reading, "conversation", s).argmax())
    course = reading.values["cosine"][s][user][:, :, use]
    at = course[:, layer]
    nearest = at.argmax(axis=1)
    labels = _labels(reading)
    counts = np.bincount(nearest, minlength=len(labels))
    drift = {m: reading.drift[m][s][every[1:]] for m in METRICS}
    ordered = len(every) > 1 and not np.isnan(drift["cosine"]).any()
    level = at.mean(axis=1)
    nan = float("nan")
    moved: dict[str, float] = {}
    for m in METRICS:
        for k, since in enumerate(SINCE):
            moved[f"{since}_{m}"] = float(drift[m][..., k].mean()) if ordered else nan
        moved[f"last_{m}"] = float(drift[m][-1, :, SINCE.index("first")].mean()) if ordered else nan
    return {
        "reading": name,
        "source": reading.sources[s],
        **means,
        "low": float(turns.min()),
        "high": float(turns.max()),
        "layer": layer,
        "spread": float(_spread(reading, name, s)[layer]),
        "gap": float(_gap(reading, name, s).mean()),
        "first": float(level[0]) if ordered else nan,
        "last": float(level[-1]) if ordered else nan,
        "fading": float(level[0] - level[-1]) if ordered else nan,
        "nearest": labels[int(counts.argmax())],
        "nearest_share": float(counts.max() / len(nearest)),
        "joy_wins": float(counts[labels.index(JOY)]) if JOY in labels else nan,
        "user_turns": len(nearest),
        "common": common_share(at) if ordered else nan,
        "common_all_layers": common_share(course.mean(axis=1)) if ordered else nan,
        **moved,
    }


def _readings(reading: SeedReading) -> list[str]:
    present = set(reading.index["reading"])
    return [name for name in READINGS if name in present]


def _labels(reading: SeedReading) -> list[str]:
    return [label for label, used in zip(reading.references, reading.compared, strict=True) if used]


def _spread(reading: SeedReading, name: str, s: int) -> Array:
    """(layers,)"""
    mean = reading.values["cosine"][s][reading.rows(name, "user")][..., reading.compared].mean(axis=0)
    return np.asarray(np.ptp(mean, axis=1))


def _gap(reading: SeedReading, name: str, s: int) -> Array:
    """(layers,)"""
    if not {"user", "assistant"} <= set(reading.index["role"][reading.index["reading"] == name]):
        return np.full(reading.layers, np.nan)
    values = reading.values["cosine"][s][..., reading.compared].mean(axis=2)
    user, assistant = (values[reading.rows(name, role)].mean(axis=0) for role in ("user", "assistant"))
    return np.asarray(user - assistant)
