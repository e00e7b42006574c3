from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from converse.deltas import Delta


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptMessage:
    """One turn of the history as a provider gets it. ``role`` is a value of ``converse.choices.Role``."""

    role: str
    text: str
    parts: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a provider is asked: the turns, oldest first, the model and call options in the provider's own words."""

    messages: Sequence[PromptMessage]
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


class Provider(ABC):
    """An LLM service behind one call. It translates and nothing else.

    Made anew for each reply with the OPTIONS of its alias; ``astream`` must release every connection when its
    iterator is closed, exhausted or cancelled.
    """

    @abstractmethod
    def astream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        """Yield the reply's deltas, a ``Finish`` among them; raise ProviderError when the service fails."""
