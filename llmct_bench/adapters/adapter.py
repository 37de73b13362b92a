"""Where the residual stream is in a given model, and how it is read there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmct_bench.adapters.architectures import CONTRIBUTIONS, Contributions
from llmct_bench.errors import ModelError

#: Called at a point with the point's position in the requested list and its value (batch, tokens, d_model).
Reader = Callable[[int, Tensor], None]


@dataclass(frozen=True)
class Point:
    """A place in the residual stream. ``resid`` i is the input of block i (i < L) or, for i = L, the output of the
    last block before the final norm; ``attn`` i and ``mlp`` i are what block i adds."""

    kind: str
    layer: int

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"


@dataclass(frozen=True)
class Adapter:
    """The parts of a causal language model that the scan needs. It never changes the model."""

    decoder: nn.Module
    blocks: nn.ModuleList
    model_type: str
    d_model: int
    contributions: Contributions | None
    scale: float

    @property
    def n_layers(self) -> int:
        """Number of blocks L."""
        return len(self.blocks)

    def residual_points(self) -> list[Point]:
        """resid.0 .. resid.L"""
        return [Point("resid", i) for i in range(self.n_layers + 1)]

    def run(self, input_ids: Tensor) -> None:
        """One pass of the body (no head, no cache) over right-padded ids. Causality makes a mask unnecessary:
        no position sees the padding on its right."""
        self.decoder(input_ids=input_ids, use_cache=False)

    @contextmanager
    def reading(self, points: Sequence[Point], reader: Reader) -> Iterator[None]:
        """While open, every pass calls ``reader`` at each of ``points``. Hooks are always removed."""
        handles: list[Any] = []
        try:
            for i, point in enumerate(points):
                handles.append(self._attach(i, point, reader))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _attach(self, i: int, point: Point, reader: Reader) -> Any:
        if point.kind == "resid" and point.layer == 0:

            def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                reader(i, args[0] if args else kwargs["hidden_states"])

            return self.blocks[0].register_forward_pre_hook(before, with_kwargs=True)

        scale = 1.0 if point.kind == "resid" else self.scale

        def after(module: nn.Module, args: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            if value.ndim == 2:  # OPT's feed-forward works on flattened tokens
                value = value.unsqueeze(0)
            reader(i, value if scale == 1.0 else value * scale)

        return self._module(point).register_forward_hook(after)

    def _module(self, point: Point) -> nn.Module:
        if point.kind == "resid":
            return self.blocks[point.layer - 1]
        if self.contributions is None:
            raise ModelError(f"{self.model_type}: no attention/MLP split is known for this architecture")
        path = self.contributions.attn if point.kind == "attn" else self.contributions.mlp
        return self.blocks[point.layer].get_submodule(path)


def resolve(module: nn.Module) -> Adapter:
    """Find the blocks of a transformers causal language model by structure: the decoder's shallowest ModuleList of
    ``num_hidden_layers`` modules. Raises ModelError with the reason where there is none."""
    config: Any = getattr(module, "config", None)
    if config is None:
        raise ModelError(f"{type(module).__name__} has no config: a transformers model is needed")
    text = config.get_text_config()
    decoder = _decoder(module)
    depth = int(text.num_hidden_layers)
    found = [
        (name.count("."), name, child)
        for name, child in decoder.named_modules()
        if isinstance(child, nn.ModuleList) and len(child) == depth
    ]
    if not found:
        raise ModelError(f"{text.model_type}: no list of {depth} blocks in {type(decoder).__name__}")
    blocks = min(found, key=lambda f: f[:2])[2]
    facts = CONTRIBUTIONS.get(text.model_type)
    if facts and facts.only_if and not getattr(text, facts.only_if):
        facts = None
    scale = float(getattr(text, facts.scale)) if facts and facts.scale else 1.0
    return Adapter(decoder, blocks, text.model_type, int(text.hidden_size), facts, scale)


def _decoder(module: Any) -> nn.Module:
    try:
        decoder = module.get_decoder()
    except (AttributeError, NotImplementedError):
        decoder = None
    if not isinstance(decoder, nn.Module) or decoder is module:
        decoder = module.base_model
    if decoder is module:
        raise ModelError(f"{type(module).__name__}: the body cannot be told from the head")
    result: nn.Module = decoder
    return result


def model_device(module: nn.Module) -> torch.device:
    """Where the token ids have to go: the device of the input embedding."""
    embedding: Any = module.get_input_embeddings()  # type: ignore[operator]
    device: torch.device = embedding.weight.device
    return device
