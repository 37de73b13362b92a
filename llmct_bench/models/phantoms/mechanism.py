"""The planted mechanism: constants and closed forms shared by nobody's forward pass.

`build` writes these constants into weights; `truth` evaluates the closed forms on token ids. The two meet only
in the tests, which hold them against each other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

from llmct_bench.emotions import NAMES, lexicon
from llmct_bench.models.phantoms.spec import PhantomSpec

Floats = NDArray[np.float64]

FEATURES = 64  # Hadamard directions live here: each spreads evenly over all 64 coordinates
ROGUE, SINK, ROLE_USER, ROLE_ASSISTANT, DRIFT = 64, 65, 68, 69, 70  # coordinates of their own
MARK_USER, MARK_ASSISTANT = 66, 67
D_MODEL = 80
N_LAYERS = 6

NORM = 4000.0  # Euclidean norm of every embedding: RMSNorm is linear on them, whatever the word
THETA = 1e-5  # the lowest rotary frequency, radians per token
SINK_SCORE = 9.210340371976184  # ln 1e4: the sink takes nearly all of the attention, so the memory is a plain sum
MARK_SCORE = 1000.0  # a role marker wins against any later word of the same turn
ROLE_LENGTH = 0.25  # tokens: and the last marker wins against all earlier ones
GIST_LENGTH = 30.0  # tokens over which the gist of the topic is averaged
DRIFT_SCORE, DRIFT_LENGTH = 8.0, 150.0
LEXICAL_AMPLITUDE = 0.25  # words and memory are faint where they are read and loud where they are expressed:
MEMORY_AMPLITUDE = 0.1  # that gives the phantoms a layer profile
SHARP = 40.0  # slope of the gates
CALM_FULL = 1.5  # lexicon units of calm in memory at which the shock absorber is fully on
SILENT = 5  # letters; words up to this length are function words, near enough
GIST_AMPLITUDE = 2.0  # the gist is what the end of a text still says about its topic
COUPLING = 4.0  # how strongly the gist of the conversation colours a word: the noise on the emotion axes
LEVEL_FULL = 2.5  # lexicon units of emotion in memory at which the default mood is fully off


@dataclass(frozen=True)
class Directions:
    """Orthonormal rows in feature space, (4, 64) each. The product of ``gist`` (the recent topic) and of a word's
    ``colour`` is the noise on the axes: the same word is read differently in another context."""

    axis: Floats
    lexical: Floats
    memory: Floats
    topic: Floats
    gist: Floats
    colour: Floats


def directions() -> Directions:
    """The planted directions: rows of a Hadamard matrix, so that none is aligned with a coordinate."""
    rows = hadamard(FEATURES).astype(np.float64) / np.sqrt(FEATURES)
    k = len(NAMES)
    return Directions(
        rows[1 : 1 + k],
        rows[1 + k : 1 + 2 * k],
        rows[1 + 2 * k : 1 + 3 * k],
        rows[17:21],
        rows[21:25],
        rows[25:29],
    )


def loads(words: list[str], gain: float) -> Floats:
    """Emotional load of each word (n_words, n_emotions): gain x intensity for the words of the lexicon."""
    out = np.zeros((len(words), len(NAMES)))
    entries = lexicon()
    for i, word in enumerate(words):
        if word in entries:
            out[i, NAMES.index(entries[word].emotion)] = gain * entries[word].intensity
    return out


def word_noise(words: list[str], spec: PhantomSpec) -> Floats:
    """The random part of each word's vector (n_words, 64): topic plus noise, a function of the word and the seed
    alone, with nothing on the directions that the mechanism reads. Short words and marks are silent: they stand
    in every text, so that a random vector of theirs would be an offset of a whole style and no noise."""
    d = directions()
    out = np.zeros((len(words), FEATURES))
    for i, word in enumerate(words):
        if len(word) <= SILENT or word.startswith("<"):
            continue
        digest = hashlib.blake2b(f"{spec.seed}:{word}".encode(), digest_size=8).digest()
        rng = np.random.default_rng(int.from_bytes(digest, "little"))
        out[i] = rng.normal(0.0, spec.noise, FEATURES) + spec.topic / 2 * rng.normal(size=4) @ d.topic
    for rows in (d.axis, d.lexical, d.memory, d.gist):
        out -= (out @ rows.T) @ rows
    return out


def silu(x: Floats) -> Floats:
    """x * sigmoid(x)."""
    return x / (1.0 + np.exp(-np.clip(x, -60.0, 60.0)))


def ramp(x: Floats, full: float) -> Floats:
    """0 for x <= 0, 1 for x >= full, linear between, as the two-neuron gate computes it."""
    return (silu(SHARP * x) - silu(SHARP * (x - full))) / (SHARP * full)
