"""Tools for tests, found by their dotted paths as those of an application are."""

from __future__ import annotations

import asyncio
import datetime
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from django.utils.translation import gettext_lazy
from pydantic import AfterValidator, BaseModel, Field

from converse.models import Conversation
from converse.tools import ToolContext, tool

called: list[tuple[Any, ...]] = []  # since the last scene()
gates: dict[str, asyncio.Event] = {}  # what ``wait`` waits for
doors: dict[str, threading.Event] = {}  # and ``block``


@contextmanager
def scene() -> Iterator[None]:
    """Let a test begin with nothing called, and leave nothing behind."""
    called.clear()
    try:
        yield
    finally:
        gates.clear()
        for door in doors.values():
            door.set()
        doors.clear()


def weather(city: str, unit: Literal["c", "f"] = "c") -> dict[str, Any]:
    """Tell the weather of a city.

    Args:
        city: Its name,
            in any language.
        unit (str): Of the temperature.

    Returns:
        The city and its temperature.
    """
    called.append(("weather", city, unit))
    return {"city": city, "degrees": 21 if unit == "c" else 70}


async def wait(gate: str) -> str:
    """Wait until a gate is open."""
    called.append(("wait", gate))
    try:
        await gates[gate].wait()
    except asyncio.CancelledError:
        called.append(("cancelled", gate))
        raise
    return f"{gate} is open"


def block(door: str) -> str:
    """Wait until a door is open, and let nothing else happen meanwhile in this thread."""
    called.append(("block", door))
    doors[door].wait(20)
    called.append(("unblocked", door))
    return f"{door} is open"


def ask(words: str) -> str:
    """Ask another model."""
    return Conversation.objects.start().ask(words, provider="other").text


async def ask_at_once(words: str) -> str:
    """Ask another model."""
    conversation = await Conversation.objects.astart()
    return (await conversation.aask(words, provider="other")).content


class Wordless(Exception):
    def __str__(self) -> str:
        raise NotImplementedError


def fail(how: str) -> str:
    """Fail in one way or another."""
    if how == "late":
        raise TimeoutError("the other side was late")
    if how == "exit":
        sys.exit("enough")
    if how == "wordless":
        raise Wordless
    if how == "cancel":
        raise asyncio.CancelledError
    raise ValueError(how)


def give(what: str) -> Any:
    """Give something of some type."""
    if what == "later":
        return _later()
    return {
        "nothing": None,
        "date": datetime.date(2026, 2, 3),
        "model": Place(city="Łódź", zip="90-001"),
        "record": Pair(1, (2, 3)),
        "rows": Conversation.objects.order_by("pk").values("title"),
        "lazy": {"said": gettext_lazy("message")},
        "endless": float("inf"),
        "long": "x" * 1000,
        "unstorable": "a\x00b\ud800c",
        "object": object(),
    }[what]


async def _later() -> list[int]:
    return [1, 2]


class Place(BaseModel):
    city: str
    zip: str | None = None


@dataclass
class Pair:
    left: int
    right: tuple[int, int]


def _even(number: int) -> int:
    if number % 2:
        raise RuntimeError(f"{number} is odd")
    return number


def travel(
    schema: Place,
    when: datetime.date,
    people: Annotated[int, Field(ge=1, description="How many go.")] = 1,
    *,
    seats: Annotated[int, AfterValidator(_even)] = 2,
    context: ToolContext,
) -> str:
    """Book a journey.

    :param Place schema: Where to.
    :param when: The day,
        in the local calendar.
    """
    called.append(("travel", schema, when, people, seats))
    return f"{context.conversation.title}/{context.message.role}/{context.call_id}"


async def remember(fact: str, context: ToolContext | None = None) -> str:
    """Remember a fact.

    Args:
        fact: What is to be remembered.
        context: Of which the model knows nothing.
    """
    assert context is not None
    return f"{context.conversation.title}: {fact}"


@tool(approval=True)
def pay(amount: int, context: ToolContext) -> str:
    """Pay an amount."""
    called.append(("pay", amount))
    return f"paid {amount} by {context.call_id}"


@tool(approval=lambda arguments: arguments["amount"] > 100, name="give-back", description="Give money back.")
async def refund(amount: int) -> str:
    called.append(("refund", amount))
    return f"refunded {amount}"


def _doubt(arguments: dict[str, Any]) -> bool:
    raise LookupError("nobody knows")


def _ponder(arguments: dict[str, Any]) -> bool:
    called.append(("pondering",))
    return doors["answer"].wait(20)


@tool(approval=_ponder)
def pondered() -> str:
    return "done"


@tool(approval=_doubt)
def doubtful() -> str:
    called.append(("doubtful",))
    return "done"


@tool(timeout=0.05)
async def slow() -> str:
    """Take too long."""
    await asyncio.Event().wait()
    return "never"


@tool(timeout=0.05, name="slow_thread")
def slow_in_a_thread() -> str:
    """Take too long, and not to be stopped."""
    doors["slow"].wait(20)
    called.append(("slow",))
    return "never"


@tool
def plain() -> str:
    """Do nothing."""
    return ""
