"""The registry of models: one card each, as data (`cards/*.toml`), plus the phantoms."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path

from llmct_bench.errors import ModelError, UnknownName
from llmct_bench.models.phantoms import PANEL, PhantomSpec


@dataclass(frozen=True)
class ModelCard:
    """Facts about a model. Numbers are 0 and texts empty where a model outside of the registry has not said.

    ``revision`` is a commit where one is pinned; otherwise it is resolved at load and recorded with the result.
    ``attention`` is MHA, GQA, MQA, MLA, hybrid or recurrent; ``stage`` is base, instruct, sft, dpo or rl.
    """

    name: str
    hub_id: str = ""
    revision: str = ""
    family: str = ""
    model_type: str = ""
    params_b: float = 0.0
    layers: int = 0
    d_model: int = 0
    heads: int = 0
    kv_heads: int = 0
    attention: str = ""
    stage: str = ""
    tuned_from: str = ""
    licence: str = ""
    gated: bool = False
    context: int = 0
    released: str = ""
    #: where the weights are when they are not on the Hub
    path: str = ""
    phantom: PhantomSpec | None = None

    @property
    def source(self) -> str:
        """``phantom``, ``local`` or ``hub``."""
        return "phantom" if self.phantom else "local" if self.path else "hub"


@cache
def registry() -> dict[str, ModelCard]:
    """All cards by name: phantoms first, then `cards/*.toml` in file order. A name that stands twice is an error
    that names both files."""
    cards = {f"phantom/{s.name}": _phantom_card(s) for s in PANEL}
    origin = dict.fromkeys(cards, "the phantom panel")
    known = {f.name for f in fields(ModelCard)} - {"path", "phantom"}
    folder = resources.files("llmct_bench") / "models" / "cards"
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".toml"):
            continue
        for entry in tomllib.loads(file.read_text(encoding="utf-8")).get("model", []):
            unknown = set(entry) - known
            if unknown:
                raise ModelError(f"cards/{file.name}: {entry.get('name')}: unknown fields {sorted(unknown)}")
            card = ModelCard(**entry)
            if card.name in cards:
                raise ModelError(f"model {card.name!r} stands in cards/{file.name} and in {origin[card.name]}")
            cards[card.name], origin[card.name] = card, f"cards/{file.name}"
    return cards


def _phantom_card(spec: PhantomSpec) -> ModelCard:
    return ModelCard(
        name=f"phantom/{spec.name}",
        family="phantom",
        model_type="qwen2",
        params_b=0.001,
        layers=6,
        d_model=80,
        heads=4,
        kv_heads=4,
        attention="MHA",
        stage="instruct",
        licence="apache-2.0",
        context=4096,
        phantom=spec,
    )


def get_model(name: str | PhantomSpec) -> ModelCard:
    """A card by registry name (``qwen2.5-3b-instruct``, ``phantom/joyful``), by Hub id (``owner/name``), by local
    path, or for a `PhantomSpec` of one's own. Raises UnknownName with the nearest names."""
    if isinstance(name, PhantomSpec):
        return _phantom_card(name)
    cards = registry()
    if name in cards:
        return cards[name]
    by_hub = {c.hub_id.lower(): c for c in cards.values() if c.hub_id}
    if name.lower() in by_hub:
        return by_hub[name.lower()]
    folder = Path(name)
    if (folder / "config.json").is_file():
        return ModelCard(name=folder.resolve().name, path=str(folder.resolve()))
    if folder.is_dir() or name.startswith((".", "/", "~")):
        raise ModelError(f"{name}: no config.json there; a local model is a folder written by save_pretrained")
    if name.count("/") == 1 and not name.startswith("phantom/"):
        return ModelCard(name=name.lower().replace("/", "--"), hub_id=name)
    raise UnknownName("model", name, cards)


def find_models(family: str = "", stage: str = "", attention: str = "", max_params_b: float = 0.0) -> list[ModelCard]:
    """Cards that match all given filters (case-insensitive; family by prefix)."""
    return [
        c
        for c in registry().values()
        if c.family.lower().startswith(family.lower())
        and (not stage or c.stage == stage.lower())
        and (not attention or c.attention.lower() == attention.lower())
        and (not max_params_b or c.params_b <= max_params_b)
    ]
