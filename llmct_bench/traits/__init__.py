"""Traits: one declared estimand each. A new trait is one file and one entry here."""

from llmct_bench.stats import MIN_CLUSTERS
from llmct_bench.traits import (
    backbone,
    circumplex_rsa,
    cross_lingual,
    dampening,
    default_share,
    geometry,
    joy_bias,
    joy_output,
    memory_decay,
    neutral_offset,
    persona_offset,
    selectivity,
    separability,
    shock_absorption,
    text_internal_gap,
    valence_gain,
)
from llmct_bench.traits.estimand import Estimand, Layout, Measurement, TraitEstimate, complete, measure, no_estimate
from llmct_bench.traits.raw import raw_summary

ESTIMANDS: dict[str, Estimand] = {
    e.name: e
    for e in (
        separability.ESTIMAND,
        backbone.ESTIMAND,
        joy_bias.ESTIMAND,
        joy_output.ESTIMAND,
        text_internal_gap.ESTIMAND,
        neutral_offset.ESTIMAND,
        default_share.ESTIMAND,
        valence_gain.ESTIMAND,
        geometry.ESTIMAND,
        circumplex_rsa.ESTIMAND,
        cross_lingual.ESTIMAND,
        selectivity.ESTIMAND,
        dampening.ESTIMAND,
        shock_absorption.ESTIMAND,
        persona_offset.ESTIMAND,
        memory_decay.TAIL_RETENTION,
        memory_decay.HALF_LIFE,
    )
}


def estimate_all(measurement: Measurement, design: str) -> list[TraitEstimate]:
    """Every trait that the design of a suite supports. Where fewer than `MIN_CLUSTERS` scenarios are left (in a short
    run, or because the others did not fit into the model's context), all of them are invalid; a circumplex scenario
    counts when it is whole."""
    index = measurement.layout.index
    scenarios = (
        index["scenario"].iloc[complete(index)].nunique() if design == "circumplex" else index["scenario"].nunique()
    )
    if scenarios < MIN_CLUSTERS:
        whole = "whole " if design == "circumplex" else ""
        return unavailable(design, f"{scenarios} {whole}scenarios could be read, {MIN_CLUSTERS} are needed")
    own = [e for e in ESTIMANDS.values() if e.design == design]
    return [e.estimate(measurement) for e in own if not e.needs or getattr(measurement, e.needs) is not None]


def unavailable(design: str, reason: str) -> list[TraitEstimate]:
    """Every trait that all suites of a design have as invalid, for one reason."""
    return [no_estimate(e.name, reason) for e in ESTIMANDS.values() if e.design == design and not e.needs]


__all__ = [
    "ESTIMANDS",
    "Estimand",
    "Layout",
    "Measurement",
    "TraitEstimate",
    "estimate_all",
    "measure",
    "raw_summary",
    "unavailable",
]
