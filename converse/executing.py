"""Run the calls of tools that a model asked for; whatever goes wrong becomes a result that it can read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from typing import TYPE_CHECKING, Any

from django.db.models import QuerySet
from django.utils.functional import Promise
from pydantic_core import to_json

from converse import loops
from converse.approvals import Call, Decision
from converse.conf import settings
from converse.drafts import storable
from converse.parts import ToolResult
from converse.tools import Tool, ToolContext

if TYPE_CHECKING:
    from converse.models import Message

logger = logging.getLogger(__name__)

GRACE = 5.0  # seconds for tools to end that were cancelled
AT_ONCE = 16  # calls of one answer: each thread may take a connection to the database


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A call ready to be run, or with the reason why it cannot be."""

    call: Call
    tool: Tool | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    refusal: str = ""
    waits: bool = False  # for a person


async def prepare(calls: Iterable[Call], tools: Iterable[Tool]) -> list[Job]:
    """Find the tools and read the arguments of calls, and say which of them a person has to approve first."""
    known = {tool.name: tool for tool in tools}
    return [await _prepared(call, known) for call in calls]


async def _prepared(call: Call, tools: Mapping[str, Tool]) -> Job:
    if call.decision == Decision.DENIED:
        return Job(call=call, refusal=f"The user denied this call. {call.reason}".strip())
    tool = tools.get(call.name)
    if tool is None:
        return Job(call=call, refusal=f"There is no tool {call.name!r}, only {', '.join(tools)}.")
    try:
        arguments = tool.signature.read(call.arguments)
    except ValueError as exc:
        return Job(call=call, refusal=f"The arguments are not valid: {exc}")
    except BaseException as exc:  # of a validator of the tool's own
        logger.exception("The arguments of tool %s could not be read", tool.name)
        return Job(call=call, refusal=f"The arguments could not be read: {_named(exc)}")
    waits = not call.decision and await _needs_approval(tool, arguments)
    return Job(call=call, tool=tool, arguments=arguments, waits=waits)


async def _needs_approval(tool: Tool, arguments: dict[str, Any]) -> bool:
    if not callable(tool.approval):
        return tool.approval
    try:
        return bool(await loops.apart(partial(tool.approval, dict(arguments))))
    except BaseException:
        if _cancelled():
            raise
        logger.exception("Whether tool %s needs an approval could not be told: it does", tool.name)
        return True


async def run(jobs: Sequence[Job], message: Message) -> AsyncGenerator[ToolResult, None]:
    """Run calls side by side; yield their results in the order of the calls, each once those before it are there.

    Closing the iterator cancels what runs. A synchronous tool cannot be cancelled: what it gives is dropped.
    """
    gate = asyncio.Semaphore(AT_ONCE)
    tasks = [asyncio.create_task(_result(job, message, gate)) for job in jobs]
    try:
        for task in tasks:
            await asyncio.wait([task])  # other than the task itself this hears at once that it is cancelled
            yield task.result()
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE)


async def _result(job: Job, message: Message, gate: asyncio.Semaphore) -> ToolResult:
    """Run one call, in the time that it has. Never raises but when cancelled."""
    call, tool = job.call, job.tool
    if tool is None:
        logger.info("Reply %s: tool %s was not called: %s", message.uuid, call.name, job.refusal)
        return _failed(call, job.refusal)
    seconds = settings.CONVERSE_TOOL_TIMEOUT if tool.timeout is None else tool.timeout
    context = ToolContext(conversation=message.conversation, message=message, call_id=call.id)
    given = {**job.arguments, **dict.fromkeys(tool.signature.injected, context)}
    async with gate:
        running = asyncio.create_task(_outcome(call, tool, given))
        loops.keep(running)
        try:
            await asyncio.wait([running], timeout=seconds)
            late = not running.done()
        finally:
            await _end(running)
    return _failed(call, f"The tool took longer than {seconds:g} seconds.") if late else running.result()


async def _end(running: asyncio.Task[ToolResult]) -> None:
    """Cancel a call that still runs; one that does not hear it is left behind."""
    if not running.done():
        running.cancel()
        await asyncio.wait([running], timeout=GRACE)


async def _outcome(call: Call, tool: Tool, arguments: Mapping[str, Any]) -> ToolResult:
    """Give what a tool gives, or what it raises: some of that, raised from here, would end the loop."""
    try:
        return ToolResult(id=call.id, name=call.name, output=_fitting(await _output(tool, arguments)))
    except asyncio.CancelledError as exc:
        if _cancelled():
            raise
        return _failed(call, f"{type(exc).__name__}: the tool cancelled itself.")
    except BaseException as exc:
        logger.warning("Tool %s failed in call %s", call.name, call.id, exc_info=exc)
        return _failed(call, _named(exc))


def _cancelled() -> bool:
    """Say whether somebody else cancels what runs."""
    task = asyncio.current_task()
    return bool(task and task.cancelling())


def _named(exc: BaseException) -> str:
    try:
        return f"{type(exc).__name__}: {exc}"
    except Exception:  # it has no words for itself
        return type(exc).__name__


async def _output(tool: Tool, arguments: Mapping[str, Any]) -> str:
    if iscoroutinefunction(tool.function):
        return _written(await tool.function(**arguments))
    value = await loops.apart(partial(_called, tool, arguments))
    return _written(await value) if isawaitable(value) else value


def _called(tool: Tool, arguments: Mapping[str, Any]) -> Any:
    """Call a synchronous tool, and write what it gives in the same thread: a queryset is read there."""
    value = tool.function(**arguments)
    return value if isawaitable(value) else _written(value)


def _written(value: Any) -> str:
    """Give a tool's value as text: text as it is, all else as JSON."""
    if isinstance(value, str):
        return str(value)
    return to_json(value, inf_nan_mode="null", fallback=_plain).decode()


def _plain(value: Any) -> Any:
    """Give what JSON has no words for but Django's users expect it to have."""
    if isinstance(value, QuerySet):
        return list(value)
    if isinstance(value, Promise):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON; give text, or what JSON can say")


def _fitting(output: str) -> str:
    """Give a result that can be stored, cut to the limit."""
    limit = settings.CONVERSE_TOOL_RESULT_LIMIT
    given = storable(output[:limit])
    if len(output) <= limit:
        return given
    return f"{given}\n[The result was cut: these are the first {limit} of {len(output)} characters.]"


def _failed(call: Call, reason: str) -> ToolResult:
    return ToolResult(id=call.id, name=call.name, output=_fitting(reason), is_error=True)
