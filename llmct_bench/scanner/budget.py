"""How large a pass may be, and when packing pays."""

from __future__ import annotations

import torch

from llmct_bench.adapters import LoadedModel
from llmct_bench.scanner.plan import TOKEN_BUDGET, Packing

#: Seconds that one more attention call costs in one block, and the rate (FLOP/s) at which tokens are computed, by kind
#: of device. Orders of magnitude: they decide between two exact ways, never about results.
_CALL, _RATE = 5e-5, {"cpu": 5e10, "cuda": 1e14, "mps": 5e12}
_SHARE = 0.4  # of the free memory
_SMALLEST, _LARGEST = 256, 65_536
#: On a CPU: tokens a pass where calls cost more than products (blocks of fewer parameters than this), tokens at which
#: another tree begins a new packed row, and tokens that one tree may have.
_TINY, _TINY_BUDGET, _ROW, _TREE = 1_000_000, 4096, 1024, 4096


def token_budget(model: LoadedModel) -> int:
    """Tokens per pass. On a CPU small passes are as fast as large ones (what is widest stays in the cache) and pad
    less, unless the model is tiny; on a GPU what fits into 0.4 of the free memory, at the width of the widest values
    in a block."""
    if model.device.type != "cuda":
        return _TINY_BUDGET if _block(model) < _TINY else TOKEN_BUDGET
    text = model.module.config.get_text_config()
    width = 12 * model.adapter.d_model + 4 * int(getattr(text, "intermediate_size", 0) or 4 * model.adapter.d_model)
    free, _ = torch.cuda.mem_get_info(model.device)
    return max(_SMALLEST, min(_LARGEST, int(_SHARE * free / (4 * width))))


def packing(model: LoadedModel, budget: int | None = None) -> Packing | None:
    """Whether and when this model's conversations are packed as trees, in rows of ``budget`` tokens (by default as
    many as fit; on a CPU one tree a row, and small ones together)."""
    if not model.branches:
        return None
    worth = _CALL * _RATE.get(model.device.type, 5e10) / (2 * max(_block(model), 1))
    if budget or model.device.type == "cuda":
        return Packing(model.branches, worth, budget or token_budget(model))
    return Packing(model.branches, worth, _TREE, _TINY_BUDGET if _block(model) < _TINY else _ROW)


def _block(model: LoadedModel) -> int:
    return sum(p.numel() for p in model.adapter.blocks[0].parameters())
