"""Tools that behave badly."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Annotated, Any

from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection
from django.db.models import F
from pydantic import AfterValidator

from converse.models import Conversation
from converse.tools import ToolContext, tool

crowd = {"now": 0, "most": 0}  # how many tools run, and did at most
_guard = threading.Lock()


def throw(what: str) -> str:
    """Raise what nobody catches."""
    raise _thrown(what)


async def throw_async(what: str) -> str:
    """Raise what nobody catches, in the loop."""
    await asyncio.sleep(0)
    raise _thrown(what)


@tool(approval=lambda arguments: throw(arguments["what"]))
def throw_before(what: str) -> str:
    """Raise it where it is to be said whether somebody has to approve."""
    return what


def _thrown(what: str) -> BaseException:
    kinds: dict[str, BaseException] = {
        "exit": SystemExit("bye"),
        "interrupt": KeyboardInterrupt("^C"),
        "generator": GeneratorExit("over"),
        "group": BaseExceptionGroup("several", [KeyboardInterrupt(), ValueError("x")]),
        "stop": StopIteration("over"),
        "cancel": asyncio.CancelledError("never mind"),
        "silent": _Silent(),
    }
    return kinds[what]


class _Silent(Exception):
    """One that cannot even be named."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def flood(megabytes: int) -> str:
    """Give far too much, with what cannot be stored in it."""
    return "a\x00\ud800é" * (megabytes * 250_000)


def odd(what: str) -> Any:
    """Give what JSON has no word for."""
    return {
        "nan": [float("nan"), float("-inf")],
        "surrogate": {"\ud800": "\udfff\x00"},
        "bytes": b"\xff\xfe",
        "endless": _endless(),
        "nothing": None,
    }[what]


def _endless() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


@tool(timeout=0.3)
async def deaf() -> str:
    """Take too long, and not even hear that it is cancelled, for a while."""
    until = time.monotonic() + 1
    while time.monotonic() < until:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            pass
    return "late"


hearing = threading.Event()  # set while stone_deaf runs


async def stone_deaf() -> str:
    """Never end, whoever cancels this, until the event is cleared."""
    hearing.set()
    while hearing.is_set():
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            pass
    return "late"


def picky(what: Annotated[str, AfterValidator(throw)]) -> str:
    """Take no argument at all."""
    return what


def bridge(context: ToolContext) -> int:
    """Use the asynchronous ORM from a thread, in a loop of its own."""

    async def count() -> int:
        return await context.conversation.messages.acount()

    return async_to_sync(count)()


def rename(title: str, context: ToolContext) -> str:
    """Write by the ORM."""
    Conversation.objects.filter(pk=context.conversation.pk).update(title=title, updated_at=F("updated_at"))
    with _guard:
        crowd["now"] += 1
        crowd["most"] = max(crowd["now"], crowd["most"])
    time.sleep(0.2)
    with _guard:
        crowd["now"] -= 1
    return f"{title}, autocommit {connection.get_autocommit()}"


def note(text: str, context: ToolContext) -> str:
    """Add a message to the very conversation."""
    return str(context.conversation.create_user_message(text).role)


def ask_again(text: str, context: ToolContext) -> str:
    """Ask for a reply in the very conversation, in which one is open."""
    return str(context.conversation.ask(text).status)


def delete_all(context: ToolContext) -> str:
    """Delete the conversation under the reply's feet."""
    context.conversation.delete()
    return "gone"


def purge_all(context: ToolContext) -> str:
    """Remove the conversation for good."""
    context.conversation.purge()
    return "gone"


def give_up(context: ToolContext) -> bool:
    """Stop the reply that calls this."""
    return context.message.stop()


async def give_up_async(context: ToolContext) -> bool:
    """Stop the reply that calls this, from its own loop."""
    return await sync_to_async(context.message.stop)()


def say(text: str) -> str:
    """Give a text back."""
    return text


def nap(seconds: float) -> str:
    """Sleep in a thread, then leave a trace."""
    time.sleep(seconds)
    return f"slept {seconds}"


async def doze(seconds: float) -> str:
    """Sleep in the loop."""
    await asyncio.sleep(seconds)
    return f"dozed {seconds}"


@tool(approval=True)
def pay(amount: int) -> str:
    """Pay an amount, each time on a line of the ledger."""
    if ledger := os.environ.get("CONVERSE_TEST_LEDGER"):
        with Path(ledger).open("a") as file:
            file.write(f"{amount}\n")
    return f"paid {amount}"


@tool(approval=True)
def pay_slowly(amount: int) -> str:
    """Pay an amount, and take long to say so."""
    pay(amount)
    time.sleep(60)
    return f"paid {amount}"
