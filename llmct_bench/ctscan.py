"""One conversation through one model, message by message and layer by layer: the experiment that this benchmark
generalises, with and without its controls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.adapters import LoadedModel
from llmct_bench.affect import AffectFit, score
from llmct_bench.emotions import NAMES
from llmct_bench.errors import SuiteError
from llmct_bench.scanner import scan
from llmct_bench.suites import shipped_root
from llmct_bench.suites.conversation import Conversation, read_conversation


@dataclass(frozen=True)
class CTScan:
    """``frame``: one row a message x point, with the columns conversation (``prompt-N`` or ``control``), message, role,
    stage, point, the scores in neutral SD, and ``raw_LABEL``: the cosine of the message's last state with each
    reference state's (seed-compatible: template tokens and all). ``point``: where the scores were fitted to be read.
    """

    frame: pd.DataFrame
    labels: tuple[str, ...]
    point: int

    def table(self, conversation: str = "prompt-0") -> pd.DataFrame:
        """One row a message at the chosen point; with a control, its scores are subtracted."""
        at = self.frame[self.frame["point"] == self.point].set_index(["conversation", "message"])
        rows = at.loc[conversation].copy()
        if "control" in at.index.get_level_values(0):
            control = at.loc["control"].reindex(rows.index)
            columns = [*NAMES, "valence", "arousal"]
            rows[columns] = rows[columns] - control[columns]
        return rows.reset_index()


def ct_scan(model: LoadedModel, conversation: Conversation, fit: AffectFit, budget: int | None = None) -> CTScan:
    """Scan every message of a conversation. Raises SuiteError where a message does not fit into the context."""
    suite = conversation.suite()
    states = scan(model, suite, budget=budget)
    if states.left_out:
        raise SuiteError(
            f"{model.card.name} cannot read {len(states.left_out)} messages of {conversation.name} (they exceed its "
            f"context of {model.context} tokens, or its tokenizer does not know them), among them {states.left_out[0]}"
        )
    index = states.index
    references = index["item"].str.startswith("reference/").to_numpy()
    labels = tuple(index.loc[references, "item"].str.removeprefix("reference/"))
    scores = score(states, fit).values
    raw = _cosines(states.last[~references], states.last[references])
    rows = index[~references].reset_index(drop=True)
    number = rows.groupby("item").cumcount().tolist()
    points = scores.shape[1]
    frame = pd.DataFrame(
        {
            "conversation": np.repeat(rows["item"].to_numpy(), points),
            "message": np.repeat(number, points),
            "role": np.repeat(rows["role"].to_numpy(), points),
            "stage": np.repeat([_stage(conversation, n) for n in number], points),
            "point": np.tile(np.arange(points), len(rows)),
        }
    )
    values = scores[~references].reshape(-1, scores.shape[2])
    frame[list(fit.scores)] = values
    if labels:
        frame[[f"raw_{label}" for label in labels]] = raw.reshape(-1, len(labels))
    return CTScan(frame, labels, fit.layer.point)


def get_conversation(name: str) -> Conversation:
    """A conversation file, or the shipped one: ``ct-scan``."""
    shipped = shipped_root() / name / "conversation.yaml"
    return read_conversation(shipped if shipped.is_file() else Path(name))


def _stage(conversation: Conversation, number: int) -> str:
    return conversation.stages[number] if number < len(conversation.stages) else ""


def _cosines(last: NDArray[np.float32], references: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine (messages, points, references) of states (messages, points, d) with references (references, points, d)."""
    h, r = (x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12) for x in (last, references))
    return np.asarray(np.einsum("npd,kpd->npk", h, r, dtype=np.float64))
