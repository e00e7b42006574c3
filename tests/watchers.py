"""Handlers, callbacks and forms of answers that tests name by their dotted paths."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from converse.exceptions import Stopped, Vetoed
from converse.handlers import Handler, Limit, Moderation
from converse.tools import tool

told: list[tuple[str, Any]] = []  # what callbacks were told of; tests empty it


def on_token(message, text):
    told.append(("token", text))


def on_complete(message):
    told.append(("complete", message.content))


def on_error(message):
    told.append(("error", message.error_type))


async def on_cancel(message):
    told.append(("cancel", message.content))


def breaks(message):
    raise RuntimeError("the callback broke")


def letters(result, text):
    return (result or 0) + len(text)


class Profanity(Moderation):
    def check(self, text):
        return "a bad word" if "darn" in text else None


class Short(Limit):
    characters = 10


class Watcher(Handler):
    """Notes all that it is told."""

    kinds = ("text", "reasoning", "tool_call")

    def __init__(self):
        self.seen = []

    def start(self, result, message):
        self.seen.append(("start", result, message.role))
        return result or []

    def take(self, result, delta):
        self.seen.append(("take", delta))
        return [*result, str(delta)]

    def end(self, result, ending):
        self.seen.append(("end", ending.status))
        return result


class AsyncWatcher(Watcher):
    async def start(self, result, message):
        return super().start(result, message)

    async def take(self, result, delta):
        return super().take(result, delta)

    async def end(self, result, ending):
        return super().end(result, ending)


class Broken(Handler):
    """Fails where it is told to."""

    def __init__(self, where="take", exc=None):
        self.where, self.exc = where, exc or RuntimeError("it broke")
        self.calls = []

    def start(self, result, message):
        return self.at("start")

    def take(self, result, delta):
        return self.at("take")

    def end(self, result, ending):
        return self.at("end")

    def at(self, where):
        self.calls.append(where)
        if where == self.where:
            raise self.exc
        return 1


class AtTheEnd(Handler):
    """Judges only at the end."""

    judges = True

    def end(self, result, ending):
        raise Vetoed("not with me", public="This was taken back.")


class StopsAtTheEnd(Handler):
    def end(self, result, ending):
        raise Stopped("too late")


class Step(BaseModel):
    text: str
    minutes: int = 5


class Recipe(BaseModel):
    """How to cook something."""

    name: str = Field(min_length=2)
    steps: list[Step] = []
    on: datetime.date | None = None


class Node(BaseModel):
    name: str
    children: list[Node] = []


class Renamed(BaseModel):
    """What it is called when it is written is not what it is called when it is read."""

    name: str = Field(validation_alias="called", serialization_alias="named")


@dataclass
class Point:
    x: int
    y: int


class Address(TypedDict):
    street: str
    number: int


Recipes = list[Recipe]

WEATHER = {
    "title": "Weather",
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "number"}},
    "required": ["city", "degrees"],
}

NOTHING = 5


def weather(city: str) -> str:
    """Tell the weather."""
    return f"It is warm in {city}."


@tool(approval=True)
def delete(path: str) -> str:
    """Delete something."""
    return f"{path} is gone."


class Demanding(Handler):
    def __init__(self, what):
        pass

    def take(self, result, text):
        return result
