"""Where the residual stream is in a given model, and how it is read and edited there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmct_bench.adapters.architectures import HEAD, LOGITS, SHARED_NORM, Contributions, Streams
from llmct_bench.errors import ModelError

#: Called at a point with the point's position in the requested list and its value (batch, tokens, d_model).
Reader = Callable[[int, Tensor], None]
#: From the value at a point to the value that takes its place, both (batch, tokens, d_model).
Edit = Callable[[Tensor], Tensor]
#: Rows and tokens of a pass: (row, first token, token after the last one).
Span = tuple[int, int, int]


@dataclass(frozen=True)
class Point:
    """A place in a model. ``resid`` i is the input of block i (i < L) or, for i = L, the output of the last block
    before the final norm; ``attn`` i and ``mlp`` i are what block i adds to the residual stream; ``final_norm`` (its
    layer does not matter) is the output of the final norm, which the head reads."""

    kind: str
    layer: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "final_norm" else f"{self.kind}.{self.layer}"


@dataclass(frozen=True)
class Adapter:
    """The parts of a causal language model that are read and edited. It never changes or moves the model.

    ``final`` are the modules between the last block and the head, in order (usually one norm); None where that way is
    written out in the model's own code, with no module whose input is the last state. Where an architecture
    carries several parallel residual streams (hyper-connections), the state at a point is their concatenation and
    ``d_model`` their common width.
    """

    module: nn.Module
    decoder: nn.Module
    blocks: Sequence[nn.Module]
    final: tuple[nn.Module, ...] | None
    model_type: str
    d_model: int
    contributions: Contributions | None = None
    scale: float = 1.0
    streams: Streams | None = None

    @property
    def n_layers(self) -> int:
        """Number of blocks L."""
        return len(self.blocks)

    def residual_points(self) -> list[Point]:
        """resid.0 .. resid.L"""
        return [Point("resid", i) for i in range(self.n_layers + 1)]

    def contribution_points(self) -> list[Point]:
        """attn.0, mlp.0 .. attn.L-1, mlp.L-1, or none where no two-term split is known."""
        if self.contributions is None:
            return []
        return [Point(kind, i) for i in range(self.n_layers) for kind in ("attn", "mlp")]

    def points(self) -> list[Point]:
        """Every point of this model."""
        norm = [Point("final_norm")] if self.final and self.model_type not in SHARED_NORM else []
        return [*self.residual_points(), *self.contribution_points(), *norm]

    def width(self, points: Sequence[Point]) -> int:
        """Width of the values at points: d_model, but for the final norm of parallel streams, which sees one of them.
        Raises ModelError where the widths differ."""
        streams = self.streams.number if self.streams is not None else 1
        found = {self.d_model // streams if p.kind == "final_norm" else self.d_model for p in points}
        if len(found) > 1:
            raise ModelError(f"{self.model_type}: the final norm is narrower than its streams: read it by itself")
        return found.pop() if found else self.d_model

    def run(self, input_ids: Tensor, until: int | None = None, **inputs: Any) -> None:
        """One pass of the body (no head, no cache), or of its first ``until`` blocks only. Right-padded ids need
        nothing else: causality makes a mask unnecessary, because no position sees the padding on its right."""
        if until is None or until >= self.n_layers:
            self.decoder(input_ids=input_ids, use_cache=False, **inputs)
            return
        handle = self.blocks[until].register_forward_pre_hook(_stop)
        try:
            self.decoder(input_ids=input_ids, use_cache=False, **inputs)
        except _Enough:
            pass
        finally:
            handle.remove()

    def depth(self, points: Sequence[Point]) -> int | None:
        """How many blocks have to run for points; None: the whole body."""
        if any(p.kind == "final_norm" for p in points):
            return None
        return max((p.layer if p.kind == "resid" else p.layer + 1 for p in points), default=0)

    def run_left_padded(self, input_ids: Tensor, lengths: Sequence[int]) -> None:
        """One pass over left-padded rows, with the mask and the positions that they need. Left padding without
        positions is off by tens of per cent in models with learned positions."""
        width = input_ids.shape[1]
        starts = torch.tensor([width - n for n in lengths], device=input_ids.device).unsqueeze(1)
        places = torch.arange(width, device=input_ids.device).unsqueeze(0)
        mask = (places >= starts).long()
        self.run(input_ids, attention_mask=mask, position_ids=(places - starts).clamp_min(0))

    @contextmanager
    def reading(self, points: Sequence[Point], reader: Reader) -> Iterator[None]:
        """While open, every pass calls ``reader`` at each of ``points``. Hooks are always removed.

        Hooks at the same point act in the order in which they were opened: a reading that was opened before an edit
        sees the value without it.
        """
        shape: list[int] = []
        with ExitStack() as stack:
            stack.callback(self._note_shape(shape).remove)
            for i, point in enumerate(points):
                self._check(point)
                stack.callback(self._attach(i, point, reader, shape).remove)
            yield

    @contextmanager
    def editing(self, point: Point, edit: Edit) -> Iterator[None]:
        """While open, every pass goes on with ``edit(value)`` instead of the value at ``point``. Containers are kept
        as they came (tensor, tuple, list), hooks are always removed, edits may be nested."""
        self._check(point)
        scale = self._scale(point)
        shape: list[int] = []

        def change(value: Tensor) -> Tensor:
            seen = self._stream(value, shape)
            new = edit(seen * scale) if scale != 1.0 else edit(seen)
            if new.shape != seen.shape:
                raise ModelError(f"an edit at {point} made {tuple(new.shape)} of {tuple(seen.shape)}")
            return self._unstream(new / scale if scale != 1.0 else new, value)

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            value = change(_first(args, kwargs))
            return ((value, *args[1:]), kwargs) if args else (args, {**kwargs, _name(kwargs): value})

        def after(module: nn.Module, args: Any, output: Any) -> Any:
            return _with_first(output, change(_value(output)))

        with ExitStack() as stack:
            _edited.append(self.module)
            stack.callback(_forget, self.module)
            stack.callback(self._note_shape(shape).remove)
            if point == Point("resid", 0):
                handle = self.blocks[0].register_forward_pre_hook(before, with_kwargs=True)
            else:
                handle = self._module(point).register_forward_hook(after)
            stack.callback(handle.remove)
            yield

    @contextmanager
    def patch(self, point: Point, value: Tensor, spans: Sequence[Span] | None = None) -> Iterator[None]:
        """While open, the value at ``point`` is replaced by ``value``: everywhere (broadcast to (batch, tokens,
        d_model)), or on ``spans`` only (broadcast to each span's (tokens, d_model)). Spans count tokens of a pass."""

        def edit(old: Tensor) -> Tensor:
            new = value.to(old)
            if spans is None:  # a copy: some models go on to add to it in place
                return new.expand_as(old).clone()
            out = old.clone()
            for row, start, stop in spans:
                out[row, start:stop] = new
            return out

        with self.editing(point, edit):
            yield

    @contextmanager
    def steer(self, point: Point, direction: Tensor, spans: Sequence[Span] | None = None) -> Iterator[None]:
        """While open, ``direction`` (d_model, or anything that broadcasts) is added to the value at ``point``:
        everywhere, also at every step of a generation, or on ``spans`` only."""

        def edit(old: Tensor) -> Tensor:
            step = direction.to(old)
            if spans is None:
                return old + step
            out = old.clone()
            for row, start, stop in spans:
                out[row, start:stop] += step
            return out

        with self.editing(point, edit):
            yield

    @property
    def edited(self) -> bool:
        """True while an edit of this model is open."""
        return any(module is self.module for module in _edited)

    def lens(self, state: Tensor) -> Tensor:
        """Logits (…, vocabulary) of a state at the last point (batch, tokens, d_model): final norm, head, and what
        the architecture does to its logits (scales, soft cap). Raises ModelError where the head cannot be read."""
        model: Any = self.module
        if self.model_type in HEAD:
            head = [model.get_submodule(path) for path in HEAD[self.model_type]]
        else:
            head = [model.get_output_embeddings()]
        if head[0] is None or self.final is None:
            raise ModelError(f"{self.model_type}: no modules lead from the last block to the logits")
        value = self.streams.split(state) if self.streams is not None else state
        for module in self.final:
            value = module(value)
        for module in head:  # a stream in float32 meets a head in half precision
            weight = getattr(module, "weight", None)
            if isinstance(weight, Tensor) and weight.is_floating_point():
                value = value.to(weight.dtype)
            value = module(value)
        for change in LOGITS:
            value = change(value, model.config.get_text_config())
        return value

    def _note_shape(self, shape: list[int]) -> Any:
        """Some modules work on flattened tokens (OPT's feed-forward): keep (batch, tokens) of every pass."""

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            shape[:] = self._stream(_first(args, kwargs)).shape[:2]

        return self.blocks[0].register_forward_pre_hook(note, with_kwargs=True)

    def _attach(self, i: int, point: Point, reader: Reader, shape: Sequence[int]) -> Any:
        if point == Point("resid", 0):

            def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                reader(i, self._stream(_first(args, kwargs)))

            return self.blocks[0].register_forward_pre_hook(before, with_kwargs=True)
        scale = self._scale(point)

        def after(module: nn.Module, args: Any, output: Any) -> None:
            value = self._stream(_value(output), shape)
            reader(i, value if scale == 1.0 else value * scale)

        return self._module(point).register_forward_hook(after)

    def _check(self, point: Point) -> None:
        places = {"resid": self.n_layers + 1, "attn": self.n_layers, "mlp": self.n_layers}
        if point.kind != "final_norm" and point.layer not in range(places.get(point.kind, 0)):
            raise ModelError(f"{self.model_type}: there is no point {point} in a model of {self.n_layers} blocks")
        if point.kind in ("attn", "mlp") and self.contributions is None:
            raise ModelError(f"{self.model_type}: no attention/MLP split is known for this architecture")
        if point.kind == "final_norm" and Point("final_norm") not in self.points():
            raise ModelError(f"{self.model_type}: no module of its own between the last block and the head")

    def _module(self, point: Point) -> nn.Module:
        if point.kind == "resid":
            return self.blocks[point.layer - 1]
        if point.kind == "final_norm":
            assert self.final
            return self.final[-1]
        assert self.contributions is not None
        return self.contributions.module(self.blocks[point.layer], point.kind)

    def _scale(self, point: Point) -> float:
        return self.scale if point.kind in ("attn", "mlp") else 1.0

    def _stream(self, value: Tensor, shape: Sequence[int] = ()) -> Tensor:
        """A value as (batch, tokens, d)."""
        if self.streams is not None and value.ndim == 4:
            return self.streams.join(value)
        return value.reshape(*shape, -1) if value.ndim == 2 else value

    def _unstream(self, value: Tensor, like: Tensor) -> Tensor:
        if self.streams is not None and like.ndim == 4:
            value = self.streams.split(value)
        return value.reshape(like.shape)


#: The models whose edits are open, one entry an edit.
_edited: list[nn.Module] = []


def _forget(module: nn.Module) -> None:
    del _edited[next(i for i, m in enumerate(_edited) if m is module)]


class _Enough(Exception):
    """Ends a pass whose later blocks nobody reads."""


def _stop(module: nn.Module, args: Any) -> None:
    raise _Enough


def _value(output: Any) -> Tensor:
    """The state in what a module returned: a tensor, or the first entry of a tuple or list. Indexing a bare tensor
    would silently take batch row 0."""
    found = output[0] if isinstance(output, (tuple, list)) else output
    if not isinstance(found, Tensor):
        raise ModelError(f"a module returned {type(output).__name__}, not a tensor or a tuple that begins with one")
    return found


def _with_first(output: Any, value: Tensor) -> Any:
    """The same container with another first entry."""
    return type(output)((value, *output[1:])) if isinstance(output, (tuple, list)) else value


def _name(kwargs: dict[str, Any]) -> str:
    """The keyword that carries the state into a block."""
    return "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return _value(args[0] if args else kwargs[_name(kwargs)])
