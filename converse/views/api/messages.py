"""Messages of a conversation: read them a page at a time, and do with them what the websocket's commands do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from django.http import HttpResponse, JsonResponse

from converse import listing
from converse.choices import Action
from converse.log import database
from converse.models import Message
from converse.permissions import find
from converse.transports import commands
from converse.transports.frames import Frame, Refused, text_of
from converse.views.api.described import Asked, Operation, Whole, operation

Command = Callable[[Any, Frame], Frame]

CHANGING: Mapping[str, Any] = {"problems": (400, 403, 404, 409, 413, 415)}


@operation(
    query=(
        Whole(name="limit", text="How many at most.", least=1, most=100, default=30),
        Whole(name="before", text="Those before the message of this offset."),
        Whole(name="after", text="Those after the message of this offset; not together with `before`."),
    ),
    gives={200: "MessagePage"},
    problems=(400, 404),
)
def list_messages(asked: Asked, uuid: UUID) -> HttpResponse:
    """List messages of the branch that is shown, oldest first: the newest, or those before or after an offset."""
    if asked.query["before"] is not None and asked.query["after"] is not None:
        raise Refused("invalid", "cannot be together with before", "after")
    conversation = find(asked.user, uuid, Action.READ)
    states, more = listing.messages(conversation, **asked.query)
    versions = listing.versions(conversation, states)
    return JsonResponse({"messages": states, "versions": versions, "more": more})


@operation(gives={200: "OneMessage"}, problems=(400, 404))
def get_message(asked: Asked, uuid: UUID, message: UUID) -> HttpResponse:
    """Give a message, also of a branch that is not shown."""
    conversation = find(asked.user, uuid, Action.READ)
    state = listing.state(listing.message(conversation, message), conversation)
    versions = listing.versions(conversation, [state])
    return JsonResponse({"message": state, "versions": versions[str(message)]})


@operation(
    query=(
        Whole(name="limit", text="How many at most.", least=1, most=1000, default=200),
        Whole(name="after", text="Those after this sequence.", default=0),
    ),
    gives={200: "ChunkPage"},
    problems=(400, 404),
)
def list_chunks(asked: Asked, uuid: UUID, message: UUID) -> HttpResponse:
    """List the chunks that a message was stored in, each as the event that it was told with."""
    conversation = find(asked.user, uuid, Action.READ)
    states, more = listing.chunks(listing.message(conversation, message), conversation, **asked.query)
    return JsonResponse({"chunks": states, "more": more})


@operation(takes="Turn", gives={200: "Sent", 201: "Sent"}, **CHANGING)
def send_message(asked: Asked, uuid: UUID) -> HttpResponse:
    """Store what you say and start a reply; with a clientId once, however often it is sent."""
    frame = {**asked.body, "conversation": str(uuid)}
    known = _is_known(uuid, frame)
    return _sent(commands.send(asked.user, frame), asked.request.path, known=known)


def _asking(name: str, summary: str, command: Command, takes: str) -> Operation:
    """Make an operation of a command that asks for another reply."""

    def ask(asked: Asked, uuid: UUID, message: UUID) -> HttpResponse:
        find(asked.user, uuid, Action.WRITE)  # before anything is said of what was sent
        frame = _frame(uuid, message, asked.body)
        known = _is_known(uuid, frame)
        messages = asked.request.path.rsplit("/", 3)[0] + "/"
        return _sent(command(asked.user, frame), messages, known=known)

    return Operation(handler=ask, name=name, summary=summary, takes=takes, gives={200: "Sent", 201: "Sent"}, **CHANGING)


def _doing(name: str, summary: str, command: Command, gives: str, takes: str = "") -> Operation:
    """Make an operation of any other command."""

    def do(asked: Asked, uuid: UUID, message: UUID) -> HttpResponse:
        return JsonResponse(command(asked.user, _frame(uuid, message, asked.body)))

    return Operation(handler=do, name=name, summary=summary, takes=takes, gives={200: gives}, **CHANGING)


edit_message = _asking(
    "edit_message", "Say something else in place of a turn, on a branch of its own", commands.edit, "Edit"
)
retry_message = _asking("retry_message", "Have a turn answered again, on a branch of its own", commands.retry, "Retry")
stop_message = _doing("stop_message", "Stop a reply; what came of it stays", commands.stop, "Stopped")
switch_message = _doing(
    "switch_message", "Show a message instead of its other versions, to everybody", commands.switch, "Switched"
)
approve_call = _doing(
    "approve_call", "Let a call of a tool be run that waits for a person", commands.approve, "Decided", "Decision"
)
deny_call = _doing(
    "deny_call", "Have a call of a tool that waits for a person not run", commands.deny, "Decided", "Decision"
)


def _frame(uuid: UUID, message: UUID, body: Frame) -> Frame:
    """Give a body as the frame of a command about a message of this conversation; raise DoesNotExist for another's."""
    if not Message.objects.using(database()).filter(uuid=message, conversation__uuid=uuid).exists():
        raise Message.DoesNotExist
    return {**body, "message": str(message)}


def _is_known(uuid: UUID, body: Frame) -> bool:
    """Say whether a client has sent this before."""
    client = text_of(body, "clientId", required=False, limit=commands.ID_LIMIT)
    same = Message.all_objects.using(database()).filter(conversation__uuid=uuid, external_id=client)
    return bool(client) and same.exists()


def _sent(frame: Frame, messages: str, *, known: bool) -> HttpResponse:
    location = f"{messages}{frame['reply']}/"
    return JsonResponse(frame, status=200 if known else 201, headers={"Location": location})
