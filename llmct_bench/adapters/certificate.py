"""The adapter certificate: a model that fails it is refused, not scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

#: What each check compares, in the order in which they are shown.
CHECKS: dict[str, str] = {
    "states": "states at the block boundaries equal transformers' own hidden_states",
    "final norm": "the last state is what the final norm reads, and its output is the last hidden_state",
    "lens": "final norm and head of the last state give the model's logits",
    "closure": "attention + MLP are what each block adds",
    "finite": "every state is a number",
    "batching": "states do not depend on batch size, order and right padding",
    "left padding": "states do not depend on left padding with mask and positions",
    "generation": "states while generating equal those of one pass over the result",
    "identity patch": "putting every state back where it was changes no bit of the logits",
    "edit": "an edit at a point reaches the next block, and only its own rows and what follows",
    "donor patch": "the last state of another text gives that text's logits",
    "removal": "after all edits the logits are what they were, to the bit",
    "branches": "conversations packed as a tree give the states of separate passes (else none are packed)",
    "hooks": "no hook is left behind",
    "start token": "a conversation does not begin with two start tokens",
    "spans": "the tokens of a message spell that message and nothing else",
}


@dataclass(frozen=True)
class Check:
    """One check: the measured error beside its tolerance. An error of None means that it does not apply, and ``note``
    says why. A check that is not ``required`` tells a limit of the model which the scan does not touch."""

    name: str
    error: float | None
    tolerance: float = 0.0
    note: str = ""
    required: bool = True

    @property
    def passed(self) -> bool:
        """True when the error is a number within the tolerance, or the check does not apply."""
        return self.error is None or self.error <= self.tolerance

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.name}: does not apply ({self.note})"
        sign = "≤" if self.passed else ">"
        return f"{self.name}: {self.error:.2g} {sign} {self.tolerance:.2g}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class AdapterCertificate:
    """All checks of one model. ``subject`` is what they hold for: model, commit, dtype, attention backend, kind of
    device, versions of transformers, torch and the adapter."""

    checks: tuple[Check, ...]
    subject: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """True when every required check passed."""
        return all(c.passed for c in self.checks if c.required)

    @property
    def floor(self) -> float:
        """How much states move (relative to the largest) with batch and padding: no effect below it means anything."""
        return max((c.error for c in self.checks if c.name == "batching" and c.error is not None), default=0.0)

    @property
    def key(self) -> str:
        """Identifies the subject: a certificate with the same key need not be made again."""
        return subject_key(self.subject)

    def failures(self) -> str:
        """The failed required checks in words."""
        return "; ".join(str(c) for c in self.checks if c.required and not c.passed)

    def to_json(self) -> dict[str, Any]:
        """Plain data; an infinite error becomes the text ``inf``."""
        checks = [{**asdict(c), "error": _finite(c.error), "passed": c.passed} for c in self.checks]
        return {
            "key": self.key,
            "passed": self.passed,
            "floor": _finite(self.floor),
            "subject": self.subject,
            "checks": checks,
        }

    @property
    def complete(self) -> bool:
        """True when no check is missing."""
        return set(CHECKS) <= {c.name for c in self.checks}

    @staticmethod
    def from_json(data: dict[str, Any]) -> AdapterCertificate:
        """Back from `to_json`. Raises KeyError, TypeError or ValueError on anything else."""
        checks: Iterable[dict[str, Any]] = data["checks"]
        if not isinstance(data["subject"], dict):
            raise TypeError("the subject of a certificate is a mapping")
        made = (
            Check(
                str(c["name"]),
                None if c["error"] is None else float(c["error"]),
                float(c["tolerance"]),
                str(c["note"]),
                bool(c["required"]),
            )
            for c in checks
        )
        return AdapterCertificate(tuple(made), {str(k): str(v) for k, v in data["subject"].items()})


def subject_key(subject: dict[str, str]) -> str:
    """A hash of what a certificate holds for."""
    return hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()[:16]


def _finite(error: float | None) -> float | str | None:
    return error if error is None or error < float("inf") else "inf"
