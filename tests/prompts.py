"""Prompts of every kind that a provider may be given, for Hypothesis."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from converse.parts import File, Part, Raw, Reasoning, Text, ToolCall, ToolResult
from converse.providers import Prompt, PromptMessage
from converse.providers.base import OutputSpec, ToolSpec

SCHEMAS = (
    {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    {"type": "object", "properties": {"s": {"type": ["string", "null"], "maxLength": 3}}},
    {"type": "object"},
    {"anyOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": {"type": "object", "properties": {}}}},
    {},
)

words = st.text(max_size=20) | st.sampled_from(["", " ", "\n\n", "Hello", " there "])
# Few, so that they come again in later turns; some with letters that not every service takes.
ids = st.sampled_from(["call_1", "toolu_01A", "functions.add:0", "é", "x" * 100, "gemini-r-0", ""]) | st.text(
    max_size=8
)
names = st.sampled_from(["add", "now", "get_weather", "a.b"])
arguments = (
    st.sampled_from(['{"x": 1}', "{}", "", "[1]", "null", '{"x": NaN, "y": 1e999}', '{"x": "\\ud800"}', '{"x'])
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ).map(json.dumps)
    | st.text(max_size=10)
)


@st.composite
def prompts(draw: st.DrawFn, *, own: st.SearchStrategy[Part], files: tuple[str, ...]) -> Prompt:
    """Draw a prompt; ``own`` are parts that only this provider makes, ``files`` types of files that it takes."""
    messages: list[PromptMessage] = []
    for role in draw(st.lists(st.sampled_from(["system", "user", "assistant"]), max_size=6)):
        match role:
            case "system":
                messages.append(PromptMessage(role=role, text=draw(words)))
            case "user":
                parts = draw(st.lists(words.map(Text) | attachments(files), max_size=3))
                messages.append(PromptMessage(role=role, parts=parts))
            case "assistant":
                messages += draw(steps(own))
    return Prompt(
        messages=messages,
        tools=draw(st.lists(tools(), max_size=2, unique_by=lambda tool: tool.name)),
        tool_choice=draw(st.sampled_from(["", "auto", "any", "none", "add"])),
        output=draw(st.none() | st.builds(OutputSpec, name=names, schema=st.sampled_from(SCHEMAS))),
    )


@st.composite
def steps(draw: st.DrawFn, own: st.SearchStrategy[Part]) -> list[PromptMessage]:
    """Draw an assistant's turn and, if it calls tools, their results."""
    said = words.map(Text) | st.builds(Reasoning, words) | own
    called = st.builds(ToolCall, id=ids, name=names, arguments=arguments)
    parts = draw(st.lists(said | called, max_size=5))
    turn = PromptMessage(role="assistant", parts=parts)
    results = [
        ToolResult(id=part.id, name=part.name, output=draw(words), is_error=draw(st.booleans()))
        for part in parts
        if isinstance(part, ToolCall)
    ]
    return [turn, PromptMessage(role="tool_result", parts=results)] if results else [turn]


def tools() -> st.SearchStrategy[ToolSpec]:
    return st.builds(ToolSpec, name=names, description=words, schema=st.sampled_from(SCHEMAS))


def attachments(types: tuple[str, ...]) -> st.SearchStrategy[File]:
    return st.builds(File, name=words, mime_type=st.sampled_from(types), data=st.binary(max_size=10))


def raw(*kinds: str) -> st.SearchStrategy[Raw]:
    """Draw calls and results of the provider's own tools, with or without their other half."""
    numbers = st.sampled_from(["s1", "s2", "s3"])
    calls = st.builds(lambda number: Raw({"type": "server_tool_use", "id": number, "name": "f", "input": {}}), numbers)
    results = st.builds(
        lambda kind, number: Raw({"type": kind, "tool_use_id": number, "content": []}), st.sampled_from(kinds), numbers
    )
    return calls | results
