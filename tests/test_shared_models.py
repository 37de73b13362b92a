"""Two trained checkpoints with licences that allow it, where the shared folder holds them: real weights, a context
of 64 tokens (craftgpt) and a model without a chat template (stories260k)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from llmct_bench import LoadedModel, LoadOptions, certify, get_suite, load
from llmct_bench.scanner import render

ROOT = Path(__file__).resolve().parent.parent
MODELS = Path(os.environ.get("LLMCT_SHARED") or ROOT / ".." / "shared") / "models"
FINAL_NORM = {"craftgpt": "transformer.ln_f", "stories260k": "model.norm"}
CONTEXT = {"craftgpt": 64, "stories260k": 512}


@pytest.fixture(params=FINAL_NORM, scope="module")
def model(request: pytest.FixtureRequest) -> LoadedModel:
    folder = MODELS / request.param
    if not (folder / "config.json").is_file():
        pytest.skip(f"no {request.param} in the shared folder: set LLMCT_SHARED to the folder that holds models/")
    return load(str(folder), LoadOptions(device="cpu", offline=True))


def test_loads_by_path_and_passes_the_certificate(model: LoadedModel) -> None:
    certificate = certify(model)
    assert certificate.passed, certificate.failures()
    assert "closure" in {c.name for c in certificate.checks}
    assert (model.card.source, model.dtype) == ("local", "float32")
    assert model.context == CONTEXT[model.card.name]


@torch.inference_mode()
def test_states_equal_output_hidden_states(model: LoadedModel) -> None:
    ids = torch.tensor([model.tokenizer("Once upon a time there was a little dog.").input_ids])
    adapter, found = model.adapter, {}
    with adapter.reading(adapter.residual_points(), lambda i, value: found.__setitem__(i, value.clone())):
        adapter.run(ids)
    own = model.module(input_ids=ids, output_hidden_states=True).hidden_states
    norm = model.module.get_submodule(FINAL_NORM[model.card.name])
    assert len(found) == len(own) == model.module.config.num_hidden_layers + 1
    for i, expected in enumerate(own):
        value = norm(found[i]) if i == len(own) - 1 else found[i]
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_what_cannot_be_read_is_left_out_and_never_cut(model: LoadedModel) -> None:
    suite = get_suite("circumplex").limited(3)
    rendered = render(suite, model.tokenizer, model.context)
    kept = len(rendered.readouts)
    assert kept + len(rendered.left_out) == sum(len(i.reads) for i in suite.items)
    assert all(len(r.tokens) <= model.context for r in rendered.readouts)
    for readout, name in zip(rendered.readouts, rendered.index["item"], strict=True):
        (item,) = (i for i in suite.items if i.id == name)
        text = model.tokenizer.decode(readout.tokens[readout.start : readout.stop])
        last_word = item.messages[-1].content.split()[-1].strip(".").lower()
        assert last_word in text.lower()
