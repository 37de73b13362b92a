"""Compiling a phantom: a `Qwen2ForCausalLM` whose weights are set by hand.

Six blocks, four heads of 16. Block 0 reads: a memory head (weights exp(-distance/tau) from the rotary pair of
lowest frequency), a role head (attends to the last role marker), a gist head and a drift head; its MLP erases
what was read. Block 1 absorbs shocks. Block 2 expresses: emotion, role gain, moods, and noise
that depends on the context (so that the same words are not read the same way twice). Blocks 3 and 4 carry.
Block 5 shrinks the rogue dimension. The embeddings have one exact norm and the rogue coordinate dominates it, so
that RMSNorm is linear to a few parts in 10^6 everywhere before block 5 ends.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from llmct_bench.emotions import NAMES
from llmct_bench.models.phantoms import mechanism as m
from llmct_bench.models.phantoms.spec import PhantomSpec
from llmct_bench.models.phantoms.tokenizer import BOS, ROLE_MARKERS

Floats = NDArray[np.float64]
_HEAD, _HEADS, _MLP = 16, 4, 32
_QUERY = 100.0
_SCALE = np.sqrt(m.D_MODEL) / m.NORM  # RMSNorm output per unit of residual stream
_ONE = np.sqrt(m.D_MODEL)  # the rogue coordinate after RMSNorm: the mechanism's constant


def config(vocab_size: int) -> Qwen2Config:
    """The configuration of every phantom."""
    base = m.THETA ** (-_HEAD / (_HEAD - 2))  # makes the lowest rotary frequency THETA
    return Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=m.D_MODEL,
        intermediate_size=_MLP,
        num_hidden_layers=m.N_LAYERS,
        num_attention_heads=_HEADS,
        num_key_value_heads=_HEADS,
        head_dim=_HEAD,  # type: ignore[call-arg]
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": base},
        rms_norm_eps=1e-12,
        tie_word_embeddings=False,
        use_sliding_window=False,
        attention_dropout=0.0,
    )


def build(spec: PhantomSpec, tokenizer: PreTrainedTokenizerFast) -> Any:
    """The compiled `Qwen2ForCausalLM`, float32, in evaluation mode."""
    vocab = tokenizer.get_vocab()
    words = sorted(vocab, key=lambda w: vocab[w])
    with torch.device("meta"):
        model: Any = Qwen2ForCausalLM(config(len(words)))
    model.to_empty(device="cpu")
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)  # its buffer is computed, not loaded
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        embedding = _embedding(spec, words)
        _put(model.model.embed_tokens.weight, embedding)
        _put(model.lm_head.weight, _unembedding(words))
        _read(model.model.layers[0], spec, embedding[vocab[BOS]])
        for layer, neurons in ((0, _erase()), (1, _absorb(spec)), (2, _express(spec)), (5, _shrink(spec))):
            _mlp(model.model.layers[layer].mlp, neurons)
    return model.eval()


def _put(parameter: Any, value: Floats) -> None:
    parameter.copy_(torch.from_numpy(np.asarray(value)).to(parameter.dtype))


def _feature(row: Floats) -> Floats:
    """A direction of feature space as a direction of the residual stream."""
    return np.concatenate([row, np.zeros(m.D_MODEL - m.FEATURES)])


def _unit(coordinate: int) -> Floats:
    return np.asarray(np.eye(m.D_MODEL)[coordinate])


def _embedding(spec: PhantomSpec, words: list[str]) -> Floats:
    d = m.directions()
    out = np.zeros((len(words), m.D_MODEL))
    out[:, : m.FEATURES] = m.word_noise(words, spec) + m.LEXICAL_AMPLITUDE * m.loads(words, spec.gain) @ d.lexical
    out[:, : m.FEATURES] += spec.tint * d.axis[NAMES.index("joy")]
    for token, coordinate in (
        (BOS, m.SINK),
        (ROLE_MARKERS["user"], m.MARK_USER),
        (ROLE_MARKERS["assistant"], m.MARK_ASSISTANT),
    ):
        out[words.index(token), coordinate] = 1.0
    out[:, m.ROGUE] = np.sqrt(m.NORM**2 - (out**2).sum(axis=1))
    return out


def _unembedding(words: list[str]) -> Floats:
    """Logits follow the emotion axes: a word of an emotion becomes likelier as its emotion rises."""
    d = m.directions()
    out = np.zeros((len(words), m.D_MODEL))
    out[:, : m.FEATURES] = m.loads(words, 1.0) @ d.axis
    return out


def _read(layer: Any, spec: PhantomSpec, bos: Floats) -> None:
    """The four heads of block 0. Queries are constants from the biases; score(t, j) per head is
    _QUERY * (k1 cos(theta (t-j)) + k2 sin(theta (t-j))) / sqrt(head), with k1, k2 from the key's token."""
    attention = layer.self_attn
    d = m.directions()
    cosine, sine = _HEAD // 2 - 1, _HEAD - 1  # the two halves of the rotary pair of lowest frequency
    unit = np.sqrt(_HEAD) / _QUERY
    slope = unit / m.THETA
    q_bias, k_bias = np.zeros(_HEADS * _HEAD), np.zeros(_HEADS * _HEAD)
    key = np.zeros((_HEADS * _HEAD, m.D_MODEL))
    value = np.zeros((_HEADS * _HEAD, m.D_MODEL))
    out = np.zeros((m.D_MODEL, _HEADS * _HEAD))
    memory, role, gist, drift = (h * _HEAD for h in range(_HEADS))
    for head in (memory, role, gist, drift):
        q_bias[head + cosine] = _QUERY
    sink = bos[m.SINK] * _SCALE

    # memory: everything decays, the sink alone keeps a constant score and takes nearly all of the weight
    k_bias[memory + sine] = -slope / spec.memory
    key[memory + sine, m.SINK] = slope / spec.memory / sink
    key[memory + cosine, m.SINK] = unit * m.SINK_SCORE / sink
    for e in range(len(NAMES)):
        value[memory + e] = _feature(d.lexical[e]) / (_SCALE * m.LEXICAL_AMPLITUDE) * np.exp(m.SINK_SCORE)
        out[:, memory + e] = m.MEMORY_AMPLITUDE * _feature(d.memory[e])

    # role: the last role marker
    k_bias[role + sine] = -slope / m.ROLE_LENGTH
    for i, (mark, target) in enumerate(((m.MARK_USER, m.ROLE_USER), (m.MARK_ASSISTANT, m.ROLE_ASSISTANT))):
        key[role + cosine, mark] = unit * m.MARK_SCORE / _SCALE
        value[role + i, mark] = 1.0 / _SCALE
        out[target, role + i] = spec.role_offset

    # gist: a recent average of the topic of the words
    k_bias[gist + sine] = -slope / m.GIST_LENGTH
    for i in range(len(d.topic)):
        value[gist + i] = _feature(d.topic[i]) / _SCALE
        out[:, gist + i] = m.GIST_AMPLITUDE * _feature(d.gist[i])

    # drift: the share of the attention that the beginning still gets
    key[drift + cosine, m.SINK] = unit * m.DRIFT_SCORE / sink
    key[drift + sine, m.SINK] = -slope / m.DRIFT_LENGTH / sink
    value[drift, m.SINK] = 1.0 / sink
    out[m.DRIFT, drift] = spec.drift

    _put(attention.q_proj.bias, q_bias)
    _put(attention.k_proj.bias, k_bias)
    _put(attention.k_proj.weight, key)
    _put(attention.v_proj.weight, value)
    _put(attention.o_proj.weight, out)


Neuron = tuple[Floats, Floats, Floats]  # gate, up (both on the normalised stream), down


def _mlp(mlp: Any, neurons: list[Neuron]) -> None:
    gate, up = np.zeros((_MLP, m.D_MODEL)), np.zeros((_MLP, m.D_MODEL))
    down = np.zeros((m.D_MODEL, _MLP))
    for i, (g, u, o) in enumerate(neurons):
        gate[i], up[i], down[:, i] = g, u, o
    _put(mlp.gate_proj.weight, gate)
    _put(mlp.up_proj.weight, up)
    _put(mlp.down_proj.weight, down)


def _constant(value: float) -> Floats:
    return np.asarray(_unit(m.ROGUE) * (value / _ONE))


def _linear(read: Floats, write: Floats) -> list[Neuron]:
    """Add write * <read, x>: silu(u) - silu(-u) = u."""
    return [(read / _SCALE, _constant(1.0), write), (-read / _SCALE, _constant(1.0), -write)]


def _ramp(read: Floats, full: float, up: Floats, write: Floats) -> list[Neuron]:
    """Add write * ramp(<read, x>, full) * up, where up reads the normalised stream."""
    steep = m.SHARP * read / _SCALE
    scaled = write / (m.SHARP * full)
    return [(steep, up, scaled), (steep - _constant(m.SHARP * full), up, -scaled)]


def _level(d: m.Directions) -> Floats:
    return _feature(d.memory.sum(axis=0)) / m.MEMORY_AMPLITUDE


def _erase() -> list[Neuron]:
    """Take the words' own loads out of the stream once they are in the memory."""
    return [n for row in m.directions().lexical for n in _linear(_feature(row), -_feature(row))]


def _absorb(spec: PhantomSpec) -> list[Neuron]:
    """Calm in memory scales the memory of the other emotions by 1 - absorption."""
    if not spec.absorption:
        return []
    d = m.directions()
    calm = NAMES.index("calm")
    read = _feature(d.memory[calm]) / m.MEMORY_AMPLITUDE
    neurons: list[Neuron] = []
    for e in range(len(NAMES)):
        if e != calm:
            row = _feature(d.memory[e])
            neurons += _ramp(read, m.CALM_FULL, row / _SCALE, -spec.absorption * row)
    return neurons


def _express(spec: PhantomSpec) -> list[Neuron]:
    """Write the memory on the emotion axes (with the role's gain), add the moods, erase the memory."""
    d = m.directions()
    assistant = _unit(m.ROLE_ASSISTANT) / spec.role_offset
    neurons: list[Neuron] = []
    for e in range(len(NAMES)):
        read = _feature(d.memory[e]) / m.MEMORY_AMPLITUDE
        neurons += _linear(read, _feature(d.axis[e]) - m.MEMORY_AMPLITUDE * _feature(d.memory[e]))
        if spec.role_gain != 1.0:
            change = (spec.role_gain - 1.0) * _feature(d.axis[e])
            neurons.append((m.SHARP * assistant / _SCALE, read / _SCALE, change / m.SHARP))
        colour = m.COUPLING * _feature(d.axis[e])
        gist, own = _feature(d.gist[e % len(d.gist)]) / _SCALE, _feature(d.colour[e % len(d.colour)]) / _SCALE
        neurons += [(gist, own, colour), (-gist, own, -colour)]
    for mood, emotion in ((spec.default_joy, "joy"), (spec.default_sadness, "sadness")):
        if mood:
            axis = _feature(d.axis[NAMES.index(emotion)])
            neurons += _linear(_constant(1.0) * _SCALE, mood * axis)
            neurons += _ramp(_level(d), m.LEVEL_FULL, _constant(1.0), -mood * axis)
    if spec.persona_joy:
        neurons += _linear(assistant, spec.persona_joy * _feature(d.axis[NAMES.index("joy")]))
    return neurons


def _shrink(spec: PhantomSpec) -> list[Neuron]:
    """The rogue coordinate falls from NORM to its last value, as massive activations do in trained models."""
    return _linear(_unit(m.ROGUE), -_unit(m.ROGUE) * (1.0 - spec.rogue / m.NORM))
