"""`llmct-bench suites`: list, show, check, init."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from llmct_bench.commands.options import AsJson, Offline, print_table
from llmct_bench.errors import LlmctError

app = typer.Typer(help="The prompt suites.", no_args_is_help=True)


@app.command("list")
def suites_list(as_json: AsJson = False) -> None:
    """List the shipped suites; those sampled from other data sets are not fetched."""
    from llmct_bench.suites import get_card, get_suite, list_suites

    rows = []
    for name in list_suites():
        card = get_card(name)
        rows.append(
            _suite_json(get_suite(name)) if card.source is None else {**card.model_dump(mode="json"), "name": name}
        )
    if as_json:
        print(json.dumps(rows))
        return
    header = ["name", "version", "language", "scenarios", "items", "readouts", "summary"]
    print_table([[r.get(k, "sampled" if k == "items" else "") for k in header] for r in rows], header)


@app.command("show")
def suites_show(name: str, as_json: AsJson = False) -> None:
    """Show a suite's card, counts, what a bag of words makes of it, and some items."""
    from llmct_bench.suites import get_suite
    from llmct_bench.suites.baseline import bag_of_words

    suite = get_suite(name)
    data = _suite_json(suite)
    halves = {"keyworded": True, "keyword-free": False}
    parts = {title: [i for i in suite.items if i.keyworded is half] for title, half in halves.items()}
    found = {title: bag_of_words(part) for title, part in parts.items() if part}
    data["bag_of_words"] = {
        title: {"items": b.items, "accuracy": b.accuracy.estimate, "low": b.accuracy.low, "high": b.accuracy.high}
        | {"chance": b.chance, "recall": b.recall}
        for title, b in found.items()
        if b is not None
    }
    if as_json:
        print(json.dumps(data))
        return
    for key, value in data.items():
        if key not in ("bag_of_words", "source") and value not in ("", None):
            print(f"{key:12} {value}")
    if suite.card.source is not None:
        print(f"{'source':12} {suite.card.source.name} {suite.card.source.revision}".rstrip())
    print_table(_cells(suite), ["emotion", "intensity 0", "1", "2", "3"])
    for title, b in data["bag_of_words"].items():
        recall = ", ".join(f"{e} {r:.2f}" for e, r in b["recall"].items())
        accuracy = f"{b['accuracy']:.3f} [{b['low']:.3f}, {b['high']:.3f}]"
        print(f"bag of words, {title}: balanced accuracy {accuracy}, chance {b['chance']:.2f}; {recall}")
    step = max(len(suite.items) // 4, 1)
    for item in suite.items[::step][:4]:
        print(f"\n{item.id}")
        for message in item.messages[-2:]:
            print(f"  {message.role}: {message.content}")


@app.command("check")
def suites_check(
    suites: Annotated[list[str] | None, typer.Argument(help="Names or folders; default: all shipped suites.")] = None,
    tokenizer: Annotated[
        list[str] | None, typer.Option(help="Also report lengths for this tokenizer (Hub id or folder); repeatable.")
    ] = None,
    offline: Offline = False,
) -> None:
    """The gate: every defect with file and line. Exit code 1 where there are some."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from llmct_bench.suites import get_suite, list_suites, shipped_root
    from llmct_bench.suites.check import check

    defects = 0
    for name in suites or list_suites():
        folder = shipped_root() / name if name in list_suites() else Path(name)
        findings = check(folder)
        defects += len(findings)
        for finding in findings:
            print(finding)
        print(f"{name}: {len(findings)} defects" if findings else f"{name}: ok")
        if tokenizer and not findings:
            suite = get_suite(name)
            for each in tokenizer:
                defects += not _print_lengths(suite, each)
    if defects:
        raise typer.Exit(1)


@app.command("init")
def suites_init(folder: Path) -> None:
    """Write a commented skeleton of a suite into a new folder."""
    from llmct_bench.suites.skeleton import init

    for path in init(folder):
        print(path)
    print(f"change it, then: llmct-bench suites check {folder}")


def _print_lengths(suite: Any, tokenizer: str) -> bool:
    from transformers import AutoTokenizer

    from llmct_bench.suites.lengths import token_lengths

    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError) as error:
        raise LlmctError(f"tokenizer {tokenizer}: {str(error).splitlines()[0]}") from None
    found = token_lengths(suite.items, loaded, opening=suite.card.design == "retention")
    ratio = f"item / twin median {found.median:.3f}, middle 95 % {found.low:.2f} to {found.high:.2f}"
    beyond = f", {found.off:.0%} of the items beyond 10 %"
    verdict = "" if found.balanced else " NOT BALANCED"
    twins = ratio + beyond if found.pairs else "no twins"
    print(f"  {tokenizer}: {twins}; longest conversation {found.longest} tokens{verdict}")
    return found.balanced


def _cells(suite: Any) -> list[list[Any]]:
    counts = Counter((i.emotion, i.intensity) for i in suite.items)
    emotions = list(dict.fromkeys(i.emotion for i in suite.items))
    return [[e, *(counts[e, n] or "" for n in range(4))] for e in emotions]


def _suite_json(suite: Any) -> dict[str, Any]:
    return {
        **suite.card.model_dump(mode="json"),
        "hash": suite.content_hash,
        "scenarios": len(suite.scenarios),
        "items": len(suite.items),
        "readouts": sum(len(i.reads) for i in suite.items),
    }
