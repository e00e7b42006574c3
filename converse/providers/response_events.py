"""What the events of OpenAI's Responses say."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from typing import Any

from converse.choices import FinishReason
from converse.deltas import (
    Delta,
    FileDelta,
    Finish,
    RawBlock,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from converse.providers.failures import told
from converse.providers.http import Reading
from converse.providers.openai_api import sign, source_of, uncached

# What a function call has besides its id for results, its name and its arguments.
CALL_FIELDS = ("id", "namespace", "caller", "async")

INCOMPLETE = {"max_output_tokens": FinishReason.LENGTH, "content_filter": FinishReason.CONTENT_FILTER}


class ResponseReading(Reading):
    """Reads one response; events of unknown kinds pass by, since what they build up comes whole at an item's end."""

    def __init__(self) -> None:
        super().__init__()
        self.started = False
        self.refused = False
        self.calls: dict[int, int] = {}  # the numbers of the calls, by their place in the output
        self.called: set[int] = set()  # those whose arguments came in fragments

    def read(self, event: Any) -> Iterator[Delta]:
        kind = event["type"].removeprefix("response.")
        if event.get("delta"):
            yield from self.read_delta(kind, event)
        match kind:
            case "created" | "in_progress" | "queued" if not self.started:
                self.started = True
                response = event["response"]
                yield Started(request_id=self.request_id or response.get("id") or "", model=response.get("model") or "")
            case "output_text.annotation.added":
                yield from filter(None, [source_of(event["annotation"])])
            case "output_item.added" if event["item"]["type"] == "function_call":
                yield self.read_call(event["output_index"], event["item"])
            case "output_item.done":
                yield from self.read_item(event["output_index"], event["item"])
            case "completed" | "incomplete":
                yield from self.read_end({"status": kind, **event["response"]})
            case "failed" | "error":
                error = event["response"].get("error") if kind == "failed" else event
                raise told(error, request_id=self.request_id, secrets=self.secrets)

    def read_delta(self, kind: str, event: Any) -> Iterator[Delta]:
        match kind:
            case "output_text.delta":
                yield TextDelta(event["delta"])
            case "reasoning_summary_text.delta" | "reasoning_text.delta":
                yield ReasoningDelta(text=event["delta"])
            case "refusal.delta":
                self.refused = True
                yield RefusalDelta(event["delta"])
            case "function_call_arguments.delta":
                self.called.add(event["output_index"])
                yield ToolCallDelta(index=self.calls[event["output_index"]], arguments=event["delta"])

    def read_call(self, place: int, item: Any) -> ToolCallDelta:
        index = self.calls[place] = len(self.calls)
        return ToolCallDelta(
            index=index,
            id=item.get("call_id") or f"call_{uuid.uuid4().hex}",
            name=item["name"],
            signature=sign(item, *CALL_FIELDS),
        )

    def read_item(self, place: int, item: Any) -> Iterator[Delta]:
        match item["type"]:
            case "function_call":
                if place not in self.calls:
                    yield self.read_call(place, item)
                if place not in self.called and item.get("arguments"):
                    yield ToolCallDelta(index=self.calls[place], arguments=item["arguments"])
            case "message":
                # What was said has been streamed; this is what a replay needs to know of it.
                said = {name: value for name, value in item.items() if name != "content"}
                if [part["type"] for part in item["content"]] == ["output_text"]:
                    yield RawBlock(said)
            case "image_generation_call":
                result = item.get("result")
                yield RawBlock({name: value for name, value in item.items() if name != "result"})
                if result:
                    yield picture(item, result)
            case _:
                yield RawBlock(item)

    def read_end(self, response: Any) -> Iterator[Delta]:
        if usage := response.get("usage"):
            yield usage_of(usage)
        self.finish = self.finished(response)

    def finished(self, response: Any) -> Finish:
        status = response["status"]
        if status == "incomplete":
            why = (response.get("incomplete_details") or {}).get("reason") or ""
            return Finish(reason=INCOMPLETE.get(why, FinishReason.OTHER), raw=f"{status}:{why}".rstrip(":"))
        reason = FinishReason.STOP
        if self.refused:
            reason = FinishReason.REFUSAL
        elif self.calls:
            reason = FinishReason.TOOL_CALLS
        return Finish(reason=reason, raw=status)


def picture(item: Any, result: str) -> FileDelta:
    kind = item.get("output_format") or "png"
    mime_type = "image/svg+xml" if kind == "svg" else f"image/{kind}"
    return FileDelta(data=base64.b64decode(result), mime_type=mime_type, name=f"image.{kind}")


def usage_of(usage: Any) -> Usage:
    """Return the token counts."""
    details = usage.get("input_tokens_details") or {}
    cached, written = details.get("cached_tokens"), details.get("cache_write_tokens")
    return Usage(
        input=uncached(usage.get("input_tokens"), cached, written),
        cached_input=cached,
        cache_write=written,
        output=usage.get("output_tokens"),
        reasoning=(usage.get("output_tokens_details") or {}).get("reasoning_tokens"),
        raw=usage,
    )
