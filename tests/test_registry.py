"""The registry of models: complete, consistent with itself and with what the makers publish."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmct_bench.errors import ModelError, UnknownName
from llmct_bench.models import cards
from llmct_bench.models.cards import ModelCard, find_models, get_model, registry

CARDS = [c for c in registry().values() if not c.phantom]
QWEN_SIZES = ("0.5b", "1.5b", "3b", "7b", "14b", "32b", "72b")

#: From the makers' config.json files: layers, width, heads, key-value heads.
PUBLISHED = {
    "gpt2": (12, 768, 12, 12),
    "gpt2-xl": (48, 1600, 25, 25),
    "pythia-70m": (6, 512, 8, 8),
    "pythia-12b": (36, 5120, 40, 40),
    "tinyllama-1.1b-chat": (22, 2048, 32, 4),
    "qwen2.5-0.5b": (24, 896, 14, 2),
    "qwen2.5-3b-instruct": (36, 2048, 16, 2),
    "qwen2.5-72b": (80, 8192, 64, 8),
    "qwen3-8b": (36, 4096, 32, 8),
    "llama-3.1-8b": (32, 4096, 32, 8),
    "llama-3.2-1b": (16, 2048, 32, 8),
    "mistral-7b-v0.3": (32, 4096, 32, 8),
    "gemma-2-2b": (26, 2304, 8, 4),
    "phi-4": (40, 5120, 40, 10),
    "smollm2-135m": (30, 576, 9, 3),
    "olmo-2-7b": (32, 4096, 32, 32),
}


def test_there_are_enough_cards() -> None:
    """At least 60 models besides the phantoms, under as many Hub ids."""
    assert len(CARDS) >= 60
    assert len({c.hub_id.lower() for c in CARDS}) == len(CARDS)


@pytest.mark.parametrize(
    "pattern",
    [
        *(rf"qwen2\.5-{re.escape(s)}{stage}" for s in QWEN_SIZES for stage in ("", "-instruct")),
        r"qwen3-.+-base",
        r"qwen3-[\d.]+b",
        *(rf"llama-3\.{minor}{stage}" for minor in ("1-8b", "2-1b", "2-3b") for stage in ("", "-instruct")),
        r"mistral-7b-v0\.\d",
        r"mistral-7b-instruct-v0\.\d",
        r"ministral-8b-instruct-.*",
        *(rf"gemma-{generation}-.+-it" for generation in (2, 3)),
        r"phi-3\.5-mini-instruct",
        r"phi-4",
        r"smollm2-135m-instruct",
        r"smollm3-3b",
        *(f"pythia-{s}" for s in ("70m", "160m", "410m", "1b", r"1\.4b", r"2\.8b", r"6\.9b", "12b")),
        r"falcon3-.+-instruct",
        r"granite-3\.\d-.+-instruct",
        "gpt2",
        r"tinyllama-1\.1b-chat",
        r"mamba-.+",
    ],
)
def test_the_families_are_there(pattern: str) -> None:
    """Every family of the list is registered under a name that one would type."""
    assert [c.name for c in CARDS if re.fullmatch(pattern, c.name)]


@pytest.mark.parametrize("size", ["1b", "7b", "13b", "32b"])
def test_olmo_2_shows_all_stages_of_training(size: str) -> None:
    """OLMo 2 leads from base over SFT and DPO to RL, each tuned from the one before."""
    card, chain = get_model(f"olmo-2-{size}-instruct"), []
    while card.tuned_from:
        chain.append(card.stage)
        card = get_model(card.tuned_from)
    assert list(dict.fromkeys([*chain, card.stage])) == ["rl", "dpo", "sft", "base"]


def test_tuning_leads_back_to_a_root_of_the_same_shape() -> None:
    """``tuned_from`` names a card, never goes in a circle, never to a later stage, and keeps layers and width."""
    order = ("base", "instruct", "sft", "dpo", "rl")
    assert sum(bool(c.tuned_from) for c in CARDS) > 20
    for card in CARDS:
        seen = {card.name}
        while card.tuned_from:
            parent = registry()[card.tuned_from]
            assert parent.name not in seen
            assert order.index(parent.stage) <= order.index(card.stage)
            assert (parent.layers, parent.d_model, parent.heads) == (card.layers, card.d_model, card.heads), card.name
            seen.add(parent.name)
            card = parent


@pytest.mark.parametrize("card", CARDS, ids=lambda c: c.name)
def test_a_card_is_complete_and_agrees_with_itself(card: ModelCard) -> None:
    """Numbers are positive, the kind of attention follows from the heads, and a size in the name is the size."""
    assert card.name == card.name.lower()
    assert card.hub_id.count("/") == 1
    assert min(card.layers, card.d_model, card.context, card.params_b) > 0
    assert card.licence
    assert re.fullmatch(r"20\d\d-[01]\d(-[0-3]\d)?", card.released)
    assert card.stage in ("base", "instruct", "sft", "dpo", "rl")
    assert not (card.stage == "base" and card.tuned_from)
    if card.attention in ("MHA", "GQA", "MQA"):
        assert card.heads % card.kv_heads == 0
        kind = "MHA" if card.heads == card.kv_heads else "MQA" if card.kv_heads == 1 else "GQA"
        assert card.attention == kind
    elif card.attention == "recurrent":
        assert (card.heads, card.kv_heads) == (0, 0)
    else:
        assert card.attention in ("MLA", "hybrid")
        assert card.heads >= card.kv_heads > 0
    size = re.search(r"-(\d+(?:\.\d+)?)([mb])(?:-|$)", card.name)
    if size:
        said = float(size[1]) / (1000 if size[2] == "m" else 1)
        assert 1 / 1.7 < card.params_b / said < 1.7


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_are_the_published_ones(name: str) -> None:
    """Spot checks against the makers' configurations."""
    card = get_model(name)
    assert (card.layers, card.d_model, card.heads, card.kv_heads) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("qwen2.5-3b-instrct", "qwen2.5-3b-instruct"),
        ("Llama-3.2-1B-Instrukt", "llama-3.2-1b-instruct"),
        ("gpt-2", "gpt2"),
        ("phantom/joyfull", "phantom/joyful"),
    ],
)
def test_unknown_names_name_near_ones(typed: str, meant: str) -> None:
    """A misspelt name is answered with the right one among at most three."""
    with pytest.raises(UnknownName) as caught:
        get_model(typed)
    suggestions = str(caught.value).partition("did you mean ")[2].rstrip("?").split(", ")
    assert meant in suggestions
    assert len(suggestions) <= 3


def test_a_name_like_nothing_lists_some() -> None:
    """Where nothing is near, known names are shown."""
    with pytest.raises(UnknownName, match="known: "):
        get_model("zzzzzzzzzzzz")


@pytest.mark.parametrize("change", [str, str.upper, str.lower, str.swapcase])
def test_hub_ids_are_found_in_any_case(change: type[str]) -> None:
    """A Hub id leads to its card, however it is capitalised."""
    assert [get_model(change(c.hub_id)).name for c in CARDS] == [c.name for c in CARDS]


def test_what_is_not_registered_gets_a_card_of_its_own(tmp_path: Path) -> None:
    """An unknown Hub id and a local folder are taken as they are; a folder without config.json is refused."""
    hub = get_model("Someone/Some-Model")
    assert (hub.hub_id, hub.source) == ("Someone/Some-Model", "hub")
    with pytest.raises(ModelError, match=r"no config\.json there"):
        get_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    local = get_model(str(tmp_path))
    assert (local.name, local.path, local.source) == (tmp_path.name, str(tmp_path.resolve()), "local")


def write_cards(monkeypatch: pytest.MonkeyPatch, root: Path, **files: str) -> None:
    """A registry of one's own: TOML files by stem."""
    (root / "models" / "cards").mkdir(parents=True)
    for stem, text in files.items():
        (root / "models" / "cards" / f"{stem}.toml").write_text(text)
    monkeypatch.setattr(cards, "resources", SimpleNamespace(files=lambda _: root))


def test_a_name_in_two_files_names_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same name twice is an error that says where both stand."""
    write_cards(monkeypatch, tmp_path, one='[[model]]\nname = "m"\n', two='[[model]]\nname = "m"\n')
    with pytest.raises(ModelError, match=r"'m' .*cards/two\.toml .*cards/one\.toml"):
        registry.__wrapped__()


def test_a_card_cannot_take_the_name_of_a_phantom(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The panel's names are taken."""
    write_cards(monkeypatch, tmp_path, one='[[model]]\nname = "phantom/joyful"\n')
    with pytest.raises(ModelError, match=r"cards/one\.toml and in the phantom panel"):
        registry.__wrapped__()


def test_an_unknown_field_of_a_card_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A misspelt field does not vanish."""
    write_cards(monkeypatch, tmp_path, one='[[model]]\nname = "m"\nlayer = 3\n')
    with pytest.raises(ModelError, match=r"cards/one\.toml: m: unknown fields \['layer'\]"):
        registry.__wrapped__()


def test_filters_narrow_the_list() -> None:
    """Every filter keeps exactly the cards that it describes, and filters combine."""
    for card in find_models("qwen2.5", "instruct", "gqa", 3.2):
        assert card.family.lower().startswith("qwen2.5")
        assert (card.stage, card.attention) == ("instruct", "GQA")
        assert card.params_b <= 3.2
    found = [c.name for c in find_models("QWEN2.5", "instruct", "GQA", 3.2)]
    assert found == ["qwen2.5-0.5b-instruct", "qwen2.5-1.5b-instruct", "qwen2.5-3b-instruct"]
    assert len(find_models()) == len(registry())
