from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from anthropic import APIConnectionError, APITimeoutError, AsyncAnthropic, AsyncStream, DefaultAsyncHttpxClient

from converse.choices import FinishReason, Role
from converse.deltas import Delta, Finish, ReasoningDelta, Started, TextDelta, ToolCallDelta, Usage
from converse.providers.base import Prompt
from converse.providers.http import HTTPProvider, Reading, certificates

ROLES: dict[str, str] = {
    Role.USER: "user",
    Role.ASSISTANT: "assistant",
    Role.TOOL_CALL: "assistant",
    Role.TOOL_RESULT: "user",
}

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
        self.calls: dict[int, ToolCall] = {}

    def read(self, event: Any) -> Iterator[Delta]:
        match event["type"]:
            case "message_start":
                yield from self.read_start(event["message"])
            case "content_block_start":
                yield from self.read_block(event["index"], event["content_block"])
            case "content_block_delta":
                yield from self.read_delta(event["index"], event["delta"])
            case "content_block_stop" if call := self.calls.get(event["index"]):
                yield from call.end()
            case "message_delta":
                yield from self.read_end(event)

    def read_start(self, message: Any) -> Iterator[Delta]:
        yield Started(request_id=self.request_id or message["id"], model=message["model"])
        yield from self.read_usage(message.get("usage"))

    def read_block(self, index: int, block: Any) -> Iterator[Delta]:
        if block["type"] == "tool_use":
            call = self.calls[index] = ToolCall(len(self.calls), block.get("input"))
            yield ToolCallDelta(index=call.index, id=block["id"], name=block["name"])
        elif block["type"] == "text" and block.get("text"):
            yield TextDelta(block["text"])
        elif block["type"] == "thinking" and block.get("thinking"):
            yield ReasoningDelta(text=block["thinking"])

    def read_delta(self, index: int, delta: Any) -> Iterator[Delta]:
        match delta["type"]:
            case "text_delta" if delta["text"]:
                yield TextDelta(delta["text"])
            case "thinking_delta" if delta["thinking"]:
                yield ReasoningDelta(text=delta["thinking"])
            case "signature_delta":
                yield ReasoningDelta(signature=delta["signature"])
            # Tools that run at Anthropic's send their arguments too; nobody here is to call them.
            case "input_json_delta" if delta["partial_json"] and index in self.calls:
                yield self.calls[index].fragment(delta["partial_json"])

    def read_end(self, event: Any) -> Iterator[Delta]:
        yield from self.read_usage(event.get("usage"))
        if reason := event["delta"].get("stop_reason"):
            self.finish = Finish(reason=FINISH_REASONS.get(reason, FinishReason.OTHER), raw=reason)

    def read_usage(self, usage: Any) -> Iterator[Delta]:
        if usage:
            self.usage = {**self.usage, **usage}
            yield usage_of(self.usage)


class ToolCall:
    """A tool call whose arguments are arriving; without fragments they are those of its first event."""

    def __init__(self, index: int, arguments: Any) -> None:
        self.index = index
        self.arguments = arguments or {}
        self.fragments = 0

    def fragment(self, text: str) -> ToolCallDelta:
        self.fragments += 1
        return ToolCallDelta(index=self.index, arguments=text)

    def end(self) -> Iterator[Delta]:
        if not self.fragments:
            yield self.fragment(json.dumps(self.arguments))


class AnthropicProvider(HTTPProvider):
    """Anthropic's Messages, and every server that speaks them."""

    reading = MessageReading
    timeout_error = APITimeoutError
    connection_error = APIConnectionError

    def __init__(self, *, max_tokens: int = 4096, **options: Any) -> None:
        super().__init__(**options)
        self.max_tokens = max_tokens

    def new_client(self) -> AsyncAnthropic:
        return AsyncAnthropic(http_client=DefaultAsyncHttpxClient(verify=certificates()), **self.client_options())

    async def send(self, client: AsyncAnthropic, prompt: Prompt) -> AsyncStream[object]:
        # Not messages.create(): the model it builds of each event costs far more than reading it, loses what is new,
        # and its signature leaves out parameters that the service still takes.
        return await client.post(
            "/v1/messages",
            body=self.request(prompt),
            cast_to=object,
            stream=True,
            stream_cls=AsyncStream[object],
        )

    def request(self, prompt: Prompt) -> dict[str, Any]:
        """Return the body of the request for a prompt."""
        turns = [turn for turn in prompt.messages if turn.text.strip()]
        system = [{"type": "text", "text": turn.text} for turn in turns if turn.role == Role.SYSTEM]
        request: dict[str, Any] = {
            "model": prompt.model or self.model,
            "max_tokens": self.max_tokens,
            "messages": [
                {"role": ROLES[turn.role], "content": turn.text} for turn in turns if turn.role != Role.SYSTEM
            ],
        }
        if system:
            request["system"] = system
        return {**request, **self.params, **prompt.options, "stream": True}


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
