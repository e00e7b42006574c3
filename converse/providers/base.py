from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from converse.deltas import Delta
from converse.parts import Part, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptMessage:
    """One turn of the history as a provider gets it.

    ``role`` is a value of ``converse.choices.Role``. A turn made of text only may be given as ``text``; of any other
    that is what its text parts say. An assistant's turn with calls of tools is followed by one of role ``tool_result``
    that has a result for each of them.
    """

    role: str
    text: str = ""
    parts: Sequence[Part] = ()

    def __post_init__(self) -> None:
        if not self.parts:
            object.__setattr__(self, "parts", (Text(self.text),) if self.text.strip() else ())
        elif not self.text:
            object.__setattr__(self, "text", "".join(part.text for part in self.parts if isinstance(part, Text)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool that the model may call: its name, what it is for, and the JSON Schema of its arguments."""

    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """The form that the answer has to have, as a JSON Schema under a name."""

    name: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a provider is asked: the turns, oldest first, the model and call options in the provider's own words.

    ``tool_choice`` is ``auto``, ``any``, ``none`` or the name of a tool; empty leaves it to the provider. Tools that
    run at the provider's go into ``options``, beside those of ``tools``.
    """

    messages: Sequence[PromptMessage]
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[ToolSpec] = ()
    tool_choice: str = ""
    output: OutputSpec | None = None


class Provider(ABC):
    """An LLM service behind one call. It translates and nothing else.

    Made anew for each reply with the OPTIONS of its alias; ``astream`` must release every connection when its
    iterator is closed, exhausted or cancelled.
    """

    @abstractmethod
    def astream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        """Yield the reply's deltas, a ``Finish`` among them; raise ProviderError when the service fails."""
