"""The program against a Hugging Face Hub: download, cache, offline, refusals. Run as a user runs it, in a process
of its own, because huggingface_hub reads its environment once, at import."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from hub import Hub
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from llmct_bench import LoadOptions, evaluate, get_suite, load, wrap
from llmct_bench.errors import ModelError
from llmct_bench.suites import read_folder

QWEN = "Qwen/Qwen2.5-3B-Instruct"
GATED = "meta-llama/Llama-3.2-1B-Instruct"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
README = """---
configs:
- config_name: default
  data_files:
{files}
---
"""


def save_checkpoint(folder: Path) -> None:
    """A tiny random Qwen2 with a byte-level BPE tokenizer trained on the suites' own texts."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (m.content for name in ("reference", "circumplex") for i in get_suite(name).items for m in i.messages)
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.1,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)


def save_suite(folder: Path, name: str, scenarios: int) -> None:
    """The first scenarios of every split of a shipped suite, with the README that the Hub's data sets need."""
    shipped = get_suite(name)
    splits = list(dict.fromkeys(i.split for i in shipped.items))
    (folder / "data").mkdir(parents=True)
    for split in splits:
        items = [i for i in shipped.items if i.split == split]
        kept = list(dict.fromkeys(i.scenario for i in items))[:scenarios]
        lines = [json.dumps(i.model_dump(mode="json")) for i in items if i.scenario in kept]
        (folder / "data" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    files = "\n".join(f"  - split: {s}\n    path: data/{s}.jsonl" for s in splits)
    (folder / "README.md").write_text(README.format(files=files))
    card = {**shipped.card.model_dump(), "name": f"my-{name}"}
    (folder / "suite.yaml").write_text(json.dumps(card))  # JSON is YAML


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Hub holds."""
    root = tmp_path_factory.mktemp("repositories")
    save_checkpoint(root / "models" / QWEN)
    (root / "models" / GATED).mkdir(parents=True)
    save_suite(root / "datasets" / "someone" / "my-suite", "circumplex", 3)
    save_suite(root / "datasets" / "someone" / "my-reference", "reference", 2)
    return root


@pytest.fixture
def hub(repositories: Path) -> Iterator[Hub]:
    with Hub(repositories, gated=(GATED,)) as served:
        yield served


def python(*arguments: str, endpoint: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run this Python with nothing of the user's Hub settings, cache or proxies."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "LLMCT_")) and "proxy" not in k.lower()}
    env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, cwd=home.parent)


def bench(*arguments: str, endpoint: str, home: Path) -> subprocess.CompletedProcess[str]:
    return python("-m", "llmct_bench.cli", "run", *arguments, endpoint=endpoint, home=home)


def cards(output: Path) -> dict[str, dict]:
    """Stored results by suite, each with the folder it lies in."""
    found = (p for p in (output / "results").rglob("card.json"))
    return {c["suite"]: {**c, "folder": p.parent} for p in found for c in [json.loads(p.read_text())]}


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The errors that a failed run told, each on one line again (a terminal's width may have broken them)."""
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    return [" ".join(e.split()) for e in re.split(r"^error: ", done.stderr, flags=re.MULTILINE)[1:]]


@dataclass
class Runs:
    """A run with the Hub and one with ``--offline`` after the Hub is gone."""

    online: Path
    offline: Path
    home: Path
    commit: str
    requests: list[str]


@pytest.fixture(scope="module")
def runs(repositories: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    top = tmp_path_factory.mktemp("runs")
    online, offline, home = (top / n for n in ("online", "offline", "home"))
    arguments = ["--models", "qwen2.5-3b-instruct", "--limit", "8", "--output"]
    with Hub(repositories) as hub:
        done = bench(*arguments, str(online), endpoint=hub.url, home=home)
        assert done.returncode == 0, done.stderr
    only = ["--suites", "reference,circumplex", "--offline"]
    done = bench(*arguments, str(offline), *only, endpoint=hub.url, home=home)
    assert done.returncode == 0, done.stderr
    return Runs(online, offline, home, hub.commit("models", QWEN), hub.requests)


def test_run_downloads_once_into_the_cache(repositories: Path, runs: Runs) -> None:
    assert sum(r.startswith("GET /") and r.endswith("/model.safetensors") for r in runs.requests) == 1
    cached = runs.home / "hub" / "models--Qwen--Qwen2.5-3B-Instruct" / "snapshots" / runs.commit
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (cached / name).read_bytes() == (repositories / "models" / QWEN / name).read_bytes()


def test_run_scores_every_suite_and_writes_the_leaderboard(runs: Runs) -> None:
    results = cards(runs.online)
    limited = {f"{get_suite(design).key}~limit8" for design in ("circumplex", "retention", "shock")}
    assert set(results) == {get_suite("reference").key, *limited}
    for suite, card in results.items():
        assert (card["model"]["name"], card["model"]["hub_id"]) == ("qwen2.5-3b-instruct", QWEN)
        assert card["model"]["source"] == "hub"
        assert all(check["passed"] for check in card["certificate"]["checks"])
        assert card["n_scenarios"] == 8 or suite not in limited
        scores = pd.read_parquet(card["folder"] / "scores.parquet")
        assert len(scores) == card["n_readouts"] * 3  # two blocks have three boundaries
    assert "qwen2.5-3b-instruct" in (runs.online / "reports" / "leaderboard.md").read_text()


def test_results_carry_the_commit_of_the_hub(runs: Runs) -> None:
    for card in [*cards(runs.online).values(), *cards(runs.offline).values()]:
        assert card["commit"] == card["folder"].parent.name == runs.commit


def test_offline_run_from_the_cache_measures_the_same(runs: Runs) -> None:
    online, offline = cards(runs.online), cards(runs.offline)
    assert set(offline) == {get_suite(n).limited(k).key for n, k in (("reference", 0), ("circumplex", 8))}
    for suite, card in offline.items():
        assert card["key"] == online[suite]["key"]
        scores = [pd.read_parquet(c["folder"] / "scores.parquet") for c in (card, online[suite])]
        pd.testing.assert_frame_equal(*scores)


def test_scores_are_those_of_the_model_that_was_served(repositories: Path, runs: Runs) -> None:
    """The same checkpoint, read from its folder by transformers and measured in this process."""
    folder = repositories / "models" / QWEN
    torch.set_num_threads(1)  # faster for a model this small
    model = wrap(Qwen2ForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder))
    for card in evaluate(model, [get_suite("circumplex").limited(8)]):
        stored = cards(runs.online)[card.suite]
        assert stored["suite_hash"] == card.suite_hash
        estimates = [math.nan if t["estimate"] is None else t["estimate"] for t in stored["traits"]]
        assert estimates == pytest.approx([t.estimate for t in card.traits], rel=1e-3, nan_ok=True)


@pytest.fixture(scope="module")
def offline_without_cache(repositories: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    home = tmp_path_factory.mktemp("empty") / "home"
    arguments = ["--models", "qwen2.5-3b-instruct", "--offline", "--output", str(home.parent)]
    with Hub(repositories) as hub:
        done = bench(*arguments, endpoint=hub.url, home=home)
    return done, hub.requests


def test_offline_without_cache_says_so_and_asks_nobody(offline_without_cache: tuple) -> None:
    done, requests = offline_without_cache
    assert "not complete in the cache: run once without --offline" in errors(done)[0]
    assert requests == []
    assert "leaderboard" not in done.stdout


def test_a_failed_run_ends_with_one_line(offline_without_cache: tuple) -> None:
    done, _ = offline_without_cache
    assert [line[:6] for line in done.stderr.splitlines() if line.strip()] == ["error:"]


def test_unknown_model_names_near_ones(hub: Hub, tmp_path: Path) -> None:
    done = bench("--models", "qwen2.5-3b-instrukt", endpoint=hub.url, home=tmp_path / "home")
    (error,) = errors(done)
    assert "unknown model 'qwen2.5-3b-instrukt'" in error
    assert "qwen2.5-3b-instruct" in error.partition("did you mean")[2]
    assert hub.requests == []


def test_gated_and_absent_models_are_refused_each_with_its_reason(hub: Hub, tmp_path: Path) -> None:
    models = "llama-3.2-1b-instruct,someone/absent"
    done = bench("--models", models, endpoint=hub.url, home=tmp_path / "home")
    gated, absent = errors(done)[:2]
    assert gated.startswith("llama-3.2-1b-instruct: the model is gated: accept its licence")
    assert absent.startswith("someone--absent: someone/absent is not a local folder")


def test_pickled_weights_are_loaded_only_when_allowed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="pickle needs --allow-pickle"):
        load(str(tmp_path), LoadOptions(device="cpu"))
    model = load(str(tmp_path), LoadOptions(device="cpu", allow_pickle=True))
    key = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(model.module.state_dict()[key], weights[key])


READ_SUITES = """
from llmct_bench import get_suite
for name in ("someone/my-suite", "someone/my-reference"):
    suite = get_suite(name)
    print(suite.card.model_dump_json(), [i.model_dump_json() for i in suite.items], sep="\\n")
"""


def test_data_set_on_the_hub_equals_the_local_folder(repositories: Path, tmp_path: Path) -> None:
    expected = []
    for name in ("my-suite", "my-reference"):
        suite = read_folder(repositories / "datasets" / "someone" / name)
        expected += [suite.card.model_dump_json(), str([i.model_dump_json() for i in suite.items])]
    with Hub(repositories) as hub:
        done = python("-c", READ_SUITES, endpoint=hub.url, home=tmp_path / "home")
    assert done.stdout.splitlines() == expected, done.stderr
    # the server is gone: what was read once is in the cache
    offline = "import os; os.environ['HF_HUB_OFFLINE'] = '1'\n" + READ_SUITES
    again = python("-c", offline, endpoint=hub.url, home=tmp_path / "home")
    assert again.stdout.splitlines() == expected, again.stderr


def test_absent_data_set_is_named(hub: Hub, tmp_path: Path) -> None:
    done = python("-c", READ_SUITES.replace("my-suite", "absent"), endpoint=hub.url, home=tmp_path / "home")
    assert done.stderr.splitlines()[-1].startswith(
        "llmct_bench.errors.SuiteError: someone/absent: no such data set on the Hub"
    )
