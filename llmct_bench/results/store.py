"""Results on disk: ``ROOT/<model>/<revision>/<suite>@<version>/{card.json, scores.parquet,
versions.safetensors, SHA256SUMS}``, and beside them the model's adapter certificates,
``ROOT/<model>/<revision>/certificate-<key>.json``.

A result is written into a temporary folder beside its place and then renamed, so that a place either holds a
whole result or none. `card.json` is the last file written: a folder without it is not a result.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from llmct_bench.adapters import AdapterCertificate
from llmct_bench.affect import AffectFit, FitConstants, Scores, ScoreVersions, Transfer, load_fit
from llmct_bench.errors import ResultError
from llmct_bench.results.schema import ResultCard
from llmct_bench.results.sums import write_sums
from llmct_bench.scanner import NextWords

_CARD, _SCORES, _VERSIONS, _FIT = "card.json", "scores.parquet", "versions.safetensors", "fit.safetensors"


@dataclass(frozen=True)
class ResultStore:
    """A folder of results."""

    root: Path

    def place(self, model: str, commit: str, suite: str) -> Path:
        """Where a result lies."""
        return self.root / _safe(model) / _safe(commit) / _safe(suite)

    def find(self, model: str, commit: str, suite: str, key: str) -> ResultCard | None:
        """The stored result with exactly this key; None where there is none, or one with another key or schema, or a
        broken one (which is then measured again)."""
        try:
            card = _read_card(self.place(model, commit, suite) / _CARD)
        except (FileNotFoundError, ResultError):
            return None
        return card if card.key == key else None

    def holds(self, model: str, commit: str, suite: str) -> bool:
        """True where some result lies, whatever its key."""
        return (self.place(model, commit, suite) / _CARD).is_file()

    def save(self, card: ResultCard, scores: Scores | None, fit: AffectFit | None = None) -> Path:
        """Write a result as a whole, replacing what lies there. Raises ResultError when the disk refuses."""
        target = self.place(str(card.model["name"]), card.commit, card.suite)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        except OSError as error:
            raise ResultError(f"cannot write results under {self.root}: {error.strerror}") from error
        try:
            if scores is not None:
                _compact(scores.to_frame()).to_parquet(scratch / _SCORES, index=False)
                if scores.versions is not None:
                    arrays = {f.name: getattr(scores.versions, f.name) for f in fields(scores.versions)}
                    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, scratch / _VERSIONS)
            if fit is not None:
                fit.save(scratch / _FIT)
            text = card.to_json()
            write_sums(scratch, {_CARD: text.encode()})
            (scratch / _CARD).write_text(text, encoding="utf-8", newline="\n")
            _replace(scratch, target)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ResultError(f"cannot write {target}: {reason}; nothing stored was lost") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return target

    def scores(self, card: ResultCard) -> Scores:
        """The stored scores of a result."""
        path = self.place(str(card.model["name"]), card.commit, card.suite) / _SCORES
        if not path.is_file():
            raise ResultError(f"{path} is missing: run the model on {card.suite} again")
        try:
            frame = pd.read_parquet(path)
            for column in frame.columns:
                if isinstance(frame[column].dtype, pd.CategoricalDtype):
                    frame[column] = frame[column].astype(str)
            known = FitConstants.from_json(card.fit) if "role_shift" in card.fit else None
            spoken = NextWords.from_json(card.next_words) if card.next_words is not None else None
            transfer = Transfer.from_json(card.transfer) if card.transfer is not None else None
            scores = replace(Scores.from_frame(frame), constants=known, next_words=spoken, transfer=transfer)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ResultError(f"{path} cannot be read: run the model on {card.suite} again") from error
        try:
            versions = ScoreVersions(**load_file(path.with_name(_VERSIONS)))
        except FileNotFoundError:
            versions = None
        except (SafetensorError, TypeError) as error:
            raise ResultError(
                f"{path.with_name(_VERSIONS)} cannot be read: run the model on {card.suite} again"
            ) from error
        return replace(scores, versions=versions)

    def fit(self, model: str, commit: str, suite: str) -> AffectFit | None:
        """The stored fit of a reference result; None where it is missing or broken (it is then made again)."""
        try:
            return load_fit(self.place(model, commit, suite) / _FIT)
        except (FileNotFoundError, SafetensorError, KeyError, ValueError):
            return None

    def certificate(self, model: str, commit: str, key: str) -> AdapterCertificate | None:
        """The certificate on file with exactly this key; None where there is none or a broken one."""
        try:
            data = json.loads(self._certificate_path(model, commit, key).read_text(encoding="utf-8"))
            found = AdapterCertificate.from_json(data)
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None
        return found if found.key == key and found.complete else None

    def save_certificate(self, model: str, commit: str, certificate: AdapterCertificate) -> Path:
        """Put a certificate on file. Raises ResultError when the disk refuses."""
        path = self._certificate_path(model, commit, certificate.key)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text(json.dumps(certificate.to_json(), indent=1) + "\n", encoding="utf-8")
            os.replace(scratch, path)
        except OSError as error:
            raise ResultError(f"cannot write {path}: {error.strerror}; nothing stored was lost") from error
        finally:
            scratch.unlink(missing_ok=True)
        return path

    def _certificate_path(self, model: str, commit: str, key: str) -> Path:
        return self.root / _safe(model) / _safe(commit) / f"certificate-{key}.json"

    def cards(self) -> Iterator[ResultCard]:
        """All results, in the order of their paths. Raises ResultError naming a file that cannot be read."""
        for place in self.places():
            try:
                yield self.card(place)
            except ResultError as error:
                raise ResultError(f"{place / _CARD}: {error}; delete the folder and run again") from error

    def places(self) -> list[Path]:
        """The folders that hold a result, in their order."""
        found = (path.parent for path in self.root.glob(f"*/*/*/{_CARD}"))
        return sorted(p for p in found if not p.name.startswith("."))  # those are what a killed save left

    def card(self, place: Path) -> ResultCard:
        """The card in a folder. Raises ResultError where it cannot be read."""
        return _read_card(place / _CARD)


def _read_card(path: Path) -> ResultCard:
    try:
        return ResultCard.from_json(path.read_bytes().decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ResultError(f"not a result card: not UTF-8 (byte {error.start})") from error


def _replace(scratch: Path, target: Path) -> None:
    """Put ``scratch`` in the place of ``target``. A folder cannot be renamed over a full one, so the old result is
    moved aside first and back again if the rename fails; a kill in between leaves no result there, never a half one."""
    if not target.exists():
        os.replace(scratch, target)
        return
    aside = scratch.with_name(scratch.name + ".old")
    os.replace(target, aside)
    try:
        os.replace(scratch, target)
    except OSError:
        os.rename(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _compact(frame: pd.DataFrame) -> pd.DataFrame:
    texts = [c for c in frame.columns if frame[c].dtype == object or pd.api.types.is_string_dtype(frame[c].dtype)]
    return frame.astype(dict.fromkeys(texts, "category"))


def _safe(name: str) -> str:
    return re.sub(r"[^\w.@~+-]+", "--", name).lstrip(".") or "model"
