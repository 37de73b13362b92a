"""The main job: models x suites -> stored results -> leaderboard."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from llmct_bench.adapters import load
from llmct_bench.affect import LayerChoice, Scores
from llmct_bench.errors import LlmctError, ResultError, SuiteError
from llmct_bench.evaluation import Existing, Session, evaluate
from llmct_bench.leaderboards import Leaderboard, leaderboard
from llmct_bench.models import PANEL, LoadOptions, ModelCard, get_model
from llmct_bench.results import ResultCard, ResultStore, results_frame
from llmct_bench.suites import DEFAULT_SUITES, Suite, get_suite
from llmct_bench.traits import TraitEstimate, estimate_all, measure

#: Scenarios per suite of each preset; 0 = all.
PRESETS = {"quick": 12, "standard": 48, "full": 0}


def run(
    models: Iterable[str | ModelCard] | None = None,
    suites: Iterable[str | Suite] | None = None,
    output: str | Path = ".",
    *,
    limit: int = 0,
    options: LoadOptions | None = None,
    existing: Existing = "skip",
    session: Session | None = None,
    on_failure: Callable[[str, LlmctError], None] | None = None,
) -> Leaderboard:
    """The whole job, resumable: measure every model on every suite, then write ``output/reports`` with all results that
    lie in ``output``, those of earlier runs too: what a folder shows does not hang on which command wrote it last.

    ``models`` default to the phantom panel, ``suites`` to `DEFAULT_SUITES`; ``limit`` cuts every trait suite to so many
    scenarios; ``session`` sets the token budget and who is told about progress. Results lie under
    ``output/results``. A model that fails does not stop the others: its error goes to ``on_failure`` (without one, the
    first error is raised when the other models are done and reported). Where no model is left, nothing is written and
    the leaderboard is empty.
    """
    cards = [get_model(m) if isinstance(m, str) else m for m in (models or default_models())]
    chosen = [(get_suite(s) if isinstance(s, str) else s).limited(limit) for s in (suites or DEFAULT_SUITES)]
    references = [s.key for s in chosen if s.card.design == "reference"]
    if len(references) > 1:
        raise SuiteError(f"one reference suite at a time, not {', '.join(references)}")
    folder = Path(output)
    store, session = ResultStore(folder / "results"), session or Session()
    measured: list[ResultCard] = []
    failures: list[LlmctError] = []
    for card in cards:
        try:
            measured += evaluate(load(card, options), chosen, store=store, existing=existing, session=session)
        except LlmctError as error:
            failures.append(error)
            if on_failure is not None:
                on_failure(card.name, error)
    board = leaderboard(load_results(folder) if measured else [])
    if measured:
        board.write(folder / "reports")
    if failures and on_failure is None:
        raise failures[0]
    return board


def comparable(results: Sequence[ResultCard], store: ResultStore) -> list[ResultCard]:
    """The same results with every trait estimated on what all models of the comparison can read.

    A readout that one model cannot read (it does not fit into its context, say) is left out for the others as well, so
    that models are compared on the same items. A model that has no valid trait on a suite takes no part and takes
    nothing away. Estimates are made again from the stored scores; raises ResultError where those are missing.
    """
    taking = [r for r in results if any(t.valid for t in r.traits)]
    out: dict[tuple[str, str], set[str]] = {}
    for r in taking:
        out.setdefault((r.suite, r.suite_hash), set()).update(r.left_out)
    made = []
    for r in results:
        missing = out.get((r.suite, r.suite_hash), set()) - set(r.left_out)
        if missing and r in taking:
            r = replace(r, traits=estimated(r, store.scores(r), missing), not_shared=sorted(missing))
        made.append(r)
    return made


def estimated(result: ResultCard, scores: Scores, without: Collection[str] = ()) -> list[TraitEstimate]:
    """The traits of a result once more, from its stored scores; ``without`` these readouts."""
    layer = LayerChoice.from_json(result.fit["layer"])
    measured = measure(scores, layer, result.fit["role_cosine"], result.subset == "keyworded", without)
    return estimate_all(measured, result.design)


def default_models() -> list[str]:
    """The phantom panel: it needs no network."""
    return [f"phantom/{s.name}" for s in PANEL]


def load_results(output: str | Path) -> list[ResultCard]:
    """All results stored under ``output/results``, made comparable. Raises ResultError where there are none."""
    return comparable(stored_results(output), result_store(output))


def results_table(output: str | Path) -> pd.DataFrame:
    """The results under ``output/results`` as the leaderboard shows them, one row for each model x suite x trait: see
    `results_frame`. Raises ResultError where there are none."""
    return results_frame(load_results(output))


def stored_results(output: str | Path) -> list[ResultCard]:
    """All results as they are stored, each on all that its model can read: under ``output/results``, or under
    ``output`` itself where it is such a folder. Raises ResultError where there are none."""
    store = result_store(output)
    cards = list(store.cards())
    if not cards:
        raise ResultError(f"no results under {store.root}: run `llmct-bench run` first")
    return cards


def result_store(output: str | Path) -> ResultStore:
    """The results of an output folder, which may also be named by its ``results`` folder itself."""
    folder = Path(output)
    itself = folder.name == "results" and not (folder / "results").is_dir()
    return ResultStore(folder if itself else folder / "results")
