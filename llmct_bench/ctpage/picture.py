"""What is shown of a scan: arrays by message, point and score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.ctscan import CTScan
from llmct_bench.emotions import NAMES

Floats = NDArray[np.float64]
#: Share of the scores that the colours span; what lies beyond has the colour of the end.
_SPANNED = 0.99


@dataclass(frozen=True)
class Message:
    """One message: who said it, what it was written to carry, and the texts of its tokens, which joined are it."""

    role: str
    stage: str
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """One conversation of a scan.

    ``own`` (messages, points, emotions) and ``tokens`` (tokens of all messages, points, emotions): scores in neutral
    SD; ``raw`` (messages, points, references): cosines. ``control`` and ``raw_control``: the same of the neutral
    control, message by message, or None. ``point`` is where the scores were fitted to be read; ``generated``: the model
    wrote the last message itself.
    """

    title: str
    model: str
    point: int
    labels: tuple[str, ...]
    messages: tuple[Message, ...]
    own: Floats
    control: Floats | None
    raw: Floats
    raw_control: Floats | None
    tokens: Floats
    generated: bool = False

    @property
    def emotions(self) -> tuple[str, ...]:
        """The names of the scores."""
        return NAMES

    @property
    def starts(self) -> list[int]:
        """Where the tokens of each message begin, and the number of all tokens."""
        return [0, *np.cumsum([len(m.tokens) for m in self.messages]).tolist()]

    @property
    def corrected(self) -> Floats:
        """Scores (messages, points, emotions) less those of the control's message."""
        return self.own if self.control is None else self.own - self.control

    @property
    def corrected_tokens(self) -> Floats:
        """Scores (tokens, points, emotions) less those of the control's message, so that their mean over a message is
        its corrected score."""
        if self.control is None:
            return self.tokens
        return self.tokens - np.repeat(self.control, np.diff(self.starts), axis=0)

    @property
    def limits(self) -> tuple[float, float]:
        """Where the colours of messages and of tokens end, in neutral SD."""
        return limit(self.corrected), limit(self.corrected_tokens)


def picture(scan: CTScan, conversation: str = "prompt-0") -> Picture:
    """What is shown of one conversation of a scan, with its control where there is one."""
    rows = scan.frame[scan.frame["conversation"] == conversation]
    control = scan.frame[scan.frame["conversation"] == "control"]
    said = scan.tokens[scan.tokens["conversation"] == conversation]
    at = said[said["point"] == 0]
    heads = rows[rows["point"] == 0]
    texts = [tuple(at.loc[at["message"] == n, "text"]) for n in heads["message"]]
    raw = [f"raw_{label}" for label in scan.labels]
    return Picture(
        scan.title,
        scan.model,
        scan.point,
        scan.labels,
        tuple(Message(str(r), str(s), t) for r, s, t in zip(heads["role"], heads["stage"], texts, strict=True)),
        _array(rows, list(NAMES)),
        _array(control, list(NAMES)) if len(control) else None,
        _array(rows, raw),
        _array(control, raw) if len(control) else None,
        _array(said, list(NAMES)),
        scan.generated,
    )


def limit(values: Floats) -> float:
    """A round number of two digits that hardly any value exceeds in size: the end of a scale of colours."""
    high = float(np.quantile(np.abs(values), _SPANNED))
    if high <= 0:
        return 1.0
    unit = 10.0 ** (np.floor(np.log10(high)) - 1)
    return float(f"{np.ceil(high / unit) * unit:.2g}")


def _array(rows: pd.DataFrame, columns: list[str]) -> Floats:
    points = int(rows["point"].max()) + 1
    return rows[columns].to_numpy(np.float64).reshape(len(rows) // points, points, len(columns))
