"""Tools: plain typed functions that a model may call."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, overload

from converse import naming, signatures
from converse.exceptions import InvalidMessage
from converse.providers.base import ToolSpec
from converse.signatures import Signature

if TYPE_CHECKING:
    from converse.models import Conversation, Message

F = TypeVar("F", bound=Callable[..., Any])
Approval = bool | Callable[[dict[str, Any]], bool]

NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}")  # what all providers take
MARK = "converse_tool"  # the attribute of a decorated function


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """For whom a tool is called. A parameter annotated with this is given it; the model knows nothing of it."""

    conversation: Conversation
    message: Message
    call_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function as a model may call it."""

    function: Callable[..., Any]
    name: str
    description: str
    approval: Approval
    timeout: float | None  # seconds; CONVERSE_TOOL_TIMEOUT where there is none
    signature: Signature

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of its arguments."""
        return dict(self.signature.schema)

    @property
    def spec(self) -> ToolSpec:
        """What a provider is told of it."""
        return ToolSpec(name=self.name, description=self.description, schema=self.schema)


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(
    *, name: str = "", description: str = "", approval: Approval = False, timeout: float | None = None
) -> Callable[[F], F]: ...
def tool(
    function: F | None = None,
    /,
    *,
    name: str = "",
    description: str = "",
    approval: Approval = False,
    timeout: float | None = None,
) -> F | Callable[[F], F]:
    """Say of a function what its signature cannot: another name or description, whether a person has to approve.

    ``approval`` is whether each call has to be approved, or a function that says so of a call's arguments, a dict.
    ``timeout`` is in seconds. The function stays what it is.
    """

    def mark(function: F) -> F:
        setattr(function, MARK, {"name": name, "description": description, "approval": approval, "timeout": timeout})
        return function

    return mark if function is None else mark(function)


def paths(tools: Iterable[Any]) -> list[str]:
    """Name tools, given as functions or dotted paths, so that every process finds them; raise InvalidMessage."""
    if isinstance(tools, str) or not isinstance(tools, Iterable):
        raise _refused("must be a list of functions or of their dotted paths")
    named = [tool if isinstance(tool, str) else naming.named(tool, field="tools") for tool in tools]
    load(named)
    return named


def load(paths: Sequence[str]) -> list[Tool]:
    """Give the tools of these dotted paths; raise InvalidMessage for what is none, or for two of one name."""
    loaded = [_tool(path, naming.found(path, field="tools")) for path in paths]
    names = [tool.name for tool in loaded]
    for path, name in zip(paths, names, strict=True):
        if names.count(name) > 1:
            raise _refused(f'{path}: another tool is called {name} too; give it a name by @tool(name="…")')
    return loaded


@cache
def _made(function: Callable[..., Any]) -> Tool:
    marks = getattr(function, MARK, {"name": "", "description": "", "approval": False, "timeout": None})
    read = signatures.of(function, injected=ToolContext)
    name = marks["name"] or function.__name__
    if not NAME.fullmatch(name):
        raise TypeError('its name must match [a-zA-Z_][a-zA-Z0-9_-]{0,63}; give it another by @tool(name="…")')
    return Tool(
        function=function,
        name=name,
        description=marks["description"] or read.description,
        approval=marks["approval"],
        timeout=marks["timeout"],
        signature=read,
    )


def _tool(path: str, found: Any) -> Tool:
    if not callable(found) or isinstance(found, type):
        raise _refused(f"{path}: must be a function, not {found!r}")
    try:
        return _made(found)
    except TypeError as exc:
        raise _refused(f"{path}: {exc}") from exc


def _refused(reason: str) -> InvalidMessage:
    return InvalidMessage(reason, field="tools")
