"""Streams as tests read them, in the loop that also writes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.test import TransactionTestCase, override_settings

from converse import loops
from converse.models import Conversation, Message


class HereRunner:
    """Runs replies in the readers' loop."""

    def start(self, run: Any, message_id: int) -> None:
        loops.run_in(loops.home(), run(message_id))


class Source:
    """What an ``EventSource`` makes of a response's body."""

    def __init__(self, body: Any) -> None:
        self.body = aiter(body)
        self.text = ""
        self.last_id = ""
        self.retry: int | None = None
        self.comments = 0

    async def event(self) -> tuple[str, dict[str, Any]] | None:
        """Give the next event, its name and data; None where there are no more."""
        while True:
            while "\n\n" not in self.text:
                piece = await anext(self.body, None)
                if piece is None:
                    assert not self.text
                    return None
                self.text += piece.decode()
            block, _, self.text = self.text.partition("\n\n")
            if found := self._read(block):
                return found

    def _read(self, block: str) -> tuple[str, dict[str, Any]] | None:
        fields: dict[str, str] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            assert name not in fields, block
            fields[name] = value.removeprefix(" ")
        self.comments += "" in fields
        self.last_id = fields.get("id", self.last_id)
        if "retry" in fields:
            self.retry = int(fields["retry"])
        return (fields["event"], json.loads(fields["data"])) if "data" in fields else None

    async def all(self) -> list[tuple[str, dict[str, Any]]]:
        """Read to the end."""
        found = []
        async with asyncio.timeout(10):
            while event := await self.event():
                found.append(event)
        return found

    async def until(self, name: str) -> dict[str, Any]:
        """Read up to an event of this name; give its data."""
        async with asyncio.timeout(10):
            while event := await self.event():
                if event[0] == name:
                    return event[1]
        raise AssertionError(f"there was no {name}")

    async def close(self) -> None:
        await self.body.aclose()


@override_settings(CONVERSE_RUNNER="tests.streams.HereRunner")
class StreamTestCase(TransactionTestCase):
    """A user with a conversation, signed in."""

    def setUp(self) -> None:
        super().setUp()
        self.user = User.objects.create_user("ada")
        self.stranger = User.objects.create_user("eve")
        self.conversation = Conversation.objects.start(self.user, title="Plans")
        self.uuid = str(self.conversation.uuid)
        self.async_client.force_login(self.user)
        self.client.force_login(self.user)

    async def last(self, **wanted: Any) -> Message:
        """Give the last message of the conversation."""
        rows = Message.objects.select_related("conversation", "reply_to").filter(conversation=self.conversation)
        found = await rows.filter(**wanted).order_by("offset").alast()
        assert found is not None
        return found

    async def act(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return await sync_to_async(function)(*args, **kwargs)
