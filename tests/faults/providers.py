"""Providers that do what their user's words say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from time import time

from converse.choices import FinishReason, Role
from converse.deltas import (
    Delta,
    FileDelta,
    Finish,
    RawBlock,
    ReasoningDelta,
    SourceDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
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


class AgentProvider(Provider):
    """Takes the ``steps`` of the user's JSON, each a list of ``[kind, value]``, one after each round of results."""

    async def astream(self, prompt: Prompt) -> AsyncIterator[Delta]:
        roles = [message.role for message in prompt.messages]
        last = max(number for number, role in enumerate(roles) if role == Role.USER)
        steps = json.loads(prompt.messages[last].text)["steps"]
        step = steps[min(roles[last:].count(Role.TOOL_RESULT), len(steps) - 1)]
        yield Started(model="agent")
        calls = 0
        for kind, value in step:
            await asyncio.sleep(0)
            match kind:
                case "call":
                    yield ToolCallDelta(index=calls, id=f"c{roles.count(Role.TOOL_RESULT)}_{calls}", name=value[0])
                    for letter in json.dumps(value[1]):
                        yield ToolCallDelta(index=calls, arguments=letter)
                    calls += 1
                case "pause":
                    await asyncio.sleep(value)
                case "think":
                    yield ReasoningDelta(text=value)
                    yield ReasoningDelta(signature="secret")
                case "source":
                    yield SourceDelta(url=value, title="A source", text="quoted")
                case "file":
                    yield FileDelta(data=value.encode(), mime_type="text/plain", name="note.txt")
                case "raw":
                    yield RawBlock({"secret": value})
                case _:
                    for word in value.split(" "):
                        yield TextDelta(f"{word} ")
        yield Usage(input=1, output=1)
        yield Finish(reason=FinishReason.TOOL_CALLS if calls else FinishReason.STOP)


class BulkyProvider(Provider):
    """Calls a tool with megabytes, all at once as some services do; says that it is done thereafter."""

    async def astream(self, prompt: Prompt) -> AsyncIterator[Delta]:
        if prompt.messages[-1].role == Role.TOOL_RESULT:
            yield TextDelta("Done.")
            yield Finish(reason=FinishReason.STOP)
            return
        yield ToolCallDelta(index=0, id="bulky", name="say", arguments=json.dumps({"text": "é漢🙂" * 100_000}))
        yield Finish(reason=FinishReason.TOOL_CALLS)
