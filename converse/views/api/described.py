"""What a door takes and gives, said once: it is checked against this, and so is the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from django.http import HttpRequest, HttpResponse

from converse.drafts import checked
from converse.exceptions import InvalidMessage
from converse.transports.frames import Frame, Refused

LARGEST = 10**18 - 1  # of a number; what is longer no database counts

JsonSchema = dict[str, Any]


class Parameter(Protocol):
    """A parameter of a query."""

    @property
    def name(self) -> str: ...

    @property
    def text(self) -> str: ...

    @property
    def schema(self) -> JsonSchema: ...

    def read(self, text: str | None) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A whole number."""

    name: str
    text: str
    least: int = 0
    most: int = LARGEST
    default: int | None = None

    @property
    def schema(self) -> JsonSchema:
        default = {} if self.default is None else {"default": self.default}
        return {"type": "integer", "minimum": self.least, "maximum": self.most, **default}

    def read(self, text: str | None) -> int | None:
        if text is None:
            return self.default
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST))):
            raise Refused("invalid", f"must be a whole number, {self.least} or more", self.name)
        if not self.least <= int(text) <= self.most:
            raise Refused("invalid", f"must be from {self.least} to {self.most}", self.name)
        return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """Yes or no; no where it is not given."""

    name: str
    text: str

    @property
    def schema(self) -> JsonSchema:
        return {"type": "boolean", "default": False}

    def read(self, text: str | None) -> bool:
        if text not in (None, "true", "false"):
            raise Refused("invalid", "must be true or false", self.name)
        return text == "true"


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Text."""

    name: str
    text: str
    limit: int | None = None

    @property
    def schema(self) -> JsonSchema:
        return {"type": "string", **({"maxLength": self.limit} if self.limit else {})}

    def read(self, text: str | None) -> str:
        if text and self.limit and len(text) > self.limit:
            raise Refused("invalid", f"may have {self.limit} characters, not {len(text)}", self.name)
        try:
            return checked(text or "")
        except InvalidMessage as exc:
            raise Refused("invalid", exc.reason, self.name) from exc


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, read and found to be well-formed."""

    request: HttpRequest
    user: Any
    query: Mapping[str, Any]
    body: Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one door.

    ``takes`` and the values of ``gives`` are names of schemas; nothing is an empty body. A ``whole`` one is a view of
    its own, which reads its request by itself; ``form`` is the field of the file that it takes, ``media`` what it
    gives, ``told`` what it tells problems in.
    """

    handler: Callable[..., Any]
    name: str = ""
    summary: str = ""
    gives: Mapping[int, str] = field(default_factory=dict)
    takes: str = ""
    query: tuple[Parameter, ...] = ()
    problems: tuple[int, ...] = ()
    signed_in: bool = False
    whole: bool = False
    media: str = "application/json"
    told: str = "application/problem+json"
    form: str = ""


def operation(**facts: Any) -> Callable[[Callable[..., Any]], Operation]:
    """Make an operation of a function, under its name, with the first line of what it says of itself."""

    def make(handler: Callable[..., Any]) -> Operation:
        summary = (handler.__doc__ or "").partition("\n")[0].rstrip(".")
        return Operation(**{"handler": handler, "name": handler.__name__, "summary": summary, **facts})

    return make


def nothing() -> HttpResponse:
    """Answer that it is done, and that there is nothing to tell."""
    response = HttpResponse(status=204)
    del response.headers["Content-Type"]
    return response
