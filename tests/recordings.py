"""Recorded answers of real providers, and a server on the loopback that plays them, or anything, back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self, cast

from converse.deltas import (
    Delta,
    FileDelta,
    Finish,
    RawBlock,
    ReasoningDelta,
    RefusalDelta,
    SourceDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from converse.exceptions import ProviderError
from converse.parts import File, Part, Raw, Reasoning, Text, ToolCall
from converse.providers import Prompt, PromptMessage, Provider

DIRECTORY = Path(__file__).resolve().parents[2] / "shared" / "recordings"
MISSING = f"no recordings beside the checkout, in {Path(*DIRECTORY.parts[-2:])}"

EVENT_STREAM = {"content-type": "text/event-stream; charset=utf-8"}


@dataclass(frozen=True, kw_only=True)
class Recording:
    """An answer as it was sent, and what a reader without any SDK made of it."""

    name: str
    api: str
    body: bytes = field(repr=False)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: EVENT_STREAM)
    expected: Mapping[str, Any] = field(default_factory=dict, repr=False)


def available() -> bool:
    return DIRECTORY.is_dir()


def load(api: str) -> list[Recording]:
    """Return the recordings of an API such as ``openai.chat``, by name."""
    descriptions = (json.loads(path.read_text()) for path in sorted(DIRECTORY.glob("*.json")))
    return [_recording(description) for description in descriptions if description["api"] == api]


def _recording(description: dict[str, Any]) -> Recording:
    return Recording(
        name=description["name"],
        api=description["api"],
        body=(DIRECTORY / description["body_file"]).read_bytes(),
        status=description["status"],
        headers={"content-type": description["content_type"]},
        expected=description["expected"],
    )


class RecordingServer:
    """A real HTTP server that answers every request with the same body.

    ``split`` are the places at which the body is cut into pieces that arrive one by one. After ``cut_at`` bytes the
    body ends, as if that were all of it, or with ``drop`` by a lost connection. After ``stall_at`` bytes nothing
    comes any more; with ``stall_headers`` nothing comes at all. Both last until the client goes.
    """

    def __init__(
        self,
        body: bytes = b"",
        *,
        status: int = 200,
        headers: Mapping[str, str] = EVENT_STREAM,
        split: Iterable[int] = (),
        cut_at: int | None = None,
        drop: bool = False,
        stall_at: int | None = None,
        stall_headers: bool = False,
    ) -> None:
        self.body = body[:cut_at] if stall_at is None else body[:stall_at]
        self.status = status
        self.headers = headers
        self.split = split
        self.drop = drop
        self.stalls = stall_at is not None
        self.stall_headers = stall_headers
        self.requests: list[Request] = []
        self.requested = asyncio.Event()
        self.stalled = asyncio.Event()
        self.connections_open = 0
        self._closed = asyncio.Event()
        self._handlers: set[asyncio.Task[None]] = set()

    @classmethod
    def of(cls, recording: Recording, **knobs: Any) -> Self:
        return cls(recording.body, **{"status": recording.status, "headers": recording.headers, **knobs})

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await self._server.wait_closed()

    async def wait_closed_by_client(self, *, seconds: float = 5.0) -> None:
        """Return once the client has closed all its connections; fail after a while."""
        async with asyncio.timeout(seconds):
            await self._closed.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._handlers.add(task := cast("asyncio.Task[None]", asyncio.current_task()))
        self.connections_open += 1
        self._closed.clear()
        try:
            while request := await _request(reader):
                self.requests.append(request)
                self.requested.set()
                if not await self._answer(reader, writer):
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._handlers.discard(task)
            self.connections_open -= 1
            if not self.connections_open:
                self._closed.set()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if self.stall_headers:
            await reader.read(1)
            return False
        headers = {**self.headers, "transfer-encoding": "chunked"}
        lines = [f"HTTP/1.1 {self.status} Recorded", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        inside = (place for place in self.split if 0 < place < len(self.body))
        for start, end in pairwise(sorted({0, *inside, len(self.body)})):
            writer.write(b"%x\r\n%b\r\n" % (end - start, self.body[start:end]))
            await writer.drain()
        if self.stalls:
            self.stalled.set()
            await reader.read(1)
            return False
        if not self.drop:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        return not self.drop


class Heard:
    """What came out of a provider, and how it ended."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.error: ProviderError | None = None

    def of(self, kind: type[Any]) -> list[Any]:
        return [delta for delta in self.deltas if isinstance(delta, kind)]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.of(TextDelta))

    @property
    def reasoning(self) -> str:
        return "".join(delta.text for delta in self.of(ReasoningDelta))

    @property
    def refusal(self) -> str:
        return "".join(delta.text for delta in self.of(RefusalDelta))

    @property
    def tool_calls(self) -> list[dict[str, str]]:
        calls: dict[int, dict[str, str]] = {}
        for delta in self.of(ToolCallDelta):
            call = calls.setdefault(delta.index, {"id": delta.id, "name": delta.name, "arguments": ""})
            call["arguments"] += delta.arguments
        return [calls[index] for index in sorted(calls)]

    @property
    def sources(self) -> list[SourceDelta]:
        return self.of(SourceDelta)

    @property
    def parts(self) -> list[Part]:
        """What was heard, as the turn of a prompt to the same provider and model."""
        parts: list[Part] = []
        calls: dict[int, int] = {}
        for delta in self.deltas:
            last = parts[-1] if parts else None
            match delta:
                case TextDelta(text=text, signature=None) if isinstance(last, Text) and last.signature is None:
                    parts[-1] = Text(last.text + text)
                case TextDelta():
                    parts.append(Text(delta.text, delta.signature))
                case ReasoningDelta() if isinstance(last, Reasoning) and last.signature is None:
                    parts[-1] = Reasoning(last.text + delta.text, delta.signature)
                case ReasoningDelta():
                    parts.append(Reasoning(delta.text, delta.signature))
                case ToolCallDelta() if delta.index in calls:
                    call = cast("ToolCall", parts[calls[delta.index]])
                    parts[calls[delta.index]] = replace(call, arguments=call.arguments + delta.arguments)
                case ToolCallDelta():
                    calls[delta.index] = len(parts)
                    named = {"id": delta.id or "", "name": delta.name or ""}
                    parts.append(ToolCall(**named, arguments=delta.arguments, signature=delta.signature))
                case RawBlock():
                    parts.append(Raw(delta.data))
                case FileDelta():
                    parts.append(File(name=delta.name, mime_type=delta.mime_type, data=delta.data))
        return parts

    @property
    def usage(self) -> Usage | None:
        return next(reversed(self.of(Usage)), None)

    @property
    def finish(self) -> Finish | None:
        return next(iter(self.of(Finish)), None)


def ask(*texts: str, **fields: Any) -> Prompt:
    """Return a prompt of user turns."""
    turns = [PromptMessage(role="user", text=text) for text in texts or ("Hello?",)]
    return Prompt(**{"messages": turns, **fields})


async def listen(provider: Provider, prompt: Prompt | None = None) -> Heard:
    """Return all that a provider says, the error at the end included."""
    heard = Heard()
    try:
        async for delta in provider.astream(prompt or ask()):
            heard.deltas.append(delta)
    except ProviderError as exc:
        heard.error = exc
    return heard


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a client asked for."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


async def _request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *fields = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    except asyncio.IncompleteReadError:
        return None
    method, path, _ = line.split(" ")
    return Request(method=method, path=path, headers=headers, body=json.loads(body or b"null"))


def sse(*events: object) -> bytes:
    """Return events as a server writes them: values as JSON, text as it is; Anthropic's carry their type's name."""
    return b"".join(_event(event) for event in events)


def _event(event: object) -> bytes:
    data = event if isinstance(event, str) else json.dumps(event)
    name = f"event: {event['type']}\n" if isinstance(event, dict) and "type" in event else ""
    return f"{name}data: {data}\n\n".encode()
