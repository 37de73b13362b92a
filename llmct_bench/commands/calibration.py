"""`llmct-bench spike`: known doses planted in a model, and what moves when nothing is changed."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmct_bench.commands.options import AsJson, Bars, Device, Dtype, Offline, Pickle, RemoteCode, print_table

if TYPE_CHECKING:
    from llmct_bench.calibration.floor import Floor
    from llmct_bench.calibration.spike import PlantedTrait, SpikeIn
    from llmct_bench.stats import Interval

#: The suite that doses are planted in (its messages are in both roles), and those of the traits.
_SPIKED = "shock"
_SUITES = ("circumplex", "shock", "retention")


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
    from llmct_bench.benchmark import fitted
    from llmct_bench.calibration.floor import noise_floor
    from llmct_bench.calibration.spike import plant_traits, spike_in
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
