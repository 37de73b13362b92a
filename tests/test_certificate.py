"""The adapter certificate: every check catches the fault that it is there for, and no intact model fails one; how a
certificate is written, read back, and used in a run."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn

from llmct_bench import LoadedModel, benchmark, certify, evaluate, evaluation, get_suite, load, wrap
from llmct_bench.adapters import (
    CHECKS,
    Adapter,
    AdapterCertificate,
    Check,
    Point,
    adapter,
    certificate_subject,
    checks_text,
    comparing,
    loaded,
    packing,
    resolve,
    subject_key,
)
from llmct_bench.adapters.architectures import Contributions
from llmct_bench.adapters.chat import content_span, encode, render_text
from llmct_bench.adapters.checks import branch_check, model_checks
from llmct_bench.adapters.checks_text import text_checks
from llmct_bench.adapters.tiny import VOCABULARY, tiny
from llmct_bench.errors import ModelError, ResultError
from llmct_bench.models.phantoms.tokenizer import build_tokenizer, split_words
from llmct_bench.results import ResultStore
from llmct_bench.suites import Turn

TEXT = ("start token", "spans")
MODEL = tuple(name for name in CHECKS if name not in TEXT)
#: The checks of states that were read with the fault, as opposed to those of edits and of what is left behind.
READ = {"states", "final norm", "lens", "closure", "batching", "left padding", "generation"}


def made(model_type: str = "qwen2") -> Adapter:
    """The adapter of a tiny model of its own."""
    return resolve(tiny(model_type))


def certified(subject: Adapter) -> AdapterCertificate:
    """The certificate of a tiny model, without a tokenizer."""
    return AdapterCertificate(tuple(model_checks(subject, VOCABULARY)))


def failed(subject: Adapter) -> set[str]:
    """The names of the required checks that fail."""
    return {c.name for c in certified(subject).checks if c.required and not c.passed}


def planted(kind: type[Adapter], subject: Adapter, **changes: Any) -> Adapter:
    """The same adapter with the methods of a broken class."""
    return kind(**{f.name: getattr(subject, f.name) for f in dataclasses.fields(subject)} | changes)


def hooked(subject: Adapter, path: str, change: Callable[[Tensor], Tensor]) -> Adapter:
    """A fault in the model itself: a module, found from its second block, returns something else."""
    module = subject.blocks[1].get_submodule(path)
    module.register_forward_hook(lambda _, args, out: change(out))
    return subject


# --- intact models ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2", "gemma2", "cohere", "granite", "gpt2", "gpt_neo", "gemma3n_text"])
def test_an_intact_model_passes_every_check(name: str) -> None:
    """Each model that a fault is planted in below. Exact checks have an error of zero."""
    found = certified(made(name))
    assert found.passed, found.failures()
    assert tuple(c.name for c in found.checks) == MODEL
    exact = {c.name: c.error for c in found.checks if c.name in ("finite", "identity patch", "removal", "hooks")}
    assert exact == {"finite": 0.0, "identity patch": 0.0, "removal": 0.0, "hooks": 0.0}
    assert {c.name for c in found.checks if c.error is None} == (
        {"final norm", "lens", "closure"} if name == "gemma3n_text" else set()
    )


def test_the_checks_do_not_change_the_model() -> None:
    """Hooks, weights and logits are what they were."""
    subject, ids = made(), torch.arange(5, 25).unsqueeze(0)
    with torch.inference_mode():  # transformers keeps recording hooks of its own from the first time on
        before = subject.module(input_ids=ids, output_hidden_states=True).logits
        hooks = comparing.count_hooks(subject.module)
        weights = {k: v.clone() for k, v in subject.module.state_dict().items()}
        assert failed(subject) == set()
        assert torch.equal(subject.module(input_ids=ids).logits, before)
    assert comparing.count_hooks(subject.module) == hooks
    assert all(torch.equal(weights[k], v) for k, v in subject.module.state_dict().items())


# --- the wrong places -------------------------------------------------------------------------------------------


def shifted(by: int) -> Adapter:
    """The blocks in another order: resid 0 is the input of block 1, or of the last one."""
    subject = made()
    return dataclasses.replace(subject, blocks=(*subject.blocks[by:], *subject.blocks[:by]))


@pytest.mark.parametrize("by", [1, -1])
def test_an_adapter_off_by_one_layer(by: int) -> None:
    assert failed(shifted(by)) == {"states", "final norm", "lens", "closure", "edit"}


def test_a_first_block_that_is_left_out() -> None:
    """All that is left is right in itself; only transformers' own states tell that one is missing."""
    subject = made()
    assert failed(dataclasses.replace(subject, blocks=subject.blocks[1:])) == {"states"}


def test_a_last_block_that_is_left_out() -> None:
    """Transformers' hidden states do not show the last one before the norm: what enters the norm does."""
    subject = made()
    short = dataclasses.replace(subject, blocks=subject.blocks[:-1])
    assert failed(short) == {"final norm", "lens", "edit"}


def test_a_last_block_that_is_left_out_where_no_module_takes_the_last_state() -> None:
    """The donor patch is what stands in for the final norm and the lens in such models."""
    subject = made("gemma3n_text")
    assert failed(dataclasses.replace(subject, blocks=subject.blocks[:-1])) == {"donor patch"}


class Outputs(Adapter):
    """Takes the output of block i for its input, as a reader does who counts blocks from one."""

    def _attach(self, i: int, point: Point, reader: Any, shape: Any) -> Any:
        last = point.kind != "resid" or point.layer == self.n_layers
        return super()._attach(i, point if last else Point("resid", point.layer + 1), reader, shape)


def test_outputs_of_blocks_taken_for_their_inputs() -> None:
    assert failed(planted(Outputs, made())) == {"states", "closure", "edit", "identity patch"}


class RowZero(Adapter):
    """Takes ``out[0]`` of every output, as if it were a tuple: row 0 of a tensor."""

    def _attach(self, i: int, point: Point, reader: Any, shape: Any) -> Any:
        if point == Point("resid", 0):
            return super()._attach(i, point, reader, shape)
        return self._module(point).register_forward_hook(lambda _, args, out: reader(i, self.taken(out)))

    def taken(self, out: Tensor) -> Tensor:
        return out[0]


class RowZeroForAll(RowZero):
    """The same, spread over the batch, so that the shape tells nothing."""

    def taken(self, out: Tensor) -> Tensor:
        return out[0].expand_as(out)


@pytest.mark.parametrize("kind", [RowZero, RowZeroForAll])
def test_a_tensor_taken_for_a_tuple(kind: type[Adapter]) -> None:
    """All that is left is that states are numbers and that no hook stays. Row 0 for all rows is compared with itself
    in the generation, and only there."""
    wanted = {*READ, "identity patch", "edit", "donor patch"}
    assert failed(planted(kind, made())) == wanted - ({"generation"} if kind is RowZeroForAll else set())


class PostNorm(Adapter):
    """Takes the state after the final norm for the last point."""

    def _module(self, point: Point) -> nn.Module:
        assert self.final
        return self.final[-1] if point == Point("resid", self.n_layers) else super()._module(point)


@pytest.mark.parametrize("split", [True, False])
def test_a_state_after_the_final_norm_taken_for_the_last_one(split: bool) -> None:
    subject = planted(PostNorm, made())
    if not split:
        subject = dataclasses.replace(subject, contributions=None)
    assert failed(subject) == {"final norm", "lens", "edit"} | ({"closure"} if split else set())


def test_a_norm_that_is_not_the_final_one() -> None:
    subject = made()
    other = subject.blocks[-1].get_submodule("input_layernorm")
    assert failed(dataclasses.replace(subject, final=(other,))) == {"final norm", "lens", "edit"}


def test_a_final_norm_that_was_not_found() -> None:
    assert failed(dataclasses.replace(made(), final=())) == {"final norm", "lens"}


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("qwen2", ("input_layernorm", "mlp.down_proj")),
        ("qwen2", ("self_attn.o_proj", "post_attention_layernorm")),
        ("gemma2", ("self_attn.o_proj", "mlp.down_proj")),  # what is added is the norm's output
        ("gpt_neo", ("attn.attention.out_proj", "mlp.c_fc")),  # of another width
    ],
)
def test_a_wrong_contribution_path(name: str, paths: tuple[str, str]) -> None:
    subject = dataclasses.replace(made(name), contributions=Contributions(*paths))
    assert failed(subject) == {"closure", "edit"}


def test_outputs_that_hold_the_residual_already() -> None:
    subject = dataclasses.replace(made("bloom"), contributions=Contributions("self_attention", "mlp"))
    assert failed(subject) == {"closure", "edit"}


def test_a_missing_residual_multiplier() -> None:
    assert failed(dataclasses.replace(made("granite"), scale=1.0)) == {"closure", "edit"}


@pytest.mark.parametrize("name", ["gemma2", "cohere", "granite"])
def test_what_the_architecture_does_to_its_logits_left_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A soft cap, a logit scale, and logits that are divided by one."""
    subject = made(name)
    monkeypatch.setattr(adapter, "LOGITS", ())
    assert failed(subject) == {"lens"}


# --- the model itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", range(3))
def test_nan_in_one_layer(block: int) -> None:
    """The last block's output is the one that transformers does not show before the norm."""
    subject = made()
    subject.blocks[block].register_forward_hook(lambda _, args, out: torch.full_like(out, math.nan))
    found = {c.name: c for c in certified(subject).checks}
    names = READ | {"finite", "edit", "donor patch", "identity patch", "removal"}
    assert {n for n, c in found.items() if c.required and not c.passed} == names - ({"states"} if block == 2 else set())
    # of 3 x 24 tokens of width 64: all residual, attention and MLP states from there on, and the final norm
    assert found["finite"].error == 3 * 24 * 64 * (3 * (2 - block) + 2)


def test_one_infinity() -> None:
    def plant(out: Tensor) -> Tensor:
        out = out.clone()
        out[-1, -1, 5] = math.inf
        return out

    others = {"finite", "edit", "donor patch", "identity patch", "removal"}
    assert failed(hooked(made(), "mlp.down_proj", plant)) == READ | others


class NoPositions(Adapter):
    """Left padding with a mask only."""

    def run_left_padded(self, input_ids: Tensor, lengths: Sequence[int]) -> None:
        width = input_ids.shape[1]
        mask = torch.stack([(torch.arange(width) >= width - n).long() for n in lengths])
        self.run(input_ids, attention_mask=mask)


class NoMask(Adapter):
    """Left padding with positions and a mask that lets everything through."""

    def run_left_padded(self, input_ids: Tensor, lengths: Sequence[int]) -> None:
        width = input_ids.shape[1]
        places = torch.stack([(torch.arange(width) - width + n).clamp_min(0) for n in lengths])
        self.run(input_ids, attention_mask=torch.ones_like(input_ids), position_ids=places)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo"])
def test_left_padding_without_positions(name: str) -> None:
    found = {c.name: c for c in certified(planted(NoPositions, made(name))).checks if c.required and not c.passed}
    assert list(found) == ["left padding"]
    assert found["left padding"].error > 0.05


def test_left_padding_without_a_mask() -> None:
    assert failed(planted(NoMask, made())) == {"left padding"}


def test_states_that_depend_on_what_follows() -> None:
    """A block that adds the mean over all positions is not causal. An edit then also moves what lies before it."""
    subject = hooked(made(), "mlp.down_proj", lambda out: out + out.mean(1, keepdim=True))
    assert failed(subject) == {"batching", "left padding", "generation", "edit"}


def test_states_that_depend_on_the_width_of_the_pass() -> None:
    subject = hooked(made(), "mlp.down_proj", lambda out: out + 0.01 * out.shape[1])
    assert failed(subject) == {"batching", "left padding", "generation"}


def test_states_that_depend_on_the_batch() -> None:
    """Generation is compared with a pass over the same rows, so it cannot see this one."""
    subject = hooked(made(), "mlp.down_proj", lambda out: out + out.mean(0, keepdim=True))
    assert failed(subject) == {"batching", "left padding", "edit"}


def test_states_that_depend_on_the_place_in_the_batch() -> None:
    subject = hooked(made(), "mlp.down_proj", lambda out: out + torch.arange(len(out)).view(-1, 1, 1))
    assert failed(subject) == {"batching", "left padding"}


def test_a_cache_that_gives_other_states() -> None:
    """A pass over one token is a step with the cache."""
    subject = hooked(made(), "mlp.down_proj", lambda out: out + 0.01 if out.shape[1] == 1 else out)
    assert failed(subject) == {"generation"}


def test_dropout() -> None:
    """Not even repeated logits are equal; all that is measured on states fails, and nothing passes as exact."""
    subject = made("gpt2")
    subject.module.train()
    assert failed(subject) >= READ | {"edit", "donor patch"}


@pytest.mark.parametrize("length", [7, 11])
def test_nan_for_one_row_of_a_length_alone(length: int) -> None:
    """A row that is NaN alone and fine in a batch depends on the batch."""

    def plant(out: Tensor) -> Tensor:
        return torch.full_like(out, math.nan) if out.shape[:2] == (1, length) else out

    assert "batching" in failed(hooked(made(), "mlp.down_proj", plant))


# --- edits ------------------------------------------------------------------------------------------------------


class Editor(Adapter):
    """Edits as the adapter does at outputs that are tensors, with a place for a fault. Nothing else is replaced, so
    that it is the fault which is found."""

    @contextmanager
    def editing(self, point: Point, edit: Any) -> Iterator[None]:
        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
            return (self.fault(args[0], edit, point), *args[1:]), kwargs

        def after(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            return self.fault(out, edit, point)

        if point == Point("resid", 0):
            handle = self.blocks[0].register_forward_pre_hook(before, with_kwargs=True)
        else:
            handle = self._module(point).register_forward_hook(after)
        try:
            yield
        finally:
            handle.remove()

    def fault(self, value: Tensor, edit: Any, point: Point) -> Tensor:
        return edit(value)


class NoEdit(Editor):
    """The edit is computed and lost."""

    def fault(self, value: Tensor, edit: Any, point: Point) -> Tensor:
        edit(value)
        return value


class CloneEdit(Editor):
    """The edit is written into a copy."""

    def fault(self, value: Tensor, edit: Any, point: Point) -> Tensor:
        value.clone().copy_(edit(value))
        return value


class LeaksIntoRows(Editor):
    """What is added to row 0 is added to every row."""

    def fault(self, value: Tensor, edit: Any, point: Point) -> Tensor:
        new = edit(value)
        return torch.cat([new[:1], new[1:] + (new - value)[:1]])


class LeaksBackwards(Editor):
    """What is added at a token is added to the one before it too."""

    def fault(self, value: Tensor, edit: Any, point: Point) -> Tensor:
        change = edit(value) - value
        return value + change + torch.cat([change[:, 1:], torch.zeros_like(change[:, :1])], 1)


class LeaksForwards(Editor):
    """What is added at a token stays for all that follow."""

    def fault(self, value: Tensor, edit: Any, point: Point) -> Tensor:
        return value + (edit(value) - value).cumsum(1)


class HalfEdit(Editor):
    """Goes only half of the way."""

    def fault(self, value: Tensor, edit: Any, point: Point) -> Tensor:
        return value + (edit(value) - value) / 2


def test_the_editor_without_a_fault_passes() -> None:
    """So what the classes above are found for is their fault."""
    assert failed(planted(Editor, made())) == set()


@pytest.mark.parametrize("kind", [NoEdit, CloneEdit, LeaksIntoRows, LeaksBackwards, LeaksForwards, HalfEdit])
def test_an_edit_that_does_not_arrive_or_leaks(kind: type[Adapter]) -> None:
    """The identity patch cannot tell: it changes nothing by right. Sums in floating point do not give the donor's
    last bits, but they come within the tolerance of its logits, except where the change leaks."""
    assert failed(planted(kind, made())) - {"identity patch"} == {"edit", "donor patch"}


class LateSpan(Adapter):
    """Steers one token further on."""

    def steer(self, point: Point, direction: Tensor, spans: Any = None) -> Any:
        return super().steer(point, direction, spans and [(row, start + 1, stop + 1) for row, start, stop in spans])


class EarlySpan(Adapter):
    """Steers one token too early as well."""

    def steer(self, point: Point, direction: Tensor, spans: Any = None) -> Any:
        return super().steer(point, direction, spans and [(row, start - 1, stop) for row, start, stop in spans])


class NextRow(Adapter):
    """Steers another row."""

    def steer(self, point: Point, direction: Tensor, spans: Any = None) -> Any:
        return super().steer(point, direction, spans and [(row + 1, start, stop) for row, start, stop in spans])


class OneLayerLate(Adapter):
    """Edits resid i at the next block."""

    def editing(self, point: Point, edit: Any) -> Any:
        later = point.kind == "resid" and point.layer < self.n_layers
        return super().editing(Point("resid", point.layer + 1) if later else point, edit)


@pytest.mark.parametrize("kind", [LateSpan, EarlySpan, NextRow])
def test_spans_of_an_edit_that_are_wrong(kind: type[Adapter]) -> None:
    assert failed(planted(kind, made())) == {"edit"}


def test_an_edit_at_the_next_block() -> None:
    assert failed(planted(OneLayerLate, made())) == {"edit", "identity patch"}


class LastBit(Adapter):
    """Puts the next number up in the place of each: within every tolerance, but not the same."""

    def patch(self, point: Point, value: Tensor, spans: Any = None) -> Any:
        return super().patch(point, torch.nextafter(value, torch.full_like(value, math.inf)), spans)


def test_an_identity_patch_that_changes_the_last_bit() -> None:
    assert failed(planted(LastBit, made())) == {"identity patch"}


class LastBitInTheMiddle(LastBit):
    """The same at one point, before the last."""

    def patch(self, point: Point, value: Tensor, spans: Any = None) -> Any:
        return super().patch(point, value, spans) if point == Point("resid", 1) else Adapter.patch(self, point, value)


def test_an_identity_patch_that_changes_the_last_bit_in_the_middle() -> None:
    assert failed(planted(LastBitInTheMiddle, made())) == {"identity patch"}


class Rounded(Adapter):
    """Patches through half precision."""

    def patch(self, point: Point, value: Tensor, spans: Any = None) -> Any:
        return super().patch(point, value.half().float(), spans)


def test_a_patch_through_half_precision() -> None:
    assert failed(planted(Rounded, made())) == {"identity patch", "donor patch"}


class NoLastPatch(Adapter):
    """Patches everywhere but at the last point."""

    def patch(self, point: Point, value: Tensor, spans: Any = None) -> Any:
        nothing = [] if point == Point("resid", self.n_layers) else spans
        return super().patch(point, value, nothing)


def test_a_donor_patch_that_does_not_arrive() -> None:
    assert failed(planted(NoLastPatch, made())) == {"donor patch"}


class NoEditAt(Editor):
    """Edits everywhere but at points of one kind."""

    kind = ""

    def fault(self, value: Tensor, edit: Any, point: Point) -> Tensor:
        return value if point.kind == self.kind else edit(value)


class NoAttn(NoEditAt):
    kind = "attn"


class NoMlp(NoEditAt):
    kind = "mlp"


class NoNorm(NoEditAt):
    kind = "final_norm"


@pytest.mark.parametrize("kind", [NoAttn, NoMlp, NoNorm])
def test_edits_of_one_kind_that_do_not_arrive(kind: type[Adapter]) -> None:
    assert "edit" in failed(planted(kind, made()))


class Unscaled(Adapter):
    """Edits contributions without their multiplier: what is read and what is edited are not the same."""

    def editing(self, point: Point, edit: Any) -> Any:
        scale = self._scale(point)
        return super().editing(point, lambda value: edit(value / scale) * scale)


def test_edits_of_contributions_without_their_multiplier() -> None:
    assert "edit" in failed(planted(Unscaled, made("granite")))


def test_attention_taken_for_the_mlp() -> None:
    subject = dataclasses.replace(made(), contributions=Contributions("mlp.down_proj", "self_attn.o_proj"))
    assert failed(subject)


# --- what is left behind ----------------------------------------------------------------------------------------


class LeavesReader(Adapter):
    """Leaves a hook behind at every reading, which does nothing."""

    def _attach(self, i: int, point: Point, reader: Any, shape: Any) -> Any:
        if i == 0:
            self.module.register_forward_hook(lambda *_: None)
        return super()._attach(i, point, reader, shape)


class LeavesEdit(Adapter):
    """Leaves behind what it steers with, all over the last block."""

    @contextmanager
    def steer(self, point: Point, direction: Tensor, spans: Any = None) -> Iterator[None]:
        if point == Point("resid", self.n_layers):
            self.blocks[-1].register_forward_hook(lambda _, args, out: out + 0.01 * direction)
        with super().steer(point, direction, spans):
            yield


class TakesHook(Adapter):
    """Removes hooks that are not its own."""

    @contextmanager
    def steer(self, point: Point, direction: Tensor, spans: Any = None) -> Iterator[None]:
        with super().steer(point, direction, spans):
            yield
        self.module._forward_hooks.clear()


def test_a_hook_that_is_left_behind() -> None:
    assert failed(planted(LeavesReader, made())) == {"hooks"}


def test_the_number_of_hooks_left_behind_is_told() -> None:
    (found,) = [c for c in certified(planted(LeavesEdit, made())).checks if c.name == "hooks"]
    assert found.error == 1


def test_an_edit_that_is_left_behind() -> None:
    assert failed(planted(LeavesEdit, made())) == {"edit", "removal", "hooks"}


def test_a_hook_of_the_caller_that_is_removed() -> None:
    subject = planted(TakesHook, made())
    subject.module.register_forward_hook(lambda *_: None)
    assert failed(subject) == {"hooks"}


# --- what cannot be carried out ---------------------------------------------------------------------------------


def failing(problem: Exception, when: Callable[[Tensor], bool]) -> Adapter:
    """A model whose second block raises at some passes."""

    def plant(out: Tensor) -> Tensor:
        if when(out):
            raise problem
        return out

    return hooked(made(), "mlp.down_proj", plant)


def test_a_check_that_cannot_be_carried_out_is_a_failed_one_that_says_why() -> None:
    long = "no kernel\n  for a batch of one " + "x" * 200
    found = {c.name: c for c in certified(failing(ValueError(long), lambda out: len(out) == 1)).checks if not c.passed}
    assert list(found) == ["batching", "left padding", "branches"]
    for check in found.values():
        assert check.error == math.inf
        assert check.note.startswith("ValueError: no kernel for a batch of one xxx")
        assert len(check.note) < 140


def test_no_hook_is_left_by_a_check_that_raises() -> None:
    found = certified(failing(ValueError("no"), lambda out: len(out) == 1)).checks
    assert found[-1] == Check("hooks", 0.0)


def test_memory_that_runs_out_is_no_verdict() -> None:
    with pytest.raises(ModelError, match="qwen2: out of memory while it was certified"):
        certified(failing(torch.OutOfMemoryError("CUDA out of memory"), lambda out: len(out) == 1))


def test_memory_that_runs_out_at_the_first_pass() -> None:
    with pytest.raises(ModelError, match="out of memory"):
        certified(failing(torch.OutOfMemoryError("CUDA out of memory"), lambda out: True))


def test_a_model_that_cannot_be_run_is_a_model_error() -> None:
    """Anything else would stop a run over several models."""
    with pytest.raises(ModelError):
        certified(failing(ValueError("no kernel"), lambda out: True))


def test_a_block_that_no_pass_goes_through() -> None:
    subject = made()
    spare = tiny("qwen2").get_decoder().layers[0]  # type: ignore[operator]
    with pytest.raises(ModelError, match=r"qwen2: nothing passed through resid\.3, attn\.2, mlp\.2"):
        certified(dataclasses.replace(subject, blocks=(*subject.blocks[:-1], spare)))


# --- tolerances -------------------------------------------------------------------------------------------------


def test_errors_are_relative_to_the_largest_entry() -> None:
    reference = torch.tensor([2.0, -8.0])
    assert comparing.error(torch.tensor([3.0, -8.0]), reference) == pytest.approx(1 / 8)
    assert comparing.error(reference, reference) == 0.0
    assert comparing.error(reference[:1], reference) == math.inf
    assert comparing.error(torch.tensor([2.0, math.nan]), reference) == math.inf
    assert comparing.error(reference, torch.tensor([2.0, math.nan])) == math.inf
    assert comparing.error(torch.tensor([2.0, math.inf]), torch.tensor([2.0, math.inf])) == math.inf


@pytest.mark.parametrize(("dtype", "wanted"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 3e-2)])
def test_the_tolerance_is_that_of_the_dtype(dtype: torch.dtype, wanted: float) -> None:
    assert comparing.tolerance(nn.Linear(2, 2).to(dtype)) == wanted


def test_quantised_weights_have_the_wide_tolerance() -> None:
    module = nn.Linear(2, 2)
    module.packed = nn.Parameter(torch.zeros(2, dtype=torch.uint8), requires_grad=False)
    assert comparing.tolerance(module) == 3e-2


def stream(*sizes: float, errors: Sequence[float] = (), dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """A stream whose states have these largest entries, and itself with these relative errors."""
    references = [torch.tensor([size, 0.0], dtype=dtype) for size in sizes]
    added = [*errors, *[0.0] * (len(sizes) - len(errors))]
    return [r + torch.tensor([0.0, e * s], dtype=dtype) for r, e, s in zip(references, added, sizes, strict=True)], [
        *references
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("peak", [1.0, 16.0, 4096.0])
def test_a_massive_activation_widens_what_follows(peak: float, dtype: torch.dtype) -> None:
    """By 2 eps (peak / size - 1), from the closed form; what lies before the peak, and other rows, keep theirs."""
    allowed, size = 1e-5, 2.0
    limit = allowed + 2 * torch.finfo(dtype).eps * (peak - 1)
    after = (0.0, 0.0, 0.5 * limit)
    found = comparing.worst("x", [stream(size, peak * size, size, errors=after, dtype=dtype)], allowed)
    assert found.tolerance == pytest.approx(limit)
    assert found.passed
    before = comparing.worst("x", [stream(size, peak * size, size, errors=(2 * allowed,), dtype=dtype)], allowed)
    assert (before.tolerance, before.passed) == (allowed, False)
    rows = [stream(size, peak * size, dtype=dtype), stream(size, errors=(2 * allowed,), dtype=dtype)]
    assert (comparing.worst("x", rows, allowed).tolerance, comparing.worst("x", rows, allowed).passed) == (
        allowed,
        False,
    )


def test_what_is_over_the_widened_tolerance_fails() -> None:
    limit = 1e-5 + 2 * 2.0**-23 * 4095
    passed = [
        comparing.worst("x", [stream(1.0, 4096.0, 1.0, errors=(0, 0, e * limit))], 1e-5).passed for e in (0.99, 1.01)
    ]
    assert passed == [True, False]


def test_half_precision_states_that_turn() -> None:
    """An error of 2 % of the largest entry everywhere, in a state whose largest entry is about four times its spread:
    1 - cosine is near .08 squared over 2, over its tolerance, while the error itself is within."""
    reference = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0)).clamp(-4, 4)
    value = reference + 0.08 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(1)).sign()
    half = comparing.worst("x", [([value.bfloat16()], [reference.bfloat16()])], 3e-2)
    assert not half.passed
    assert half.note.startswith("1 - cosine")
    assert half.error == pytest.approx(0.08**2 / 2, rel=0.1)
    zero = torch.zeros(1, 8, dtype=torch.bfloat16)
    assert comparing.worst("x", [([zero], [zero])], 3e-2).passed


def test_a_stream_of_zeros() -> None:
    assert comparing.worst("x", [stream(0.0, 0.0)], 1e-5).passed


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(1e-3, 1e6), st.floats(0, 3e-3)), min_size=1, max_size=5), min_size=1, max_size=4
    )
)
def test_the_worst_comparison_decides(rows: list[list[tuple[float, float]]]) -> None:
    """Wherever it stands: one that fails if there is one, else the largest error, by a loop over the closed form."""
    pairs = [stream(*(s for s, _ in row), errors=[e for _, e in row]) for row in rows]
    errors, over = [0.0], []
    for values, references in pairs:
        sizes = [float(r[0]) for r in references]
        for i, (value, size) in enumerate(zip(values, sizes, strict=True)):
            limit = 1e-5 + 2 * 2.0**-23 * (max(sizes[: i + 1]) / size - 1)
            errors.append(float(np.float32(value[1]) / np.float32(size)))
            over += [errors[-1]] if errors[-1] > limit * (1 + 1e-4) else []
            assume(not limit * (1 - 1e-4) < errors[-1] <= limit * (1 + 1e-4))
    found = comparing.worst("x", pairs, 1e-5)
    assert found.passed == (not over)
    assert found.error == pytest.approx(max(over or errors), rel=1e-4, abs=1e-9)


# --- the tokenizer ----------------------------------------------------------------------------------------------

TALK = ("It's late. The 7 o'clock train has left!", "Then we walk: it is only a mile.")
ONCE = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} [end]\n{% endfor %}"


def text_tokenizer(template: str | None = ONCE, adds: bool = True) -> transformers.PreTrainedTokenizerFast:
    """A fast tokenizer that puts a start token before every text, as those of many models do."""
    words = {
        w: i for i, w in enumerate(["<s>", "<unk>", *sorted({*split_marks(" ".join(TALK)), "[", "]", "user", "end"})])
    }
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds:
        core.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", unk_token="<unk>", chat_template=template
    )


def split_marks(text: str) -> list[str]:
    return [w for w, _ in pre_tokenizers.Whitespace().pre_tokenize_str(text)]


def text_failed(tokenizer: Any) -> set[str]:
    found = text_checks(tokenizer)
    assert tuple(c.name for c in found) == TEXT
    return {c.name for c in found if not c.passed}


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("template", [ONCE, None])
def test_an_intact_tokenizer_passes(template: str | None, adds: bool) -> None:
    """With a template and in the plain format; with one start token, where it is there at all."""
    tokenizer = text_tokenizer(template, adds)
    assert text_failed(tokenizer) == set()
    (tokens,), _ = encode([render_text([Turn(role="user", content=TALK[0])], tokenizer)], tokenizer)
    assert tokens.count(0) == (template is not None or adds)
    assert tokens[0] == 0 or not adds


def test_the_phantoms_tokenizer_passes() -> None:
    assert text_failed(build_tokenizer(sorted({w for text in TALK for w in split_words(text)}))) == set()


def test_a_start_token_from_the_template_and_one_from_the_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens when the rendered text is tokenised like any other."""

    def naive(texts: Sequence[str], tokenizer: Any) -> Any:
        found = tokenizer(list(texts), return_offsets_mapping=True)
        return found["input_ids"], [np.asarray(o) for o in found["offset_mapping"]]

    tokenizer = text_tokenizer()
    (tokens,), _ = naive([render_text([Turn(role="user", content=TALK[0])], tokenizer)], tokenizer)
    assert tokens[:2] == [0, 0]
    monkeypatch.setattr(checks_text, "encode", naive)
    assert text_failed(tokenizer) == {"start token"}


def test_a_template_that_writes_the_start_token_twice() -> None:
    assert text_failed(text_tokenizer("{{ bos_token }}" + ONCE)) == {"start token"}


def test_a_tokenizer_without_a_start_token() -> None:
    tokenizer = text_tokenizer(ONCE.replace("{{ bos_token }}", ""), adds=False)
    tokenizer.bos_token = None
    start, spans = text_checks(tokenizer)
    assert (start.error, start.note) == (None, "the tokenizer has none")
    assert spans.error == 0


@pytest.mark.parametrize("moved", [(-1, 0), (1, 0), (0, -1), (0, 1), (1, 1), (-1, -1)])
def test_spans_that_are_wrong_by_one_token(moved: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*args: Any) -> tuple[int, int]:
        start, stop = content_span(*args)
        return start + moved[0], stop + moved[1]

    monkeypatch.setattr(checks_text, "content_span", wrong)
    assert text_failed(text_tokenizer()) == {"spans"}


def test_a_text_that_is_found_at_an_earlier_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same text said twice: the span of the second must not be that of the first."""

    def first(text: str, content: str, offsets: Any, where: str) -> tuple[int, int]:
        return content_span(text[: text.find(content) + len(content)], content, offsets, where)

    monkeypatch.setattr(checks_text, "content_span", first)
    assert text_failed(text_tokenizer()) == {"spans"}


def test_a_template_that_changes_the_text_fails_with_the_reason() -> None:
    found = text_checks(text_tokenizer(ONCE.replace("m['content']", "m['content'] | upper")))
    assert [c.passed for c in found] == [False, False]
    assert all("changes the text of 'message 1'" in c.note for c in found)


def test_a_tokenizer_without_offsets_fails_with_the_reason() -> None:
    found = text_checks(SimpleNamespace(is_fast=False))
    assert [c.passed for c in found] == [True, False]
    assert "a fast tokenizer is needed" in AdapterCertificate(tuple(found)).failures()


# --- the certificate as data ------------------------------------------------------------------------------------

some_checks = st.builds(
    Check,
    name=st.text(),
    error=st.none() | st.floats(min_value=0, allow_nan=False),
    tolerance=st.floats(min_value=0, allow_nan=False, allow_infinity=False),
    note=st.text(),
    required=st.booleans(),
)
some_certificates = st.builds(
    AdapterCertificate, st.lists(some_checks, max_size=6).map(tuple), st.dictionaries(st.text(), st.text(), max_size=4)
)


@settings(deadline=None)
@given(some_certificates)
def test_a_certificate_survives_its_json(made: AdapterCertificate) -> None:
    """Infinite errors and checks that do not apply included; the JSON is strict."""
    data = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert AdapterCertificate.from_json(data) == made
    wanted = all(c.error is None or c.error <= c.tolerance for c in made.checks if c.required)
    assert (data["passed"], data["key"]) == (wanted, subject_key(made.subject))
    assert [c["passed"] for c in data["checks"]] == [c.passed for c in made.checks]


def test_the_certificate_of_a_model_that_is_nan_is_strict_json() -> None:
    """The tolerances of checks that compare streams, or repetitions, of NaN are not numbers either."""
    subject = hooked(made(), "mlp.down_proj", lambda out: out * math.nan)
    data = json.loads(json.dumps(certified(subject).to_json(), allow_nan=False))
    assert data["passed"] is False
    assert {c["error"] for c in data["checks"] if c["name"] in ("states", "batching")} == {"inf"}


def test_an_error_that_is_no_number_passes_neither_here_nor_when_read_back() -> None:
    found = AdapterCertificate((Check("x", math.nan, 1.0),))
    assert not found.passed
    assert not AdapterCertificate.from_json(found.to_json()).passed
    assert AdapterCertificate((Check("x", 1.0, 1.0),)).passed


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "text",
        {},
        {"checks": []},
        {"subject": {}},
        {"checks": None, "subject": {}},
        {"checks": {"a": 1}, "subject": {}},
        {"checks": [{}], "subject": {}},
        {"checks": [{"name": "x", "error": "much", "tolerance": 0, "note": "", "required": True}], "subject": {}},
        {"checks": [{"name": "x", "error": [], "tolerance": 0, "note": "", "required": True}], "subject": {}},
        pytest.param(
            {"checks": [], "subject": []},
        ),
    ],
)
def test_what_is_no_certificate_is_refused_as_documented(data: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        AdapterCertificate.from_json(data)


def test_failures_name_the_check_and_by_how_much() -> None:
    found = AdapterCertificate(
        (
            Check("lens", 0.25, 1e-5),
            Check("states", 1e-6, 1e-5),
            Check("closure", None, note="no split"),
            Check("spans", math.inf, 0.0, "why"),
            Check("extra", 1.0, 0.0, required=False),
        )
    )
    assert found.failures() == "lens: 0.25 > 1e-05; spans: inf > 0 (why)"
    assert [str(c) for c in found.checks[1:3]] == ["states: 1e-06 ≤ 1e-05", "closure: does not apply (no split)"]


def test_what_is_not_required_does_not_count() -> None:
    bad = Check("extra", 1.0, 0.0)
    assert AdapterCertificate((dataclasses.replace(bad, required=False),)).passed
    assert not AdapterCertificate((bad,)).passed


def test_the_floor_is_the_error_of_batching() -> None:
    assert AdapterCertificate((Check("lens", 1.0), Check("batching", 3e-7, 1e-5))).floor == 3e-7
    assert AdapterCertificate((Check("lens", 1.0), Check("batching", None))).floor == 0.0
    assert AdapterCertificate(()).floor == 0.0


def test_the_floor_of_bfloat16_is_that_of_bfloat16() -> None:
    """Rounding to eight bits moves states by more than float32 ever does, and by less than the tolerance."""
    plain, coarse = tiny("qwen2"), tiny("qwen2").to(torch.bfloat16)
    floors = [certified(resolve(m)).floor for m in (plain, coarse)]
    assert 0 < floors[0] < 1e-5
    assert 1e-5 < floors[1] < 3e-2


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.text(), min_size=1, max_size=6), st.data())
def test_the_key_is_that_of_the_subject(subject: dict[str, str], data: st.DataObject) -> None:
    """Not of the order in which it is told; and another value of any part gives another key."""
    key = subject_key(subject)
    assert key == subject_key(dict(reversed(subject.items())))
    part = data.draw(st.sampled_from(sorted(subject)))
    assert key != subject_key({**subject, part: subject[part] + "x"})


# --- certificates on file ---------------------------------------------------------------------------------------

FILED = AdapterCertificate(
    (Check("lens", math.inf, 1e-5, "ü"), *(Check(name, None) for name in CHECKS if name != "lens")),
    {"model": "a", "dtype": "b"},
)


def test_a_certificate_comes_back_from_its_file(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    path = store.save_certificate("owner/a", "c0ffee", FILED)
    assert path == tmp_path / "owner--a" / "c0ffee" / f"certificate-{FILED.key}.json"
    assert store.certificate("owner/a", "c0ffee", FILED.key) == FILED
    assert store.certificate("owner/a", "c0ffee", "0" * 16) is None
    assert store.certificate("owner/a", "other", FILED.key) is None


@pytest.mark.parametrize("missing", range(len(CHECKS)))
def test_a_certificate_without_one_of_the_checks_does_not_count(tmp_path: Path, missing: int) -> None:
    short = dataclasses.replace(FILED, checks=FILED.checks[:missing] + FILED.checks[missing + 1 :])
    ResultStore(tmp_path).save_certificate("a", "c", short)
    assert ResultStore(tmp_path).certificate("a", "c", short.key) is None


def test_no_part_of_a_file_is_taken_for_a_certificate(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    path = store.save_certificate("a", "c", FILED)
    whole = path.read_bytes()
    for length in range(len(whole.rstrip())):
        path.write_bytes(whole[:length])
        assert store.certificate("a", "c", FILED.key) is None


def test_a_file_of_another_subject_is_not_taken(tmp_path: Path) -> None:
    """Copied, or edited by hand: the key in the name is not enough."""
    store = ResultStore(tmp_path)
    path = store.save_certificate("a", "c", FILED)
    path.write_text(path.read_text(encoding="utf-8").replace('"dtype": "b"', '"dtype": "d"'), encoding="utf-8")
    assert store.certificate("a", "c", FILED.key) is None


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_certificate_that_cannot_be_written_leaves_the_old_one(
    fault: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = ResultStore(tmp_path)
    path = store.save_certificate("a", "c", FILED)
    before = path.read_bytes()

    def refuse(*_: Any) -> None:
        raise fault

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ResultError if isinstance(fault, OSError) else KeyboardInterrupt):
        store.save_certificate("a", "c", dataclasses.replace(FILED, checks=()))
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before


# --- certificates in a run --------------------------------------------------------------------------------------

NAME = "phantom/neutral"
SUITE = get_suite("circumplex").limited(6)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models on which the checks are run."""
    seen: list[str] = []

    def counted(subject: Adapter, *args: Any) -> list[Check]:
        seen.append(subject.model_type)
        return model_checks(subject, *args)

    monkeypatch.setattr(loaded, "model_checks", counted)
    return seen


class Certified(Exception):
    """The certificate is there; what would be measured is not needed."""


@pytest.fixture
def certificate_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run stops where scoring begins."""

    def stop(*_: Any) -> None:
        raise Certified

    monkeypatch.setattr(evaluation._Job, "_measure", stop)


def broken(name: str = NAME) -> LoadedModel:
    """A phantom whose states depend on the batch (its third MLP is the first that writes something)."""
    model = load(name)
    assert model.adapter.contributions is not None
    mlp = model.adapter.contributions.module(model.adapter.blocks[2], "mlp")
    mlp.register_forward_hook(lambda _, args, out: out + out.mean(0, keepdim=True))
    return model


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_a_certificate_is_filed_beside_the_results_and_made_once(calls: list[str], tmp_path: Path) -> None:
    store, model = ResultStore(tmp_path), load(NAME)
    cards = evaluate(model, [SUITE], store=store)
    assert len(calls) == 1
    (path,) = tmp_path.rglob("certificate-*.json")
    assert path.parent == store.place(NAME, model.commit, SUITE.key).parent
    assert path.name == f"certificate-{subject_key(certificate_subject(model))}.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["passed"]
    assert [c["name"] for c in data["checks"]] == list(CHECKS)
    assert [c.certificate for c in cards] == [data, data]
    before = path.stat().st_mtime_ns
    again = evaluate(load(NAME), [SUITE], store=store, existing="overwrite")
    assert len(calls) == 1
    assert path.stat().st_mtime_ns == before
    assert [c.certificate for c in again] == [data, data]
    assert [c.provenance["time"] for c in again] > [c.provenance["time"] for c in cards]
    assert list(tmp_path.rglob("certificate-*.json")) == [path]


@pytest.mark.usefixtures("certificate_only")
def test_without_a_store_it_is_made_every_time(calls: list[str]) -> None:
    for _ in range(2):
        with pytest.raises(Certified):
            evaluate(load(NAME), [SUITE])
    assert len(calls) == 2


#: What makes an older certificate count no more: the attribute and what it becomes.
PARTS: dict[str, tuple[Any, str, Any]] = {
    "dtype": (LoadedModel, "dtype", property(lambda model: "bfloat16")),
    "attention": (LoadedModel, "attention", property(lambda model: "flash_attention_2")),
    "device": (LoadedModel, "device", property(lambda model: torch.device("cuda", 1))),
    "tokenizer": (LoadedModel, "tokenizer_hash", property(lambda model: "0" * 64)),
    "transformers": (loaded.transformers, "__version__", "5.99.0"),
    "torch": (loaded.torch, "__version__", "2.99.0"),
    "adapter": (loaded, "ADAPTER_VERSION", 99),
}


@pytest.mark.usefixtures("certificate_only")
@pytest.mark.parametrize("part", PARTS)
def test_another_subject_is_certified_again(
    part: str, calls: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each part alone; the old certificate stays for what it holds for, and counts there."""
    store, model = ResultStore(tmp_path), load(NAME)

    def run() -> int:
        with pytest.raises(Certified):
            evaluate(model, [SUITE], store=store, existing="overwrite")
        return len(calls)

    plain = certificate_subject(model)
    assert (run(), run()) == (1, 1)
    with monkeypatch.context() as patch:
        patch.setattr(*PARTS[part])
        changed = certificate_subject(model)
        assert {k for k in plain if plain[k] != changed[k]} == {part}
        assert (run(), run()) == (2, 2)
    assert run() == 2
    assert len(list(tmp_path.rglob("certificate-*.json"))) == 2


@pytest.mark.usefixtures("certificate_only")
def test_other_weights_are_certified_again(calls: list[str], tmp_path: Path) -> None:
    """A model of the caller's own is pinned by a fingerprint of its weights."""
    module, tokenizer = load(NAME).module, load(NAME).tokenizer
    for expected in (1, 2):
        with pytest.raises(Certified):
            evaluate(wrap(module, tokenizer, "mine"), [SUITE], store=ResultStore(tmp_path))
        assert len(calls) == expected
        with torch.no_grad():
            next(module.parameters())[0, 0] += 1e-3


@pytest.mark.usefixtures("certificate_only")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"checks": [], "subject": {}}',
        None,
        pytest.param(
            b'{"checks": [], "subject": []}',
        ),
    ],
)
def test_a_broken_certificate_is_made_again(content: bytes | None, calls: list[str], tmp_path: Path) -> None:
    """Whatever lies in its place (None: half of the file), and then it counts."""
    store = ResultStore(tmp_path)

    def run() -> int:
        with pytest.raises(Certified):
            evaluate(load(NAME), [SUITE], store=store)
        return len(calls)

    assert run() == 1
    (path,) = tmp_path.rglob("certificate-*.json")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert (run(), run()) == (2, 2)
    assert AdapterCertificate.from_json(json.loads(path.read_bytes())).passed


def test_a_model_that_fails_is_refused_and_nothing_is_scored(
    calls: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error names the check, how much and the tolerance. The verdict is on file and holds for the next run, and
    results that lie there, also the model's own, stay."""
    store = ResultStore(tmp_path)
    evaluate(load("phantom/joyful"), [SUITE], store=store)
    with monkeypatch.context() as patch:
        patch.setattr(*PARTS["attention"])
        evaluate(load(NAME), [], store=store)
    before = files(tmp_path)
    scans: list[str] = []
    session = evaluation.Session()
    monkeypatch.setattr(session, "scan", lambda *_: scans.append("a scan"))
    messages = []
    for _ in range(2):
        with pytest.raises(ModelError) as caught:
            evaluate(broken(), [SUITE], store=store, existing="overwrite", session=session)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert len(calls) == 3
    assert scans == []
    after = files(tmp_path)
    (new,) = set(after) - set(before)
    assert {k: after[k] for k in before} == before
    found = AdapterCertificate.from_json(json.loads(after[new]))
    assert {c.name for c in found.checks if not c.passed} == {"batching", "left padding", "edit"}
    for check in found.checks:
        assert (f"{check.name}: {check.error:.2g} > {check.tolerance:.2g}" in messages[0]) == (not check.passed)
    assert messages[0].startswith(f"{NAME} fails its adapter certificate and is not scored: batching: ")


def test_a_coarse_dtype_is_named_in_the_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*PARTS["dtype"])
    with pytest.raises(ModelError, match=r"is not scored \(in bfloat16: try --dtype float32\): batching"):
        evaluate(broken(), [SUITE])


def test_a_tokenizer_that_fails_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks of the text count as those of the model do."""
    monkeypatch.setattr(checks_text, "content_span", lambda *args: (content_span(*args)[0], content_span(*args)[1] + 1))
    with pytest.raises(ModelError, match=r"not scored: spans: \d+ > 0"):
        evaluate(load(NAME), [SUITE])


def test_a_model_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(benchmark, "load", lambda card, _: broken(NAME) if card.name == NAME else load(card))
    told: dict[str, str] = {}
    names = [NAME, "phantom/joyful"]
    board = benchmark.run(names, [SUITE], tmp_path, on_failure=lambda name, error: told.update({name: str(error)}))
    assert list(told) == [NAME]
    assert "fails its adapter certificate" in told[NAME]
    assert {p.parent.parent.parent.name for p in tmp_path.rglob("card.json")} == {"phantom--joyful"}
    assert NAME not in board.to_markdown()


def test_certify_begins_its_texts_with_the_models_start_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many models know no text without it: their states there are not those that are scored."""
    model, seen = load(NAME), []
    model.module.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True)
    found = certify(model)
    assert found.passed, found.failures()
    assert found.subject == certificate_subject(model)
    assert {int(t) for ids in seen[:2] for t in ids[:, 0]} == {model.tokenizer.bos_token_id}


# --- packed trees -----------------------------------------------------------------------------------------------


def test_models_with_recurrence_are_scored_without_packing() -> None:
    """The self-test is no condition: a model that fails it is read without branches."""
    found = certified(made("mamba"))
    assert {c.name for c in found.checks if not c.passed} == {"branches"}
    assert found.passed


@pytest.mark.parametrize("past", [lambda s: (), lambda s: ((0, s.start),)], ids=["itself only", "the whole row"])
def test_an_attention_that_does_not_follow_the_tree_is_found(monkeypatch: pytest.MonkeyPatch, past: Any) -> None:
    class Other(packing._Tree):
        def __init__(self, stretches: Any) -> None:
            super().__init__([
                SimpleNamespace(start=s.start, stop=s.stop, past=past(s), depth=sum(b - a for a, b in past(s)))
                for s in stretches
            ])  # fmt: skip

    assert branch_check(made(), VOCABULARY).passed
    monkeypatch.setattr(packing, "_Tree", Other)
    found = branch_check(made(), VOCABULARY)
    assert 1e-3 < found.error < math.inf
