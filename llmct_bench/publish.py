"""Stored results as a data set on the Hugging Face Hub."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

# HTTPError is that of the HTTP library that huggingface_hub uses, which is not the same one in all of its versions
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
)

from llmct_bench import __version__
from llmct_bench.benchmark import load_results, result_store
from llmct_bench.errors import ResultError
from llmct_bench.leaderboards.markdown import escape
from llmct_bench.results import ResultCard, labels, results_frame

#: Where the table lies in the data set; the folder of the results and that of the pages keep their names.
TABLE = "data/results.parquet"
_FOLDERS = ("results", "reports")

_README = """---
{head}---

# {title}

How the residual streams of {models} language models carry emotion, as measured by llmct-bench {version}: {rows}
estimates (model × suite × trait) with 95 % intervals, standard errors and the reasons of those that are not valid.
Measurements of these models on these texts: none of the traits has a better direction.

```python
from datasets import load_dataset

table = load_dataset("{repo}", split="train").to_pandas()
```

- `{table}`: the table, one row for each model × suite × trait.
- `results/MODEL/REVISION/SUITE/`: `card.json` (estimates, certificate, provenance), `scores.parquet` (every readout ×
  layer × emotion), checksums. `llmct-bench verify --output FOLDER` computes the estimates again from them,
  `llmct-bench report --output FOLDER` makes the leaderboard.
- `reports/`: the leaderboard as it was written, where there is one.

Models: {names}

Suites: {suites}
"""


def push(repo: str, output: str | Path, *, private: bool = False, licence: str = "cc-by-4.0") -> str:
    """Upload the results under ``output`` as the data set ``repo`` (``OWNER/NAME``) in one commit; returns its address.

    The data set, made where there is none, then holds what lies in ``output``: a card, the results table, ``results/``
    and ``reports/``; files of those two folders that lie here no more are removed there. The token is that of
    huggingface_hub (``HF_TOKEN``, ``hf auth login``). Raises ResultError in one line where there are no results, no
    token, no network, or where the Hub refuses.
    """
    results, root = load_results(output), result_store(output).root
    table = io.BytesIO()
    results_frame(results).to_parquet(table, index=False)
    files = dict(_files(root.parent))
    with _one_line(repo):
        if get_token() is None:
            raise ResultError("no token for the Hub: set HF_TOKEN or log in with `hf auth login`")
        api = HfApi(library_name="llmct-bench", library_version=__version__)
        made = api.create_repo(repo, repo_type="dataset", private=private or None, exist_ok=True)
        repo = made.repo_id  # with its owner
        there = api.list_repo_files(repo, repo_type="dataset")
        stale = [f for f in there if f.split("/")[0] in _FOLDERS and f not in files]
        readme = dataset_card(repo, results, licence)
        api.create_commit(
            repo,
            [
                CommitOperationAdd("README.md", readme.encode()),
                CommitOperationAdd(TABLE, table.getvalue()),
                *(CommitOperationAdd(name, path) for name, path in files.items()),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=f"Results of {len(labels(results))} models, llmct-bench {__version__}",
            repo_type="dataset",
        )
    return str(made)


def dataset_card(repo: str, results: Sequence[ResultCard], licence: str) -> str:
    """The README.md of the data set; names come from models and data and are escaped."""
    head = {
        "license": licence,
        "pretty_name": "Emotion in residual streams",
        "tags": ["llmct-bench", "interpretability", "emotion", "evaluation", "residual-stream"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": TABLE}]}],
    }
    names = sorted(labels(results).values())
    return _README.format(
        head=yaml.safe_dump(head, sort_keys=False, allow_unicode=True),
        title=head["pretty_name"],
        models=len(names),
        version=__version__,
        rows=sum(len(r.traits) for r in results),
        repo=repo,
        table=TABLE,
        names=", ".join(map(escape, names)),
        suites=", ".join(escape(f"{s} ({h[:8]})") for s, h in sorted({(r.suite, r.suite_hash) for r in results})),
    )


def _files(output: Path) -> Iterator[tuple[str, Path]]:
    """Files of the results and pages, by their names in the data set; without what a killed save left."""
    for folder in _FOLDERS:
        for path in sorted((output / folder).rglob("*")):
            name = path.relative_to(output)
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                yield name.as_posix(), path


@contextmanager
def _one_line(repo: str) -> Iterator[None]:
    """What may go wrong on the way to the Hub, said in one line with what to do."""
    try:
        yield
    except HFValidationError as error:
        raise ResultError(f"{repo!r} is no name of a data set on the Hub (OWNER/NAME): {_first(error)}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = {
            401: "the token is not known there: log in again with `hf auth login`",
            403: "the token may not write there: it needs write access to the owner's repositories",
        }.get(status, "the Hub answers")
        raise ResultError(f"{repo}: {hint} ({status} {error.server_message or error.response.reason_phrase})") from None
    except OfflineModeIsEnabled:
        raise ResultError(f"{repo}: the Hub may not be asked (HF_HUB_OFFLINE)") from None
    except (HTTPError, ConnectionError) as error:
        raise ResultError(f"{repo}: the Hub cannot be reached ({_first(error)}); nothing was changed there") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise ResultError(f"{repo}: not uploaded: {_first(error)}") from None


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
