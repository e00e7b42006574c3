"""For tests of your own: a provider that follows a script, and the events that a block of code publishes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager

from django.test import override_settings

from converse.choices import FinishReason
from converse.deltas import Delta, Finish, TextDelta
from converse.providers.base import Prompt, Provider

Step = Delta | str | float | BaseException | asyncio.Event


class Script:
    """What a provider does, call by call: the last call's steps serve all further ones.

    A step is text or a delta to yield, a number of seconds to wait, an ``asyncio.Event`` to wait for, or an exception
    to raise. A call whose steps are all done without a ``Finish`` or an exception ends with ``stop``; put
    ``Script.BREAK_OFF`` last to have it end without.
    """

    BREAK_OFF = asyncio.CancelledError("the script breaks off")

    def __init__(self, *calls: Sequence[Step]) -> None:
        self.calls = calls or ([],)
        self.prompts: list[Prompt] = []  # what each call was asked
        self.closed = 0  # how many calls have ended, however they did


class ScriptedProvider(Provider):
    """Follows a script: ``{"BACKEND": "converse.testing.ScriptedProvider", "OPTIONS": {"script": Script(…)}}``."""

    def __init__(self, script: Script) -> None:
        self.script = script

    async def astream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        """Yield what this call's steps say."""
        steps = self.script.calls[min(len(self.script.prompts), len(self.script.calls) - 1)]
        self.script.prompts.append(prompt)
        finished = False
        try:
            for step in steps:
                if step is Script.BREAK_OFF:
                    return
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, int | float):
                    await asyncio.sleep(step)
                elif isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    finished = finished or isinstance(step, Finish)
                    yield TextDelta(step) if isinstance(step, str) else step
            if not finished:
                yield Finish(reason=FinishReason.STOP, raw="stop")
        finally:
            self.script.closed += 1


@contextmanager
def scripted(*calls: Sequence[Step]) -> Iterator[Script]:
    """Have the default provider follow a script: ``with scripted(["Once ", "upon"]): conversation.ask("Tell me.")``."""
    script = Script(*calls)
    provider = {"BACKEND": "converse.testing.ScriptedProvider", "OPTIONS": {"script": script}}
    with override_settings(CONVERSE_PROVIDERS={"default": provider}):
        yield script
