"""The scan: a suite through a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmct_bench.adapters import LoadedModel, Point
from llmct_bench.errors import ModelError
from llmct_bench.scanner.capture import capture
from llmct_bench.scanner.plan import TOKEN_BUDGET, Plan, make_plan
from llmct_bench.scanner.render import Rendered, render
from llmct_bench.suites import Suite


@dataclass(frozen=True)
class States:
    """Residual-stream states of every readout.

    ``array`` (n_readouts, n_points, d_model) float32: mean over the content tokens of the message that is read;
    ``last``: the same shape, at the last token of the rendered text (the seed system's readout). ``index`` has one
    row a readout (see `Rendered`), ``left_out`` those that the model cannot read.
    """

    array: NDArray[np.float32]
    last: NDArray[np.float32]
    index: pd.DataFrame
    points: tuple[Point, ...]
    left_out: tuple[str, ...]
    plan: Plan


def scan(
    model: LoadedModel,
    suite: Suite,
    *,
    points: Sequence[Point] | None = None,
    budget: int = TOKEN_BUDGET,
    rendered: Rendered | None = None,
    progress: Callable[[int], None] = lambda tokens: None,
) -> States:
    """Read a model's states on a suite at every block boundary (or at ``points``).

    ``rendered`` reuses an earlier rendering for the same tokenizer. Raises ModelError when nothing fits.
    """
    rendered = rendered or render(suite, model.tokenizer, model.context)
    if not rendered.readouts:
        raise ModelError(
            f"{model.card.name} can read none of the {len(rendered.left_out)} readouts of {suite.key}: they exceed its "
            f"context of {model.context} tokens, or its tokenizer does not know the text"
        )
    chosen = tuple(points or model.adapter.residual_points())
    plan = make_plan(rendered.readouts, budget)
    array, last = capture(model, plan, len(rendered.readouts), chosen, progress)
    return States(array, last, rendered.index, chosen, rendered.left_out, plan)
