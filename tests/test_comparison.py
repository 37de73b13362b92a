"""Models against each other: differences, equivalence, geometries, shift, and the page that shows them."""

from __future__ import annotations

import itertools
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from handmade import Cli, card, shortened, trait
from markdown_it import MarkdownIt
from numpy.typing import NDArray
from scipy import stats as sps
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from llmct_bench.adapters import load
from llmct_bench.adapters.chat import render_text
from llmct_bench.affect import AffectFit, from_projections
from llmct_bench.benchmark import comparable, load_results, run, stored_results
from llmct_bench.commands.compare import forms
from llmct_bench.comparison import (
    Difference,
    Geometry,
    OnAxes,
    adjusted,
    chosen,
    compare,
    file_name,
    geometry,
    mantel,
    on_axes,
    paired,
    scenarios_needed,
    similarity,
    write,
)
from llmct_bench.comparison.content import needed
from llmct_bench.comparison.figure import profile_rows
from llmct_bench.emotions import NAMES
from llmct_bench.errors import ResultError, UnknownName
from llmct_bench.evaluation import Session, evaluate
from llmct_bench.models import PhantomSpec, get_model
from llmct_bench.results import ResultCard, ResultStore
from llmct_bench.stats import Interval, crossnobis
from llmct_bench.suites import Turn, get_suite
from llmct_bench.traits import TraitEstimate

Floats = NDArray[np.float64]


def of(values: Floats, **changes: Any) -> TraitEstimate:
    """An estimate with one value a scenario."""
    clusters = {f"s{k:03d}": float(v) for k, v in enumerate(values)}
    return trait(changes.pop("name", "dampening"), float(values.mean()), per_cluster=clusters, **changes)


def drawn(rng: np.random.Generator, n: int, shift: float = 0.0) -> tuple[Floats, Floats]:
    """Values of two models on the same scenarios, correlated .5, SD 1."""
    common = rng.normal(size=n)
    return tuple((common + rng.normal(size=n)) / math.sqrt(2) + s for s in (shift, 0.0))  # type: ignore[return-value]


# --- differences ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [6, 17, 96])
def test_without_an_error_of_the_axes_it_is_the_paired_t_test(n: int) -> None:
    """Estimate, interval and p against SciPy, equivalence against statsmodels."""
    x, y = drawn(np.random.default_rng(n), n, 0.1)
    found = paired(of(x), of(y), margin=0.3)
    truth = sps.ttest_rel(x, y)
    ends = truth.confidence_interval()
    np.testing.assert_allclose(found.p, truth.pvalue)
    np.testing.assert_allclose([found.interval.low, found.interval.high], [ends.low, ends.high])
    sd = math.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2)
    np.testing.assert_allclose(found.sd, sd)
    np.testing.assert_allclose(found.p_equivalence, ttost_paired(x, y, -0.3 * sd, 0.3 * sd)[0])
    np.testing.assert_allclose(found.d, [v / sd for v in ((x - y).mean(), ends.low, ends.high)])


def test_the_axes_add_their_variance_and_degrees_of_freedom() -> None:
    """Satterthwaite's formula, written out."""
    x, y = drawn(np.random.default_rng(1), 24)
    found = paired(of(x, se_axes=0.3), of(y, se_axes=0.1))
    own = (x - y).var(ddof=1) / 24
    total = own + 0.09 + 0.01
    df = total**2 / (own**2 / 23 + (0.09**2 + 0.01**2) / 36)
    np.testing.assert_allclose([found.interval.se, found.interval.df], [math.sqrt(total), df])
    np.testing.assert_allclose(found.axes, math.sqrt(0.1))
    np.testing.assert_allclose(found.p, 2 * sps.t.sf(abs((x - y).mean()) / math.sqrt(total), df))


def test_half_lives_are_compared_as_logarithms() -> None:
    """Their scenario values are logarithms, but their axes' error is in exchanges."""
    x, y = drawn(np.random.default_rng(2), 24)
    a, b = (replace(of(v, name="half_life", se_axes=0.4), estimate=h) for v, h in ((x, 4.0), (y, 2.0)))
    np.testing.assert_allclose(paired(a, b).axes, math.hypot(0.1, 0.2))
    bound = replace(a, details={"censored": "> 24"})
    (found,) = adjusted([paired(bound, of(y + 9, name="half_life"))])
    assert (found.verdict, found.needed) == ("undecided", None)


def test_scenarios_are_matched_by_name() -> None:
    """Neither their order nor what only one model has matters."""
    x, y = drawn(np.random.default_rng(3), 12)
    a, b = of(x), of(y)
    mixed = replace(b, per_cluster={"other": 99.0, **dict(reversed(b.per_cluster.items())), "more": math.nan})
    assert paired(a, mixed) == paired(a, b)


def test_where_there_is_no_difference_to_be_had_it_says_why() -> None:
    """Few scenarios, an invalid estimate, values that do not vary."""
    x, y = drawn(np.random.default_rng(4), 12)
    few = replace(of(y), per_cluster={f"s{k:03d}": 0.1 * k for k in range(5)})
    assert paired(of(x), few).reason == "5 scenarios are shared, 6 are needed"
    assert paired(of(x), of(y, valid=False, reason="no response"), names=("a", "b")).reason == "b: no response"
    assert "do not vary" in paired(of(np.ones(9)), of(np.ones(9))).reason
    assert not any(math.isfinite(v) for v in (paired(of(x), few).interval.estimate, paired(of(x), few).p))


def test_a_model_is_equivalent_to_itself_and_different_from_a_shifted_one() -> None:
    """What is wholly alike or shifted as a whole needs no error."""
    x, _ = drawn(np.random.default_rng(5), 12)
    same, shifted = adjusted([paired(of(x), of(x)), paired(of(x + 2), of(x))])
    assert (same.verdict, same.p_holm, shifted.verdict, shifted.p_equivalence) == ("equivalent", 1.0, "different", 1.0)
    blurred = paired(of(x, se_axes=0.5), of(x, se_axes=0.5))
    assert adjusted([blurred])[0].verdict == "undecided"


def test_reversed_is_the_difference_the_other_way_round() -> None:
    """As if the models had been given in the other order."""
    x, y = drawn(np.random.default_rng(6), 12, 0.4)
    one, other = of(x, se_axes=0.1), of(y, se_axes=0.2)
    there = paired(one, other, names=("a", "b"), planted=0.3).reversed()
    back = paired(other, one, names=("b", "a"), planted=-0.3)
    assert (there.first, there.second, there.planted) == (back.first, back.second, back.planted)
    np.testing.assert_allclose([*there.d, there.p, there.p_equivalence], [*back.d, back.p, back.p_equivalence])


def test_p_values_are_adjusted_within_the_comparison() -> None:
    """Against statsmodels; what is no test does not count."""
    rng = np.random.default_rng(7)
    some = [paired(*map(of, drawn(rng, 20, shift))) for shift in (0.0, 0.3, 0.6, 0.9)]
    nothing = replace(some[0], reason="none", p=math.nan, p_equivalence=math.nan)
    found = adjusted([nothing, *some])
    np.testing.assert_allclose([d.p_holm for d in found[1:]], multipletests([d.p for d in some], method="holm")[1])
    truth = multipletests([d.p_equivalence for d in some], method="holm")[1]
    np.testing.assert_allclose([d.p_equivalence for d in found[1:]], truth)
    assert math.isnan(found[0].p_holm)


def test_intervals_cover_the_true_difference() -> None:
    """Scenarios and axes both vary; 1000 replicates, 95 % within three standard errors."""
    rng, hits = np.random.default_rng(8), 0
    for _ in range(1000):
        x, y = drawn(rng, 24, 0.5)
        noise = [0.2 * math.sqrt(rng.chisquare(36) / 36) for _ in range(2)]  # what the fit says of its own error
        off = 0.2 * rng.normal(size=2)
        hits += paired(of(x + off[0], se_axes=noise[0]), of(y + off[1], se_axes=noise[1])).interval.contains(0.5)
    assert abs(hits / 1000 - 0.95) < 0.021


def pilot(size: float, axes: float, spread: float = 1.0) -> Difference:
    """A difference of ``size`` found on six scenarios whose differences have the SD ``spread``; the unit is 1."""
    se = math.sqrt(spread**2 / 6 + axes**2)
    interval = Interval(size, size - 3 * se, size + 3 * se, se, 6)
    return Difference("t", "s", "a", "b", interval, axes=axes, sd=1.0, p=0.5, p_equivalence=0.5)


@pytest.mark.parametrize(("size", "axes"), [(0.35, 0.0), (-0.35, 0.05), (0.02, 0.0), (0.0, 0.03)])
def test_with_the_scenarios_that_are_said_to_be_needed_it_is_decided(size: float, axes: float) -> None:
    """In 80 % of simulated comparisons, the larger differences by being told from 0, the small ones by lying within the
    margin."""
    n, rng = int(scenarios_needed(pilot(size, axes))), np.random.default_rng(9)
    found = rng.normal(size, math.sqrt(1 / n + axes**2), size=20_000)
    z = found / math.sqrt(1 / n + axes**2)
    reach = 0.2 / math.sqrt(1 / n + axes**2)
    apart, within = np.abs(z) > sps.norm.ppf(0.975), np.abs(z) < reach - sps.norm.ppf(0.95)
    assert abs(max(apart.mean(), within.mean()) - 0.8) < 0.015
    assert (apart.mean() > within.mean()) == (abs(size) > 0.2)


def test_more_scenarios_do_not_help_where_the_axes_are_too_uncertain() -> None:
    """At a difference of .5 the axes' error may be .5 / (1.96 + .84) and no more."""
    limit = 0.5 / (sps.norm.ppf(0.975) + sps.norm.ppf(0.8))
    assert math.isinf(scenarios_needed(pilot(0.5, limit * 1.001)))
    assert math.isfinite(scenarios_needed(pilot(0.5, limit * 0.999)))
    assert scenarios_needed(pilot(0.5, 0.0)) == math.ceil(1 / limit**2)
    (told,) = adjusted([pilot(0.5, limit * 1.001)])
    assert needed(told) == "never"


# --- geometries ----------------------------------------------------------------------------------------------------

CELLS = (("neutral", 0), *((e, i) for e in NAMES for i in (1, 2, 3)))


def scores(true: Floats, n: int, noise: float, seed: int) -> tuple[Floats, pd.DataFrame]:
    """Scores around cell means ``true`` (13, 4) for ``n`` scenarios, each of which moves all of its cells."""
    rng = np.random.default_rng(seed)
    values = true + noise * rng.normal(size=(n, 13, 4)) + 3 * rng.normal(size=(n, 1, 4))
    index = [(f"s{s:02d}", e, i) for s in range(n) for e, i in CELLS]
    return values.reshape(-1, 4), pd.DataFrame(index, columns=["scenario", "emotion", "intensity"])


def made(seed: int, n: int = 24, noise: float = 0.5, draw: int = 0) -> Geometry:
    """The geometry of the ``seed``-th model."""
    return geometry(*scores(np.random.default_rng(seed).normal(size=(13, 4)), n, noise, 100 * seed + draw))


def test_distances_are_crossnobis_distances() -> None:
    """Pair by pair against the shared statistic; and unbiased where two cells are the same."""
    g = made(1, n=9)
    found = g.dissimilarity(np.ones((1, 9)))[0]
    for i, j in itertools.combinations(range(13), 2):
        np.testing.assert_allclose(found[i, j], crossnobis(g.means[:, [i, j]], g.precision), rtol=1e-9)
    twins = np.random.default_rng(0).normal(size=(13, 4))
    twins[1] = twins[0]
    models = [geometry(*scores(twins, 8, 1.0, seed)) for seed in range(100)]
    runs = [g.on(g.scenarios, CELLS).dissimilarity(np.ones((1, 8)))[0] for g in models]
    between = np.array([r[0, 1] for r in runs])
    assert abs(between.mean()) < 4 * between.std() / math.sqrt(100)
    assert np.mean([r[0, 2] for r in runs]) > 10 * between.std() / math.sqrt(100)


def test_distances_do_not_depend_on_the_units_and_directions_of_the_axes() -> None:
    """Any invertible map of the scores gives the same distances: axes may be correlated and have units of their own."""
    values, index = scores(np.random.default_rng(1).normal(size=(13, 4)), 10, 0.5, 1)
    turned = values @ np.random.default_rng(2).normal(size=(4, 4)) + 5
    one, other = (geometry(v, index).dissimilarity(np.ones((1, 10))) for v in (values, turned))
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_rho_is_spearmans() -> None:
    """Against SciPy on the upper triangles; scenarios that lack a cell are left out."""
    values, index = scores(np.random.default_rng(4).normal(size=(13, 4)), 12, 0.5, 4)
    a, b = geometry(values[:-1], index[:-1]), made(5, n=11)
    assert len(a.scenarios) == 11
    above = np.triu_indices(13, 1)
    one, other = (g.dissimilarity(np.ones((1, 11)))[0][above] for g in (a, b))
    np.testing.assert_allclose(similarity(a, b).rho, sps.spearmanr(one, other).statistic)


def test_a_model_is_as_similar_to_itself_as_can_be() -> None:
    """ρ is 1, halves reach their ceiling exactly, and no gap is left."""
    found = similarity(made(1), made(1))
    np.testing.assert_allclose([found.rho, found.gap.estimate, found.gap.low, found.gap.high], [1, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(found.rho_halves, found.ceiling_low)
    assert found.ceiling_low < found.ceiling_high <= 1
    assert found.p < 0.001


def test_the_same_geometry_with_other_noise_reaches_the_ceiling_and_another_does_not() -> None:
    """The gap's interval holds 0 for one and lies above 0 for the other."""
    same, other = similarity(made(1), made(1, draw=1)), similarity(made(1), made(2))
    assert same.gap.contains(0)
    assert other.gap.low > 0
    assert other.p > 0.001


def test_too_little_in_common_is_said() -> None:
    """Five scenarios, or too few cells."""
    assert similarity(made(1, n=5), made(2)).reason == "5 scenarios with 13 cells are shared, 6 with 5 are needed"
    few = made(2)
    assert "24 scenarios with 4 cells" in similarity(few.on(few.scenarios, CELLS[:4]), few).reason


def test_noise_has_no_geometry() -> None:
    """Models that do not agree with themselves are not called alike or different."""
    found = similarity(*(geometry(*scores(np.zeros((13, 4)), 24, 1.0, seed)) for seed in (1, 2)))
    assert not found.valid
    assert "hardly agrees with itself" in found.reason


def test_mantels_p_is_the_share_of_orders_that_agree_as_well() -> None:
    """Against all 120 orders of five cells; and 5 % of unrelated distances are significant."""
    rng = np.random.default_rng(3)

    def distances(n: int) -> Floats:
        x = rng.normal(size=(n, 3))
        return np.linalg.norm(x[:, None] - x[None], axis=-1)

    a, b = distances(5), distances(5)
    above = np.triu_indices(5, 1)
    observed = sps.spearmanr(a[above], b[above]).statistic
    orders = [np.ix_(p, p) for p in itertools.permutations(range(5))]
    all_of_them = [sps.spearmanr(a[above], b[o][above]).statistic >= observed - 1e-12 for o in orders]
    assert abs(mantel(a, b, draws=99_999) - np.mean(all_of_them)) < 0.005
    rejected = [mantel(distances(8), distances(8), draws=199, seed=k) <= 0.05 for k in range(400)]
    assert abs(np.mean(rejected) - 0.05) < 0.035


# --- results -------------------------------------------------------------------------------------------------------


def no_scores(_: ResultCard) -> Any:
    """For results of suites whose geometry is not looked at."""
    raise AssertionError("not wanted")


def measured(model: str, shift: float = 0.0, **changes: Any) -> ResultCard:
    """A result on shocks with 24 scenarios."""
    x, _ = drawn(np.random.default_rng(1), 24, shift)
    facts = {k: changes.pop(k) for k in ("tuned_from", "stage") if k in changes}
    made = card(model, of(x, se_axes=0.01), of(x / 2, name="shock_absorption"), **changes)
    return replace(made, model={**made.model, **facts})


def test_models_are_found_by_name_and_commit() -> None:
    """In the order asked for; unknown and doubtful names are errors that say what there is."""
    twice = [measured("m/a"), measured("m/a", commit="beef00000000"), measured("m/b"), measured("m/c")]
    assert [r.model["name"] for r in chosen(twice, ["M/C", "m/b"])] == ["m/c", "m/b"]
    assert [r.commit for r in chosen(twice, ["m/a@beef0000", "m/b"])] == ["beef00000000", "c0ffee00c0ffee00"]
    with pytest.raises(ResultError, match="several commits: name one of m/a@beef0000, m/a@c0ffee00"):
        chosen(twice, ["m/a", "m/b"])
    with pytest.raises(UnknownName, match=r"unknown measured model 'm/bb': did you mean m/b"):
        chosen(twice, ["m/c", "m/bb"])
    for asked in (["m/b"], ["m/b", "m/b"], []):
        with pytest.raises(ResultError, match="two to 6 different models"):
            chosen(twice, asked)


def test_models_without_a_common_suite_are_not_compared() -> None:
    """One line says who has what."""
    other = measured("b", suite="retention@1.0.0", design="retention")
    with pytest.raises(ResultError, match=r"a has shock@1.0.0; b has retention@1.0.0"):
        compare([measured("a"), other], no_scores)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"suite_hash": "ffff"}, "different versions of the suite"),
        ({"fit": {"reference_hash": "x"}}, "axes of different references"),
    ],
)
def test_what_cannot_be_paired_is_shown_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    """Other items or other axes are no pairs."""
    found = compare([measured("a"), measured("b", **changes)], no_scores)
    assert len(found.differences) == 2
    assert all(reason in d.reason for d in found.differences)


def test_a_tuned_model_has_its_shift_tuned_minus_base() -> None:
    """Whatever the order of the names, over stages in between too, and only for such pairs."""
    sft = measured("tulu-3-8b-sft", 0.0)
    rl = measured("tulu-3-8b", 1.0, tuned_from="tulu-3-8b-dpo")
    found = compare([sft, rl, measured("x", 3.0)], no_scores)
    assert {(d.first, d.second) for d in found.shifts} == {("tulu-3-8b", "tulu-3-8b-sft")}
    np.testing.assert_allclose([d.interval.estimate for d in found.shifts], [1.0, 0.5])
    there = [d for d in found.differences if "x" not in (d.first, d.second)]
    assert [d.p_holm for d in there] == [d.p_holm for d in found.shifts]
    assert compare([rl, sft], no_scores).shifts == compare([sft, rl], no_scores).shifts
    assert not compare([sft, measured("x")], no_scores).shifts


def test_the_profile_shows_half_the_difference_to_each_side() -> None:
    """Of two models; the error of each is its own."""
    found = compare([measured("a", 0.0), measured("b", 0.6)], no_scores)
    d = found.differences[0]
    row = profile_rows(found)[0]
    np.testing.assert_allclose([row.places["a"].estimate, row.places["b"].estimate], [d.d[0] / 2, -d.d[0] / 2])
    x = np.array(list(found.results[0].traits[0].per_cluster.values()))
    se = math.sqrt(x.var(ddof=1) / 24 + 0.01**2) / d.sd
    np.testing.assert_allclose(row.places["a"].se, se)


def test_the_reference_is_not_compared() -> None:
    """It is what the axes come from: its traits are in no difference and in no profile."""
    results = [measured("a"), measured("b", 0.6)]
    found = compare([*results, *(replace(r, suite="reference@1", design="reference") for r in results)], no_scores)
    alone = compare(results, no_scores)
    assert [(d.trait, d.suite) for d in found.differences] == [(d.trait, d.suite) for d in alone.differences]
    assert [r.title for r in profile_rows(found)] == [r.title for r in profile_rows(alone)]


# --- the page ------------------------------------------------------------------------------------------------------

HOSTILE = (
    "<script>alert(1)</script>|x",
    "../../etc/passwd",
    "[a](javascript:b) `c` $x_1$",
    "a\nb </td> & | --- |",
    "x" * 300,
    "模型 ünï",
)


@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
def test_hostile_names_stay_text_and_in_their_folder(tmp_path: Path) -> None:
    """On the page, in the figure and as a file name."""
    found = compare([measured(n, 0.3 * i, tuned_from=HOSTILE[0]) for i, n in enumerate(HOSTILE)], no_scores)
    written = write(found, tmp_path / "reports")
    assert len(written) == 4
    assert all(p.is_file() and p.resolve().is_relative_to(tmp_path / "reports") for p in written)
    assert all(re.fullmatch(r"[\w.@+-]+", p.name, re.ASCII) and len(p.name) < 200 for p in written)
    html = written[1].read_text("utf-8")
    assert html.count("<script>") == 1
    assert "javascript:b)`" not in re.sub(r">[^<]*<", "><", html)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    reader = MarkdownIt("commonmark").enable("table")
    reader.validateLink = lambda _: True  # type: ignore[method-assign]
    for token in reader.parse(written[0].read_text("utf-8")):
        kinds = {c.type for c in token.children or []}
        assert token.type != "html_block"
        assert not kinds & {"html_inline", "link_open"}


def test_names_that_would_share_a_file_do_not() -> None:
    """Plain names stay as they are; others are told apart by a hash."""
    assert file_name(["phantom/a", "b-1.5"]) == "compare-phantom--a-vs-b-1.5"
    assert len({file_name([n, "b"]) for n in ("a b", "a_b", "a\tb", "x" * 300, "x" * 301)}) == 5


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    """Page and figure; another number gives another page."""

    def page(shift: float, folder: str) -> dict[str, bytes]:
        found = compare([measured("a"), measured("b", shift)], no_scores)
        return {p.name: p.read_bytes() for p in write(found, tmp_path / folder)}

    first = page(0.1, "one")
    assert first == page(0.1, "two")
    assert all(first[name] != text for name, text in page(0.2, "three").items())


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """A file where a folder should be."""
    (tmp_path / "reports").write_text("")
    with pytest.raises(ResultError, match="cannot write"):
        write(compare([measured("a"), measured("b")], no_scores), tmp_path / "reports")


# --- phantoms ------------------------------------------------------------------------------------------------------

PHANTOMS = ("phantom/neutral", "phantom/joyful", "phantom/gloomy")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three phantoms on the shortened circumplex and a few shocks."""
    folder = tmp_path_factory.mktemp("phantoms")
    run(PHANTOMS, [get_suite("reference"), shortened()[0], get_suite("shock").limited(8)], folder)
    return folder


def test_phantoms_differ_where_they_were_made_to(output: Path, cli: Cli) -> None:
    """In the offset of neutral text, each from each and in the planted order; in dampening, in which nothing was
    planted, none from another; and their geometries agree more between the biased and the unbiased than between
    opposite moods."""
    done = cli("compare", *PHANTOMS, "--output", output, "--json")
    assert done.code == 0, done.err
    rows = {(d["trait"], d["first"][8:], d["second"][8:]): d for d in done.json["differences"]}
    offsets = {pair[1:]: d for pair, d in rows.items() if pair[0] == "neutral_offset"}
    assert len(offsets) == 3
    for d in offsets.values():
        assert d["verdict"] == "different"
        assert np.sign(d["interval"]["estimate"]) == np.sign(d["planted"])
    assert {d["verdict"] for pair, d in rows.items() if pair[0] == "dampening"} <= {"equivalent", "undecided"}
    alike = {(s["first"][8:], s["second"][8:]): s for s in done.json["similarities"]}
    assert alike["joyful", "gloomy"]["rho_halves"] < min(
        alike["neutral", o]["rho_halves"] for o in ("joyful", "gloomy")
    )
    assert all(s["p"] < 0.01 and s["ceiling_low"] <= s["ceiling_high"] for s in alike.values())


def test_the_command_shows_writes_and_refuses(output: Path, cli: Cli, tmp_path: Path) -> None:
    """The table on the terminal, the page beside it, one line for each mistake."""
    done = cli("compare", *PHANTOMS[:2], "--output", output)
    page = output / "reports" / "compare-phantom--neutral-vs-phantom--joyful.md"
    assert done.code == 0
    assert done.out.rstrip().endswith(str(page))
    assert "Neutral offset" in done.out
    assert "different" in page.read_text("utf-8")
    before = page.read_bytes()
    assert cli("compare", *PHANTOMS[:2], "--output", output).code == 0
    assert page.read_bytes() == before
    unknown = cli("compare", PHANTOMS[0], "phantom/joyfull", "--output", output)
    assert (unknown.code, unknown.err.count("\n")) == (1, 1)
    assert "did you mean phantom/joyful" in unknown.err
    assert "no results under" in cli("compare", "a", "b", "--output", tmp_path).err
    assert cli("compare", *PHANTOMS[:2], "--output", output, "--margin", "0").code == 2


def test_a_larger_margin_makes_more_equivalent(output: Path) -> None:
    """At ten SD everything that does not differ is equivalent."""
    results = load_results(output)
    store = ResultStore(output / "results")
    found = compare(chosen(results, PHANTOMS), store.scores, margin=10.0)
    assert {d.verdict for d in found.differences if d.trait == "dampening"} == {"equivalent"}
    assert all(d.needed is None for d in found.differences if d.trait == "dampening")


def test_beside_a_phantom_models_are_compared_on_what_it_reads(output: Path) -> None:
    """A model that was scored on all items is estimated on those with emotion words: as if it had never read others."""
    store = ResultStore(output / "results")
    results = chosen(load_results(output), PHANTOMS[:2])
    truth = compare(results, store.scores)
    mine = [r for r in results if r.model["name"] == PHANTOMS[1] and r.subset == "keyworded"]
    wide = [replace(r, subset="all", traits=[]) if r in mine else r for r in results]
    assert wide != results
    found = compare(wide, store.scores)
    assert repr(found.differences) == repr(truth.differences)
    assert found.similarities == truth.similarities
    assert len(profile_rows(found)) == len(profile_rows(truth))


def test_everything_fits_into_a_terminal(output: Path, cli: Cli) -> None:
    """Of a hundred columns, also with three models and a trait that cannot be compared."""
    for models in (PHANTOMS, PHANTOMS[:2]):
        out = cli("compare", *models, "--output", output).out
        assert max(len(line) for line in out.splitlines() if "/reports/" not in line) <= 100
        assert all(trait in out for trait in ("Default share", "Valence gain asymmetry", "Shock absorption"))


# --- the axes of another -------------------------------------------------------------------------------------------

#: One frame: the same words. `loud` has twice the response and twice the noise.
FRAME = {
    "base": PhantomSpec("base", "", seed=2),
    "dampened": PhantomSpec("dampened", "", seed=2, role_gain=0.4),
    "loud": PhantomSpec("loud", "", seed=2, gain=2.0, noise=0.6),
}


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    """The three measured."""
    store = ResultStore(tmp_path_factory.mktemp("frame") / "results")
    suites = [get_suite("reference"), get_suite("circumplex").limited(24), get_suite("shock").limited(8)]
    for spec in FRAME.values():
        evaluate(load(get_model(spec)), suites, store=store)
    return store


def results_of(store: ResultStore, name: str) -> tuple[list[ResultCard], AffectFit]:
    """Results and axes of one of them."""
    own = [r for r in stored_results(store.root) if r.model["name"] == f"phantom/{name}"]
    fit = store.fit(f"phantom/{name}", own[0].commit, own[0].fit["reference"])
    assert fit is not None
    return own, fit


def shifted(store: ResultStore, name: str) -> OnAxes:
    """One of them on the axes of the base."""
    (base, fit), (_, own) = results_of(store, "base"), results_of(store, name)
    model, session = load(get_model(FRAME[name])), Session()

    def read(r: ResultCard) -> Any:
        limit = r.suite.partition("~limit")[2]
        suite = get_suite(r.suite.partition("@")[0]).limited(int(limit))
        return from_projections(session.project(model, suite, fit), fit)

    return on_axes((name, "base"), base, fit, read, store.scores, own=own)


def response(store: ResultStore, name: str) -> float:
    """Mean response to the emotions of the circumplex on a phantom's own axes, in neutral SD of its own."""
    cards, fit = results_of(store, name)
    (card,) = (r for r in cards if r.design == "circumplex")
    scores = store.scores(card)
    rows = scores.index.assign(**dict(zip(scores.names, scores.values[:, fit.layer.point].T, strict=True)))
    rows = rows[rows["keyworded"]].set_index("item")
    emotional = rows[rows["twin"] != ""]
    found = [row[row["emotion"]] - rows.loc[row["twin"], row["emotion"]] for _, row in emotional.iterrows()]
    return float(np.mean(found))


def test_on_its_own_axes_a_model_is_what_it_is(frame: ResultStore) -> None:
    """Read again on the axes that it was measured on, nothing differs."""
    found = shifted(frame, "base")
    assert found.gain is not None
    np.testing.assert_allclose(list(found.cosines.values()), 1.0)
    np.testing.assert_allclose([found.gain.ratio.estimate, found.gain.ratio.low, found.gain.ratio.high], 1, rtol=1e-6)
    np.testing.assert_allclose(found.gain.model, response(frame, "base"), rtol=1e-6)
    assert {d.verdict for d in found.differences if d.valid} <= {"equivalent", "undecided"}
    np.testing.assert_allclose([d.interval.estimate for d in found.differences if d.valid], 0, atol=1e-5)


def test_in_one_frame_own_and_base_axes_agree(frame: ResultStore) -> None:
    """A dampened twin of the base: the same axes, the same response as user, and .6 of it taken away as assistant."""
    found = shifted(frame, "dampened")
    assert found.gain is not None
    assert min(found.cosines.values()) > 0.99
    np.testing.assert_allclose(found.gain.ratio.estimate, 1.0, rtol=1e-3)
    on_base = {d.trait: d for d in found.differences}
    cards = comparable(chosen(stored_results(frame.root), ["phantom/dampened", "phantom/base"]), frame)
    own = {d.trait: d for d in compare(cards, frame.scores).differences}
    assert on_base.keys() == own.keys()
    for name in ("dampening", "separability", "neutral_offset", "valence_gain_asymmetry"):
        assert on_base[name].interval.contains(own[name].interval.estimate), name
    np.testing.assert_allclose(on_base["dampening"].interval.estimate, 0.6, atol=0.02)
    assert on_base["dampening"].verdict == "different"


def test_another_size_shows_on_the_axes_of_the_base_alone(frame: ResultStore) -> None:
    """Twice the response and twice the noise: on axes of its own nothing is to be seen of it, on those of the base the
    gain is two, in base units."""
    found = shifted(frame, "loud")
    assert found.gain is not None
    own = response(frame, "loud") / response(frame, "base")
    assert abs(own - 1) < 0.2
    np.testing.assert_allclose(found.gain.ratio.estimate, 2.0, rtol=0.03)
    assert found.gain.ratio.low > 1.8
    np.testing.assert_allclose(found.gain.base, response(frame, "base"), rtol=1e-6)
    np.testing.assert_allclose(found.gain.model / found.gain.base, found.gain.ratio.estimate)


def test_a_model_is_read_in_its_own_format_and_in_the_plain_one() -> None:
    """The plain one is that of models without a template, which have no other; the model itself is left as it is."""
    model, said = load("phantom/neutral"), [Turn(role="user", content="We met.")]
    assert [form for form, _ in forms(model, plain=False)] == ["chat"]
    own, plain = (found for _, found in forms(model, plain=True))
    assert own is model
    assert render_text(said, plain.tokenizer) == "User: We met.\n\n"
    assert render_text(said, model.tokenizer) != render_text(said, plain.tokenizer)
    assert [form for form, _ in forms(plain, plain=True)] == ["plain"]


def test_the_command_reads_models_on_the_axes_of_another(output: Path, cli: Cli, tmp_path: Path) -> None:
    """On the terminal, as data and on the page; one line for each mistake."""
    asked = ("compare", *PHANTOMS[:2], "--output", output, "--to", tmp_path / "page", "--axes-of")
    done = cli(*asked, PHANTOMS[0], "--json")
    assert done.code == 0, done.err
    (found,) = done.json["on_axes"]
    assert (found["model"], found["base"], found["form"]) == (*PHANTOMS[1::-1], "chat")
    assert {d["first"] for d in found["differences"]} == {PHANTOMS[1]}
    assert abs(found["gain"]["ratio"]["estimate"] - 1) < 0.2
    (page,) = (tmp_path / "page").glob("*.md")
    assert "## On the axes of the base model, chat format" in page.read_text("utf-8")
    for wrong, said in (
        (("phantom/gloomy",), "name one of the compared models"),
        ((PHANTOMS[0], "--plain"), "read no plain format"),
    ):
        failed = cli(*asked, *wrong)
        assert (failed.code, said in failed.err) == (1, True), failed.err
    assert cli(*asked[:-1], "--plain").code == 2


def test_axes_have_no_place_in_another_shape(output: Path, cli: Cli, tmp_path: Path) -> None:
    """One line says what both are, before anything is loaded."""
    shutil.copytree(output / "results", tmp_path / "results")
    for path in (tmp_path / "results").glob("phantom--joyful/*/*/card.json"):
        path.write_text(path.read_text("utf-8").replace('"d_model": 80', '"d_model": 96'), "utf-8")
    failed = cli("compare", *PHANTOMS[:2], "--output", tmp_path, "--axes-of", PHANTOMS[0])
    assert (failed.code, failed.err.count("\n")) == (1, 1)
    assert "phantom/joyful (qwen2 with 6 blocks of width 96) has no place for the axes of phantom/neutral" in failed.err
