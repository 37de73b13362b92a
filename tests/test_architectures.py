"""Every causal language model that the installed transformers knows, at tiny size: certified, or refused with a reason.

A transformers upgrade that breaks a family, or brings one that cannot be built or certified, fails here.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from llmct_bench.adapters import AdapterCertificate, Check, coverage
from llmct_bench.adapters.architectures import CONTRIBUTIONS, REFUSED
from llmct_bench.adapters.checks import model_checks
from llmct_bench.adapters.coverage import NOT_DECODERS, Coverage, model_types, page, sweep
from llmct_bench.adapters.resolve import resolve
from llmct_bench.adapters.tiny import BLOCKS, VOCABULARY, tiny
from llmct_bench.cli import app
from llmct_bench.models.cards import find_models

#: Types whose default configuration needs a package that is not a dependency.
NEEDS_MORE = {"gemma3n": "timm"}


@pytest.fixture(scope="module")
def rows() -> dict[str, Coverage]:
    """The sweep, once."""
    return {row.model_type: row for row in sweep()}


@pytest.mark.parametrize("model_type", model_types())
def test_type_is_certified_or_refused_with_a_reason(model_type: str, rows: dict[str, Coverage]) -> None:
    row = rows[model_type]
    if model_type in NOT_DECODERS:
        assert (row.status, row.reason) == ("not a decoder", NOT_DECODERS[model_type])
    elif model_type in REFUSED:
        assert (row.status, row.reason) == ("refused", REFUSED[model_type])
    elif model_type in NEEDS_MORE and row.status == "not built":
        assert NEEDS_MORE[model_type] in row.reason
    else:
        assert row.status == "certified", row.reason
        assert {"resid"} <= set(row.points)


def test_at_least_145_types_and_95_per_cent_of_the_built_are_certified(rows: dict[str, Coverage]) -> None:
    status = [row.status for row in rows.values()]
    built = sum(status.count(s) for s in ("certified", "failed", "refused"))
    assert status.count("certified") >= 145
    assert status.count("certified") >= 0.95 * built


def test_families_of_the_registry_have_a_split(rows: dict[str, Coverage]) -> None:
    split = {kind for kind, row in rows.items() if "attn" in row.points}
    assert {"qwen2", "qwen3", "llama", "mistral", "gemma2", "gemma3_text", "phi3", "olmo2", "smollm3", "gpt2"} <= split
    assert {"gpt_neox", "opt", "falcon", "bloom", "granite", "mixtral", "qwen3_moe", "qwen3_next", "lfm2"} <= split
    assert not {"mamba", "mamba2", "falcon_h1", "rwkv"} & split


def test_every_model_of_the_registry_is_of_a_certified_type(rows: dict[str, Coverage]) -> None:
    kinds = {card.model_type for card in find_models() if card.model_type}
    assert len(kinds) > 15
    assert {kind: rows[kind].status for kind in kinds} == dict.fromkeys(kinds, "certified")


def test_no_check_is_quietly_left_out(rows: dict[str, Coverage]) -> None:
    """Where a check does not apply, that is a fact of the architecture, and these are few."""
    absent: dict[str, set[str]] = {}
    for kind, row in rows.items():
        for check in row.certificate.checks if row.certificate else ():
            if check.error is None:
                assert check.note
                absent.setdefault(check.name, set()).add(kind)
    assert absent.pop("left padding") == {"recurrent_gemma", "rwkv", "xlstm"}
    assert absent.pop("lens") == absent.pop("final norm") == {"gemma3n_text"}
    without_split = absent.pop("closure")
    assert not without_split & set(CONTRIBUTIONS)
    assert not absent


@pytest.mark.parametrize("model_type", [t for t in model_types() if t not in {*NOT_DECODERS, *REFUSED, *NEEDS_MORE}])
def test_blocks_are_those_whose_outputs_transformers_records(model_type: str) -> None:
    """A second opinion on which modules are the blocks: the class that transformers itself watches for its hidden
    states, where it names one. Types with blocks of several kinds name one of them or a base class."""
    module = tiny(model_type)
    adapter = resolve(module)
    recorded = getattr(adapter.decoder, "_can_record_outputs", None) or {}
    named = recorded.get("hidden_states")
    named = getattr(named, "target_class", named)
    if not isinstance(named, type):
        pytest.skip("transformers names no class for this type")
    assert any(isinstance(block, named) for block in adapter.blocks)
    inside = {module for block in adapter.blocks for module in block.modules()}
    assert all(module in inside for module in adapter.decoder.modules() if type(module) is named)


@pytest.mark.parametrize(
    "model_type",
    [
        "qwen2",
        "qwen3",
        "llama",
        "gemma2",
        "gemma3_text",
        "mistral",
        "phi3",
        "olmo2",
        "smollm3",
        "gpt2",
        "gpt_neox",
        "opt",
        "falcon",
        "granite",
        "mixtral",
        "mamba",
    ],
)
def test_a_dozen_families_pass_in_half_precision(model_type: str) -> None:
    made = AdapterCertificate(tuple(model_checks(resolve(tiny(model_type).bfloat16()), VOCABULARY)))
    assert made.passed, made.failures()
    assert 0 < made.floor < 3e-2 or model_type in ("gemma2", "falcon", "mamba")  # one kernel for every batch


def test_tiny_models_are_small_and_repeat() -> None:
    one, two = (tiny("llama").state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert len(resolve(tiny("llama")).blocks) == BLOCKS
    assert sum(tensor.numel() for tensor in one.values()) < 200_000


# --- the page -------------------------------------------------------------------------------------------------


def test_page_shows_every_type_once_with_its_reason(rows: dict[str, Coverage]) -> None:
    text = page(list(rows.values()))
    for kind, row in rows.items():
        assert text.count(f"| `{kind}` ") == 1
        assert row.reason.replace("|", "\\|")[:60] in text
    assert f"**{sum(r.status == 'certified' for r in rows.values())} model types certified**" in text


def test_page_of_a_failed_type_says_which_check_by_how_much() -> None:
    made = AdapterCertificate((Check("lens", 0.25, 1e-5), Check("edit", math.inf, 1e-5, "RuntimeError: a | b")))
    text = page([Coverage("odd", "failed", made.failures(), "Block", ("resid",), made)])
    assert "lens: 0.25 > 1e-05" in text
    assert "a \\| b" in text


# --- the command ----------------------------------------------------------------------------------------------


def test_command_writes_the_page(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["models", "architectures", "qwen2", "bert", "--to", str(tmp_path / "a" / "b.md")])
    assert done.exit_code == 0, done.output
    assert "1 certified, 1 not a decoder" in done.output
    assert "`qwen2`" in (tmp_path / "a" / "b.md").read_text(encoding="utf-8")


def test_command_knows_no_such_type() -> None:
    done = CliRunner().invoke(app, ["models", "architectures", "qwen2", "gpt5"])
    assert done.exit_code == 2
    assert "gpt5" in done.output


def test_command_fails_where_a_type_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "model_checks", lambda adapter, vocabulary: [Check("lens", 0.5, 1e-5)])
    done = CliRunner().invoke(app, ["models", "architectures", "qwen2"])
    assert done.exit_code == 1
    assert "lens: 0.5 > 1e-05" in done.output
