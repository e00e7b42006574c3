"""The doors for ``EventSource``: a conversation's events, or those of one message until its end."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.http import require_GET

from converse.choices import Action
from converse.cursors import read_cursor
from converse.events import MessageCreated, Replay, frame
from converse.log import database
from converse.models import Conversation, Message
from converse.permissions import find
from converse.subscriptions import subscribe
from converse.transports import sse
from converse.views.problems import problem

Place = tuple[int, str] | None  # an offset and its epoch

WSGI = "Streams need ASGI: serve this site with an ASGI server, such as Daphne or uvicorn."


@non_atomic_requests
@require_GET
async def events(request: HttpRequest, uuid: UUID) -> HttpResponseBase:
    """Tell all that happens in a conversation from a cursor on; without one from a snapshot on."""
    try:
        place = cursor_of(request)
    except ValueError as exc:
        return _bad_cursor(exc)
    if refusal := needs_asgi(request):
        return refusal
    user = await request.auser()
    try:
        conversation = await sync_to_async(find)(user, uuid, Action.READ)
    except Conversation.DoesNotExist:
        return problem(404, "not_found", "There is no such conversation.")
    after, epoch = place or (None, None)
    return sse.EventStream(
        sse.Events(subscribe(conversation, user, after=after, epoch=epoch), conversation.epoch).lines()
    )


@non_atomic_requests
@require_GET
async def message_events(request: HttpRequest, uuid: UUID, message: UUID) -> HttpResponseBase:
    """Tell what becomes of one message, to its end; 204, after which no browser comes back, to who has seen that."""
    try:
        place = cursor_of(request)
    except ValueError as exc:
        return _bad_cursor(exc)
    if refusal := needs_asgi(request):
        return refusal
    user = await request.auser()
    try:
        conversation, row = await sync_to_async(_find)(user, uuid, message)
    except (Conversation.DoesNotExist, Message.DoesNotExist):
        return problem(404, "not_found", "There is no such message.")
    after = _after(conversation, row, place)
    if row.is_open or after >= row.offset:
        if row.closed_offset is not None and after >= row.closed_offset:
            return HttpResponse(status=204)
        subscription = subscribe(conversation, user, after=after, epoch=conversation.epoch)
        return sse.EventStream(sse.Events(subscription, conversation.epoch, str(row.uuid)).lines())
    return sse.EventStream(sse.once(_whole(conversation, row), conversation.epoch))


def cursor_of(request: HttpRequest) -> Place:
    """Give the cursor of a request; a browser that comes back has a newer one than its address. Raise ValueError."""
    for field, text in (("Last-Event-ID", request.headers.get("Last-Event-ID")), ("after", request.GET.get("after"))):
        if text or (text is not None and field == "after"):
            if (place := read_cursor(text)) is None:
                raise ValueError(field)
            return place
    return None


def needs_asgi(request: HttpRequest) -> HttpResponseBase | None:
    """Refuse a request under WSGI, where a stream would be gathered to its end, and this one may have none."""
    return None if isinstance(request, ASGIRequest) else problem(501, "needs_asgi", WSGI)


def _bad_cursor(exc: ValueError) -> HttpResponseBase:
    return problem(400, "invalid", "must be a cursor, such as 17-5f0c2a9e", str(exc))


def _find(user: Any, uuid: UUID, message: UUID) -> tuple[Conversation, Message]:
    conversation = find(user, uuid, Action.READ)
    rows = Message.objects.using(database()).select_related("reply_to").filter(conversation=conversation)
    return conversation, rows.get(uuid=message)


def _after(conversation: Conversation, message: Message, place: Place) -> int:
    """Give the offset after which to tell of a message: that of a good cursor, or from its beginning on."""
    beginning = message.offset - 1
    if place is None or place[1] != conversation.epoch or place[0] > conversation.last_offset:
        return beginning
    return max(place[0], beginning)


def _whole(conversation: Conversation, message: Message) -> Replay:
    """Tell all of a closed message at once, without what was said since."""
    uuid = str(conversation.uuid)
    told = message.event(MessageCreated, uuid, offset=message.offset)
    offset = max(conversation.last_offset, message.closed_offset or 0)  # read before the message
    return Replay(conversation_id=uuid, epoch=conversation.epoch, offset=offset, events=[frame(told)])
