"""The sweep over every causal architecture that transformers knows, and the page that shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import transformers
from tabulate import tabulate
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from llmct_bench.adapters.adapter import Adapter
from llmct_bench.adapters.architectures import REFUSED
from llmct_bench.adapters.certificate import CHECKS, AdapterCertificate, Check
from llmct_bench.adapters.checks import model_checks
from llmct_bench.adapters.resolve import resolve
from llmct_bench.adapters.tiny import VOCABULARY, tiny
from llmct_bench.errors import ModelError

Status = Literal["certified", "failed", "refused", "not built", "not a decoder"]

#: Types in transformers' causal list that are no decoder-only language models, by reason.
_REASONS = {
    "an encoder, which reads in both directions": (
        "bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta "
        "roberta-prelayernorm roc_bert roformer xlm xlm-roberta xlm-roberta-xl xmod"
    ),
    "the decoder of an encoder–decoder, which reads another text, sound or picture": (
        "bart bigbird_pegasus blenderbot blenderbot-small marian mbart musicgen musicgen_melody mvp pegasus plbart "
        "prophetnet trocr whisper"
    ),
    "a permutation model, which reads in both directions": "xlnet",
    "a drafter, which needs another model's keys and values": "gemma4_assistant gemma4_unified_assistant",
}
NOT_DECODERS: dict[str, str] = {kind: reason for reason, kinds in _REASONS.items() for kind in kinds.split()}

#: Checks that are exact: shown together.
_EXACT = ("finite", "identity patch", "removal", "hooks")
_MEASURED = tuple(name for name in CHECKS if name not in (*_EXACT, "start token", "spans"))


@dataclass(frozen=True)
class Coverage:
    """What became of one model type."""

    model_type: str
    status: Status
    reason: str = ""
    block: str = ""
    points: tuple[str, ...] = ()
    certificate: AdapterCertificate | None = None


def model_types() -> list[str]:
    """All types of transformers' causal language models."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def cover(model_type: str) -> Coverage:
    """Certify one type at tiny random size."""
    if model_type in NOT_DECODERS:
        return Coverage(model_type, "not a decoder", NOT_DECODERS[model_type])
    if model_type in REFUSED:
        return Coverage(model_type, "refused", REFUSED[model_type])
    try:
        module = tiny(model_type)
    except Exception as error:  # whatever stops a type from being built is its reason
        reason = " ".join(f"{type(error).__name__}: {error}".split()).partition(". ")[0]
        return Coverage(model_type, "not built", reason[:160])
    try:
        adapter = resolve(module)
    except ModelError as error:
        return Coverage(model_type, "refused", str(error))
    certificate = AdapterCertificate(tuple(model_checks(adapter, VOCABULARY)))
    status: Status = "certified" if certificate.passed else "failed"
    block = type(adapter.blocks[0]).__name__
    return Coverage(model_type, status, certificate.failures(), block, _kinds(adapter), certificate)


def sweep(
    types: Iterable[str] | None = None, progress: Callable[[Coverage], None] = lambda row: None
) -> list[Coverage]:
    """Certify types (all of transformers' by default), one after the other."""
    rows = []
    for model_type in types or model_types():
        row = cover(model_type)
        progress(row)
        rows.append(row)
    return rows


def write_page(rows: Sequence[Coverage], path: Path) -> Path:
    """Write the coverage page (Markdown)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(rows), encoding="utf-8")
    return path


def page(rows: Sequence[Coverage]) -> str:
    """The coverage page: counts, the checks, every certified type with its measured errors, every other with its
    reason."""
    by = {status: [r for r in rows if r.status == status] for status in ("certified", "failed", "refused", "not built")}
    others = [r for r in rows if r.status == "not a decoder"]
    certified, built = len(by["certified"]), len(by["certified"]) + len(by["failed"]) + len(by["refused"])
    share = f", {certified / built:.1%} of those that can be built" if built else ""
    split = sum("attn" in r.points for r in by["certified"])
    notes: dict[str, int] = {}
    table = [_row(r, notes) for r in by["certified"]]
    header = ["model type", "block", "points", *_MEASURED, "exact"]
    text = [
        "# Architectures",
        "",
        f"**{certified} model types certified**{share}; {split} of them with attention and MLP contributions. "
        f"Every type in transformers {transformers.__version__}'s list of causal language models is here, built at "
        f"tiny size with random weights (torch {torch.__version__.partition('+')[0]}, float32, CPU) and certified, or "
        "refused with the reason.",
        "",
        "Made by: `llmct-bench models architectures --to reports/architectures.md`",
        "",
        "## The checks",
        "",
        *(f"- **{name}**: {what}" for name, what in CHECKS.items()),
        "",
        "The numbers below are max |difference| / max |reference|, with a tolerance of 1e-5 in float32. *exact* is ✓ "
        f"where {', '.join(_EXACT[:-1])} and {_EXACT[-1]} are zero. The last two checks need a tokenizer: they are run "
        "for every model that is scored.",
        "",
        "## Certified",
        "",
        tabulate(table, header, tablefmt="github", disable_numparse=True),
        "",
        *(f"{number}. {note}" for note, number in notes.items()),
    ]
    for title, part in (
        ("Built, but failed the certificate", by["failed"]),
        ("Refused", by["refused"]),
        ("Not built", by["not built"]),
        ("In the list, but no decoder-only language models", others),
    ):
        if part:
            reasons = [[f"`{r.model_type}`", r.reason.replace("|", "\\|")] for r in part]
            text += [
                "",
                f"## {title} ({len(part)})",
                "",
                tabulate(reasons, ["model type", "reason"], tablefmt="github"),
            ]
    return "\n".join(text) + "\n"


def _row(row: Coverage, notes: dict[str, int]) -> list[str]:
    assert row.certificate is not None
    checks = {c.name: c for c in row.certificate.checks}
    exact = all(checks[name].error == 0 for name in _EXACT)
    cells = [_cell(checks[name], notes) for name in _MEASURED]
    return [f"`{row.model_type}`", row.block, " ".join(row.points), *cells, "✓" if exact else "✗"]


def _cell(check: Check, notes: dict[str, int]) -> str:
    mark = f" [{notes.setdefault(check.note, len(notes) + 1)}]" if check.note else ""
    return ("–" if check.error is None else f"{check.error:.0e}" if check.error else "0") + mark


def _kinds(adapter: Adapter) -> tuple[str, ...]:
    return tuple(dict.fromkeys(p.kind for p in adapter.points()))
