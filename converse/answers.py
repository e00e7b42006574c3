"""A provider's answer: attempt after attempt, and where that is of no use, another provider's."""

from __future__ import annotations

import logging
from asyncio import sleep
from collections.abc import Sequence
from dataclasses import replace
from random import uniform
from typing import Any

from converse import journal, outputs
from converse.attempts import Attempt, Reply
from converse.choices import ErrorType, FinishReason
from converse.conf import settings
from converse.exceptions import ProviderError
from converse.parts import Raw
from converse.prompts import aprompt_for
from converse.providers.base import Prompt, ToolSpec
from converse.summaries import summarise

logger = logging.getLogger(__name__)

LONGEST_DELAY = 30.0  # seconds between two attempts where the provider does not say

# Failures that another provider may well not have. What one finds invalid, or blocks, is not carried to the next.
ELSEWHERE = (
    ErrorType.AUTHENTICATION,
    ErrorType.PERMISSION,
    ErrorType.NOT_FOUND,
    ErrorType.CONTEXT_TOO_LONG,
    ErrorType.RATE_LIMITED,
    ErrorType.OVERLOADED,
    ErrorType.SERVER,
    ErrorType.TIMEOUT,
    ErrorType.CONNECTION,
    ErrorType.TRUNCATED,
)


class Providers:
    """Those that may answer a reply, in order. Who has failed is not asked again in it."""

    def __init__(self, reply: Reply, tools: Sequence[ToolSpec]) -> None:
        self.reply = reply
        self.stream = reply.stream
        self.message = reply.stream.message
        self.tools = tools
        self.asked: str = self.message.plan.get("provider") or self.message.provider
        aliases = [self.asked, *_config(self.asked).get("FALLBACKS", ())]
        now = self.message.provider
        self.aliases = aliases[aliases.index(now) :] if now in aliases else [now]
        if now != self.asked:
            self.stream.facts["model"] = ""  # until it says what its own is

    async def answer(self, tool_choice: str = "") -> FinishReason:
        """Append an answer to the stream, and say how it ended; raise ProviderError when there is none."""
        while True:
            alias = self.aliases[0]
            try:
                return await self._ask(alias, tool_choice)
            except ProviderError as exc:
                if self.stream.touched or len(self.aliases) == 1 or exc.type not in ELSEWHERE:
                    raise
                self._fall_back(exc)

    def _fall_back(self, exc: ProviderError) -> None:
        failed = self.aliases.pop(0)
        logger.warning("Reply %s: %s failed, now %s: %s", self.message.uuid, failed, self.aliases[0], exc)
        self.stream.facts |= {
            "provider": self.aliases[0],
            "model": "",
            "plan": {**self.message.plan, "provider": self.asked},
        }

    async def _ask(self, alias: str, tool_choice: str) -> FinishReason:
        """Ask one provider; again while it has said nothing and its error may pass."""
        prompt = await self._prompt(alias, tool_choice)
        tried, bare = 0, False
        while True:
            try:
                return await Attempt(self.reply, alias).make(prompt)
            except ProviderError as exc:
                if self.stream.touched:
                    raise
                if exc.type == ErrorType.INVALID and not bare and is_signed(prompt):
                    logger.info("Reply %s: once more, without what was signed: %s", self.message.uuid, exc)
                    prompt, bare = await self._prompt(alias, tool_choice, bare=True), True
                    continue
                too_long = (exc.retry_after or 0) > settings.CONVERSE_RETRY_AFTER_LIMIT
                if not exc.retryable or too_long or tried >= settings.CONVERSE_RETRIES:
                    raise
                logger.info("Reply %s: attempt %d failed: %s", self.message.uuid, tried + 1, exc)
                await sleep(_delay(tried, exc.retry_after))
                tried += 1

    async def _prompt(self, alias: str, tool_choice: str, *, bare: bool = False) -> Prompt:
        await summarise(self.message, alias)
        thread = journal.current().thread
        prompt = await aprompt_for(self.message, alias=alias, bare=bare)
        output = await thread.run(outputs.spec, self.message.plan.get("output"))
        if alias != self.asked:  # the model's name and the options are words of the provider that was asked
            same = _config(alias).get("BACKEND") == _config(self.asked).get("BACKEND")
            prompt = replace(prompt, model="", options=self.message.options if same else {})
        return replace(prompt, tools=self.tools, tool_choice=tool_choice, output=output)


def _config(alias: str) -> dict[str, Any]:
    config: dict[str, Any] = settings.CONVERSE_PROVIDERS.get(alias, {})
    return config


def _delay(tried: int, retry_after: float | None) -> float:
    """Wait as long as the provider says; else at random, up to a time that doubles, so that not all come at once."""
    if retry_after is not None:
        return retry_after
    longest: float = min(LONGEST_DELAY, settings.CONVERSE_RETRY_DELAY * 2**tried)
    return uniform(0, longest)  # noqa: S311


def is_signed(prompt: Prompt) -> bool:
    """Say whether a prompt has anything in it that a provider signed or wants back as it was."""
    parts = (part for message in prompt.messages for part in message.parts)
    return any(isinstance(part, Raw) or getattr(part, "signature", None) for part in parts)
