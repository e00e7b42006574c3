"""What a scripted provider does, in words: ``call("weather", city="Paris")``, ``thinks("Hm.")``, ``breaks_off()``."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from converse.choices import ErrorType, FinishReason
from converse.deltas import Delta, FileDelta, Finish, RawBlock, ReasoningDelta, RefusalDelta, SourceDelta, Usage
from converse.exceptions import ProviderError

if TYPE_CHECKING:
    from converse.providers.base import Prompt

BREAK_OFF = asyncio.CancelledError("the script breaks off")

# What may well be better at the next try.
PASSING = (
    ErrorType.RATE_LIMITED,
    ErrorType.OVERLOADED,
    ErrorType.SERVER,
    ErrorType.TIMEOUT,
    ErrorType.CONNECTION,
    ErrorType.TRUNCATED,
)

STATUSES = {
    400: ErrorType.INVALID,
    401: ErrorType.AUTHENTICATION,
    403: ErrorType.PERMISSION,
    404: ErrorType.NOT_FOUND,
    408: ErrorType.TIMEOUT,
    413: ErrorType.CONTEXT_TOO_LONG,
    429: ErrorType.RATE_LIMITED,
    503: ErrorType.OVERLOADED,
    529: ErrorType.OVERLOADED,
}


@dataclass(frozen=True, slots=True)
class Called:
    """A call of a tool; the provider numbers it."""

    name: str
    arguments: str
    id: str
    signature: str | None
    fragments: int


Event = asyncio.Event | threading.Event
Step = Delta | Called | str | float | BaseException | Event | Sequence["Step"] | Callable[["Prompt"], "Step"]


def call(
    tool: str,
    arguments: Mapping[str, Any] | str | None = None,
    /,
    *,
    id: str = "",
    signature: str | None = None,
    fragments: int = 1,
    **named: Any,
) -> Called:
    """Call a tool. Arguments are keywords, or a dict, or the JSON that comes, whatever it is worth.

    They come in so many ``fragments``. The answer ends with ``tool_calls``.
    """
    text = arguments if isinstance(arguments, str) else json.dumps({**(arguments or {}), **named})
    return Called(tool, text, id, signature, fragments)


def thinks(text: str, signature: str | None = None) -> ReasoningDelta:
    """Reason; a signature closes the block."""
    return ReasoningDelta(text=text, signature=signature)


def answers(value: Any, fragments: int = 1) -> list[Step]:
    """Answer with JSON: anything that pydantic writes, a model for one, in so many fragments."""
    return list(cut(to_json(value).decode(), fragments))


def refuses(text: str) -> list[Step]:
    """Refuse, and end."""
    return [RefusalDelta(text), ends(FinishReason.REFUSAL)]


def cites(url: str = "", title: str = "", text: str = "") -> SourceDelta:
    """Cite a source."""
    return SourceDelta(url=url, title=title, text=text)


def gives(data: bytes, mime_type: str, name: str = "") -> FileDelta:
    """Give a file."""
    return FileDelta(data=data, mime_type=mime_type, name=name)


def raw(**data: Any) -> RawBlock:
    """Give a block that means something to the provider only."""
    return RawBlock(data)


def spends(input: int | None = None, output: int | None = None, **counts: int | None) -> Usage:
    """Tell what was spent: ``input``, ``output``, ``cached_input``, ``cache_write`` and ``reasoning`` tokens."""
    return Usage(input=input, output=output, **counts)  # type: ignore[arg-type]  # all of them counts


def ends(reason: str = FinishReason.STOP) -> Finish:
    """End for a reason; an answer that does not say so ends with ``stop``, or ``tool_calls`` after calls."""
    return Finish(reason=FinishReason(reason), raw=str(FinishReason(reason)))


def breaks_off() -> asyncio.CancelledError:
    """End without an end, as a connection does that breaks."""
    return BREAK_OFF


def fails(
    why: ErrorType | str | int = ErrorType.SERVER,
    detail: str = "",
    *,
    retryable: bool | None = None,
    retry_after: float | None = None,
    request_id: str = "",
) -> ProviderError:
    """Fail as a provider does, by the type of the error or by an HTTP status; anywhere in an answer.

    What may pass is retryable, unless it is said otherwise. ``retry_after`` is in seconds.
    """
    kind = (
        STATUSES.get(why, ErrorType.SERVER if why >= 500 else ErrorType.INVALID)
        if isinstance(why, int)
        else ErrorType(why)
    )
    return ProviderError(
        detail or f"The script fails: {kind.value}.",
        type=kind,
        retryable=kind in PASSING if retryable is None else retryable,
        retry_after=retry_after,
        request_id=request_id,
    )


def cut(text: str, fragments: int) -> list[str]:
    """Cut a text into about so many pieces."""
    size = max(1, -(-len(text) // fragments))
    return [text[start : start + size] for start in range(0, len(text), size)] or [""]
