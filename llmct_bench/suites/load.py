"""Finding and reading suites: shipped by name, a folder, or a data set on the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from llmct_bench.errors import SuiteError, UnknownName
from llmct_bench.suites.sample import sample
from llmct_bench.suites.schema import Item, Suite, SuiteCard

_PACKAGE = Path(__file__).resolve().parent.parent

#: What a run measures when nothing else is asked for. The reference comes first because everything is measured on its
#: axes.
DEFAULT = ("reference", "circumplex", "shock", "retention")


def shipped_root() -> Path:
    """The folder of the shipped suites: inside of an installed wheel, else beside the package in a checkout."""
    for root in (_PACKAGE / "_suites", _PACKAGE.parent / "suites"):
        if (root / "reference" / "suite.yaml").is_file():
            return root
    raise SuiteError("the shipped suites are missing from this installation: reinstall llmct-bench")


def list_suites() -> list[str]:
    """Names of the shipped suites, the default ones first."""
    names = sorted(p.parent.name for p in shipped_root().glob("*/suite.yaml"))
    return [*DEFAULT, *(n for n in names if n not in DEFAULT)]


def get_card(name: str) -> SuiteCard:
    """The card of a shipped suite or of a folder, without its items (and so without a network)."""
    folder = shipped_root() / name if name in list_suites() else Path(name)
    if not (folder / "suite.yaml").is_file():
        raise UnknownName("suite", name, list_suites())
    return _card(folder / "suite.yaml")


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
        from llmct_bench.suites.hub import suite_rows

        card, rows = suite_rows(name, revision)
        return _suite(_card(card), rows)
    raise UnknownName("suite", name, list_suites())


def read_folder(folder: Path) -> Suite:
    """Read ``suite.yaml`` and ``data/*.jsonl``, or sample the source that the card names. Raises SuiteError naming the
    file and line of the first fault."""
    card = _card(folder / "suite.yaml")
    if card.source is not None:
        from llmct_bench.suites.hub import read_source  # `datasets` takes two seconds to import

        return Suite(card, tuple(sample(*read_source(card.source))))
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
