"""An in-memory channel layer with a hand on it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.test import override_settings


class HeldLayer(InMemoryChannelLayer):
    """Works as the in-memory layer does, until a test holds back what is sent, or has a call fail or hang."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.failing: dict[str, Exception] = {}  # by the name of a method
        self.hanging: set[str] = set()
        self.holding = False
        self.held: list[tuple[str, dict[str, Any]]] = []
        self.calls: list[str] = []
        self.sent: list[dict[str, Any]] = []

    async def _happen(self, name: str) -> None:
        self.calls.append(name)
        await asyncio.sleep(0)  # as a layer with a network does
        if name in self.hanging:
            await asyncio.Event().wait()
        if name in self.failing:
            raise self.failing[name]

    async def new_channel(self, prefix: str = "specific.") -> str:
        await self._happen("new_channel")
        return await super().new_channel(prefix)

    async def receive(self, channel: str) -> dict[str, Any]:
        await self._happen("receive")
        return await super().receive(channel)

    async def group_add(self, group: str, channel: str) -> None:
        await self._happen("group_add")
        await super().group_add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        await self._happen("group_discard")
        await super().group_discard(group, channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        await self._happen("group_send")
        if self.holding:
            self.held.append((group, message))
        else:
            await self.ring(group, message)

    async def ring(self, group: str, message: dict[str, Any]) -> None:
        """Deliver to a group, whatever is held."""
        self.sent.append(message)
        await super().group_send(group, message)


@contextmanager
def held_layer(**config: Any) -> Iterator[HeldLayer]:
    """Have a layer with a hand on it be the layer."""
    backend = {"BACKEND": "tests.layers.HeldLayer", "CONFIG": config}
    with override_settings(CHANNEL_LAYERS={"default": backend}):
        layer = get_channel_layer()
        assert isinstance(layer, HeldLayer)
        yield layer
