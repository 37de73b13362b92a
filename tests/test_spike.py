"""Spikes of known size: closed forms, transformers' own forward with a hook of this file's own, and planted traits."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as t
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmct_bench import LoadedModel, Suite, get_suite, load, scan, wrap
from llmct_bench.adapters import Adapter, Point
from llmct_bench.affect import AffectFit, fit_affect
from llmct_bench.calibration import levels
from llmct_bench.calibration import spike as spiking
from llmct_bench.calibration.plants import PLANTS, Plant, PlantedTrait, plant_traits, planted_doses
from llmct_bench.calibration.response import spike_in
from llmct_bench.calibration.spike import Spike, random_vectors, shared_out, steppable, unit_vectors
from llmct_bench.calibration.study import METHOD
from llmct_bench.emotions import NAMES
from llmct_bench.errors import ModelError
from llmct_bench.models import phantom_tokenizer
from llmct_bench.scanner import Batch, Rendered, render, scan_projected, separate_plan
from llmct_bench.suites import Item, Turn

MODELS = ("llama", "gpt2", "phantom/zero-emotion")
BLOCKS = {"llama": "model.layers", "gpt2": "transformer.h", "phantom/zero-emotion": "model.layers"}


@cache
def loaded(name: str) -> LoadedModel:
    """A phantom, or a small random model that reads the phantoms' words."""
    if name.startswith("phantom/"):
        return load(name)
    tokenizer = phantom_tokenizer()
    torch.manual_seed(1)
    if name == "llama":
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
        config: Any = t.LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=4096, **sizes)
    else:
        config = t.GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=3, n_head=4, n_positions=1024)
    module = t.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return wrap(module, tokenizer, name)


@cache
def fit(name: str) -> AffectFit:
    return fit_affect(scan(loaded(name), get_suite("reference")))


@cache
def suite(design: str = "shock", scenarios: int = 6) -> Suite:
    return get_suite(design).limited(scenarios)


@cache
def rendered(name: str) -> Rendered:
    return render(suite(), loaded(name).tokenizer, loaded(name).context)


def axes(name: str, point: int) -> np.ndarray:
    return fit(name).directions[point].astype(np.float64)


def unit(name: str, point: int) -> np.ndarray:
    return unit_vectors(axes(name, point)[: len(NAMES)], steppable(fit(name).references[point]))


def values(name: str, spike: Spike, budget: int | None = None) -> np.ndarray:
    """Projections under a spike (n_readouts, n_points, n_scores)."""
    own = fit(name)
    return scan_projected(
        loaded(name), suite(), own.directions, own.references, budget=budget, edit=spike.edit()
    ).values


@cache
def unspiked(name: str) -> np.ndarray:
    n, d = len(rendered(name).readouts), loaded(name).adapter.d_model
    return values(name, Spike(Point("resid", 0), np.zeros((n, 1)), np.zeros((1, d))))


# --- vectors --------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 999), k=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_independent_directions_have_a_dual_basis(seed: int, k: int) -> None:
    """<u_e, direction_f> = 1 for e = f, else 0, and no part outside of their span, which is what makes it shortest."""
    rows = np.random.default_rng(seed).normal(size=(k, 12))
    u = unit_vectors(rows)
    assert np.allclose(rows @ u.T, np.eye(k), atol=1e-9)
    outside = u - u @ np.linalg.pinv(rows) @ rows
    assert np.abs(outside).max() < 1e-9


@given(seed=st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_four_axes_of_three_dimensions(seed: int) -> None:
    """Directions whose weighted sum is zero (as differences from a common mean are): the closed form -n_e n_f / (1 -
    n_e^2), and no vector that moves e by 1 moves the others less."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.5, 2.0, 4)
    rows = rng.normal(size=(4, 12))
    rows[3] = -(weights[:3] @ rows[:3]) / weights[3]
    n = weights / np.linalg.norm(weights)
    u = unit_vectors(rows.astype(np.float32))  # as they are stored: the dependence is exact to rounding only
    wanted = -np.outer(n, n) / (1 - n**2)  # [f, e]
    np.fill_diagonal(wanted, 1.0)
    assert np.allclose(rows @ u.T, wanted, atol=1e-4)
    others = np.delete(rows @ u[0], 0)
    for _ in range(20):
        v = u[0] + 0.3 * rng.normal(size=12)
        v = v / (rows[0] @ v)
        assert np.linalg.norm(np.delete(rows @ v, 0)) >= np.linalg.norm(others) - 1e-4


def test_massive_dimensions_are_left_alone() -> None:
    """In float32 a value of 4000 cannot take up a step of 1e-4."""
    references = np.ones((4, 10), np.float32)
    references[2, 3] = -4000.0
    where = steppable(references)
    assert where.tolist() == [True] * 3 + [False] + [True] * 6
    rows = np.random.default_rng(0).normal(size=(3, 10))
    assert not unit_vectors(rows, where)[:, 3].any()
    assert np.allclose(rows @ unit_vectors(rows, where).T, np.eye(3))
    drawn = random_vectors(rows, 2.5, 30, (0,), where)
    assert not drawn[:, 3].any()
    assert np.allclose(np.linalg.norm(drawn, axis=1), 2.5)
    assert np.abs(rows @ drawn.T).max() < 1e-12
    assert np.array_equal(drawn, random_vectors(rows, 2.5, 30, (0,), where))
    assert not np.allclose(drawn, random_vectors(rows, 2.5, 30, (1,), where))


def test_an_emotion_without_an_axis_is_named() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 10))
    rows[2] = 0.0
    with pytest.raises(ModelError, match="no axis"):
        unit_vectors(rows)


def test_levels_are_shared_out_evenly() -> None:
    index = pd.DataFrame({"scenario": ["b"] * 24 + ["a"] * 36 + ["c"] * 13})
    levels = shared_out(index, 12, seed=3)
    counts = [np.bincount(levels[index["scenario"] == s], minlength=12) for s in "bac"]
    assert counts[0].tolist() == [2] * 12
    assert counts[1].tolist() == [3] * 12
    assert counts[2].min() >= 1
    assert counts[2].max() <= 2
    assert levels[:24].tolist() != sorted(levels[:24].tolist())


# --- the passes ------------------------------------------------------------------------------------------------------


def test_every_readout_has_a_row_of_its_own() -> None:
    """Also the same text twice, and a text that begins another one."""
    found = rendered("llama").readouts
    twice = [*found[:40], found[3], replace(found[5], tokens=found[5].tokens[: found[5].stop])]
    for budget in (1, 300, 10**6):
        plan = separate_plan(twice, budget)
        places = []
        for batch in plan.batches:
            assert not batch.segments
            assert len(batch.reads) == len(batch.rows)
            assert len(batch.rows) == 1 or batch.width * len(batch.rows) <= budget
            flat = [x for row in batch.rows for x in (*row, *[None] * (batch.width - len(row)))]
            for row, read in enumerate(batch.reads):
                r = twice[read.index]
                assert batch.rows[row] == r.tokens
                ((start, stop),) = read.pieces
                assert start - row * batch.width == r.start
                assert tuple(flat[start:stop]) == r.tokens[r.start : r.stop]
                assert read.last == row * batch.width + len(r.tokens) - 1
                places.append(read.index)
        assert sorted(places) == list(range(len(twice)))
        assert plan.tokens == plan.separate == sum(len(r.tokens) for r in twice)


@torch.inference_mode()
def by_hand(name: str, n: int, point: int, step: np.ndarray) -> np.ndarray:
    """Mean states (n_points, d_model) of readout n, in a pass of its own through transformers' forward, with ``step``
    added to its content tokens by a plain hook behind a block."""
    model, readout = loaded(name), rendered(name).readouts[n]
    found: dict[int, Tensor] = {}
    blocks = model.module.get_submodule(BLOCKS[name])

    def behind(i: int) -> Any:
        def hook(module: Any, args: Any, output: Any) -> Any:
            value = (output[0] if isinstance(output, tuple) else output).clone()
            if i + 1 == point:
                value[0, readout.start : readout.stop] += torch.from_numpy(step.astype(np.float32))
            found[i + 1] = value[0, readout.start : readout.stop].double().mean(dim=0)
            return (value, *output[1:]) if isinstance(output, tuple) else value

        return hook

    handles = [block.register_forward_hook(behind(i)) for i, block in enumerate(blocks)]
    try:
        model.module(input_ids=torch.tensor([readout.tokens]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([found[i + 1] for i in range(len(blocks))]).numpy()


@pytest.mark.parametrize("name", MODELS)
def test_a_spiked_scan_is_transformers_own_forward_with_a_step(name: str) -> None:
    """Each readout with a dose of its own, both roles, rows of several lengths side by side, all later points."""
    index = rendered(name).index
    n, point = len(index), 2
    doses = np.random.default_rng(0).normal(size=(n, len(NAMES))) * 3
    found = values(name, Spike(Point("resid", point), doses, unit(name, point)), budget=2048)
    assert set(index["role"].iloc[::37]) == {"user", "assistant"}
    for i in range(0, n, 37):
        states = by_hand(name, i, point, doses[i] @ unit(name, point))
        own = np.einsum("pd,pkd->pk", states, fit(name).directions[1:].astype(np.float64))
        scale = np.abs(states).max() * np.abs(fit(name).directions).max()
        assert np.abs(found[i, 1:] - own).max() < 2e-5 * scale
        assert np.abs(found[i, point:] - unspiked(name)[i, point:]).max() > 0.1


def tiny_suite(*conversations: tuple[str, ...]) -> Suite:
    """Conversations, user and assistant in turn, whose messages of the user are all read."""
    items = []
    for i, texts in enumerate(conversations):
        turns = tuple(Turn(role=("user", "assistant")[k % 2], content=text) for k, text in enumerate(texts))  # type: ignore[arg-type]
        reads = tuple(range(0, len(texts), 2))
        items.append(Item(id=f"{i}", scenario=f"{i}", emotion="joy", intensity=1, messages=turns, reads=reads))
    return replace(suite(), items=tuple(items))


def test_readouts_that_share_tokens_have_doses_of_their_own() -> None:
    """The same text twice, texts with the same beginning, and messages of one conversation: a dose moves its own
    readout only, also where a message that is dosed in one readout stands in the context of another."""
    model, own = loaded("llama"), fit("llama")
    shown = tiny_suite(
        ("I was in the house", "I was in the car", "I was there"), ("I was in the house",), ("I was in the car and",)
    )
    found = render(shown, model.tokenizer, model.context)
    assert [r.stop - r.start for r in found.readouts] == [5, 3, 5, 6]
    assert found.readouts[0].tokens == found.readouts[2].tokens
    doses = np.array([1.0, 0.0, -2.0, 0.0])
    vectors = unit("llama", 1)[:1]

    def run(doses: np.ndarray) -> np.ndarray:
        edit = Spike(Point("resid", 1), doses[:, None], vectors).edit()
        return scan_projected(model, shown, own.directions, own.references, edit=edit).values

    shift = run(doses) - run(0 * doses)
    assert shift[:, 1, 0] == pytest.approx(doses, abs=1e-5)
    assert np.abs(shift[[1, 3]]).max() == 0.0
    assert np.abs(shift[[0, 2], 3]).max(axis=1).min() > 1e-3


def test_readouts_keep_their_doses_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    doses = np.random.default_rng(2).normal(size=(len(rendered("llama").readouts), len(NAMES)))
    spike = Spike(Point("resid", 1), doses, unit("llama", 1))
    wanted, run, refused = values("llama", spike), Adapter.run, []
    middle = sorted(len(r.tokens) for r in rendered("llama").readouts)[len(doses) // 2]

    def small(self: Adapter, ids: Tensor, *args: Any, **inputs: Any) -> None:
        if ids.numel() > 900 and ids.shape[1] > middle:  # the shorter half is through when memory runs out
            refused.append(ids.shape)
            raise torch.OutOfMemoryError("planted")
        run(self, ids, *args, **inputs)

    monkeypatch.setattr(Adapter, "run", small)
    found = values("llama", spike, budget=3000)
    assert len(refused) > 1
    assert np.allclose(found, wanted, atol=1e-4)


# --- recovered against planted --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_what_is_planted_where_it_is_read_is_recovered(name: str) -> None:
    """Slope 1 and intercept 0 to rounding, in every score, role and dose; nothing before the spike moves at all; and
    random directions without a share of the axes move no score where they are planted, but do further on."""
    first, last = int(name != "gpt2"), loaded(name).adapter.n_layers
    found = spike_in(loaded(name), suite(), fit(name), points=(first, last))
    assert set(found.errors) == {first, last}
    for p in found.errors:
        assert found.errors[p] < 1e-4
        assert found.before[p] == 0.0
        for emotion in (*NAMES, "all"):
            r = found.response(p, p, emotion)
            assert r.slope.estimate == pytest.approx(1.0, abs=1e-5)
            assert max(abs(r.slope.low - 1), abs(r.slope.high - 1)) < 1e-5
            assert abs(r.intercept.estimate) < 1e-5
            assert r.r2 == pytest.approx(1.0, abs=1e-9)
            assert r.slope.n_clusters == 6
    at, later = ([u for u in found.random if (u.planted, u.read) == (first, q)] for q in (first, last))
    assert max(u.largest for u in at) < 1e-5
    assert max(u.largest for u in later) > 1e-3
    assert all(u.mean.n_clusters >= 20 for u in at)
    with pytest.raises(KeyError):
        found.response(last, 0)


def test_the_default_points_end_at_the_layer_of_the_fit() -> None:
    own = fit("llama")
    own = replace(own, layer=replace(own.layer, point=3))
    found = spike_in(loaded("llama"), suite(), own)
    assert sorted(found.errors) == [1, 3]
    assert found.point == 3
    assert {(r.planted, r.read) for r in found.responses} == {(1, 1), (1, 2), (1, 3), (3, 3)}


@pytest.mark.parametrize("name", MODELS)
def test_transmission_of_a_phantom_and_of_random_models(name: str) -> None:
    """Blocks 3 and 4 of a phantom carry the stream on unchanged; a random block does not."""
    points = (3, 5) if name.startswith("phantom") else (1, 2)
    slope = spike_in(loaded(name), suite(), fit(name), points=points[:1]).response(*points).slope
    if name.startswith("phantom"):
        assert slope.estimate == pytest.approx(1.0, abs=1e-4)
    else:
        assert slope.excludes(1.0)


def test_twice_the_dose_moves_twice_as_far() -> None:
    doses = np.random.default_rng(1).normal(size=(len(rendered("llama").readouts), len(NAMES)))
    one, two = (values("llama", Spike(Point("resid", 1), c * doses, unit("llama", 1))) for c in (1.0, 2.0))
    plain = unspiked("llama")
    assert np.allclose((two - plain)[:, 1], 2 * (one - plain)[:, 1], atol=2e-5)
    assert np.abs((two - plain)[:, 3] - 2 * (one - plain)[:, 3]).max() > 1e-3  # blocks are not linear


def test_a_step_across_all_directions_moves_no_score_where_it_is_made() -> None:
    n = len(rendered("gpt2").readouts)
    across = random_vectors(axes("gpt2", 1), 1.0, 1, (0,))
    shift = values("gpt2", Spike(Point("resid", 1), np.ones((n, 1)), across)) - unspiked("gpt2")
    assert np.abs(shift[:, 1]).max() < 2e-5
    assert np.abs(shift[:, 2]).max() > 0.1


class OneTokenLate(Spike):
    """Adds the step one token further on."""

    def _add(self, batch: Batch, value: Tensor) -> Tensor:
        late = tuple(replace(r, pieces=tuple((a + 1, b + 1) for a, b in r.pieces)) for r in batch.reads)
        return super()._add(replace(batch, reads=late), value)


class Whole(Spike):
    """Adds the doses of the first readout to every token of the batch."""

    def _add(self, batch: Batch, value: Tensor) -> Tensor:
        step = self.doses[batch.reads[0].index] @ self.vectors
        return value + torch.from_numpy(step.astype(np.float32))


@pytest.mark.parametrize("broken", [OneTokenLate, Whole])
def test_a_step_in_the_wrong_place_is_found(broken: type[Spike], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spiking, "Spike", broken)
    found = spike_in(loaded("llama"), suite(), fit("llama"), points=(1,))
    assert found.errors[1] > 0.05
    assert abs(found.response(1, 1).slope.estimate - 1) > 0.02


# --- planted traits ---------------------------------------------------------------------------------------------------


def by_trait(found: list[PlantedTrait]) -> dict[tuple[str, str], PlantedTrait]:
    return {(p.plant, p.trait): p for p in found}


#: The closed forms: 0.3; half of 1, 2, 3 neutral SD on average; the mean of 2^(-k/6) over the lags from 8 on; 6.
TRUTH = {
    ("dampened", "dampening"): 0.3,
    ("dampened", "shock_absorption"): 0.0,
    ("absorbing", "dampening"): 0.0,
    ("absorbing", "shock_absorption"): 1.0,
    ("fading", "tail_retention"): (2 ** (-8 / 6) + 2**-2 + 2 ** (-16 / 6) + 2**-4) / 4,
    ("fading", "half_life"): 6.0,
}


@pytest.mark.parametrize("name", ["llama", "gpt2", "phantom/zero-emotion", "phantom/dampened"])
def test_planted_traits_of_a_shock_are_recovered(name: str) -> None:
    """Without the model's own response exactly, with it as an exact scan would give it; where there is no own response
    but that of the words, the interval holds the truth."""
    found = by_trait(plant_traits(loaded(name), [suite("shock", 8)], fit(name)))
    assert set(found) == {k for k in TRUTH if k[0] != "fading"}
    for key, p in found.items():
        assert p.planted == pytest.approx(TRUTH[key])
        assert p.alone == pytest.approx(TRUTH[key], abs=1e-5)
        assert p.recovered.valid, p.recovered.reason
        assert p.recovered.estimate == pytest.approx(p.expected, abs=1e-4)
    own = found["dampened", "dampening"].recovered
    if name == "phantom/zero-emotion":
        assert own.low <= 0.3 <= own.high
        assert own.high - own.low < 0.5


def test_planted_fading_is_recovered() -> None:
    found = by_trait(plant_traits(loaded("phantom/zero-emotion"), [suite("retention", 6)], fit("phantom/zero-emotion")))
    assert set(found) == {k for k in TRUTH if k[0] == "fading"}
    for key, p in found.items():
        assert p.planted == pytest.approx(TRUTH[key])
        assert p.alone == pytest.approx(TRUTH[key], rel=1e-4)
        assert p.recovered.low <= TRUTH[key] <= p.recovered.high
        assert p.recovered.estimate == pytest.approx(p.expected, rel=1e-4)


def test_doses_follow_the_rows_and_a_wrong_factor_is_found() -> None:
    index = rendered("llama").index
    plant = PLANTS[0]
    doses = planted_doses(plant, index)
    assert doses.shape == (len(index), len(NAMES))
    for i, row in index.iterrows():
        wanted = row["intensity"] * (0.7 if row["role"] == "assistant" else 1.0)
        assert doses[i, NAMES.index(row["emotion"])] == pytest.approx(wanted)
        assert np.count_nonzero(doses[i]) == (wanted > 0)

    def stronger(row: Any) -> float:
        return row.intensity * (0.75 if row.role == "assistant" else 1.0)

    wrong = Plant("dampened", "shock", stronger, plant.truth)
    found = by_trait(plant_traits(loaded("llama"), [suite()], fit("llama"), plants=[wrong]))
    assert abs(found["dampened", "dampening"].alone - 0.3) > 0.04


def test_a_suite_that_cannot_be_read_has_invalid_traits(monkeypatch: pytest.MonkeyPatch) -> None:
    own = fit("llama")
    monkeypatch.setattr(loaded("llama").module.config, "max_position_embeddings", 8)
    found = plant_traits(loaded("llama"), [suite(), suite("retention", 6), suite("circumplex")], own)
    assert len(found) == 6
    assert all(not p.recovered.valid and "context 8 tokens" in p.recovered.reason for p in found)
    with pytest.raises(ModelError, match="can read none"):
        spike_in(loaded("llama"), suite(), own)


def test_a_study_of_another_method_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies there for the same method, model, commit and size is kept; nothing else is, nor a torn file."""
    model, path = loaded("llama"), tmp_path / "spikes.json"
    about = {"method": METHOD, "model": model.card.name, "commit": model.commit, "scenarios": 6}

    class MadeAgain(Exception):
        pass

    def spiked(*_: Any) -> None:
        raise MadeAgain

    monkeypatch.setattr(levels, "spike_in", spiked)
    path.write_text(json.dumps({**about, "lines": [], "traits": []}))
    assert levels.spike_study(model, fit("llama"), path, 6)["lines"] == []
    other = [
        json.dumps({**about, k: v}) for k, v in {"method": 0, "model": "x", "commit": "x", "scenarios": 12}.items()
    ]
    for text in (*other, '{"method"'):
        path.write_text(text)
        with pytest.raises(MadeAgain):
            levels.spike_study(model, fit("llama"), path, 6)
