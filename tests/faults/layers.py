"""A channel layer that loses, doubles and delays."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from django.utils.module_loading import import_string


class LossyLayer:
    """Another layer, of whose group messages a share is dropped, sent twice, or sent after some which came later."""

    def __init__(
        self,
        inner: dict[str, Any],
        *,
        drop: float = 0,
        double: float = 0,
        late: float = 0,
        delay: float = 0.3,
        seed: int = 0,
    ) -> None:
        self.inner = import_string(inner["BACKEND"])(**inner.get("CONFIG", {}))
        self.drop = drop
        self.double = double
        self.late = late
        self.delay = delay  # seconds at most
        self.dice = Random(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        fate = self.dice.random()
        if fate < self.drop:
            return
        if fate < self.drop + self.late:
            asyncio.get_running_loop().create_task(self._send_late(group, message))
            return
        await self.inner.group_send(group, message)
        if fate > 1 - self.double:
            await self.inner.group_send(group, message)

    async def _send_late(self, group: str, message: dict[str, Any]) -> None:
        await asyncio.sleep(self.dice.uniform(0, self.delay))
        await self.inner.group_send(group, message)
