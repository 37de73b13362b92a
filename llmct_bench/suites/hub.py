"""Rows from the Hugging Face Hub, and from files at pinned addresses, through `datasets`."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from llmct_bench.errors import SuiteError
from llmct_bench.suites.source import Source

Rows = Iterable[tuple[str, Any]]


def suite_rows(repo: str, revision: str | None) -> tuple[Path, Rows]:
    """The card and the rows, with their places, of a suite that lies on the Hub as one."""
    with _one_line(repo):
        card = Path(hf_hub_download(repo, "suite.yaml", repo_type="dataset", revision=revision))
        splits = datasets.load_dataset(repo, revision=revision)
    return card, [(f"{repo}[{name}] row {n}", dict(r)) for name, part in splits.items() for n, r in enumerate(part)]


def read_source(source: Source) -> tuple[Iterable[dict[str, Any]], Source, dict[str, str]]:
    """The rows of a source, the source, and the names of its numbered labels."""
    with _one_line(source.name):
        if source.repo:
            # a cache for each revision: offline, `datasets` takes whatever it holds of a data set
            folder = _cache() / "datasets" / (source.revision or "main")
            found = datasets.load_dataset(
                source.repo,
                source.configuration or None,
                split=source.split,
                revision=source.revision or None,
                streaming=source.streaming,
                cache_dir=str(folder),
            )
        else:
            # lines with too many columns are skipped, and no column is an index: some published files hold stray ones
            options: dict[str, Any] = {}
            if source.format in ("csv", "tsv"):
                options = {"on_bad_lines": "skip", "index_col": False}
            options |= {"sep": "\t", "quoting": 3} if source.format == "tsv" else {}
            if source.header:  # all as text: what looks like a number in one part may not in the next
                options |= {"column_names": list(source.header)}
                options |= {"features": datasets.Features({h: datasets.Value("string") for h in source.header})}
            kind = "csv" if source.format == "tsv" else source.format
            files = [str(_fetched(address)) for address in source.files]
            found = datasets.load_dataset(
                kind,
                data_files=files,
                split=source.split,
                streaming=source.streaming,
                cache_dir=str(_cache() / "datasets" / "files"),
                **options,
            )
    feature = (found.features or {}).get(source.columns.label)
    feature = getattr(feature, "feature", feature)  # a list of labels
    names = {str(i): n for i, n in enumerate(getattr(feature, "names", None) or [])}
    return _read(found, source), source, names


def _read(found: Any, source: Source) -> Iterator[dict[str, Any]]:
    with _one_line(source.name):
        yield from found


def _cache() -> Path:
    return Path(constants.HF_HOME) / "llmct_bench"


def _offline() -> bool:
    return any(
        os.environ.get(v, "").upper() in ("1", "TRUE", "YES", "ON") for v in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    )


def _fetched(address: str) -> Path:
    """A file as it lies at an address, from the cache where it was fetched before (the address names a commit, so it
    does not change)."""
    if "://" not in address:
        return Path(address)
    target = _cache() / "files" / hashlib.sha256(address.encode()).hexdigest()[:24] / address.rsplit("/", 1)[-1]
    if target.is_file():
        return target
    if _offline():
        raise OfflineModeIsEnabled(address)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            urllib.request.urlopen(address, timeout=60) as answer,
            tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as scratch,
        ):
            shutil.copyfileobj(answer, scratch)
    except urllib.error.HTTPError as error:
        raise SuiteError(f"{address}: the server answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise ConnectionError(str(error.reason)) from None
    os.replace(scratch.name, target)
    return target


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """What may go wrong on the way to a data set, said in one line with what to do."""
    try:
        yield
    except SuiteError:
        raise
    except (HfHubHTTPError, datasets.exceptions.DatasetsError, OSError, ValueError, ImportError) as error:
        chain = [error, *_causes(error)]
        raise SuiteError(f"{name}{_reason(chain)}") from None


def _reason(chain: list[BaseException]) -> str:
    def any_of(*kinds: type[BaseException]) -> bool:
        return any(isinstance(e, kinds) for e in chain)

    text = " ".join(str(e) for e in chain)
    if any_of(GatedRepoError) or "is a gated dataset" in text:
        return " is gated: accept its terms on the Hub and log in with `hf auth login`"
    if any_of(RevisionNotFoundError) or "Revision Not Found" in text or "Invalid rev id" in text:
        return ": the Hub has no such revision"
    if any_of(RepositoryNotFoundError) or "doesn't exist on the Hub" in text:
        return ": no such data set on the Hub (or it is gated: log in with `hf auth login`)"
    if _offline():
        return ": not in the cache, and the Hub may not be asked (offline)"
    if any_of(LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError):
        return f": not in the cache and the Hub cannot be reached ({type(chain[0]).__name__})"
    cause = chain[0].__cause__ or chain[0]  # `datasets` says only that it failed
    return f": {str(cause).splitlines()[0] if str(cause) else type(cause).__name__}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen = set()
    while (error := error.__cause__ or error.__context__) is not None and id(error) not in seen:  # type: ignore[assignment]
        seen.add(id(error))
        yield error
