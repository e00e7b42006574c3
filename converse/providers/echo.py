from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator

from converse.choices import FinishReason, Role
from converse.deltas import Delta, Finish, Started, TextDelta, Usage
from converse.providers.base import Prompt, Provider

WORD = re.compile(r"\s*\S+|\s+")


class EchoProvider(Provider):
    """Says the user's last words again, one by one and without any network."""

    def __init__(self, *, model: str = "echo", delay: float = 0.02) -> None:
        self.model = model
        self.delay = delay  # seconds before each word

    async def astream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        words = WORD.findall(_last_words(prompt))
        yield Started(model=prompt.model or self.model)
        for word in words:
            await asyncio.sleep(self.delay)
            yield TextDelta(word)
        yield _usage(prompt, words)
        yield Finish(reason=FinishReason.STOP, raw="stop")


def _last_words(prompt: Prompt) -> str:
    return next((message.text for message in reversed(prompt.messages) if message.role == Role.USER), "")


def _usage(prompt: Prompt, words: list[str]) -> Usage:
    heard = sum(len(message.text.split()) for message in prompt.messages)
    return Usage(input=heard, output=len(words), raw={"input_words": heard, "output_words": len(words)})
