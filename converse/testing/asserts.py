"""Assertions about replies, whose failures say what there is instead."""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async

from converse.choices import Status
from converse.models import Message


def assert_reply(
    message: Message, text: str | None = None, *, status: str = Status.COMPLETED, calls: Any = None, **fields: Any
) -> None:
    """Assert that a reply, read anew, closed like this: with this text, these tools called, these fields.

    ``assert_reply(reply, "Hello!", finish_reason="stop")``; ``assert_reply(reply, status="failed",
    error_type="rate_limited")``; ``assert_reply(reply, calls=["weather"])``.
    """
    message.refresh_from_db()
    found: dict[str, Any] = {"status": str(message.status)}
    wanted: dict[str, Any] = {"status": str(Status(status))}
    if text is not None:
        found["text"], wanted["text"] = message.text, text
    if calls is not None:
        found["calls"], wanted["calls"] = [call["name"] for call in message.tool_calls], list(calls)
    for name, value in fields.items():
        found[name], wanted[name] = getattr(message, name), value
    wrong = [f"{name} is {found[name]!r}, not {wanted[name]!r}" for name in wanted if found[name] != wanted[name]]
    if wrong:
        detail = f" It failed: {message.error_detail}" if message.is_failed else ""
        raise AssertionError(f"The reply's {'; '.join(wrong)}.{detail}")


async def aassert_reply(message: Message, text: str | None = None, **wanted: Any) -> None:
    """See assert_reply()."""
    await sync_to_async(assert_reply)(message, text, **wanted)
