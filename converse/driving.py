"""Drive a pending reply to its end: the provider's answer, the tools that it calls, its next answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ObjectDoesNotExist
from django.utils import timezone

from converse import approvals, executing, handlers, journal, outputs, records
from converse import tools as toolbox
from converse.answers import Providers
from converse.approvals import Call
from converse.attempts import Reply
from converse.choices import CallOutcome, ChunkKind, ErrorType, FinishReason, Role, Status
from converse.conf import settings
from converse.events import MessageUpdated
from converse.exceptions import ConverseError, MessageClosed, ProviderError
from converse.log import database, writing
from converse.messages import update
from converse.signals import message_updated
from converse.streaming import Stream
from converse.tools import Tool

if TYPE_CHECKING:
    from converse.models import Message

logger = logging.getLogger(__name__)


async def run(message_id: int) -> None:
    """Drive a pending reply to its end, or until a person has to decide; not what another drives or what is stopped.

    Never raises: what goes wrong is logged.
    """
    try:
        if message := await journal.current().thread.run(_claim, message_id):
            await _write(message)
    except Exception:
        logger.exception("The reply with the key %s could not be driven", message_id)


async def _write(message: Message) -> None:
    thread = journal.current().thread
    stream = message.stream
    try:
        async with stream:
            stream.handlers = await thread.run(handlers.of, message.plan)
            await _drive(stream)
    except MessageClosed:
        if spent := stream.spent():  # stopped: what was spent by then is known only here
            await thread.run(_add_to_closed, message, spent)
    except ConverseError as exc:
        logger.warning("Reply %s failed: %s", message.uuid, exc)
    except Exception:
        logger.exception("Reply %s failed", message.uuid)


def _add_to_closed(message: Message, spent: Mapping[str, Any]) -> None:
    try:
        update(message, **spent)
    except ObjectDoesNotExist:
        pass  # not stopped but purged


def _claim(message_id: int) -> Message | None:
    """Turn a pending reply into a streaming one; only one caller ever succeeds."""
    found = records.Message.objects.using(database()).filter(pk=message_id).first()
    if found is None:
        return None
    with writing(found.conversation_id) as log:
        messages = records.Message.objects.using(database()).filter(conversation_id=found.conversation_id)
        pending = messages.pending().select_related("reply_to", "conversation")
        message: Message | None = pending.filter(pk=message_id).first()
        if message is None:
            return None
        if (
            message.lease_expires_at is None
            and messages.open().filter(role=Role.ASSISTANT, offset__lt=message.offset).exists()
        ):
            return None
        message.status = Status.STREAMING
        if message.started_at:
            message.stream.learn()  # it goes on where it was left
        message.started_at = message.started_at or timezone.now()
        message.changed_offset = log.next()
        message.save(update_fields=["status", "started_at", "changed_offset"], using=database())
        records.Message.all_objects.using(database()).filter(pk=message.pk).renew(settings.CONVERSE_LEASE)
        log.tell(message.event(MessageUpdated, log.uuid), message_updated, records.Message, message=message)
    return message


async def _drive(stream: Stream) -> None:
    """Go through a reply's steps, in the time that there is for it."""
    try:
        async with asyncio.timeout(settings.CONVERSE_TOTAL_TIMEOUT) as limit:
            await _Steps(stream, limit).go()
    except TimeoutError as exc:
        detail = str(exc) or "The reply took longer than CONVERSE_TOTAL_TIMEOUT."
        raise ProviderError(detail, type=ErrorType.TIMEOUT, retryable=True) from exc


class _Steps:
    """A reply's way: an answer of the provider, the results of the tools that it calls, the next answer."""

    def __init__(self, stream: Stream, limit: asyncio.Timeout) -> None:
        self.stream = stream
        self.message = stream.message
        self.plan = stream.message.plan
        self.thread = journal.current().thread
        self.reply = Reply(stream, limit, set())
        self.tools: Sequence[Tool] = ()
        self.taken = 0

    async def go(self) -> None:
        """Take steps until there is nothing more to be said or done, or a person has to decide."""
        self.tools = await self.thread.run(toolbox.load, self.plan.get("tools", ()))
        providers = Providers(self.reply, [tool.spec for tool in self.tools])
        calls = await self.thread.run(self._resume) if self.stream.writer.sequence else []
        limit = self.plan.get("max_steps", settings.CONVERSE_MAX_STEPS)
        choice = self.plan.get("tool_choice", "") if self.tools else ""
        while True:
            if calls and not await self._call(calls):
                return
            if self.taken >= limit:
                self.stream.facts["finish_reason"] = FinishReason.STEPS.value
                return
            # A choice that is kept up would have the model call tools for ever.
            reason = await providers.answer("" if self.taken else choice)
            self.taken += 1
            await self.stream.adrain()
            calls = await self._calls_after(reason)
            if not calls and reason != FinishReason.PAUSE:
                await self._structure(reason)
                return

    def _resume(self) -> list[Call]:
        """Find out how far the reply had come before it waited."""
        done = self.message.calls.using(database()).filter(outcome=CallOutcome.COMPLETED)
        self.taken = done.count()
        parts = approvals.parts_of(self.message)
        self.reply.call_ids.update(part["id"] for part in parts if part["type"] == ChunkKind.TOOL_CALL)
        return approvals.open_calls(parts)

    async def _calls_after(self, reason: FinishReason) -> list[Call]:
        """Give the calls that an answer ended with; those of one that was cut off are not run."""
        if not self.tools or reason not in (FinishReason.TOOL_CALLS, FinishReason.STOP):
            return []
        return approvals.open_calls(await self.thread.run(approvals.parts_of, self.message))

    async def _structure(self, reason: FinishReason) -> None:
        """Read the answer in the form that was asked for, unless the model would not answer."""
        if (output := self.plan.get("output")) and reason not in (FinishReason.REFUSAL, FinishReason.CONTENT_FILTER):
            answer = await self.thread.run(_answer_of, self.message)
            self.stream.facts["structured"] = await self.thread.run(outputs.validated, output, answer)

    async def _call(self, calls: Sequence[Call]) -> bool:
        """Run calls; say whether the reply goes on: not where a person has to approve of one first."""
        jobs = await executing.prepare(calls, self.tools)
        async with aclosing(executing.run([job for job in jobs if not job.waits], self.message)) as results:
            async for result in results:
                await self.stream.aappend(result)
        await self.stream.adrain()
        if not any(job.waits for job in jobs):
            return True
        # Until it is closed, the model is the one that is asked for: with it the reply goes on.
        spent = self.stream.spent() | {"model": "" if "provider" in self.stream.facts else self.message.model}
        await self.stream.alet_go(approvals.suspend, self.message, **spent)
        return False


def _answer_of(message: Message) -> str:
    """Give what a reply says after its last results."""
    text = ""
    for part in approvals.parts_of(message):
        if part["type"] == ChunkKind.TOOL_RESULT:
            text = ""
        elif part["type"] == ChunkKind.TEXT:
            text += part["text"]
    return text
