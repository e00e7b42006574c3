"""The model of the clients' site: it does what the user's words say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from converse.choices import FinishReason, Role
from converse.deltas import Delta, Finish, Started, TextDelta, Usage
from converse.providers import Prompt, Provider
from tests.faults.providers import AgentProvider, ScriptedProvider


class ObedientProvider(Provider):
    """Plays a script in JSON (see tests.faults.providers); says any other words again, one after the other."""

    def __init__(self) -> None:
        self.agent = AgentProvider()
        self.scripted = ScriptedProvider()

    async def astream(self, prompt: Prompt) -> AsyncIterator[Delta]:
        words = next(turn.text for turn in reversed(prompt.messages) if turn.role == Role.USER)
        async for delta in self._play(words)(prompt):
            yield delta

    def _play(self, words: str):
        try:
            script = json.loads(words)
            return self.agent.astream if "steps" in script else self.scripted.astream
        except (ValueError, TypeError):
            return self._repeat

    async def _repeat(self, prompt: Prompt) -> AsyncIterator[Delta]:
        words = prompt.messages[-1].text.split(" ")
        yield Started(model="parrot")
        for number, word in enumerate(words):
            await asyncio.sleep(0.02)
            yield TextDelta(word if number == 0 else f" {word}")
        yield Usage(input=len(words), output=len(words))
        yield Finish(reason=FinishReason.STOP, raw="stop")
