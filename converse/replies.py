"""A provider's reply: start it, drive it into a stream, retry it, stop it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import ObjectDoesNotExist
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from converse import journal, records
from converse.choices import ErrorType, Policy, Role, Status
from converse.closing import close, close_in, settle_abandoned, settle_in
from converse.conf import settings
from converse.deltas import Delta, Finish, ReasoningDelta, RefusalDelta, Started, TextDelta, Usage
from converse.drafts import Content, Draft
from converse.events import MessageUpdated
from converse.exceptions import ConversationBusy, ConverseError, InvalidMessage, MessageClosed, ProviderError
from converse.log import Log, database, writing
from converse.messages import add_to, update
from converse.providers import get_provider
from converse.providers.base import Prompt, PromptMessage
from converse.runners import runner
from converse.signals import message_updated
from converse.streaming import Stream, open_message

if TYPE_CHECKING:
    from converse.models import Conversation, Message

logger = logging.getLogger(__name__)


def reply(conversation: Conversation, content: Content = None, **kwargs: Any) -> Message:
    """Store the user's turn and an open reply to it in one transaction; start the reply after its commit."""
    return _prepare(conversation, content, begin=True, **kwargs)


async def areply(conversation: Conversation, content: Content = None, **kwargs: Any) -> Message:
    """See reply()."""
    return await sync_to_async(reply)(conversation, content, **kwargs)


def ask(conversation: Conversation, content: Content = None, **kwargs: Any) -> Message:
    """Reply and wait for the end."""
    return async_to_sync(aask)(conversation, content, **kwargs)


async def aask(conversation: Conversation, content: Content = None, **kwargs: Any) -> Message:
    """See ask()."""
    message = await sync_to_async(_prepare)(conversation, content, begin=False, **kwargs)
    await run(message.pk)
    await message.arefresh_from_db()
    while message.is_open:  # queued behind another reply, or asked for twice
        await asyncio.sleep(0.1)
        await run(message.pk)
        await message.arefresh_from_db()
    return message


def _prepare(
    conversation: Conversation,
    content: Content,
    *,
    begin: bool,
    provider: str = "",
    model: str = "",
    options: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    external_id: str | None = None,
    policy: str = "",
) -> Message:
    alias = provider or settings.CONVERSE_DEFAULT_PROVIDER
    get_provider(alias)  # an unknown one is the caller's mistake, not the reply's
    chosen = _policy(policy)
    draft = None if content is None else Draft(content, {}, external_id)
    if draft and not (draft.text or "").strip():
        raise InvalidMessage("must not be empty")
    with writing(conversation.pk) as log:
        messages = records.Message.all_objects.using(database()).filter(conversation_id=conversation.pk)
        if external_id and (known := _known(messages, external_id)):
            return known
        queued = _make_room(log, messages, chosen)
        asked = (
            add_to(log, [draft])[0] if draft else messages.filter(deleted_at__isnull=True).order_by("-offset").first()
        )
        if asked is None:
            raise InvalidMessage("there is nothing to reply to")
        return _open_reply(
            log,
            asked,
            queued=queued,
            begin=begin,
            provider=alias,
            model=model,
            options=dict(options or {}),
            metadata=metadata,
        )


def _known(messages: Any, external_id: str) -> Message | None:
    """Give the reply to a turn that was sent before."""
    replies = messages.filter(reply_to__external_id=external_id).select_related("reply_to")
    first: Message | None = replies.order_by("offset").first()
    return first


def _policy(policy: str) -> Policy:
    try:
        return Policy(policy or settings.CONVERSE_POLICY)
    except ValueError:
        raise InvalidMessage(f"{policy!r} is not one of {', '.join(Policy.values)}", field="policy") from None


def _make_room(log: Log, messages: Any, policy: Policy) -> bool:
    """Apply the policy to replies that are open still; say whether the new one has to wait for them."""
    others = messages.open().filter(role=Role.ASSISTANT, deleted_at__isnull=True)
    others = [message for message in others if not settle_in(log, message)]
    if policy == Policy.CANCEL_PREVIOUS:
        for message in others:
            close_in(log, message, Status.CANCELLED)
        return False
    if others and policy == Policy.REJECT:
        raise ConversationBusy("Another reply is open in this conversation.")
    if len(others) >= settings.CONVERSE_OPEN_LIMIT:
        raise ConversationBusy(f"{len(others)} replies are open in this conversation.")
    return bool(others) and policy == Policy.QUEUE


def _open_reply(log: Log, asked: Message, *, queued: bool, begin: bool = True, **fields: Any) -> Message:
    """Add the placeholder of a reply. A queued one has no lease: it waits however long it takes."""
    message = open_message(
        log,
        role=Role.ASSISTANT,
        status=Status.PENDING,
        reply_to=asked,
        lease=None if queued else settings.CONVERSE_LEASE,
        **fields,
    )
    if begin and not queued:
        transaction.on_commit(partial(runner().start, run, message.pk), using=database())
    return message


def stop(message: Message) -> bool:
    """Cancel a message; say whether it was open still.

    Whoever holds the conversation row decides, so this is final at once, even if the writer's process is gone. The
    writer, refused by the journal or told by its watch, breaks off and closes its provider's connection.
    """
    try:
        close(message, Status.CANCELLED)
    except MessageClosed:
        message.refresh_from_db()
        return False
    return True


def stop_all(conversation: Conversation) -> int:
    """Stop every open message of a conversation; say how many there were."""
    return sum(stop(message) for message in records.Message.objects.filter(conversation_id=conversation.pk).open())


def retry(message: Message) -> Message:
    """Start another attempt at the turn that a reply answered, beside it."""
    if message.is_open and message not in settle_abandoned([message.conversation_id]):
        raise ConversationBusy("This reply is open still.")
    if message.reply_to is None:
        raise InvalidMessage("is not a reply", field="message")
    with writing(message.conversation_id) as log:
        messages = records.Message.all_objects.using(database()).filter(conversation_id=message.conversation_id)
        queued = _make_room(log, messages, _policy(""))
        return _open_reply(
            log,
            message.reply_to,
            queued=queued,
            attempt=messages.filter(reply_to_id=message.reply_to_id).count() + 1,
            provider=message.provider,
            model="",
            options=message.options,
        )


def start_queued(conversation_ids: Iterable[int] | None = None) -> int:
    """Start the replies whose turn has come, those behind which nothing is open any more; say how many there were."""
    messages = records.Message.objects.using(database())
    ahead = messages.open().filter(
        conversation_id=OuterRef("conversation_id"), role=Role.ASSISTANT, offset__lt=OuterRef("offset")
    )
    waiting = messages.pending().filter(role=Role.ASSISTANT, lease_expires_at=None)
    if conversation_ids is not None:
        waiting = waiting.filter(conversation_id__in=list(conversation_ids))
    due = list(waiting.exclude(Exists(ahead)).values_list("pk", flat=True))
    for pk in due:
        runner().start(run, pk)
    return len(due)


def after_close(sender: type[Message], message: Message, **kwargs: Any) -> None:
    """Let the next in the queue go on when a reply closed; a receiver of the three closing signals."""
    start_queued([message.conversation_id])


async def run(message_id: int) -> None:
    """Drive a pending reply to its end, unless somebody else does, or it was stopped before it began. Never raises."""
    thread = journal.current().thread
    message = await thread.run(_claim, message_id)
    if message is None:
        return
    stream = message.stream
    try:
        prompt = await thread.run(prompt_for, message)
        async with stream:
            await _drive(stream, message.provider, prompt)
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
        message: Message | None = messages.pending().select_related("reply_to").filter(pk=message_id).first()
        if message is None:
            return None
        if (
            message.lease_expires_at is None
            and messages.open().filter(role=Role.ASSISTANT, offset__lt=message.offset).exists()
        ):
            return None
        message.status = Status.STREAMING
        message.started_at = timezone.now()
        message.changed_offset = log.next()
        message.save(update_fields=["status", "started_at", "changed_offset"], using=database())
        records.Message.all_objects.using(database()).filter(pk=message.pk).renew(settings.CONVERSE_LEASE)
        log.tell(message.event(MessageUpdated, log.uuid), message_updated, records.Message, message=message)
    return message


def prompt_for(message: Message) -> Prompt:
    """Put together what a provider is to see: the system prompt, then the turns that this reply answers.

    Left out are messages that failed, are open, empty or deleted, and all but the latest of several replies to a turn.
    """
    before = records.Message.objects.using(database()).filter(
        conversation_id=message.conversation_id, offset__lt=message.offset
    )
    turns: list[Message] = []
    replied: dict[int, int] = {}
    for turn in (
        before.filter(status__in=(Status.COMPLETED, Status.CANCELLED)).exclude(content="", parts=[]).order_by("offset")
    ):
        if turn.reply_to_id and turn.reply_to_id == message.reply_to_id:
            continue
        if turn.reply_to_id and turn.role == Role.ASSISTANT and turn.reply_to_id in replied:
            turns[replied[turn.reply_to_id]] = turn
            continue
        if turn.reply_to_id:
            replied[turn.reply_to_id] = len(turns)
        turns.append(turn)
    system = message.conversation.context.get("system_prompt")
    messages = [PromptMessage(role=turn.role, text=turn.content, parts=turn.parts) for turn in turns]
    if system:
        messages.insert(0, PromptMessage(role=Role.SYSTEM.value, text=str(system)))
    return Prompt(messages=messages, model=message.model, options=message.options)


async def _drive(stream: Stream, alias: str, prompt: Prompt) -> None:
    """Let the provider answer; try again while it has said nothing and its error may pass."""
    try:
        async with asyncio.timeout(settings.CONVERSE_TOTAL_TIMEOUT):
            tried = 0
            while True:
                try:
                    return await _answer(stream, alias, prompt)
                except ProviderError as exc:
                    if stream.touched or not exc.retryable or tried >= settings.CONVERSE_RETRIES:
                        raise
                    logger.info("Reply %s: attempt %d failed: %s", stream.message.uuid, tried + 1, exc)
                    await asyncio.sleep(_delay(tried, exc.retry_after))
                    tried += 1
    except TimeoutError as exc:
        raise ProviderError("The reply took longer than CONVERSE_TOTAL_TIMEOUT.", type=ErrorType.TIMEOUT) from exc


def _delay(tried: int, retry_after: float | None) -> float:
    """Wait as long as the provider says, or exponentially longer with jitter."""
    if retry_after is not None:
        return retry_after
    delay: float = settings.CONVERSE_RETRY_DELAY * 2**tried * random.uniform(0.5, 1.5)  # noqa: S311
    return delay


async def _answer(stream: Stream, alias: str, prompt: Prompt) -> None:
    idle = settings.CONVERSE_IDLE_TIMEOUT
    clock = asyncio.get_running_loop().time
    deltas = get_provider(alias).astream(prompt)
    try:
        async with aclosing(deltas), asyncio.timeout(idle) as limit:
            async for delta in deltas:
                limit.reschedule(clock() + idle)
                await _take(stream, delta)
    except TimeoutError as exc:
        raise ProviderError(
            f"The provider was silent for {idle} seconds.", type=ErrorType.TIMEOUT, retryable=True
        ) from exc
    if not stream.facts.get("finish_reason"):
        raise ProviderError("The reply ended without its end.", type=ErrorType.TRUNCATED, retryable=True)


async def _take(stream: Stream, delta: Delta) -> None:
    match delta:
        case Started():
            if delta.model:
                stream.facts["model"] = delta.model
        case Usage():
            stream.usage = delta
        case Finish():
            stream.facts["finish_reason"] = delta.reason.value
            stream.metadata["provider_finish_reason"] = delta.raw
        case TextDelta() | RefusalDelta() | ReasoningDelta():
            await stream.aappend(replace(delta, text=storable(delta.text)))
        case _:
            await stream.aappend(replace(delta, arguments=storable(delta.arguments)))


def storable(text: str) -> str:
    """Replace what no database can store: NUL and halves of surrogate pairs."""
    return text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
