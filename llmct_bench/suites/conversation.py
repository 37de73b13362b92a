"""Conversations to be scanned turn by turn: a YAML file with messages, reference states and, if wished, a control.

The format is a superset of the scenario files of Activation Lab (https://github.com/cstefanache/llmct): of those
``prompt.messages`` and ``reference_states`` are read; what they say of model, generation, capture and output is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from llmct_bench.errors import SuiteError
from llmct_bench.suites.schema import Item, Suite, SuiteCard, Turn


class Messages(BaseModel):
    """Messages of a conversation in order."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    messages: tuple[Turn, ...] = Field(min_length=1)


class ReferenceState(Messages):
    """A named conversation whose last state is what others are held against."""

    label: str = Field(min_length=1)


class Conversation(BaseModel):
    """What is scanned.

    ``prompt``: one conversation or several. ``control``: a neutral one with the same roles, message by message of
    nearly the same length. ``stages``: what each message was written to carry, if that is known.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    name: str = "conversation"
    prompt: tuple[Messages, ...]
    reference_states: tuple[ReferenceState, ...] = ()
    control: Messages | None = None
    stages: tuple[str, ...] = ()

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value

    def suite(self) -> Suite:
        """The same as a suite: one item a conversation, read after every message that is not the system's; one a
        reference state, read at its end. Ids: ``prompt-N``, ``control``, ``reference/LABEL``."""
        parts: list[tuple[str, tuple[Turn, ...], bool]] = [
            (f"prompt-{n}", p.messages, True) for n, p in enumerate(self.prompt)
        ]
        parts += [("control", self.control.messages, True)] if self.control else []
        parts += [(f"reference/{r.label}", r.messages, False) for r in self.reference_states]
        items = tuple(
            Item(
                id=name,
                scenario=name,
                emotion="neutral",
                intensity=0,
                messages=messages,
                reads=tuple(
                    n for n, m in enumerate(messages) if m.role != "system" and (every or n == len(messages) - 1)
                ),
            )
            for name, messages, every in parts
        )
        card = SuiteCard(name="conversation", version="0", design="circumplex", summary=self.name, licence="the user's")
        return Suite(card, items)


def read_conversation(path: Path) -> Conversation:
    """Read a conversation file. Raises SuiteError in one line."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SuiteError(f"{path}: no such file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SuiteError(f"{path}: broken YAML: {' '.join(str(error).split())}") from None
    if isinstance(data, list) or (isinstance(data, dict) and "messages" in data):
        data = {"prompt": {"messages": data} if isinstance(data, list) else data}
    try:
        found = Conversation.model_validate(data)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "file"
        raise SuiteError(
            f"{path}: {place}: {fault['msg']}; a list of {{role, content}} or prompt.messages is expected"
        ) from None
    labels = [r.label for r in found.reference_states]
    twice = sorted({x for x in labels if labels.count(x) > 1})
    if twice:
        raise SuiteError(f"{path}: reference state {twice[0]!r} stands twice")
    return found
