"""Conversations to be scanned turn by turn: a YAML file with messages, reference states and, if wished, a control.

The format is a superset of the scenario files of Activation Lab (https://github.com/cstefanache/llmct): of those
``prompt.messages`` and ``reference_states`` are read; what they say of model, generation, capture and output is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from llmct_bench.errors import SuiteError
from llmct_bench.suites.schema import Item, Suite, SuiteCard, Turn


class Messages(BaseModel):
    """Messages of a conversation in order; what they hold beside role and content is not read."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    messages: tuple[Turn, ...] = Field(min_length=1)

    @field_validator("messages", mode="before")
    @classmethod
    def _role_and_content(cls, value: Any) -> Any:
        keep = ("role", "content")
        rows = value if isinstance(value, list | tuple) else ()
        return [{k: v for k, v in m.items() if k in keep} if isinstance(m, dict) else m for m in rows] or value

    @model_validator(mode="after")
    def _can_be_read(self) -> Messages:
        if all(m.role == "system" for m in self.messages):
            raise ValueError("there is no message of a user or an assistant")
        return self


class ReferenceState(Messages):
    """A named conversation whose last state is what others are held against."""

    label: str = Field(min_length=1)

    @model_validator(mode="after")
    def _ends_on_a_message(self) -> ReferenceState:
        if self.messages[-1].role == "system":
            raise ValueError("a reference state ends on a message of a user or an assistant")
        return self


class Conversation(BaseModel):
    """What is scanned.

    ``prompt``: one conversation or several. ``control``: a neutral one with the same roles, message by message of
    nearly the same length. ``stages``: what each message was written to carry, if that is known.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    name: str = "conversation"
    prompt: tuple[Messages, ...] = Field(min_length=1)
    reference_states: tuple[ReferenceState, ...] = ()
    control: Messages | None = None
    stages: tuple[str, ...] = ()

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _control_fits(self) -> Conversation:
        roles = [
            [m.role for m in p.messages if m.role != "system"]
            for p in (*self.prompt[:1], *filter(None, [self.control]))
        ]
        if len(roles) > 1 and roles[0] != roles[1]:
            raise ValueError("control: it must have the same roles in the same order as the conversation")
        return self

    def heard(self) -> Conversation:
        """The first conversation and its control up to the last message of the user: what a model is to answer.
        Raises SuiteError where no user speaks."""
        cut = [_heard(m) for m in (self.prompt[0], *filter(None, [self.control]))]
        spoken = sum(m.role != "system" for m in cut[0].messages)
        return self.model_copy(
            update={"prompt": (cut[0],), "control": (*cut[1:], None)[0], "stages": self.stages[:spoken]}
        )

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


def _heard(conversation: Messages) -> Messages:
    last = max((n for n, m in enumerate(conversation.messages) if m.role == "user"), default=-1)
    if last < 0:
        raise SuiteError("there is no message of a user that a model could answer")
    return Messages(messages=conversation.messages[: last + 1])


def read_conversation(path: Path) -> Conversation:
    """Read a conversation file. Raises SuiteError in one line."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SuiteError(f"{path}: {error.strerror}") from None
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
