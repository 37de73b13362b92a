"""Rows from the Hugging Face Hub, and from files at pinned addresses, through `datasets`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import hf_hub_download
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
            found = datasets.load_dataset(
                source.repo,
                source.configuration or None,
                split=source.split,
                revision=source.revision or None,
                streaming=source.streaming,
            )
        else:
            # lines with too many columns are skipped: some published files hold stray ones
            options: dict[str, Any] = {"on_bad_lines": "skip"} if source.format in ("csv", "tsv") else {}
            options |= {"sep": "\t", "quoting": 3} if source.format == "tsv" else {}
            if source.header:  # all as text: what looks like a number in one part may not in the next
                options |= {"column_names": list(source.header)}
                options |= {"features": datasets.Features({h: datasets.Value("string") for h in source.header})}
            kind = "csv" if source.format == "tsv" else source.format
            found = datasets.load_dataset(
                kind, data_files=list(source.files), split=source.split, streaming=source.streaming, **options
            )
    feature = (found.features or {}).get(source.columns.label)
    feature = getattr(feature, "feature", feature)  # a list of labels
    names = {str(i): n for i, n in enumerate(getattr(feature, "names", None) or [])}
    return _read(found, source), source, names


def _read(found: Any, source: Source) -> Iterator[dict[str, Any]]:
    with _one_line(source.name):
        yield from found


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """What may go wrong on the way to a data set, said in one line with what to do."""
    try:
        yield
    except GatedRepoError:
        raise SuiteError(f"{name} is gated: accept its terms on the Hub and log in with `hf auth login`") from None
    except RepositoryNotFoundError:
        raise SuiteError(f"no data set {name!r} on the Hub (or it is gated: log in with `hf auth login`)") from None
    except RevisionNotFoundError:
        raise SuiteError(f"{name}: the Hub has no such revision") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError) as error:
        raise SuiteError(f"{name}: not in the cache and the Hub cannot be reached ({type(error).__name__})") from None
    except (HfHubHTTPError, datasets.exceptions.DatasetsError, FileNotFoundError, ValueError) as error:
        if os.environ.get("HF_HUB_OFFLINE") == "1" or os.environ.get("HF_DATASETS_OFFLINE") == "1":
            raise SuiteError(f"{name}: not in the cache, and the Hub may not be asked (offline)") from None
        cause = error.__cause__ or error  # `datasets` says only that it failed
        raise SuiteError(f"{name}: {str(cause).splitlines()[0] if str(cause) else type(cause).__name__}") from None
