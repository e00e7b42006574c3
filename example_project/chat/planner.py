"""A stand-in for a language model, so that the agent can be tried without one: it follows a script.

Nothing else is played: the tools are really called, the approval is really waited for, and what comes next depends on
what the tools really gave. Only the understanding is a few patterns.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from datetime import date, timedelta
from itertools import takewhile
from secrets import token_hex
from typing import Any

from django.utils import timezone

from converse.choices import FinishReason, Role
from converse.deltas import Delta, Finish, Started, TextDelta, ToolCallDelta
from converse.parts import ToolResult
from converse.providers.base import Prompt, Provider

WORD = re.compile(r"\s*\S+|\s+")
PEOPLE = re.compile(r"\b(\d{1,3})\s*(?:people|persons|of us|guests|heads)\b", re.IGNORECASE)
HOURS = re.compile(r"\b(\d{1,2})(?::(\d\d))?\s*(?:to|until|till|-|\u2013)\s*(\d{1,2})(?::(\d\d))?", re.IGNORECASE)
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
HELP = "I only follow a script. Ask me for a room, as in: a room for 8 people on Friday, 14 to 16."
FRAGMENT = 6  # characters of JSON at a time


class Planner(Provider):
    """Plays a model that books rooms, at the pace of a fast reader."""

    def __init__(self, *, delay: float = 0.03) -> None:
        self.delay = delay  # seconds before each word

    async def astream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        yield Started(model="a script")
        reason = FinishReason.STOP
        for delta in _answer(prompt):
            await asyncio.sleep(self.delay)
            if isinstance(delta, ToolCallDelta):
                reason = FinishReason.TOOL_CALLS
            yield delta
        yield Finish(reason=reason, raw="script")


def _answer(prompt: Prompt) -> Iterator[Delta]:
    """Decide what to say next by what was asked for, and by what the tools have given since."""
    wish = _read(next((turn.text for turn in reversed(prompt.messages) if turn.role == Role.USER), ""))
    results = _results(prompt)
    if wish is None:
        yield from _fragments({"booked": False, "note": HELP})
    elif "book_room" in results:
        yield from _fragments(_outcome(wish, results))
    elif "find_rooms" in results:
        yield from _choose(wish, results)
    else:
        when = {key: wish[key] for key in ("start", "end")}
        yield from _words(f"A room for {wish['people']} on {wish['day']:%A}: ")
        yield from _words("let me see what is free, and what coffee costs.")
        yield from _call(0, "find_rooms", {"people": wish["people"], "day": str(wish["day"]), **when})
        yield from _call(1, "price_catering", {"people": wish["people"], **when})


def _choose(wish: Mapping[str, Any], results: Mapping[str, ToolResult]) -> Iterator[Delta]:
    found = results["find_rooms"]
    rooms = [] if found.is_error else json.loads(found.output)
    if not rooms:
        note = "I could not look it up." if found.is_error else "No room of that size is free then."
        yield from _fragments({"booked": False, "note": note})
        return
    best = rooms[0]
    yield from _words(f"The {best['name']} is the cheapest that fits: {best['seats']} seats, floor {best['floor']}, ")
    yield from _words(f"{best['hourly_rate']} euros an hour. May I book it?")
    yield from _call(0, "book_room", {"room": best["name"], **wish, "day": str(wish["day"])})


def _outcome(wish: Mapping[str, Any], results: Mapping[str, ToolResult]) -> dict[str, Any]:
    booked, catering = results["book_room"], results.get("price_catering")
    if booked.is_error:
        return {"booked": False, "note": f"Nothing was booked. {booked.output}"}
    made = json.loads(booked.output)
    extra = json.loads(catering.output)["euros"] if catering and not catering.is_error else None
    total = made["euros"] + (extra or 0)
    note = f"With coffee for {extra} euros." if extra else "Without coffee: its price is not known."
    return {"booked": True, "room": made["room"], **wish, "day": str(wish["day"]), "total": total, "note": note}


def _results(prompt: Prompt) -> dict[str, ToolResult]:
    """Give what the tools gave since the user's last words, by the tool's name."""
    since = takewhile(lambda turn: turn.role != Role.USER, reversed(prompt.messages))
    return {part.name: part for turn in since for part in turn.parts if isinstance(part, ToolResult)}


def _read(text: str) -> dict[str, Any] | None:
    """Understand a wish for a room; None where it is none."""
    people, hours = PEOPLE.search(text), HOURS.search(text)
    if not people:
        return None
    begin, minute, end, last = hours.groups() if hours else ("10", "00", "12", "00")
    start_at, end_at = f"{int(begin):02}:{minute or '00'}", f"{int(end):02}:{last or '00'}"
    return {"people": int(people[1]), "day": _day(text.lower()), "start": start_at, "end": end_at}


def _day(text: str) -> date:
    today = timezone.localdate()
    named = next((number for number, name in enumerate(DAYS) if name in text), None)
    return today + timedelta(days=1 if named is None else (named - today.weekday() - 1) % 7 + 1)


def _words(text: str) -> Iterator[Delta]:
    yield from map(TextDelta, WORD.findall(text))


def _fragments(answer: Mapping[str, Any]) -> Iterator[Delta]:
    yield from map(TextDelta, _cut(answer))


def _call(index: int, name: str, arguments: Mapping[str, Any]) -> Iterator[Delta]:
    first, *rest = _cut(arguments)
    yield ToolCallDelta(index=index, id=f"call_{token_hex(4)}", name=name, arguments=first)
    for fragment in rest:
        yield ToolCallDelta(index=index, arguments=fragment)


def _cut(value: Mapping[str, Any]) -> list[str]:
    text = json.dumps(value)
    return [text[place : place + FRAGMENT] for place in range(0, len(text), FRAGMENT)]
