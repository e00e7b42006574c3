"""A provider that follows a script, and what it was asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.test import override_settings

from converse.choices import FinishReason, Role
from converse.conf import settings
from converse.deltas import Delta, Finish, TextDelta, ToolCallDelta
from converse.providers.base import Prompt, Provider
from converse.testing import steps
from converse.testing.steps import Called, Event, Step

BACKEND = "converse.testing.ScriptedProvider"
WAITS = (int, float, asyncio.Event, threading.Event)


class Script:
    """What a provider does, call by call: the last call's steps serve all further ones.

    A step is text or a delta to yield, a number of seconds to wait, an event of ``asyncio`` or ``threading`` to wait
    for, an exception to raise, a list of steps, or a function that is given the prompt and gives a step. A call whose
    steps are all done without a ``Finish`` or an exception ends with ``stop``, or ``tool_calls`` where it has any by
    ``call()``; put ``breaks_off()`` last to have it end without.
    """

    BREAK_OFF = steps.BREAK_OFF

    def __init__(self, *calls: Sequence[Step]) -> None:
        self.calls = calls or ([],)
        self.prompts: list[Prompt] = []  # what each call was asked
        self.closed = 0  # how many calls have ended, however they did

    @property
    def prompt(self) -> Prompt:
        """What the last call was asked; raise AssertionError when there was none."""
        self.assert_asked()
        return self.prompts[-1]

    @property
    def questions(self) -> list[str]:
        """The last words of the user in each call."""
        return [
            next((message.text for message in reversed(prompt.messages) if message.role == Role.USER), "")
            for prompt in self.prompts
        ]

    def assert_asked(self, question: str | None = None, *, times: int | None = None) -> None:
        """Assert that the provider was asked: this, as the user's last words, and in all so many times."""
        if times is not None and len(self.prompts) != times:
            raise AssertionError(f"The provider was asked {len(self.prompts)} times, not {times}: {self.questions}")
        if not self.prompts and times is None:
            raise AssertionError("The provider was not asked anything.")
        if question is not None and question not in self.questions:
            raise AssertionError(f"The provider was not asked {question!r}, but {self.questions}")

    def assert_not_asked(self) -> None:
        """Assert that the provider was not asked anything."""
        self.assert_asked(times=0)

    def assert_finished(self) -> None:
        """Assert that there was a call for each of the script, and that all of them have ended."""
        if len(self.prompts) < len(self.calls) or self.closed < len(self.prompts):
            raise AssertionError(
                f"Of {len(self.calls)} calls in the script {len(self.prompts)} began and {self.closed} ended."
            )


class ScriptedProvider(Provider):
    """Follows a script: ``{"BACKEND": "converse.testing.ScriptedProvider", "OPTIONS": {"script": Script(…)}}``."""

    def __init__(self, script: Script) -> None:
        self.script = script

    async def astream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        """Yield what this call's steps say."""
        number = len(self.script.prompts)
        call = self.script.calls[min(number, len(self.script.calls) - 1)]
        self.script.prompts.append(prompt)
        finished, called = False, 0
        try:
            for step in _flat(call, prompt):
                if step is Script.BREAK_OFF:
                    return
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, WAITS):
                    await _wait(step)
                elif isinstance(step, Called):
                    for delta in _fragments(step, called, step.id or f"call_{number + 1}_{called + 1}"):
                        yield delta
                    called += 1
                else:
                    finished = finished or isinstance(step, Finish)
                    yield TextDelta(step) if isinstance(step, str) else step
            if not finished:
                yield steps.ends(FinishReason.TOOL_CALLS if called else FinishReason.STOP)
        finally:
            self.script.closed += 1


async def _wait(step: float | Event) -> None:
    if isinstance(step, int | float):
        await asyncio.sleep(step)
    elif isinstance(step, asyncio.Event):
        await step.wait()
    else:
        while not step.is_set():  # noqa: ASYNC110 - it is set in another thread
            await asyncio.sleep(0.005)


def _flat(step: Any, prompt: Prompt) -> Iterator[Any]:
    """Yield the single steps of a step, as they are come to."""
    if isinstance(step, list | tuple):
        for item in step:
            yield from _flat(item, prompt)
    elif callable(step):
        yield from _flat(step(prompt), prompt)
    else:
        yield step


def _fragments(called: Called, index: int, id: str) -> Iterator[ToolCallDelta]:
    first, *rest = steps.cut(called.arguments, called.fragments)
    yield ToolCallDelta(index=index, id=id, name=called.name, arguments=first, signature=called.signature)
    for fragment in rest:
        yield ToolCallDelta(index=index, arguments=fragment)


@contextmanager
def scripted(*calls: Sequence[Step], alias: str = "") -> Iterator[Script]:
    """Have a provider, by default the default one, follow a script: ``with scripted(["Once ", "upon"]): …``.

    Within it there are no providers but scripted ones, so that nothing of a test goes out into the world.
    """
    script = Script(*calls)
    known = settings.CONVERSE_PROVIDERS
    others = {name: config for name, config in known.items() if config.get("BACKEND") == BACKEND}
    provider = {"BACKEND": BACKEND, "OPTIONS": {"script": script}}
    with override_settings(CONVERSE_PROVIDERS={**others, alias or settings.CONVERSE_DEFAULT_PROVIDER: provider}):
        yield script
