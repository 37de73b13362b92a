"""Text-internal gap: does a model hold joy and its opposites further apart inside than in what it would say?

Shown, not ranked: which words a vocabulary holds as one token differs between models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from llmct_bench.affect import averages
from llmct_bench.scanner import NextWords
from llmct_bench.stats import Interval, cluster_t, clustered_auc, t_interval
from llmct_bench.traits.estimand import Estimand, Measurement, TraitEstimate, no_estimate, result

NAME = "text_internal_gap"
#: Nats below which log-odds in float32 do not differ.
_RESOLUTION = 1e-4

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Asked:
    """The readouts after which the next word was read, of scenarios that have both classes: where the joyful and the
    negative ones stand in the index, and their averages by scenario."""

    scenarios: tuple[str, ...]
    items: tuple[NDArray[np.intp], NDArray[np.intp]]
    means: tuple[csr_array, csr_array]

    def auc(self, values: Floats, resolution: float = 0.0) -> Floats:
        """Pseudo-values (n_scenarios,) of the area under the curve of ``values`` (n_readouts,)."""
        joyful, negative = (values[rows] for rows in self.items)
        return clustered_auc(joyful, negative, *self.means, resolution)


def estimate(m: Measurement) -> TraitEstimate:
    """Area under the curve of joy against anger and sadness: of the valence score minus of the words' log-odds."""
    said = m.next_words
    if said is None:
        return no_estimate(NAME, "what the model would say next was not read")
    if said.reason:
        return no_estimate(NAME, said.reason)
    asked = _asked(m.layout.index, said)
    if len(asked.scenarios) < 3:
        return no_estimate(NAME, "the suite has no joyful and negative prompts of the same scenarios")
    at = m.names.index("valence")
    log_odds = np.array([_odds(said, item) for item in m.layout.index["item"]])
    held, spoken = asked.auc(m.values[:, at]), asked.auc(log_odds, _RESOLUTION)
    error = m.error(lambda v: asked.auc(v[:, at]).mean())
    inside, gap = (t_interval(cluster_t(v), error) for v in (held, held - spoken))
    return result(
        NAME,
        gap,
        0.0,
        asked.scenarios,
        held - spoken,
        gap.p_value(0.0),
        (
            "" if inside.low > 0.5 else "inside, joy is not told from anger and sadness: nothing is held back",
            "" if gap.se > 0 else "neither the inside nor the words confuse a single pair: both are at their ceiling",
        ),
        {"internal": _numbers(inside), "text": _numbers(cluster_t(spoken))},
        error.se if error else 0.0,
    )


def _asked(index: pd.DataFrame, said: NextWords) -> _Asked:
    known = index["item"].isin(list(said.emotional)).to_numpy() & ~index["item"].duplicated().to_numpy()
    joyful = (index["emotion"] == "joy").to_numpy()
    rows = tuple(np.flatnonzero(known & of) for of in (joyful, ~joyful))
    names = [index["scenario"].iloc[r] for r in rows]
    whole = sorted(set(names[0]) & set(names[1]))
    place = {s: i for i, s in enumerate(whole)}
    code = [np.array([place.get(s, -1) for s in own], np.intp) for own in names]
    return _Asked(
        tuple(map(str, whole)), (rows[0], rows[1]), (averages(code[0], len(whole)), averages(code[1], len(whole)))
    )


def _odds(said: NextWords, item: str) -> float:
    joy, negative = said.emotional.get(item, (np.nan, np.nan))
    return joy - negative


def _numbers(i: Interval) -> list[float]:
    return [i.estimate, i.low, i.high]


ESTIMAND = Estimand(
    name=NAME,
    title="Text–internal gap",
    design="circumplex",
    formula="AUC(p_V) − AUC(L), AUC(x) = P(x(joy item of scenario s) > x(anger or sadness item of t ≠ s)), ties ½; "
    "p_V = valence score inside, L = ln p̄(joy words) − ln p̄(words of anger and sadness) as the next word of “I feel …”",
    unit="AUC",
    range="[−1, 1]",
    null=0.0,
    meaning="+ : the model holds more of the difference between joy and its opposites inside than in the words that it "
    "would go on with; 0: what it holds it would say. At the ceiling of 1 inside, it is the share of pairs that the "
    "words get wrong. Noise in the axes lowers the inside alone: it makes the gap too small, not too large",
    controls=(
        "both sides from the same items, on a scale that knows no unit",
        "pairs of different scenarios",
        "the error of the axes",
    ),
    validity=(
        "an English suite with joyful and negative prompts",
        "at least 3 words of each side are one token of the vocabulary",
        "inside, the interval of the AUC lies above ½",
        "a pair is confused inside or in the words",
    ),
    sources=("Bamber 1975 doi:10.1016/0022-2496(75)90001-2", "Obuchowski 1997 doi:10.2307/2533958"),
    estimate=estimate,
    ranked=False,
)
