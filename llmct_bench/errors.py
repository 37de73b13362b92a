"""The errors that a user may see: one line each, saying what happened and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LlmctError(Exception):
    """Base of all errors that the command line prints as one line (exit code 1)."""


class UnknownName(LlmctError):
    """A model, suite or trait that nobody registered; the message names the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.45)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names[:8])} …"
        super().__init__(f"unknown {kind} {name!r}: {hint}")


class SuiteError(LlmctError):
    """A suite that cannot be read or whose content breaks the rules of its design."""


class ModelError(LlmctError):
    """A model that cannot be loaded, resolved, certified or run."""


class ResultError(LlmctError):
    """A stored result that is missing, half-written or does not match its key."""
