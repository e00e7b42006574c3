"""What a reply is asked to do, as JSON: another process may have to go on with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from converse import handlers as watchers
from converse import outputs
from converse import tools as toolbox
from converse.exceptions import InvalidMessage
from converse.windows import checked

CHOICES = ("auto", "any", "none")


def make(
    *,
    tools: Iterable[Any] | None = None,
    tool_choice: str = "",
    max_steps: int | None = None,
    window: Mapping[str, int] | None = None,
    output: Any = None,
    handlers: Any = (),
    on_token: Any = None,
    on_complete: Any = None,
    on_error: Any = None,
    on_cancel: Any = None,
) -> dict[str, Any]:
    """Give the plan of a reply that was asked for with these keywords; raise InvalidMessage for what cannot be done."""
    plan: dict[str, Any] = {}
    if tools is not None:
        plan["tools"] = toolbox.paths(tools)
    if tool_choice:
        plan["tool_choice"] = _choice(tool_choice, [tool.name for tool in toolbox.load(plan.get("tools", ()))])
    if max_steps is not None:
        if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
            raise InvalidMessage(f"must be a whole number from 1, not {max_steps!r}", field="max_steps")
        plan["max_steps"] = max_steps
    if window is not None:
        plan["window"] = checked(window)
    if output is not None:
        plan["output"] = outputs.plan(output)
    callbacks = {"on_token": on_token, "on_complete": on_complete, "on_error": on_error, "on_cancel": on_cancel}
    return plan | watchers.plan(handlers, **callbacks)


def _choice(choice: str, names: list[str]) -> str:
    if choice not in (*CHOICES, *names):
        known = ", ".join((*CHOICES, *names))
        raise InvalidMessage(f"{choice!r} is none of {known}", field="tool_choice")
    if not names:
        raise InvalidMessage("needs tools: pass them as tools=[…]", field="tool_choice")
    return choice
