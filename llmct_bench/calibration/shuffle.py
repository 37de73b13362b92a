"""Shuffled labels: data in which there is emotion, and labels that know nothing of it.

What a null needs is that labels are exchangeable, given the states and everything that is no emotion. So labels change
hands only among items that differ in nothing but the emotion that they were written for:

- reference and circumplex: the emotional items of a scenario, in one role and of one kind (with words of the lexicon or
  without). Emotion and intensity change hands together; neutral items stay what they are, as do metric and unit. The
  reference is shuffled, too: axes that were fitted on true labels would still be axes of something.
- shock: a message has one emotion in a scenario, and its label is the dose. Doses change hands among the items of one
  scenario, context and slot, the one without a shock (the twin of the others) among them. Contexts and slots keep their
  labels: they are no emotion, and without a response there is nothing that they could change.
- retention: the label is which of two openings is the emotional one. A coin swaps an episode with its twin, as a whole:
  lags of an episode hold the same opening, and turns of their own would be no episode.

Then every contrast of labels is symmetric about 0, whatever the model feels, and what is significant is so by chance.
It is the states that are moved: the design stays as it is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.emotions import NEUTRAL
from llmct_bench.scanner import States


def shuffled(states: States, rng: np.random.Generator) -> States:
    """The states of a suite under its labels in random order."""
    rows = shuffled_rows(states.index, rng)
    return replace(states, array=states.array[rows], last=states.last[rows])


def shuffled_rows(index: pd.DataFrame, rng: np.random.Generator) -> NDArray[np.intp]:
    """Whose state each readout of an index is given, (n_readouts,)."""
    item, group = (pd.factorize(column)[0] for column in (index["item"], exchangeable(index)))
    read, key = index["read"].to_numpy(), rng.permutation(item.max(initial=-1) + 1)
    rows = np.empty(len(index), np.intp)
    # one order of the items for all readouts of a group
    rows[np.lexsort((item, read, group))] = np.lexsort((key[item], read, group))
    return rows


def exchangeable(index: pd.DataFrame) -> pd.Series[str]:
    """The group in which the label of each readout may change hands (n_readouts,)."""
    conversation = (index["context"] != "") | (index["filler"] != "")
    twins = index["twin"].where(index["twin"] != "", index["item"])
    alike = index["scenario"] + "|" + index["role"] + "|" + index["keyworded"].astype(str)
    return twins.where(conversation, alike.where(index["emotion"] != NEUTRAL, index["item"]))
