"""A provider's reply: ask for it, retry it, stop it, let it wait for its turn or for a person."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from asgiref.sync import async_to_sync, sync_to_async
from django.db import transaction
from django.db.models import Exists, OuterRef, Q

from converse import plans, records
from converse.approvals import Decision, decide_in
from converse.attachments import prepared
from converse.choices import Policy, Role, Status
from converse.closing import close, close_in, settle_abandoned, settle_in
from converse.conf import settings
from converse.drafts import Content, Draft
from converse.driving import run
from converse.exceptions import ConversationBusy, InvalidMessage, MessageClosed
from converse.log import Log, database, writing
from converse.messages import add_to
from converse.opening import open_message
from converse.providers import get_provider
from converse.runners import runner

if TYPE_CHECKING:
    from converse.models import Conversation, Message

BUSY = (
    "Another reply is open in this conversation: wait for its end, stop it, or ask with another policy: "
    "cancel_previous, queue or allow."
)

# How a reply may be asked for, whatever it is to answer.
KEYWORDS = ("provider", "model", "options", "metadata", *inspect.signature(plans.make).parameters)

FIRST_PAUSE = 0.1  # seconds between the first two looks for the end of a reply
LONGEST_PAUSE = 1.0


def reply(conversation: Conversation, content: Content = None, **kwargs: Any) -> Message:
    """Store the user's turn and an open reply to it in one transaction; start the reply after its commit."""
    return _prepare(conversation, content, begin=True, **kwargs)


async def areply(conversation: Conversation, content: Content = None, **kwargs: Any) -> Message:
    """See reply()."""
    return await sync_to_async(reply)(conversation, content, **kwargs)


def ask(conversation: Conversation, content: Content = None, **kwargs: Any) -> Message:
    """Reply and wait for the end, or until a person has to decide."""
    return async_to_sync(aask)(conversation, content, **kwargs)


async def aask(conversation: Conversation, content: Content = None, **kwargs: Any) -> Message:
    """See ask()."""
    message = await sync_to_async(_prepare)(conversation, content, begin=False, **kwargs)
    messages = records.Message.all_objects.using(database()).select_related("reply_to", "conversation")
    while True:
        await run(message.pk)
        message = await messages.aget(pk=message.pk)
        if not message.is_open or message.status == Status.WAITING:
            return message
        await asyncio.sleep(0.1)  # queued behind another reply, or asked for twice


def _prepare(
    conversation: Conversation,
    content: Content | Draft,
    *,
    begin: bool,
    provider: str = "",
    model: str = "",
    options: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    external_id: str | None = None,
    policy: str = "",
    attachments: Sequence[Any] = (),
    branch: Callable[[Log], Message | None] | None = None,
    inherited: Mapping[str, Any] | None = None,
    **plan: Any,
) -> Message:
    alias = provider or settings.CONVERSE_DEFAULT_PROVIDER
    get_provider(alias)  # an unknown one is the caller's mistake, not the reply's
    chosen = _policy(policy)
    planned = {**(inherited or {}), **_plan(plan, model)}
    turns = [] if content is None and not attachments else [_turn(content, external_id, attachments)]
    if any(not turn.attachments and not (turn.text or "").strip() for turn in turns):
        raise InvalidMessage("must not be empty")
    with prepared(conversation, turns) as turns, writing(conversation.pk) as log:
        messages = records.Message.all_objects.using(database()).filter(conversation_id=conversation.pk)
        if external_id and (known := _known(messages, external_id)):
            _refuse_another(turns, known.reply_to)
            return known
        queued = _make_room(log, messages, chosen)
        asked = branch(log) if branch else None
        if turns:
            [asked] = add_to(log, turns)
            _refuse_another(turns, asked)
        elif not branch:
            asked = messages.filter(deleted_at__isnull=True).current().order_by("offset").last()
        if asked is None:
            raise InvalidMessage("there is nothing to reply to")
        return _open_reply(
            log,
            asked,
            queued=queued,
            begin=begin,
            attempt=1 if turns else messages.filter(reply_to=asked).count() + 1,
            external_id=None if turns else external_id,
            provider=alias,
            model=model,
            options=dict(options or {}),
            plan=planned,
            metadata=metadata,
        )


def _plan(keywords: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Make the plan; it keeps the model that is asked for, whose column is to say which one answered."""
    for name in keywords:
        if name not in KEYWORDS:
            raise TypeError(f"reply() got an unexpected keyword argument {name!r}")
    return {**plans.make(**keywords), **({"model": model} if model else {})}


def _turn(content: Content | Draft, external_id: str | None, attachments: Sequence[Any]) -> Draft:
    if isinstance(content, Draft):
        return replace(content, external_id=external_id, attachments=attachments)
    return Draft(content, {}, external_id, attachments=attachments)


def _known(messages: Any, external_id: str) -> Message | None:
    """Give the reply to a turn that was sent before, or that itself was asked for before."""
    same = Q(reply_to__external_id=external_id) | Q(external_id=external_id, reply_to__isnull=False)
    first: Message | None = messages.filter(same).select_related("reply_to").order_by("offset").first()
    return first


def _refuse_another(turns: Sequence[Draft], known: Message | None) -> None:
    """Raise InvalidMessage for a turn under the external id of one that said something else: it would be lost."""
    for turn in turns:
        if known is not None and known.content != (turn.text or ""):
            raise InvalidMessage("is another message's already", field="external_id")


def _policy(policy: str) -> Policy:
    try:
        return Policy(policy or settings.CONVERSE_POLICY)
    except ValueError as exc:
        raise InvalidMessage(str(exc), field="policy") from None


def _make_room(log: Log, messages: Any, policy: Policy) -> bool:
    """Apply the policy to replies that are open still; say whether the new one has to wait for them."""
    others = messages.open().filter(role=Role.ASSISTANT, deleted_at__isnull=True)
    others = [message for message in others if not settle_in(log, message)]
    if policy == Policy.CANCEL_PREVIOUS:
        for message in others:
            close_in(log, message, Status.CANCELLED)
        return False
    if others and policy == Policy.REJECT:
        raise ConversationBusy(BUSY)
    if len(others) >= settings.CONVERSE_OPEN_LIMIT:
        raise ConversationBusy(f"{len(others)} replies are open in this conversation: wait for one, or stop it.")
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
        _begin(message)
    return message


def _begin(message: Message) -> None:
    """Have a reply run once what was written is committed."""
    transaction.on_commit(partial(runner().start, run, message.pk), using=database())


def decide(message: Message, call_id: str, decision: Decision, *, by: Any = None, reason: str = "") -> None:
    """Approve or deny a call of a tool; when nothing is undecided any more the reply goes on.

    Raise MessageClosed when the reply is closed, InvalidMessage when it does not wait for this decision.
    """
    with writing(message.conversation_id) as log:
        if decide_in(log, message, call_id, decision, by=by, reason=reason):
            _begin(message)


def wait_end(message: Message, timeout: float | None = None) -> None:
    """Wait until a message is closed, or waits for a person, and read it anew; raise TimeoutError."""
    for pause in _pauses(timeout):
        time.sleep(pause)
        if _has_ended(message):
            return


async def await_end(message: Message, timeout: float | None = None) -> None:  # noqa: ASYNC109
    """See wait_end()."""
    for pause in _pauses(timeout):
        await asyncio.sleep(pause)
        if await sync_to_async(_has_ended)(message):
            return


def _has_ended(message: Message) -> bool:
    """Look whether a message has ended; if its writer is gone, this is its end."""
    settle_abandoned([message.conversation_id])
    statuses = records.Message.all_objects.using(database()).filter(pk=message.pk).values_list("status", flat=True)
    if statuses.get() in (Status.PENDING, Status.STREAMING):
        return False
    message.refresh_from_db(using=database())
    return True


def _pauses(timeout: float | None) -> Iterator[float]:
    """Give pauses that grow, none before the first look; raise TimeoutError once so many seconds are over."""
    until = inf if timeout is None else time.monotonic() + timeout
    pause = FIRST_PAUSE
    yield 0
    while (left := until - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(pause * 1.5, LONGEST_PAUSE)
    raise TimeoutError(f"The message has not ended within {timeout} seconds.")


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


def reply_again(
    conversation: Conversation,
    content: Content | Draft = None,
    *,
    like: Message | None,
    branch: Callable[[Log], Message | None],
    provider: str = "",
    model: str = "",
    options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Message:
    """Reply on another branch; what is not said here is asked for as it was for another reply, if there was one.

    ``branch`` is called with the log in hand, shows the branch, and gives what is to be answered where no content does.
    """
    inherited: dict[str, Any] = {}
    if like:
        alias = like.plan.get("provider") or like.provider
        if provider in ("", alias):
            provider, model = alias, model or like.plan.get("model", "")
            options = like.options if options is None else options
        inherited = {name: value for name, value in like.plan.items() if name not in ("provider", "model")}
    return _prepare(
        conversation,
        content,
        begin=True,
        provider=provider,
        model=model,
        options=options,
        branch=branch,
        inherited=inherited,
        **kwargs,
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
