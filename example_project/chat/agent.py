"""An agent that books meeting rooms: two tools that look things up, one that a person has to approve, one answer."""

from __future__ import annotations

import time as clock
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.utils import timezone
from pydantic import BaseModel

from converse.models import Conversation
from converse.tools import ToolContext, tool
from example_project.chat.models import Booking, Room

INSTRUCTIONS = """You book meeting rooms. Before you book, call find_rooms and price_catering together, in one answer.
Take the cheapest room that fits. Call book_room once. Today is {today:%A}, {today:%Y-%m-%d}."""
COFFEE, LUNCH = 3, 14  # euros a person
LONG = 3  # hours after which people want lunch


class Outcome(BaseModel):
    """What came of a request for a room."""

    booked: bool
    room: str | None = None
    day: date | None = None
    start: time | None = None
    end: time | None = None
    people: int | None = None
    total: Decimal | None = None
    note: str


def find_rooms(people: int, day: date, start: time, end: time) -> list[Any]:
    """List the meeting rooms that are free and large enough, the cheapest first.

    Args:
        people: How many have to fit in.
        day: The day of the meeting.
        start: When it begins.
        end: When it ends.
    """
    clock.sleep(settings.CHAT_TOOL_DELAY)  # as if the calendar were far away: else there is nothing to see
    rooms = Room.objects.filter(seats__gte=people).exclude(bookings__in=_taken(day, start, end))
    return list(rooms.values("name", "floor", "seats", "hourly_rate"))


def price_catering(people: int, start: time, end: time) -> dict[str, Any]:
    """Work out what coffee, and lunch where the meeting is long, would cost."""
    clock.sleep(settings.CHAT_TOOL_DELAY * 1.6)
    a_head = COFFEE + (LUNCH if _hours(start, end) > LONG else 0)
    return {"euros_a_head": a_head, "euros": a_head * people}


@tool(approval=True)
def book_room(room: str, day: date, start: time, end: time, people: int, context: ToolContext) -> dict[str, Any]:
    """Book a room in the user's name. It costs money: the user is asked first."""
    chosen = Room.objects.get(name=room)
    if chosen.bookings.filter(pk__in=_taken(day, start, end)).exists():
        raise ValueError(f"{room} is taken by then.")
    details = {"room": chosen, "user": context.conversation.owner, "day": day, "start": start, "end": end}
    call_id = f"{context.message.uuid} {context.call_id}"
    booking, _ = Booking.objects.get_or_create(call_id=call_id, defaults={**details, "people": people})
    return {"booking": booking.pk, "room": room, "euros": round(_hours(start, end) * chosen.hourly_rate, 2)}


def _taken(day: date, start: time, end: time) -> Any:
    return Booking.objects.filter(day=day, start__lt=end, end__gt=start)


def _hours(start: time, end: time) -> float:
    day = timezone.localdate()
    return (datetime.combine(day, end) - datetime.combine(day, start)).total_seconds() / 3600


def how_to_reply(user: User, conversation: Conversation) -> dict[str, Any]:
    """Say how replies are asked for: CONVERSE_CLIENT_REPLY of the example, and used by its own views."""
    if not conversation.metadata.get("agent"):
        return {}
    tools = [find_rooms, price_catering, book_room]
    return {"provider": settings.CHAT_AGENT_PROVIDER, "tools": tools, "output": Outcome}
