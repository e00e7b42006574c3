"""The channels of one user: what is said to a person, whatever conversation they are in."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ObjectDoesNotExist

from converse.broadcasting import layer
from converse.conf import settings
from converse.hubs import hub
from converse.permissions import fresh
from converse.subscriptions import Withdrawn
from converse.transports.pusher.channels import Host, Room
from converse.transports.pusher.names import Channel
from converse.transports.pusher.protocol import frame
from converse.transports.pusher.whispers import group_of


class UserRoom(Room):
    """Follows what is said to a user, as long as the user is an active one."""

    def __init__(self, socket: Host, channel: Channel, user: Any) -> None:
        super().__init__(socket, channel)
        self.user = user

    async def follow(self) -> None:
        found: Any = layer()
        if found is None:  # nothing could ever come
            await self._succeed({})
            return
        name, group = await found.new_channel("converse"), group_of(self.channel.user)
        await found.group_add(group, name)
        coming = asyncio.ensure_future(found.receive(name))
        try:
            await self._succeed({})
            while True:
                # Never a timeout around it: a layer takes a cancelled receive() for the end of the channel.
                await asyncio.wait([coming], timeout=settings.CONVERSE_REAUTHORIZE_INTERVAL)
                if not await hub().query(_is_active, self.user):
                    raise Withdrawn
                if coming.done():
                    done, coming = coming, asyncio.ensure_future(found.receive(name))
                    await self._tell(done.result())
                else:
                    await found.group_add(group, name)  # a membership expires
        finally:
            coming.cancel()
            await found.group_discard(group, name)

    async def _tell(self, message: Mapping[str, Any]) -> None:
        if message["channel"] == self.channel.canonical and message["but"] != self.socket.socket_id:
            await self.socket.line.tell(frame(message["event"], message["data"], self.channel.given))


def _is_active(user: Any) -> bool:
    try:
        return bool(fresh(user).is_active)
    except ObjectDoesNotExist:
        return False
