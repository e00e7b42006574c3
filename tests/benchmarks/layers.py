"""The recommended channel layer, with notes of what it was given to publish."""

from __future__ import annotations

import time
from typing import Any, ClassVar, NamedTuple

from channels_redis.pubsub import RedisPubSubChannelLayer


class Published(NamedTuple):
    """A chunk that went out."""

    conversation_id: str
    offset: int
    text: str
    began: float  # monotonic seconds
    ended: float


class ObservedLayer(RedisPubSubChannelLayer):
    """Notes every chunk that this process publishes."""

    published: ClassVar[list[Published]] = []
    characters: ClassVar[int] = 0

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        began = time.monotonic()
        await self._get_layer().group_send(group, message)
        data = message.get("data", {})
        if "chunk" in data:
            ended = time.monotonic()
            self.published.append(Published(data["conversationId"], data["offset"], data["chunk"], began, ended))
            ObservedLayer.characters += len(data["chunk"])

    @classmethod
    def forget(cls) -> None:
        """Begin to count anew."""
        cls.published.clear()
        cls.characters = 0
