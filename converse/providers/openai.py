from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from converse.choices import Role
from converse.parts import File, Part, Raw, Reasoning, Text, ToolCall, ToolResult
from converse.providers.base import OutputSpec, Prompt, PromptMessage, ToolSpec
from converse.providers.content import encoded, is_text, media_type, text_of, unsupported
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
from converse.providers.openai_chunks import ChatReading

SOUNDS = {
    **dict.fromkeys(("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"), "wav"),
    **dict.fromkeys(("audio/mpeg", "audio/mp3"), "mp3"),
}
SHORT = re.compile(r".{1,40}", re.DOTALL)

# Servers that want reasoning with a call refuse one without, and another provider's has none.
UNTHOUGHT = "."


class OpenAIProvider(OpenAIAPI):
    """OpenAI's Chat Completions, and every server that speaks them."""

    path = "/chat/completions"
    text_type = "text"
    reading = ChatReading

    def __init__(self, *, include_usage: bool = True, replay_reasoning: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.include_usage = include_usage
        self.replay_reasoning = replay_reasoning

    def request(self, prompt: Prompt) -> dict[str, Any]:
        defaults: dict[str, Any] = {
            "model": prompt.model or self.model,
            "messages": self.history(prompt),
        }
        if self.max_tokens is not None:
            # OpenAI's newer models refuse the old name; most other servers know no other.
            defaults["max_tokens" if self.base_url else "max_completion_tokens"] = self.max_tokens
        if self.include_usage:
            defaults["stream_options"] = {"include_usage": True}
        return self.body(prompt, defaults, self.asked(prompt))

    def history(self, prompt: Prompt) -> list[dict[str, Any]]:
        return [message for turn in prompt.messages for message in self.messages(turn)]

    def asked(self, prompt: Prompt) -> dict[str, Any]:
        """Return what the prompt asks for besides an answer to its turns."""
        asked: dict[str, Any] = {}
        if prompt.tools:
            asked["tools"] = [self.tool(tool) for tool in prompt.tools]
        if prompt.tool_choice and self.has_tools(prompt):
            named = {"type": "function", "function": {"name": prompt.tool_choice}}
            asked["tool_choice"] = CHOICES.get(prompt.tool_choice, named)
        if prompt.output:
            asked["response_format"] = {"type": "json_schema", "json_schema": self.output(prompt.output)}
        return asked

    def tool(self, tool: ToolSpec) -> dict[str, Any]:
        function: dict[str, Any] = {"name": tool.name, "parameters": tool.schema}
        if tool.description:
            function["description"] = tool.description
        # To most other servers strictness of tools is unknown, to some an error.
        if not self.base_url and permits_strict(tool.schema):
            function["strict"] = True
        return {"type": "function", "function": function}

    def output(self, output: OutputSpec) -> dict[str, Any]:
        return {
            "name": schema_name(output.name),
            "schema": output.schema,
            "strict": permits_strict(output.schema),
        }

    def messages(self, turn: PromptMessage) -> Iterator[dict[str, Any]]:
        """Yield the messages that a turn is to this API."""
        match turn.role:
            case Role.SYSTEM:
                if turn.text.strip():
                    yield {"role": "system", "content": turn.text}
            case Role.USER:
                if content := self.content(turn):
                    yield {"role": "user", "content": content}
            case Role.ASSISTANT:
                yield from self.answer(turn.parts)
            case Role.TOOL_RESULT:
                for result in turn.parts:
                    if isinstance(result, ToolResult):
                        yield {"role": "tool", "tool_call_id": self.call_id(result.id), "content": result.output}
            case _:
                raise unspoken(turn)

    def file(self, file: File) -> dict[str, Any]:
        kind = media_type(file)
        if kind in IMAGES:
            return {"type": "image_url", "image_url": {"url": data_url(file)}}
        if kind in SOUNDS:
            return {"type": "input_audio", "input_audio": {"data": encoded(file), "format": SOUNDS[kind]}}
        if kind == "application/pdf":
            return self.document(file)
        if is_text(file):
            # Documents are PDF only; a text goes as what it is.
            return {"type": "text", "text": f"{file.name}:\n\n{text_of(file)}"}
        raise unsupported(file, "PNG, JPEG, WebP and GIF images, WAV and MP3 sound, PDF and text")

    def document(self, file: File) -> dict[str, Any]:
        return {"type": "file", "file": {"filename": file.name or "document.pdf", "file_data": data_url(file)}}

    def answer(self, parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
        """Yield what the model said in one step, as one message."""
        text = "".join(part.text for part in parts if isinstance(part, Text))
        calls = [self.call(part) for part in parts if isinstance(part, ToolCall)]
        if not calls and not text.strip():
            return
        message: dict[str, Any] = {"role": "assistant", "content": text or None}
        if calls:
            message["tool_calls"] = calls
        raw = [part.data.get("reasoning_details") or () for part in parts if isinstance(part, Raw)]
        if details := [detail for block in raw for detail in block]:
            message["reasoning_details"] = details
        reasoning = "".join(part.text for part in parts if isinstance(part, Reasoning))
        if self.replay_reasoning and (reasoning or calls):
            message["reasoning_content"] = reasoning or UNTHOUGHT
        yield message

    def call(self, call: ToolCall) -> dict[str, Any]:
        function = {"name": call.name, "arguments": arguments_text(call)}
        extra = signed(call.signature, "extra_content")
        return {"id": self.call_id(call.id), "type": "function", "function": function, **extra}

    def call_id(self, call_id: str) -> str:
        """Return the id of a call; OpenAI's has a limit which ids of other providers may exceed."""
        return call_id if self.base_url else fitting(call_id, SHORT, 40)
