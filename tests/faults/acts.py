"""What another process of the site can be told to do. Arguments and results are JSON."""

from __future__ import annotations

import asyncio
import threading
from importlib import import_module
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.db import connection

from converse import loops
from converse.closing import settle_abandoned
from converse.exceptions import ConversationBusy
from converse.models import Conversation, Message
from converse.parts import public
from tests.faults.branching import branches, play
from tests.faults.providers import said
from tests.faults.races import audit, get_ready, go, prepare
from tests.faults.runners import CountingRunner

__all__ = ["audit", "branches", "get_ready", "go", "play", "prepare"]

_former: list[str] = []


def create_database() -> str:
    """Create a migrated database of a name of its own, and give the name."""
    _former.append(connection.settings_dict["NAME"])
    return connection.creation.create_test_db(verbosity=0, autoclobber=True)


def destroy_database() -> None:
    if connection.vendor == "postgresql":
        cut_connections()  # those of this very process's other threads
    connection.creation.destroy_test_db(_former.pop(), verbosity=0)


def sign_in() -> dict[str, Any]:
    """Make a user with a session, as if signed in."""
    user = get_user_model().objects.create_user(f"reader-{uuid4().hex}")
    session = import_module(settings.SESSION_ENGINE).SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    return {"user": user.pk, "session": session.session_key}


def start_conversations(user: int, count: int) -> list[str]:
    owner = get_user_model().objects.get(pk=user)
    return [str(Conversation.objects.start(owner).uuid) for _ in range(count)]


def add_messages(conversation: str, count: int, size: int) -> None:
    Conversation.objects.get(uuid=conversation).add_messages(["é漢🙂a" * (size // 4)] * count)


def stored(conversation: str) -> dict[str, Any]:
    """Give what every reader of a conversation must have, in the end."""
    found = Conversation.objects.get(uuid=conversation)
    messages = list(found.messages.order_by("offset"))
    return {
        "head": found.last_offset,
        "messages": [[str(message.uuid), message.status, message.content] for message in messages],
        "parts": {str(message.uuid): told for message in messages if (told := message.public_parts(message.parts))},
    }


def message(message: str) -> dict[str, Any]:
    """Give what the database knows of a message."""
    found = Message.objects.get(uuid=message)
    columns = ("status", "content", "text", "error_type", "input_tokens", "output_tokens")
    return {column: getattr(found, column) for column in columns}


def calls(message: str) -> list[dict[str, Any]]:
    """Give what the database knows of a message's calls of providers."""
    columns = ("number", "outcome", "error_type", "input_tokens")
    return list(Message.objects.get(uuid=message).calls.order_by("number").values(*columns))


def parts(conversation: str) -> dict[str, Any]:
    """Give the parts of a conversation's messages as everybody may see them."""
    messages = Conversation.objects.get(uuid=conversation).messages.order_by("offset")
    return {str(message.uuid): [public(part) for part in message.parts] for message in messages}


def waits(message: str) -> list[str]:
    """Give the calls that nobody has decided about."""
    return [call["id"] for call in Message.objects.get(uuid=message).undecided]


def approve(message: str, call: str) -> None:
    Message.objects.get(uuid=message).approve(call)


def kinds(message: str) -> list[str]:
    """Give the kinds of a message's parts, open or closed."""
    rows = Message.objects.get(uuid=message).chunks.order_by("part").values_list("part", "kind").distinct()
    return [kind for _, kind in rows]


def at_rest() -> bool:
    """Say whether nothing runs in this process's background."""
    tasks = asyncio.all_tasks(loops.background())
    return not any(task.get_coro().__qualname__ == "run" for task in tasks)


def threads() -> int:
    """Count the synchronous tools that run in this process."""
    return sum(thread.name == "converse-apart" for thread in threading.enumerate())


def settle(conversation: str) -> bool:
    """Close what a dead process left; say whether there was anything."""
    return bool(settle_abandoned([Conversation.objects.get(uuid=conversation).pk]))


def retry(message: str) -> str:
    return str(Message.objects.get(uuid=message).retry().uuid)


def started() -> int:
    """Count the replies that were started since the last time, where none is run."""
    count = len(CountingRunner.started)
    CountingRunner.started.clear()
    return count


def decided(message: str) -> dict[str, Any]:
    """Give what was decided about a reply's calls, and whether its chunks and the log are whole."""
    found = Message.all_objects.select_related("conversation").get(uuid=message)
    rows = list(found.chunks.order_by("sequence").values_list("sequence", "offset", "kind", "content"))
    offsets = [offset for _, offset, _, _ in rows]
    return {
        "status": str(found.status),
        "deleted": found.conversation.deleted_at is not None,
        "decisions": [content for _, _, kind, content in rows if kind == "approval"],
        "whole": [row[0] for row in rows] == list(range(1, len(rows) + 1)) and offsets == sorted(set(offsets)),
        "leased": found.lease_expires_at is not None,
    }


def reply(conversation: str, content: str, **options: Any) -> str:
    """Start a reply that runs in this process, as long as it lives."""
    return str(Conversation.objects.get(uuid=conversation).reply(content, **options).uuid)


def stop(message: str) -> bool:
    return Message.objects.get(uuid=message).stop()


def stream(conversations: list[str], **script: Any) -> None:
    """Stream a message into each conversation, to the end, by way of ``astream_reply``."""
    asyncio.run(_stream(conversations, script))


async def _stream(conversations: list[str], script: dict[str, Any]) -> None:
    await asyncio.gather(*[_stream_into(conversation, script) for conversation in conversations])


async def _stream_into(conversation: str, script: dict[str, Any]) -> None:
    found = await Conversation.objects.aget(uuid=conversation)
    async with found.astream_reply() as stream:
        await stream.aconsume(said(**script))


def reply_when_free(conversation: str, content: str) -> str:
    """Start a reply as soon as no other one is open; give up after a while."""
    deadline = monotonic() + 10
    while True:
        try:
            return reply(conversation, content)
        except ConversationBusy:
            assert monotonic() < deadline
            sleep(0.1)


def cut_connections() -> None:
    """End everybody else's connection to the database."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def refuse_chunks(beyond: int) -> None:
    """Have PostgreSQL accept every chunk, and refuse to commit those of a higher sequence."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF NEW.sequence > {beyond} THEN RAISE EXCEPTION 'refused at the commit'; END IF; RETURN NULL; END $$"
        )
        cursor.execute(
            "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON converse_messagechunk "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
        )


def accept_chunks() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION refuse() CASCADE")
