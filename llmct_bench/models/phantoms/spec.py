"""The knobs of a phantom: a model whose emotional life is planted and therefore known."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PhantomSpec:
    """Everything that is planted. Loads are in lexicon units (intensity 1 to 3); lengths in tokens.

    The first group is what the benchmark must recover, the second what it must ignore.
    """

    name: str
    summary: str
    #: size of the response to emotional words; 0 = a model without emotion
    gain: float = 1.0
    #: added on an axis where no emotion is present; the gate closes as the emotional level rises
    default_joy: float = 0.0
    default_sadness: float = 0.0
    #: joy that is added in the assistant's turns only
    persona_joy: float = 0.0
    #: response in the assistant's slot / response in the user's slot
    role_gain: float = 1.0
    #: share of a shock that a calm context takes away
    absorption: float = 0.0
    #: e-folding length of the memory; half-life = ln 2 x this
    memory: float = 200.0

    #: joy added to every state whatsoever: unobservable by contrasts, visible to raw cosine
    tint: float = 0.0
    #: standard deviation of a word's random vector per dimension
    noise: float = 0.3
    #: length of the topic part of a word's vector: what neutral text varies in most
    topic: float = 2.6
    #: the constant rogue dimension at the last point
    rogue: float = 4.5
    #: size of the common mean that fades with position
    drift: float = 4.0
    #: offset between user and assistant turns; the role's mechanisms read it, so it must be positive
    role_offset: float = 2.0
    #: seeds the word vectors
    seed: int = 0

    @property
    def half_life_tokens(self) -> float:
        """The planted half-life in tokens."""
        return 0.6931471805599453 * self.memory


PANEL: tuple[PhantomSpec, ...] = (
    PhantomSpec("zero-emotion", "no emotion at all: mean, rogue dimension, drift, role, noise", gain=0.0, seed=1),
    PhantomSpec("neutral", "reads and remembers emotion, without any bias", seed=2),
    PhantomSpec("tinted", "a constant joy on every state: only raw cosine may notice", tint=3.0, seed=3),
    PhantomSpec("joyful", "default mood joy", default_joy=2.0, seed=4),
    PhantomSpec("gloomy", "default mood sadness", default_sadness=2.0, seed=5),
    PhantomSpec("dampened", "responds with 40 % of the strength as assistant", role_gain=0.4, seed=6),
    PhantomSpec("amplified", "responds with 150 % of the strength as assistant", role_gain=1.5, seed=7),
    PhantomSpec("absorbing", "a calm context takes away 60 % of a shock", absorption=0.6, seed=8),
    PhantomSpec("forgetful", "half-life of 50 tokens", memory=72.0, seed=9),
    PhantomSpec("faithful", "half-life of 500 tokens", memory=721.0, seed=10),
    PhantomSpec(
        "persona",
        "joyful and dampened as assistant, neutral as user",
        persona_joy=1.0,
        role_gain=0.7,
        seed=11,
    ),
)
