"""Handlers that judge what comes: they may veto it, or end the reply."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from converse.exceptions import InvalidMessage, Stopped, Vetoed
from converse.handlers.base import Ending, Handler, at_least

if TYPE_CHECKING:
    from converse.models import Message

Check = Callable[[str], Any]


class Limit(Handler):
    """Ends a reply once it has so many characters, of which the text that is stored has no more, or so many deltas.

    The message is cancelled, and what came by then stays. Its result says how many there were. Most providers send
    about one token a delta.
    """

    judges = True
    characters: int | None = None
    deltas: int | None = None

    def __init__(self, *, characters: int | None = None, deltas: int | None = None) -> None:
        self.characters = self.characters if characters is None else characters
        self.deltas = self.deltas if deltas is None else deltas
        if self.characters is None and self.deltas is None:
            raise InvalidMessage("a limit needs characters or deltas", field="handlers")
        at_least(1, characters=self.characters, deltas=self.deltas)

    def start(self, result: dict[str, int] | None, message: Message) -> dict[str, int]:
        self._counts = result or {"characters": 0, "deltas": 0}
        return self._counts

    def take(self, result: dict[str, int], text: str) -> dict[str, int]:
        if self._counts["deltas"] == self.deltas:
            raise Stopped(f"There are {self.deltas} deltas.", keep="")
        characters = self._counts["characters"] + len(text)
        kept = characters if self.characters is None else min(characters, self.characters)
        self._counts = {"characters": kept, "deltas": self._counts["deltas"] + 1}
        if kept < characters:
            raise Stopped(f"There are {kept} characters.", keep=text[: kept - characters])
        return self._counts

    def end(self, result: dict[str, int], ending: Ending) -> dict[str, int]:
        return self._counts


class Moderation(Handler):
    """Asks a callable, sync or async, about the text before it is stored.

    It is given the last ``window`` characters, the new ones among them, and says why they may not be said, or nothing;
    it may raise Vetoed with a text for people, or Stopped. With ``every`` it is asked once for so many new characters:
    cheaper, but what came since the last time is stored already. If it fails, nothing that it has not seen passes,
    unless ``strict`` is off.
    """

    judges = True
    window: int = 2000
    every: int = 1
    strict: bool = True

    def __init__(
        self,
        check: Check | None = None,
        *,
        window: int | None = None,
        every: int | None = None,
        strict: bool | None = None,
    ) -> None:
        if check is None and type(self).check is Moderation.check:
            raise InvalidMessage("Moderation needs a function check(text), or a subclass with one", field="handlers")
        if check is not None and not callable(check):
            raise InvalidMessage(f"Moderation needs a function check(text), not {check!r}", field="handlers")
        self._check = check
        self.window = self.window if window is None else window
        self.every = self.every if every is None else every
        self.strict = self.strict if strict is None else strict
        at_least(1, window=self.window, every=self.every)

    def check(self, text: str) -> Any:
        """Say why a text may not be said, by default as the callable does."""
        return self._check(text) if self._check else None

    def start(self, result: int | None, message: Message) -> int:
        self._seen = ""
        self._unseen = 0  # characters since the last check
        return result or 0

    def take(self, result: int, text: str) -> Any:
        self._unseen += len(text)
        self._seen = (self._seen + text)[-max(self.window, self._unseen) :]
        return self._judge(result) if self._unseen >= self.every else result

    def end(self, result: int, ending: Ending) -> Any:
        return self._judge(result) if self._unseen else result

    def _judge(self, result: int) -> Any:
        self._unseen = 0
        try:
            ruling = self.check(self._seen)
            return self._wait(ruling, result) if isawaitable(ruling) else self._ruled(ruling, result)
        except Exception as exc:
            raise self._judged(exc) from exc

    async def _wait(self, ruling: Awaitable[Any], result: int) -> int:
        try:
            return self._ruled(await ruling, result)
        except Exception as exc:
            raise self._judged(exc) from exc

    def _ruled(self, ruling: Any, result: int) -> int:
        if isinstance(ruling, str) and ruling:
            raise Vetoed(ruling)
        if ruling:
            raise TypeError(f"a check gives a text or nothing, not {ruling!r}")
        return result + 1

    def _judged(self, exc: Exception) -> Exception:
        """Give a ruling as it is, and an error as a veto where nothing may pass unseen."""
        if isinstance(exc, Vetoed | Stopped) or not self.strict:
            return exc
        return Vetoed(f"The text could not be judged: {type(exc).__name__}: {exc}")
