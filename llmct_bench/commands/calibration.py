"""`llmct-bench calibrate`: the certificate. `llmct-bench spike`: known doses planted in one model."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmct_bench.commands.options import (
    AsJson,
    Bars,
    Device,
    Dtype,
    Offline,
    Output,
    Pickle,
    RemoteCode,
    print_table,
)

if TYPE_CHECKING:
    from llmct_bench.calibration.floor import Floor
    from llmct_bench.calibration.plants import PlantedTrait
    from llmct_bench.calibration.response import SpikeIn
    from llmct_bench.results import ResultCard
    from llmct_bench.stats import Interval

#: The suite that doses are planted in (its messages are in both roles), and those of the traits.
_SPIKED = "shock"
_SUITES = ("circumplex", "shock", "retention")
#: The phantom without any response of its own, so that what is planted in it is the whole truth.
_WITHOUT = ("phantom/zero-emotion",)
#: What a quick look measures where no results are stored: two phantoms on so many scenarios of two suites.
_PANEL, _SHOWN, _FEW = ("phantom/neutral", "phantom/joyful"), ("circumplex", "shock"), 12


def calibrate(
    output: Output = Path("."),
    replicates: Annotated[
        int, typer.Option(help="In the cells of coverage and nulls; a tenth elsewhere.", min=2)
    ] = 2000,
    seeds: Annotated[int, typer.Option(help="Compiled phantoms in which there is nothing to find.", min=0)] = 200,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few of all, in two minutes at most: a look, no proof.")
    ] = False,
    ship: Annotated[
        bool, typer.Option("--ship", help="For releases: make this the study that leaderboards cite (in the package).")
    ] = False,
) -> None:
    """The calibration certificate: drawn states (coverage, false positives, power, which knob moves which trait), the
    compiled panel as far as its results are stored under --output, compiled phantoms in which there is nothing to find,
    and doses added to a phantom.

    Restartable: what lies in calibration/ is not done again. 2000 replicates take hours on one core.
    """
    if quick and ship:
        raise typer.BadParameter("a quick look proves nothing that could be shipped", param_hint="--ship")
    from llmct_bench.benchmark import load_results
    from llmct_bench.calibration.levels import SCENARIOS, panel, spike_study
    from llmct_bench.calibration.performance import summaries, verdicts
    from llmct_bench.calibration.report import Certificate, write
    from llmct_bench.calibration.seeds import RUNS, rejections, run_seeds
    from llmct_bench.calibration.study import planned, run_study, sketched
    from llmct_bench.evaluation import fitted
    from llmct_bench.traits import verdict

    study, bars = output / "calibration", Bars()
    wanted, spiked = planned(replicates), SCENARIOS
    if quick:
        wanted, seeds, spiked = sketched(), min(seeds, 1), SCENARIOS // 2
    with bars.bars:
        bars.start("replicates", sum(wanted.values()), "")
        run_study(study, lambda c: wanted.get(c.name, 0), lambda _, n: bars.advance(n))
        bars.start("seeds", seeds * len(RUNS), "")
        run_seeds(study, seeds, bars.advance)
    spikes = [spike_study(*fitted(name), study / "spikes.json", spiked) for name in _WITHOUT]
    stored = (output / "results").is_dir()
    results = load_results(output) if stored else _small_panel(study) if quick else []
    drawn = summaries(study)
    for path in write(Certificate(drawn, panel(results), rejections(study), spikes), output / "reports"):
        print(path)
    if ship:
        print(verdict.ship(verdicts(drawn)))


def _small_panel(folder: Path) -> list[ResultCard]:
    from llmct_bench.adapters import load
    from llmct_bench.evaluation import Session, evaluate
    from llmct_bench.models import get_model
    from llmct_bench.results import ResultStore
    from llmct_bench.suites import get_suite

    suites, store, session = [get_suite(n).limited(_FEW) for n in _SHOWN], ResultStore(folder / "results"), Session()
    return [r for name in _PANEL for r in evaluate(load(get_model(name)), suites, store=store, session=session)]


def spike(
    model: Annotated[str, typer.Argument(help="Name, Hub id or local folder.")],
    limit: Annotated[int, typer.Option(help="Scenarios of each suite, at least 6; 0: all.", min=0)] = 24,
    token_budget: Annotated[int, typer.Option(help="Tokens per pass; 0: from the free memory.", min=0)] = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    offline: Offline = False,
    trust_remote_code: RemoteCode = False,
    allow_pickle: Pickle = False,
    as_json: AsJson = False,
) -> None:
    """Plant known doses of emotion in a model and read them back; then measure what moves when nothing is changed."""
    if 0 < limit < 6:
        raise typer.BadParameter(f"{limit} scenarios give no interval: at least 6, or 0 for all", param_hint="--limit")
    from llmct_bench.calibration.floor import noise_floor
    from llmct_bench.calibration.plants import plant_traits
    from llmct_bench.calibration.response import spike_in
    from llmct_bench.evaluation import fitted
    from llmct_bench.models import LoadOptions
    from llmct_bench.suites import get_suite

    loaded, fit = fitted(model, LoadOptions(device, dtype, offline, trust_remote_code, allow_pickle))
    suites = [get_suite(name).limited(limit) for name in _SUITES]
    budget, bars = token_budget or None, Bars()
    with bars.bars:
        tasks = ("spikes", "planted traits", "noise floor")
        steps = iter([bars.bars.add_task(t, total=None, total_text="") for t in tasks])
        step = next(steps)

        def advance(tokens: int) -> None:
            bars.bars.advance(step, tokens)

        found = spike_in(loaded, get_suite(_SPIKED).limited(limit), fit, budget=budget, progress=advance)
        step = next(steps)
        planted = plant_traits(loaded, suites, fit, budget=budget, progress=advance)
        step = next(steps)
        floors = noise_floor(loaded, suites, fit, progress=advance)
    if as_json:
        made = {
            "spike": asdict(found),
            "planted": [asdict(p) for p in planted],
            "floor": {trait: asdict(f) for trait, f in floors.items()},
        }
        print(json.dumps(_plain(made), allow_nan=False))
        return
    _print_spike(found)
    _print_planted(planted)
    _print_floor(floors)


def _print_spike(found: SpikeIn) -> None:
    print(
        f"{found.model}: doses of -4 to 4 neutral SD on {found.n_readouts} readouts of {found.n_scenarios} scenarios "
        f"of {found.suite}; the layer of the fit is point {found.point}"
    )
    rows = []
    for r in found.responses:
        if r.emotion != "all":
            continue
        drift = [u for u in found.random if (u.planted, u.read) == (r.planted, r.read)]
        spread = math.sqrt(sum(u.spread**2 for u in drift) / len(drift))
        own = (f"{found.response(r.planted, r.read, u.emotion).slope.estimate:.3f}" for u in drift)
        same = r.planted == r.read
        fitted = [_interval(r.slope, 6 if same else 3), *own, f"{r.intercept.estimate:+.1e}", f"{r.r2:.3f}"]
        rows.append([r.planted, r.read, *fitted, f"{spread:.1e}", f"{found.errors[r.planted]:.1e}" if same else ""])
    header = ["planted", "read", "slope", *dict.fromkeys(u.emotion for u in found.random), "intercept", "R²"]
    print_table(rows, [*header, "random SD", "worst"])
    print("planted where it is read the truth is slope 1, intercept 0; later on the slope is what the model transmits")


def _print_planted(planted: list[PlantedTrait]) -> None:
    rows = []
    for p in planted:
        e = p.recovered
        value = f"{e.estimate:.3f} [{e.low:.3f}, {e.high:.3f}]" if e.valid else f"invalid: {e.reason}"
        rows.append([p.plant, p.trait, p.suite, f"{p.planted:.3f}", value, f"{p.expected:.3f}", f"{p.alone:.6f}"])
    print()
    print_table(rows, ["plant", "trait", "suite", "planted", "recovered", "expected", "own taken away"])
    print("expected: what the model's own response makes of the planted value")


def _print_floor(floors: dict[str, Floor]) -> None:
    rows = []
    for f in floors.values():
        value = f"{f.estimate:.3f}" if f.valid else f"invalid: {f.reason}"
        rows.append([f.trait, f.suite, value, f"{f.se:.3f}", f"{f.rounding:.1e}", f"{f.forms:.3f}", f"{f.dtype:.1e}"])
    print()
    print_table(rows, ["trait", "suite", "estimate", "se", "rounding", "parallel forms", "bfloat16"])


def _interval(i: Interval, digits: int) -> str:
    return f"{i.estimate:.{digits}f} [{i.low:.{digits}f}, {i.high:.{digits}f}]"


def _plain(value: Any) -> Any:
    """Strict JSON: no NaN, no infinity."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
