"""What other programs do with the same readouts: one prefill each, with everything that their defaults bring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmct_bench.scanner import Readout


class Seed:
    """The procedure of the seed system (Activation Lab, https://github.com/cstefanache/llmct), written anew.

    One prefill a readout at batch 1, with the head, without a cache, eager attention; hooks copy every token's values
    to the host in half precision. By default that is everything: what enters and leaves a block, queries, keys, values,
    attention weights, every stage of the feed-forward, logits; ``residual`` is its setting ``hidden_states`` alone.
    With ``files`` each readout is written as a compressed .npz file (removed again at once).
    """

    def __init__(self, module: Any, residual: bool = False, files: bool = False) -> None:
        self._module, self._residual, self._files = module, residual, files

    def __call__(self, readouts: Sequence[Readout]) -> None:
        """Capture readouts one by one."""
        with _eager(self._module), TemporaryDirectory() as folder:
            for i, readout in enumerate(readouts):
                tensors = self._capture(torch.tensor([readout.tokens]))
                if self._files:
                    path = Path(folder) / f"snapshot_{i:02d}.npz"
                    np.savez_compressed(path, **tensors)
                    path.unlink()

    def _capture(self, ids: Tensor) -> dict[str, np.ndarray]:
        kept: dict[str, np.ndarray] = {}
        with torch.no_grad(), ExitStack() as stack:
            for handle in self._hooks(kept):
                stack.callback(handle.remove)
            out = self._module(ids, use_cache=False, output_attentions=not self._residual)
        if self._residual:
            return kept
        for layer, weights in enumerate(out.attentions):
            kept[f"layer_{layer:02d}/attn_weights"] = _half(weights)
        kept["logits"] = _half(out.logits)
        kept["qkv_last"] = np.stack([self._qkv(kept, n) for n in range(len(out.attentions))])
        return kept

    def _hooks(self, kept: dict[str, np.ndarray]) -> Iterator[Any]:
        def entering(key: str) -> Callable[..., None]:
            return lambda module, args: kept.__setitem__(key, _half(args[0]))

        def leaving(key: str) -> Callable[..., None]:
            return lambda module, args, out: kept.__setitem__(key, _half(out[0] if isinstance(out, tuple) else out))

        body = self._module.model
        yield body.embed_tokens.register_forward_hook(leaving("embeddings"))
        for n, block in enumerate(body.layers):
            tag = f"layer_{n:02d}"
            yield block.register_forward_pre_hook(entering(f"{tag}/hidden_in"))
            yield block.register_forward_hook(leaving(f"{tag}/hidden_out"))
            if self._residual:
                continue
            stages = {
                "q": block.self_attn.q_proj,
                "k": block.self_attn.k_proj,
                "v": block.self_attn.v_proj,
                "attn_out": block.self_attn.o_proj,
                "mlp_gate": block.mlp.gate_proj,
                "mlp_up": block.mlp.up_proj,
                "mlp_act": block.mlp.act_fn,
                "mlp_down_out": block.mlp.down_proj,
            }
            for name, module in stages.items():
                yield module.register_forward_hook(leaving(f"{tag}/{name}"))
            yield block.mlp.down_proj.register_forward_pre_hook(entering(f"{tag}/mlp_down_in"))

    @staticmethod
    def _qkv(kept: dict[str, np.ndarray], layer: int) -> np.ndarray:
        """Its summary of a block's last token; the values are dropped afterwards, queries and keys stay."""
        q, k, v = (kept[f"layer_{layer:02d}/{n}"].astype(np.float32)[0, -1] for n in "qkv")
        del kept[f"layer_{layer:02d}/v"]
        shared = min(len(q), len(k))
        return v * float(q[:shared] @ k[:shared] / np.sqrt(shared))


def transformer_lens(module: Any, readouts: Sequence[Readout]) -> tuple[dict[str, Callable[[], None]], str]:
    """TransformerLens' ``run_with_cache`` on a model of its own (it rebuilds it): jobs and version."""
    from transformer_lens.model_bridge import TransformerBridge

    with TemporaryDirectory() as folder:
        module.config.save_pretrained(folder)
        bridge = TransformerBridge.boot_transformers(folder, hf_model=module)

    def job(**settings: Any) -> Callable[[], None]:
        def run() -> None:
            with torch.inference_mode():
                for readout in readouts:
                    _, cache = bridge.run_with_cache(torch.tensor([readout.tokens]), **settings)
                    _pool([cache[f"blocks.{n}.hook_resid_post"] for n in range(len(bridge.blocks))], readout)

        return run

    jobs = {
        "TransformerLens run_with_cache": job(),
        "TransformerLens, residual stream only": job(names_filter=lambda name: name.endswith("hook_resid_post")),
    }
    return jobs, version("transformer-lens")


def nnsight(module: Any, readouts: Sequence[Readout]) -> tuple[dict[str, Callable[[], None]], str]:
    """nnsight traces that save the output of every block: jobs and version."""
    from nnsight import NNsight

    whole, body = NNsight(module), NNsight(module.model)

    def save_all() -> None:
        with torch.inference_mode():
            for readout in readouts:
                ids = torch.tensor([readout.tokens])
                with whole.trace(ids):
                    found = []
                    for block in whole.model.layers:
                        found.append(block.output)
                    found = found.save()
                _pool(found, readout)

    def save_readouts() -> None:
        with torch.inference_mode():
            for readout in readouts:
                ids = torch.tensor([readout.tokens])
                with body.trace(ids, use_cache=False):
                    found = []
                    for block in body.layers:
                        state = block.output
                        found.append((state[0, readout.start : readout.stop].mean(0), state[0, -1].clone()))
                    found = found.save()
                assert len(found) == len(module.model.layers)

    jobs = {"nnsight trace, all saved": save_all, "nnsight on the bare body, readouts only": save_readouts}
    return jobs, version("nnsight")


def _pool(states: Sequence[Any], readout: Readout) -> Tensor:
    """The mean of the content and the last token, from whole states."""
    rows = [s[0][0] if isinstance(s, tuple) else s[0] for s in states]
    return torch.stack([torch.stack([r[readout.start : readout.stop].mean(0), r[-1]]) for r in rows])


def _half(value: Tensor) -> np.ndarray:
    return value.detach().to("cpu").to(torch.float16).numpy()


@contextmanager
def _eager(module: Any) -> Iterator[None]:
    before = module.config._attn_implementation
    module.set_attn_implementation("eager")
    try:
        yield
    finally:
        module.set_attn_implementation(before)
