from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from converse.choices import FinishReason
from converse.deltas import (
    Delta,
    Finish,
    RawBlock,
    ReasoningDelta,
    SourceDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from converse.providers.anthropic_history import History
from converse.providers.base import OutputSpec, Prompt, ToolSpec
from converse.providers.http import EventStream, Reading, SDKProvider

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

FINISH_REASONS = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "pause_turn": FinishReason.PAUSE,
    "refusal": FinishReason.REFUSAL,
}


class MessageReading(Reading):
    """Reads the events of one message; those of unknown kinds pass by."""

    def __init__(self) -> None:
        super().__init__()
        self.usage: dict[str, Any] = {}
        self.calls = 0
        self.blocks: dict[int, Block] = defaultdict(Block)

    def read(self, event: Any) -> Iterator[Delta]:
        match event["type"]:
            case "message_start":
                yield from self.read_start(event["message"])
            case "content_block_start":
                yield from self.read_block(self.blocks[event["index"]], event["content_block"])
            case "content_block_delta":
                yield from self.blocks[event["index"]].read(event["delta"])
            case "content_block_stop":
                yield from self.blocks[event["index"]].end()
            case "message_delta":
                yield from self.read_end(event)

    def read_start(self, message: Any) -> Iterator[Delta]:
        yield Started(request_id=self.request_id or message["id"], model=message["model"])
        yield from self.read_usage(message.get("usage"))

    def read_block(self, block: Block, content: Any) -> Iterator[Delta]:
        match content["type"]:
            case "tool_use":
                block.call, block.input = self.calls, content.get("input")
                self.calls += 1
                yield ToolCallDelta(
                    index=block.call, id=content["id"], name=content["name"], signature=signature_of(content)
                )
            case "text":
                yield from block.read({"type": "text_delta", "text": content.get("text")})
            case "thinking":
                yield from block.read({"type": "thinking_delta", "thinking": content.get("thinking")})
                yield from block.read({"type": "signature_delta", "signature": content.get("signature")})
            case _:
                block.raw = dict(content)

    def read_end(self, event: Any) -> Iterator[Delta]:
        yield from self.read_usage(event.get("usage"))
        if reason := event["delta"].get("stop_reason"):
            self.finish = Finish(reason=FINISH_REASONS.get(reason, FinishReason.OTHER), raw=reason)

    def read_usage(self, usage: Any) -> Iterator[Delta]:
        if usage:
            self.usage = {**self.usage, **usage}
            yield usage_of(self.usage)


class Block:
    """What has arrived of one block, as far as its end needs it."""

    def __init__(self) -> None:
        self.call: int | None = None
        self.input: Any = None
        self.json = ""
        self.raw: dict[str, Any] | None = None
        self.length = 0
        self.citations: list[Any] = []

    def read(self, delta: Any) -> Iterator[Delta]:
        match delta["type"]:
            case "text_delta" if delta["text"]:
                self.length += len(delta["text"])
                yield TextDelta(delta["text"])
            case "thinking_delta" if delta["thinking"]:
                yield ReasoningDelta(text=delta["thinking"])
            case "signature_delta" if delta["signature"]:
                yield ReasoningDelta(signature=delta["signature"])
            case "citations_delta":
                self.citations.append(delta["citation"])
                yield source_of(delta["citation"])
            case "input_json_delta":
                self.json += delta["partial_json"]
                if self.call is not None and delta["partial_json"]:
                    yield ToolCallDelta(index=self.call, arguments=delta["partial_json"])
            case _ if self.raw is not None:
                self.raw.update({key: value for key, value in delta.items() if key != "type"})

    def end(self) -> Iterator[Delta]:
        if self.call is not None and not self.json:
            yield ToolCallDelta(index=self.call, arguments=json.dumps(self.input or {}))
        if self.raw is not None:
            yield RawBlock({**self.raw, "input": input_of(self.json)} if self.json else self.raw)
        if self.citations:
            # The words are out already; this says how many of them, counted from the end, the citations belong to.
            cited = {"characters": self.length, "citations": self.citations}
            yield TextDelta("", signature=json.dumps(cited, ensure_ascii=False))


class AnthropicProvider(SDKProvider):
    """Anthropic's Messages, and every server that speaks them."""

    reading = MessageReading
    package = "anthropic"
    client_class = "AsyncAnthropic"

    def __init__(self, *, max_tokens: int = 4096, **options: Any) -> None:
        super().__init__(**options)
        self.max_tokens = max_tokens

    async def send(self, client: AsyncAnthropic, prompt: Prompt) -> EventStream:
        # Not messages.create(): the model it builds of each event costs far more than reading it, loses what is new,
        # and its signature leaves out parameters that the service still takes.
        stream: EventStream = await client.post(
            "/v1/messages",
            body=self.request(prompt),
            cast_to=object,
            stream=True,
            stream_cls=self.sdk.AsyncStream[object],
        )
        return stream

    def request(self, prompt: Prompt) -> dict[str, Any]:
        """Return the body of the request for a prompt."""
        given = {**self.params, **prompt.options}
        history = History(prompt.messages)
        request: dict[str, Any] = {
            "model": prompt.model or self.model,
            "max_tokens": self.max_tokens,
            "messages": history.messages(),
        }
        if history.system:
            request["system"] = history.system
        request |= self.params
        if prompt.tool_choice:
            request["tool_choice"] = choice_of(prompt.tool_choice)
        request |= {**prompt.options, "tools": [*map(tool_of, prompt.tools), *(given.get("tools") or ())]}
        if not request["tools"]:
            # A history of calls is refused without tools.
            request["tools"] = [{"name": name, "input_schema": {"type": "object"}} for name in history.names]
            request["tool_choice"] = {"type": "none"}
        if not request["tools"]:
            del request["tools"], request["tool_choice"]
        if prompt.output:
            request["output_config"] = {**(given.get("output_config") or {}), "format": self.form(prompt.output)}
        return {**request, "stream": True}

    def form(self, output: OutputSpec) -> dict[str, Any]:
        schema = copy.deepcopy(dict(output.schema))
        try:
            schema = self.sdk.transform_schema(schema)
        except (AssertionError, ValueError):
            pass  # not all that is a JSON Schema can be adapted; the service says what it does not take
        return {"type": "json_schema", "schema": schema}


def signature_of(call: Any) -> str | None:
    """Return, as text, what belongs to a call besides its id, name and input: who called, of which set of tools."""
    besides = {key: value for key, value in call.items() if key not in {"type", "id", "name", "input"} and value}
    return json.dumps(besides) if besides else None


def input_of(text: str) -> Any:
    """Return what a tool of Anthropic's own was called with; a call that broke off cannot go back anyway."""
    try:
        return json.loads(text)
    except ValueError:
        return {}


def source_of(citation: Any) -> SourceDelta:
    return SourceDelta(
        url=citation.get("url") or citation.get("source") or "",
        title=citation.get("title") or citation.get("document_title") or "",
        text=citation.get("cited_text") or "",
    )


def tool_of(tool: ToolSpec) -> dict[str, Any]:
    schema = {"type": "object", **tool.schema}
    return {"name": tool.name, "description": tool.description, "input_schema": schema}


def choice_of(choice: str) -> dict[str, str]:
    return {"type": choice} if choice in {"auto", "any", "none"} else {"type": "tool", "name": choice}


def usage_of(usage: dict[str, Any]) -> Usage:
    """Return the token counts; Anthropic's input excludes what came from or went into a cache."""
    return Usage(
        input=usage.get("input_tokens"),
        cached_input=usage.get("cache_read_input_tokens"),
        cache_write=usage.get("cache_creation_input_tokens"),
        output=usage.get("output_tokens"),
        reasoning=(usage.get("output_tokens_details") or {}).get("thinking_tokens"),
        raw=usage,
    )
