"""Who is in a conversation now: soft state that processes tell one another, and forget when it is not told again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

ANNOUNCE = 15.0  # seconds between two announcements of a process's own
EXPIRE = 45.0  # seconds after which what a process announced is forgotten: it may have died without a word

Member = Mapping[str, str]  # id and name


def describe(user: Any) -> dict[str, str]:
    """Say who a user is, to others: an opaque id and a name."""
    full_name = getattr(user, "get_full_name", str)()  # a user model of one's own need not have it
    return {"id": str(user.pk), "name": full_name or user.get_username()}


class Roster:
    """The sockets known to be in one conversation, each with its user. No I/O; times are monotonic seconds."""

    def __init__(self) -> None:
        self._sockets: dict[str, tuple[Member, float]] = {}

    def users(self) -> list[Member]:
        """Give each user once, however many sockets they have."""
        return list({member["id"]: member for member, _ in self._sockets.values()}.values())

    def announce(self, sockets: Mapping[str, Member], now: float) -> list[Member]:
        """Learn of sockets; give the users who were not there before."""
        before = {user["id"] for user in self.users()}
        self._sockets.update({socket: (member, now + EXPIRE) for socket, member in sockets.items()})
        return [user for user in self.users() if user["id"] not in before]

    def forget(self, sockets: Iterable[str]) -> list[Member]:
        """Forget sockets; give the users who have none left."""
        gone = [self._sockets.pop(socket)[0] for socket in list(sockets) if socket in self._sockets]
        here = {user["id"] for user in self.users()}
        return list({user["id"]: user for user in gone if user["id"] not in here}.values())

    def expire(self, now: float) -> list[Member]:
        """Forget the sockets that nobody announced for too long; give the users who have none left."""
        return self.forget([socket for socket, (_, until) in self._sockets.items() if until < now])
