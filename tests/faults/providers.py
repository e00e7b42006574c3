"""A provider that does what its user's words say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from time import time

from converse.choices import FinishReason
from converse.deltas import Delta, Finish, Started, TextDelta, Usage
from converse.providers import Prompt, Provider


class ScriptedProvider(Provider):
    """Says as many ``deltas`` as the user's JSON asks for, each ``size`` long and after a ``pause``."""

    async def astream(self, prompt: Prompt) -> AsyncIterator[Delta]:
        script = json.loads(prompt.messages[-1].text)
        yield Started(model="script")
        async for text in said(**script):
            yield TextDelta(text)
        yield Usage(input=1, output=script["deltas"])
        yield Finish(reason=FinishReason.STOP, raw="stop")


async def said(deltas: int, pause: float, size: int = 30) -> AsyncIterator[str]:
    """Give so many lines of so many characters, one to four bytes each, after their number and the time."""
    for number in range(deltas):
        await asyncio.sleep(pause)
        yield f"{number} {time():.4f} ".ljust(size - 1, "aé漢🙂"[number % 4]) + "\n"
