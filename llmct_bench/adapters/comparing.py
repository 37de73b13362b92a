"""Comparing states, and running a check."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from llmct_bench.adapters.adapter import Adapter, Point
from llmct_bench.adapters.certificate import Check
from llmct_bench.errors import ModelError

#: Relative tolerances of states (max |difference| / max |reference|) by dtype.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 3e-2}
#: By how much (1 - cosine) a state in half precision may turn besides.
COSINE = 5e-4


def read(adapter: Adapter, points: Sequence[Point], ids: Tensor, run: Callable[[], None] | None = None) -> list[Tensor]:
    """The values at points in one pass (of ``run``, by default of the body over ``ids``)."""
    found: dict[int, Tensor] = {}
    with adapter.reading(points, lambda i, value: found.__setitem__(i, value.detach().clone())):
        (run or (lambda: adapter.run(ids)))()
    missing = [str(points[i]) for i in range(len(points)) if i not in found]
    if missing:
        raise ModelError(f"{adapter.model_type}: nothing passed through {', '.join(missing)}")
    return [found[i] for i in range(len(points))]


def tolerance(module: nn.Module) -> float:
    """The relative tolerance of states in the model's floating dtype."""
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    whole = all(p.is_floating_point() for p in module.parameters())
    return TOLERANCE.get(dtype, 3e-2) if whole else 3e-2


def error(value: Tensor, reference: Tensor) -> float:
    """max |difference| / max |reference|; infinite where shapes differ or anything is not a number."""
    if value.shape != reference.shape:
        return math.inf
    reference = reference.float()
    scale = reference.abs().max().clamp_min(1e-12)
    found = float(((value.float().to(reference.device) - reference).abs().max() / scale).item())
    return found if math.isfinite(found) else math.inf


def worst(
    name: str, pairs: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]], allowed: float, note: str = ""
) -> Check:
    """The comparison of whole streams (values, references; one entry a point) with the largest error, and of those
    that exceed their tolerance if there are any.

    A massive activation leaves its rounding errors in the stream when a later block takes it away. So a state's
    tolerance grows by two units of rounding of the largest value before it in the stream.
    """
    found = [Check(name, 0.0, allowed, note)]
    for values, references in pairs:
        peak = 0.0
        for value, reference in zip(values, references, strict=True):
            size = float(reference.abs().max())
            peak = max(peak, size) if math.isfinite(size) else peak
            spare = peak / size - 1 if 0 < size < math.inf else 0.0
            limit = allowed + 2 * torch.finfo(reference.dtype).eps * spare
            found.append(Check(name, error(value, reference), limit, note))
            if reference.dtype in (torch.bfloat16, torch.float16):
                turned = (
                    COSINE + (limit - allowed) ** 2 / 2
                )  # an error of e across a state turns it by e squared over 2
                found.append(Check(name, _turn(value, reference), turned, f"1 - cosine{'; ' * bool(note)}{note}"))
    return max(found, key=lambda c: (not c.passed, c.error))


def _turn(value: Tensor, reference: Tensor) -> float:
    """Largest 1 - cosine of a state that is not zero with its reference; infinite where that is no number."""
    if value.shape != reference.shape:
        return math.inf
    one, two = value.double().to(reference.device), reference.double()
    turns = torch.where((two == 0).all(dim=-1), 0.0, 1 - torch.cosine_similarity(one, two, dim=-1))
    found = float(turns.max())
    return found if math.isfinite(found) else math.inf


def count_hooks(module: nn.Module) -> int:
    """Number of forward hooks and pre-hooks on a model."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def guarded(name: str, check: Callable[[], Check]) -> Check:
    """A check that cannot be carried out is a failed one, with what stopped it. Memory that runs out is no verdict."""
    try:
        return check()
    except torch.OutOfMemoryError:
        raise
    except Exception as problem:
        return Check(name, math.inf, 0.0, words(problem))


def words(problem: Exception) -> str:
    """What went wrong, in one line."""
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[:120]}"
