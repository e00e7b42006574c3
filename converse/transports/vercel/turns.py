"""What is asked for by ``useChat``, done: decided by what is stored, never by what the client says was said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from converse import approvals
from converse.attachments import attach
from converse.choices import Action, ChunkKind, Role, Status
from converse.conf import settings
from converse.exceptions import InvalidMessage
from converse.log import database
from converse.models import Conversation, Message, MessageAttachment
from converse.permissions import find, fresh
from converse.transports import commands
from converse.transports.frames import Frame, Refused
from converse.transports.vercel.addresses import attachment_of
from converse.transports.vercel.requests import REGENERATE, Request, Said, SentFile

FOREIGN = "must be a data: address, or the address of an attachment of this conversation: upload it first"
ON_THE_SERVER = "Tools run on the server: results of the client's are not taken."
FINISHED = "There is nothing to go on with: this reply is finished."
UNANSWERED = "This reply waits for an approval: approve or deny its calls."


@dataclass(frozen=True, slots=True)
class Begun:
    """A reply that the client is to be told, from a part on."""

    conversation: Conversation
    reply: Message
    seen: int = 0


def begin(user: Any, request: Request, host: str) -> Begun:
    """Do what a request asks for; give the reply to stream. Raise Refused, or what the commands raise."""
    conversation = find(fresh(user), request.chat, Action.WRITE)
    return _Turn(user, conversation, request, host).take()


class _Turn:
    def __init__(self, user: Any, conversation: Conversation, request: Request, host: str) -> None:
        self.user = user
        self.conversation = conversation
        self.request = request
        self.host = host

    def take(self) -> Begun:
        request, said = self.request, self.request.said
        named = self._known(request.message_id)
        if request.trigger == REGENERATE:
            return self._regenerate(named)
        if said is None or said.role == Role.ASSISTANT:
            return self._continue(self._known(said.id) if said else None, said)
        if named and named.role == Role.USER:
            return self._say(said, commands.edit, {"message": str(named.uuid)})
        return self._send(said)

    def _send(self, said: Said) -> Begun:
        return self._say(said, commands.send, {"clientId": said.id} if said.id else {})

    def _say(self, said: Said, command: Any, frame: Frame) -> Begun:
        with self._attached(said.files) as files:
            return self._begun(command, {**frame, "content": said.text, "attachments": files})

    def _regenerate(self, named: Message | None) -> Begun:
        said = self.request.said
        message = named or (self._known(said.id) if said else None)
        if message is None and said and said.role == Role.USER:
            return self._send(said)  # the request that was to store it had failed
        if message is None:
            message = self._replies().current().last()
        elif message.role == Role.USER:
            message = self._replies().filter(reply_to=message).last()
        if message is None:
            raise Refused("invalid", "There is no reply to be made again.")
        return self._begun(commands.retry, {"message": str(message.uuid)})

    def _continue(self, message: Message | None, said: Said | None) -> Begun:
        if message is None or said is None or message.role != Role.ASSISTANT:
            raise Refused("not_found", "There is no such message.")
        self._refuse_results(message, said)
        for answer in said.answers:
            decide = commands.approve if answer.approved else commands.deny
            decide(self.user, {"message": str(message.uuid), "call": answer.call, "reason": answer.reason})
        message.refresh_from_db()
        if not message.is_open and not said.answers:
            raise Refused("invalid", FINISHED)
        if message.status == Status.WAITING and not said.answers:
            raise Refused("invalid", UNANSWERED)
        return Begun(self.conversation, message, _seen(message, [answer.call for answer in said.answers]))

    def _refuse_results(self, message: Message, said: Said) -> None:
        if message.is_open:
            waiting = {call.id for call in approvals.open_calls(approvals.parts_of(message))}
            if waiting.intersection(said.results):
                raise Refused("invalid", ON_THE_SERVER)

    def _begun(self, command: Any, frame: Frame) -> Begun:
        told = command(self.user, {"conversation": str(self.conversation.uuid), **self.request.extras, **frame})
        self.conversation.refresh_from_db()
        return Begun(self.conversation, self._messages().get(uuid=told["reply"]))

    def _known(self, name: str) -> Message | None:
        """Find a message by its uuid or the client's own id for it; of its versions the one that is shown."""
        if not name:
            return None
        rows = self._messages()
        row: Message | None = rows.filter(uuid=name).first() if _is_uuid(name) else None
        row = row or rows.filter(external_id=name).first()
        if row is None or row.current:
            return row
        # A client keeps its id for a turn that it edits; each edit is a message of its own.
        beside: Message | None = rows.current().filter(follows=row.follows, role=row.role).last()
        return beside or row

    def _messages(self) -> Any:
        rows = Message.objects.using(database()).filter(conversation=self.conversation)
        return rows.select_related("conversation", "reply_to").order_by("offset")

    def _replies(self) -> Any:
        return self._messages().filter(role=Role.ASSISTANT, reply_to__isnull=False)

    @contextmanager
    def _attached(self, files: Sequence[SentFile]) -> Iterator[list[str]]:
        """Store the files that come along; what was not sent in the end is removed again."""
        limit = settings.CONVERSE_ATTACHMENT_COUNT
        if len(files) > limit:
            raise Refused("invalid", f"may be {limit}, not {len(files)}", "files")
        fresh: list[MessageAttachment] = []
        try:
            yield [self._attachment(file, fresh) for file in files]
        finally:
            left = MessageAttachment.objects.using(database()).filter(message=None)
            for row in left.filter(pk__in=[row.pk for row in fresh]):
                row.delete()

    def _attachment(self, file: SentFile, fresh: list[MessageAttachment]) -> str:
        data = file.data
        if data is None:
            known = attachment_of(file.url, self.conversation.uuid, self.host)
            if known is None:
                raise Refused("invalid", FOREIGN, f"{file.field}.url")
            return known
        try:
            row = attach(self.conversation, data, file.name, file.mime_type)
        except InvalidMessage as exc:
            raise Refused("invalid", exc.reason, file.field) from exc
        fresh.append(row)
        return str(row.uuid)


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _seen(message: Message, calls: Sequence[str]) -> int:
    """Give how many parts of a reply a client had when it decided about these calls.

    While a reply waits, decisions are all that is added to it: all that was there before the first of them.
    """
    parts = approvals.parts_of(message) if message.is_open else message.parts
    kinds = [part["type"] for part in parts]
    decided = [number for number, part in enumerate(parts) if _decides(part, calls)]
    if not decided:
        return 0
    first = max(decided)
    while first and kinds[first - 1] == ChunkKind.APPROVAL:
        first -= 1
    return first


def _decides(part: Any, calls: Sequence[str]) -> bool:
    return part["type"] == ChunkKind.APPROVAL and part.get("id") in calls


def stop(user: Any, chat: str, reply: str = "") -> list[Message]:
    """Stop the replies of a chat that are open, or only that one; give those that were stopped, as they are now."""
    conversation = find(fresh(user), chat, Action.WRITE)
    rows = Message.objects.using(database()).filter(conversation=conversation, role=Role.ASSISTANT)
    open_ones = rows.open().select_related("conversation", "reply_to").order_by("offset")
    if reply:
        open_ones = open_ones.filter(uuid=reply) if _is_uuid(reply) else open_ones.none()
    return [message for message in open_ones if message.stop()]
