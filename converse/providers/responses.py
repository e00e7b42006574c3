from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from converse.choices import Role
from converse.parts import File, Part, Raw, Text, ToolCall, ToolResult
from converse.providers.base import OutputSpec, Prompt, PromptMessage, ToolSpec
from converse.providers.content import encoded, is_text, media_type, unsupported
from converse.providers.openai_api import (
    CHOICES,
    IMAGES,
    OpenAIAPI,
    arguments_text,
    data_url,
    fitting,
    permits_strict,
    schema_name,
    signed,
    unspoken,
)
from converse.providers.response_events import CALL_FIELDS, ResponseReading

DOCUMENTS = re.compile(
    r"application/(pdf|rtf|msword|vnd\.ms-(excel|powerpoint)|vnd\.openxmlformats-officedocument\..+"
    r"|vnd\.oasis\.opendocument\..+|vnd\.apple\.(pages|keynote|numbers))"
)

ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")

ENCRYPTED = "reasoning.encrypted_content"

# These refuse to be asked for the reasoning that they do not have.
WITHOUT_REASONING = re.compile(r"(.*/)?(gpt-[34]|chatgpt-|gpt-5.*-chat)")


class ResponsesProvider(OpenAIAPI):
    """OpenAI's Responses, without anything kept there: the history is sent each time, encrypted reasoning included."""

    path = "/responses"
    text_type = "input_text"
    reading = ResponseReading

    def __init__(self, *, encrypted_reasoning: bool | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.encrypted_reasoning = encrypted_reasoning

    def request(self, prompt: Prompt) -> dict[str, Any]:
        model = prompt.model or self.model
        given = {**self.params, **prompt.options}
        kept = bool(given.get("store"))
        defaults: dict[str, Any] = {
            "model": model,
            "input": [item for turn in prompt.messages for item in self.items(turn, kept=kept)],
            "store": False,
        }
        if self.max_tokens is not None:
            defaults["max_output_tokens"] = self.max_tokens
        if self.asks_for_reasoning(model):
            defaults["include"] = [ENCRYPTED]
        return self.body(prompt, defaults, self.asked(prompt))

    def asks_for_reasoning(self, model: str) -> bool:
        known = self.encrypted_reasoning
        return known if known is not None else not WITHOUT_REASONING.match(model)

    def asked(self, prompt: Prompt) -> dict[str, Any]:
        """Return what the prompt asks for besides an answer to its turns."""
        asked: dict[str, Any] = {}
        if prompt.tools:
            asked["tools"] = [self.tool(tool) for tool in prompt.tools]
        if prompt.tool_choice and self.has_tools(prompt):
            named = {"type": "function", "name": prompt.tool_choice}
            asked["tool_choice"] = CHOICES.get(prompt.tool_choice, named)
        if prompt.output:
            asked["text"] = {**self.params.get("text", {}), "format": self.output(prompt.output)}
        return asked

    def tool(self, tool: ToolSpec) -> dict[str, Any]:
        # Unless told otherwise this API makes a schema strict by itself, and so another.
        strict = permits_strict(tool.schema)
        function = {"type": "function", "name": tool.name, "parameters": tool.schema, "strict": strict}
        return {**function, "description": tool.description} if tool.description else function

    def output(self, output: OutputSpec) -> dict[str, Any]:
        strict = permits_strict(output.schema)
        return {"type": "json_schema", "name": schema_name(output.name), "schema": output.schema, "strict": strict}

    def items(self, turn: PromptMessage, *, kept: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the items that a turn is to this API; ``kept`` says that it keeps those that have an id."""
        match turn.role:
            case Role.SYSTEM:
                if turn.text.strip():
                    yield {"role": "system", "content": turn.text}
            case Role.USER:
                if content := self.content(turn):
                    yield {"role": "user", "content": content}
            case Role.ASSISTANT:
                yield from replayed(list(answered(turn.parts)), kept=kept)
            case Role.TOOL_RESULT:
                for result in turn.parts:
                    if isinstance(result, ToolResult):
                        yield {"type": "function_call_output", "call_id": call_id(result.id), "output": result.output}
            case _:
                raise unspoken(turn)

    def file(self, file: File) -> dict[str, Any]:
        kind = media_type(file)
        if kind in IMAGES:
            return {"type": "input_image", "detail": "auto", "image_url": data_url(file)}
        if DOCUMENTS.fullmatch(kind) or (is_text(file) and not kind.startswith("image/")):
            return {"type": "input_file", "filename": file.name or "document", "file_data": data_url(file)}
        raise unsupported(file, "PNG, JPEG, WebP and GIF images, PDF, office documents and text")


def call_id(found: str) -> str:
    return fitting(found, ID, 64)


def answered(parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
    """Yield what the model said in one step as items, each as whole as its parts let it be."""
    said = ""
    image: dict[str, Any] | None = None
    for part in parts:
        match part:
            case Text():
                said += part.text
                continue
            case Raw() if part.data.get("type") == "message":
                yield from spoken(said, part.data)
                said = ""
                continue
            case ToolCall() | Raw():
                yield from spoken(said, {})
                said = ""
        match part:
            case ToolCall():
                called = {"call_id": call_id(part.id), "name": part.name, "arguments": arguments_text(part)}
                yield {"type": "function_call", **called, **signed(part.signature, *CALL_FIELDS)}
            case Raw() if part.data.get("type") == "image_generation_call":
                image = {**part.data}
                yield image
            case Raw() if "type" in part.data:
                yield dict(part.data)
            case File() if image:
                image["result"] = encoded(part)
                image = None
    yield from spoken(said, {})


def spoken(text: str, message: Any) -> Iterator[dict[str, Any]]:
    if text.strip():
        said = {"type": "output_text", "text": text, "annotations": []}
        yield {**message, "type": "message", "role": "assistant", "content": [said]}


def replayed(items: list[dict[str, Any]], *, kept: bool) -> list[dict[str, Any]]:
    """Return the items of one step that go back.

    Items that have ids belong together: one without the reasoning that led to it is refused, and so is reasoning
    without what it led to. Where reasoning cannot go back, nothing goes with its id.
    """
    whole = [item for item in items if is_whole(item, items, kept=kept)]
    if any(item["type"] == "reasoning" and item not in whole for item in items):
        whole = [item for item in whole if item["type"] in ("message", "function_call")]
        return [nameless(item) for item in whole]
    found: list[dict[str, Any]] = []
    led = False
    for item in reversed(whole):
        if item["type"] != "reasoning":
            led = "id" in item
        elif not led:
            continue
        found.insert(0, item if "id" in item else nameless(item))
    return found


def is_whole(item: dict[str, Any], items: list[dict[str, Any]], *, kept: bool) -> bool:
    """Say whether an item means something without what is not here: the service's memory, a client's answer."""
    match item["type"]:
        case "reasoning":
            return kept or bool(item.get("encrypted_content"))
        case "image_generation_call":
            return kept or bool(item.get("result"))
        case "mcp_approval_request":
            return False
        case "message" | "function_call":
            return True
    # Other calls come in pairs with their outputs, if they are not the client's to make.
    called = item.get("call_id")
    return called is None or sum(other.get("call_id") == called for other in items) == 2


def nameless(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item without its id; a message is then written another way."""
    if item["type"] != "message":
        return {name: value for name, value in item.items() if name != "id"}
    [said] = item["content"]
    phase = {"phase": item["phase"]} if item.get("phase") else {}
    return {"role": "assistant", "content": said["text"], **phase}
