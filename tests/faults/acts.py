"""What another process of the site can be told to do. Arguments and results are JSON."""

from __future__ import annotations

import asyncio
from importlib import import_module
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.db import connection

from converse.exceptions import ConversationBusy
from converse.models import Conversation, Message
from tests.faults.providers import said
from tests.faults.races import audit, get_ready, go, prepare

__all__ = ["audit", "get_ready", "go", "prepare"]

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
    messages = found.messages.order_by("offset").values_list("uuid", "status", "content")
    return {"head": found.last_offset, "messages": [[str(uuid), *rest] for uuid, *rest in messages]}


def message(message: str) -> dict[str, Any]:
    """Give what the database knows of a message."""
    found = Message.objects.get(uuid=message)
    columns = ("status", "content", "text", "error_type", "input_tokens", "output_tokens")
    return {column: getattr(found, column) for column in columns}


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
