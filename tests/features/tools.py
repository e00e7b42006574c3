"""Tools for the features: two that run at once, one that fails, one that a person has to allow, one that never ends."""

from __future__ import annotations

import asyncio

from converse.tools import tool

running = asyncio.Event()


async def temperature(city: str) -> dict[str, object]:
    """Tell the temperature in a city."""
    await asyncio.sleep(0.02)
    return {"city": city, "celsius": 21}


def population(city: str) -> int:
    """Count the people of a city."""
    return len(city) * 1000


def broken(city: str) -> str:
    """Fail."""
    raise RuntimeError(f"no such city: {city}")


@tool(approval=True)
def book(city: str) -> str:
    """Book a journey."""
    return f"booked {city}"


async def endless(city: str) -> str:
    """Never come back."""
    running.set()
    await asyncio.Event().wait()
    return city
