"""Finding and reading suites: shipped by name, a folder, or a data set on the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from llmct_bench.errors import SuiteError, UnknownName
from llmct_bench.suites.schema import Item, Suite, SuiteCard

_PACKAGE = Path(__file__).resolve().parent.parent


def shipped_root() -> Path:
    """The folder of the shipped suites: inside of an installed wheel, else beside the package in a checkout."""
    for root in (_PACKAGE / "_suites", _PACKAGE.parent / "suites"):
        if (root / "reference" / "suite.yaml").is_file():
            return root
    raise SuiteError("the shipped suites are missing from this installation: reinstall llmct-bench")


def list_suites() -> list[str]:
    """Names of the shipped suites; the reference comes first because everything is measured on its axes."""
    names = sorted(p.parent.name for p in shipped_root().glob("*/suite.yaml"))
    return ["reference", *(n for n in names if n != "reference")]


def get_suite(name: str, revision: str | None = None) -> Suite:
    """A suite by shipped name, by folder (``./my_suite``) or by Hub data set id (``owner/name``).

    Raises UnknownName or SuiteError.
    """
    folder = Path(name)
    if name in list_suites():
        return read_folder(shipped_root() / name)
    if (folder / "suite.yaml").is_file():
        return read_folder(folder)
    if folder.is_dir() or name.startswith((".", "/")):
        raise SuiteError(f"{name}: no suite.yaml there; a suite folder needs suite.yaml and data/*.jsonl")
    if name.count("/") == 1:
        return _from_hub(name, revision)
    raise UnknownName("suite", name, list_suites())


def read_folder(folder: Path) -> Suite:
    """Read ``suite.yaml`` and ``data/*.jsonl``. Raises SuiteError naming the file and line of the first fault."""
    card = _card(folder / "suite.yaml")
    files = [folder / "data" / f"{split}.jsonl" for split in ("fit", "dev", "test")]
    rows: list[tuple[str, Any]] = []
    for path in files:
        if not path.is_file():
            continue
        for n, line in enumerate(_text(path).split("\n"), 1):  # not splitlines: a text may hold other separators
            if not line.strip():
                continue
            try:
                rows.append((f"{path}:{n}", json.loads(line)))
            except json.JSONDecodeError as error:
                raise SuiteError(f"{path}:{n}: not JSON ({error.msg}); one object a line is expected") from None
    return _suite(card, rows)


def _card(path: Path) -> SuiteCard:
    try:
        return SuiteCard.model_validate(yaml.safe_load(_text(path)))
    except yaml.YAMLError as error:
        raise SuiteError(f"{path}: broken YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise SuiteError(f"{path}: {_first(error)}") from None


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise SuiteError(f"{path}: not UTF-8 (byte {error.start}); save the file as UTF-8") from None


def _suite(card: SuiteCard, rows: Iterable[tuple[str, Any]]) -> Suite:
    items: list[Item] = []
    seen: dict[str, str] = {}
    for where, row in rows:
        try:
            item = Item.model_validate(row)
        except ValidationError as error:
            raise SuiteError(f"{where}: {_first(error)}") from None
        if item.id in seen:
            raise SuiteError(f"{where}: item id {item.id!r} stands already at {seen[item.id]}")
        seen[item.id] = where
        items.append(item)
    if not items:
        raise SuiteError(f"suite {card.name}: no items; data/fit.jsonl, dev.jsonl or test.jsonl must hold some")
    for item in items:
        if item.twin and item.twin not in seen:
            raise SuiteError(f"{seen[item.id]}: twin {item.twin!r} is not an item of this suite")
    return Suite(card, tuple(items))


def _first(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'row'}: {fault['msg']}"


def _from_hub(repo: str, revision: str | None) -> Suite:
    # imported here: `datasets` takes two seconds to import and a run on shipped suites never needs it
    import datasets
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        card = _card(Path(hf_hub_download(repo, "suite.yaml", repo_type="dataset", revision=revision)))
        splits = datasets.load_dataset(repo, revision=revision)
    except RepositoryNotFoundError:
        raise SuiteError(f"no data set {repo!r} on the Hub (or it is gated: log in with `hf auth login`)") from None
    except (LocalEntryNotFoundError, ConnectionError) as error:
        raise SuiteError(f"{repo}: not in the cache and the Hub cannot be reached ({type(error).__name__})") from None
    except (HfHubHTTPError, datasets.exceptions.DatasetsError, FileNotFoundError) as error:
        raise SuiteError(f"{repo}: {str(error).splitlines()[0]}") from None
    rows = [(f"{repo}[{name}] row {n}", dict(r)) for name, part in splits.items() for n, r in enumerate(part)]
    return _suite(card, rows)
