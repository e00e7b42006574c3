"""What a provider is to see: the turns of a branch, mended whatever became of them, and as many as fit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import connection
from django.template import Template
from django.test import TestCase, override_settings
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase as HypothesisTestCase

from converse.deltas import FileDelta, RawBlock, ReasoningDelta, RefusalDelta, SourceDelta, TextDelta, ToolCallDelta
from converse.drafts import FromTemplate
from converse.exceptions import InvalidMessage, UnknownProvider
from converse.models import Conversation, Message
from converse.parts import File, Raw, Reasoning, Text, ToolCall, ToolResult
from converse.prompts import origin_of, prompt_for
from converse.providers import PromptMessage
from converse.providers.anthropic import AnthropicProvider
from converse.providers.gemini import GeminiProvider
from converse.providers.mistral import MistralProvider
from converse.providers.openai import OpenAIProvider
from converse.providers.responses import ResponsesProvider
from converse.steps import INTERRUPTED
from converse.testing import scripted
from tests import samples
from tests.samples import StorageTestCase

HERE = "default/EchoProvider/"  # the origin of what the default provider signs
CUT = ToolResult(id="c", name="f", output=INTERRUPTED, is_error=True)


def call(call_id="c", arguments="{}", name="f", index=0, **more) -> ToolCallDelta:
    return ToolCallDelta(index=index, id=call_id, name=name, arguments=arguments, **more)


def result(call_id="c", output="ok", name="f", **more) -> ToolResult:
    return ToolResult(id=call_id, name=name, output=output, **more)


def answer(conversation: Conversation, *pieces: Any, origin: str = HERE, end: str = "complete") -> Message:
    """Stream an answer by hand; None begins a step."""
    message = conversation.start_streaming_assistant()
    message.stream.begin_step(origin)
    for piece in pieces:
        if piece is None:
            message.stream.begin_step(origin)
        else:
            message.stream.append(piece)
    if end == "fail":
        message.stream.fail("why")
    elif end == "cancel":
        message.stop()
    elif end == "complete":
        message.stream.complete()
    return message


def turns(prompt: Any) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in prompt.messages]


def said(prompt: Any) -> list[tuple[str, list[Any]]]:
    return [(message.role, list(message.parts)) for message in prompt.messages]


class ConversationTestCase(TestCase):
    conversation: Conversation

    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()
        cls.conversation.add_user_message("Hello")

    def answered(self, *pieces: Any, **kwargs: Any) -> list[tuple[str, list[Any]]]:
        """Give what is sent of an answer."""
        answer(self.conversation, *pieces, **kwargs)
        assert said(self.conversation.prompt())[0] == ("user", [Text("Hello")])
        return said(self.conversation.prompt())[1:]


class TurnTests(ConversationTestCase):
    def test_what_failed_is_open_empty_or_deleted_is_left_out(self):
        answer(self.conversation, "failed", end="fail")
        answer(self.conversation, result("x"), "failed with what a tool did", end="fail")
        answer(self.conversation, "stopped half-way", end="cancel")
        answer(self.conversation, end="cancel")
        self.conversation.add_user_message(" \n").add_assistant_message("").add_system_message("  ")
        self.conversation.create_user_message("deleted").delete()
        answer(self.conversation, "open still", end="")
        assert turns(self.conversation.prompt()) == [("user", "Hello"), ("assistant", "stopped half-way")]

    def test_the_system_prompt_comes_first_and_system_messages_keep_their_places(self):
        conversation = Conversation.objects.start(context={"system_prompt": "Be brief."})
        conversation.add_user_message("one").add_system_message("From now on in Danish.").add_user_message("two")
        assert turns(conversation.prompt()) == [
            ("system", "Be brief."),
            ("user", "one"),
            ("system", "From now on in Danish."),
            ("user", "two"),
        ]

    def test_it_is_for_a_provider_that_there_is_and_needs_none_to_be_set_up(self):
        with pytest.raises(UnknownProvider, match="'nobody'"):
            self.conversation.prompt("nobody")
        with override_settings(CONVERSE_PROVIDERS={}):
            assert turns(self.conversation.prompt()) == [("user", "Hello")]

    async def test_the_twin_gives_the_same(self):
        assert turns(await self.conversation.aprompt()) == [("user", "Hello")]

    def test_a_message_without_parts_says_its_content(self):
        Message.objects.update(parts=[])
        assert said(self.conversation.prompt()) == [("user", [Text("Hello")])]
        answer(self.conversation, "Hi")
        Message.objects.update(parts=[])
        assert turns(self.conversation.prompt()) == [("user", "Hello"), ("assistant", "Hi")]

    def test_it_takes_the_same_few_statements_however_long_the_conversation(self):
        def cost() -> int:
            with CaptureQueriesContext(connection) as captured:
                self.conversation.prompt()
            return len(captured)

        few = cost()
        self.conversation.add_messages(*["more"] * 1200)
        assert cost() == few == 3

    def test_of_an_enormous_branch_only_its_own_messages_are_sent(self):
        first = self.conversation.create_user_message("first")
        with scripted(["x"]):
            first.edit("edited").stop()
        self.conversation.add_messages(*["more"] * 1100)
        assert [text for _, text in turns(self.conversation.prompt())] == ["Hello", "edited", *["more"] * 1100]


class PartTests(ConversationTestCase):
    def test_parts_go_back_in_the_order_in_which_they_came(self):
        parts = self.answered(
            ReasoningDelta(text="Hm.", signature="s1"),
            "Let me look.",
            call("a", '{"x": 1}', signature="s2"),
            call("b", "", index=1),
            result("b", "2"),
            result("a", "1"),
            RawBlock({"type": "thing"}),
            TextDelta("Done.", signature="s3"),
            SourceDelta(url="https://a.example", title="A", text="quoted"),
        )
        assert parts == [
            (
                "assistant",
                [
                    Reasoning("Hm.", "s1"),
                    Text("Let me look."),
                    ToolCall(id="a", name="f", arguments='{"x": 1}', signature="s2"),
                    ToolCall(id="b", name="f", arguments="{}"),
                ],
            ),
            ("tool_result", [result("a", "1"), result("b", "2")]),
            ("assistant", [Raw({"type": "thing"}), Text("Done.", "s3")]),
        ]

    def test_what_another_provider_signed_is_left_out_and_what_was_said_stays(self):
        pieces = [
            ReasoningDelta(text="Hm.", signature="s"),
            RawBlock({"type": "thing"}),
            TextDelta("Look.", signature="s"),
            call("c", '{"x": 1}', signature="s"),
            result("c"),
        ]
        neutral = [
            ("assistant", [Text("Look."), ToolCall(id="c", name="f", arguments='{"x": 1}')]),
            ("tool_result", [result("c")]),
        ]
        for origin in ("other/EchoProvider/", "default/ScriptedProvider/", "default/EchoProvider/m-2", ""):
            conversation = Conversation.objects.start()
            answer(conversation, *pieces, origin=origin)
            assert said(conversation.prompt()) == neutral, origin
        assert self.answered(*pieces) != neutral

    def test_an_origin_is_an_alias_with_its_provider_and_the_model_that_it_is_asked_for(self):
        providers = {"a": {"BACKEND": "x.X", "OPTIONS": {"model": "m-1"}}, "b": {"BACKEND": "x.X"}}
        with override_settings(CONVERSE_PROVIDERS=providers):
            assert [origin_of("a", ""), origin_of("a", "m-2")] == ["a/X/m-1", "a/X/m-2"]
            assert [origin_of("b", ""), origin_of("gone", "")] == ["b/X/", "gone//"]

    def test_bare_nothing_goes_back_that_was_signed(self):
        answer(self.conversation, ReasoningDelta(text="Hm.", signature="s"), TextDelta("Hi", signature="s"))
        with scripted(["x"]):
            reply = self.conversation.reply("And?")
        assert said(prompt_for(reply, bare=True))[1] == ("assistant", [Text("Hi")])
        assert said(prompt_for(reply))[1] == ("assistant", [Reasoning("Hm.", "s"), Text("Hi", "s")])

    def test_reasoning_that_nobody_signed_does_not_go_back(self):
        assert self.answered(ReasoningDelta(text="Hm."), "Hi") == [("assistant", [Text("Hi")])]

    def test_reasoning_that_nothing_came_of_does_not_go_back(self):
        assert self.answered("Hi", ReasoningDelta(text="More?", signature="s")) == [("assistant", [Text("Hi")])]

    def test_an_answer_that_says_nothing_is_left_out(self):
        assert self.answered(RawBlock({"type": "thing"}), ReasoningDelta(text="Hm.", signature="s")) == []
        assert self.answered(TextDelta(" ")) == []

    def test_an_empty_text_with_a_signature_says_something_to_its_provider(self):
        assert self.answered(TextDelta("", signature="s")) == [("assistant", [Text("", "s")])]

    def test_what_people_decided_is_not_sent(self):
        message = answer(self.conversation, call("c"), result("c"), "Done")
        asked, given, done = message.parts
        decision = {"type": "approval", "id": "c", "name": "f", "text": "approved", "reason": ""}
        before = said(self.conversation.prompt())
        Message.objects.filter(pk=message.pk).update(parts=[asked, decision, given, done])
        assert said(self.conversation.prompt()) == before
        assert len(before) == 4

    def test_a_refusal_is_what_was_said(self):
        assert self.answered(RefusalDelta("I will not.")) == [("assistant", [Text("I will not.")])]

    def test_the_reply_itself_is_left_as_it_is_between_its_steps(self):
        with scripted(["x"]):
            reply = self.conversation.reply("Look it up.", policy="allow")
        Message.objects.filter(pk=reply.pk).update(status="streaming")
        reply.refresh_from_db()
        reply.stream.begin_step(HERE)
        for piece in (ReasoningDelta(text="Hm."), call("c", '{"x'), result("c", "That is no JSON.", is_error=True)):
            reply.stream.append(piece)
        reply.stream.begin_step(HERE)
        reply.stream.append(RawBlock({"type": "paused"}))
        assert said(prompt_for(reply))[2:] == [
            (
                "assistant",
                [Reasoning("Hm."), ToolCall(id="c", name="f", arguments=json.dumps({"arguments": '{"x'}))],
            ),
            ("tool_result", [result("c", "That is no JSON.", is_error=True)]),
            ("assistant", [Raw({"type": "paused"})]),
        ]
        bare = said(prompt_for(reply, bare=True))[2:]
        assert [role for role, _ in bare] == ["assistant", "tool_result"]
        assert not isinstance(bare[0][1][0], Reasoning)


class RepairTests(ConversationTestCase):
    def test_a_call_without_a_result_gets_one_that_says_so(self):
        parts = [("assistant", [ToolCall(id="c", name="f", arguments="{}")]), ("tool_result", [CUT])]
        assert self.answered(call("c")) == parts
        conversation = Conversation.objects.start()
        answer(conversation, call("c"), end="cancel")
        assert said(conversation.prompt()) == parts

    def test_a_result_without_a_call_is_dropped(self):
        assert self.answered(result("x"), "Hi", result("y"), " there") == [("assistant", [Text("Hi"), Text(" there")])]

    def test_a_call_that_was_cut_off_is_dropped_with_what_its_provider_wants_whole(self):
        for arguments in ('{"x": ', "[1]", '"x"', "", "nonsense", "[" * 100_000):
            conversation = Conversation.objects.start()
            answer(
                conversation,
                ReasoningDelta(text="Hm.", signature="s"),
                RawBlock({"type": "redacted"}),
                "Look",
                call("c", arguments),
                end="cancel",
            )
            assert said(conversation.prompt()) == [("assistant", [Reasoning("Hm.", "s"), Text("Look")])], arguments

    def test_of_calls_side_by_side_only_the_one_that_was_cut_off_is_dropped(self):
        parts = self.answered(call("a", '{"x": 1}'), call("b", '{"x": ', index=1), end="cancel")
        assert [part.id for part in parts[0][1]] == [part.id for part in parts[1][1]] == ["a"]

    def test_a_call_that_was_truncated_in_a_completed_answer_is_dropped_too(self):
        parts = self.answered("Look", RawBlock({"type": "x"}), call("c", '{"x": '))
        assert parts == [("assistant", [Text("Look")])]

    def test_a_call_without_a_name_or_an_id_is_dropped(self):
        assert self.answered("Hi", ToolCallDelta(index=0, arguments="{}")) == [("assistant", [Text("Hi")])]

    def test_blocks_of_a_step_that_was_stopped_are_dropped_and_those_of_the_steps_before_stay(self):
        parts = self.answered(
            RawBlock({"type": "whole"}), call("c"), result("c"), None, RawBlock({"type": "half"}), "So", end="cancel"
        )
        assert parts == [
            ("assistant", [Raw({"type": "whole"}), ToolCall(id="c", name="f", arguments="{}")]),
            ("tool_result", [result("c")]),
            ("assistant", [Text("So")]),
        ]

    def test_stopped_while_tools_ran_what_came_of_them_is_kept(self):
        parts = self.answered(RawBlock({"type": "x"}), call("a"), call("b", index=1), result("a"), end="cancel")
        assert parts[1] == ("tool_result", [result("a"), result("b", INTERRUPTED, is_error=True)])
        assert parts[0][1][0] == Raw({"type": "x"})

    def test_calls_of_one_id_get_their_results_in_order(self):
        parts = self.answered(call("c"), call("c", index=1), result("c", "1"), result("c", "2"), result("c", "3"))
        assert [part.output for part in parts[1][1]] == ["1", "2"]

    def test_a_result_that_comes_late_is_given_to_its_call(self):
        parts = self.answered(call("a"), call("b", index=1), result("a", "1"), "Meanwhile", result("b", "2"))
        assert parts == [
            ("assistant", [ToolCall(id=name, name="f", arguments="{}") for name in "ab"]),
            ("tool_result", [result("a", "1"), result("b", "2")]),
            ("assistant", [Text("Meanwhile")]),
        ]


class OldStyleTests(ConversationTestCase):
    """Calls and results that are messages of their own, as the original and its bridges store them."""

    def pair(self, *messages: tuple[str, Any, dict[str, Any]]) -> list[tuple[str, list[Any]]]:
        conversation = Conversation.objects.start()
        for role, content, metadata in messages:
            conversation.create_message(role, content if isinstance(content, str) else json.dumps(content), metadata)
        return said(conversation.prompt())

    def test_every_way_of_writing_them_gives_the_same(self):
        found = ToolCall(id="c", name="f", arguments='{"x": 1}')
        for content, metadata in (
            ({"id": "c", "name": "f", "arguments": {"x": 1}}, {}),
            ({"id": "c", "name": "f", "arguments": '{"x": 1}'}, {}),
            ([{"id": "c", "name": "f", "arguments": {"x": 1}}], {}),
            ({"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}, {}),
            ({"toolCallId": "c", "toolName": "f", "args": {"x": 1}}, {}),
            ({"x": 1}, {"tool_call_id": "c", "tool_name": "f"}),
            ("f(1)", {"call_id": "c", "function_name": "f", "arguments": {"x": 1}}),
        ):
            parts = self.pair(("tool_call", content, metadata), ("tool_result", "4", {"tool_call_id": "c"}))
            assert parts == [("assistant", [found]), ("tool_result", [result("c", "4")])], content
        for content, metadata in (
            ("4", {"call_id": "c"}),
            ("4", {"tool_call_id": "c", "tool_name": "f"}),
            ({"toolCallId": "c", "toolName": "f", "args": {"x": 1}, "result": "4"}, {}),
            ({"tool_call_id": "c", "content": "4"}, {}),
            ([{"id": "c", "output": "4"}], {}),
            ("4", {}),
            ("4", {"tool_name": "f"}),
        ):
            call_message = ("tool_call", {"id": "c", "name": "f", "arguments": {"x": 1}}, {})
            parts = self.pair(call_message, ("tool_result", content, metadata))
            assert parts == [("assistant", [found]), ("tool_result", [result("c", "4")])], content

    def test_an_output_may_be_any_json(self):
        call_message = ("tool_call", {"id": "c", "name": "f"}, {})
        for content, metadata, output in (
            ({"tool_call_id": "c", "result": {"id": 7}}, {}, '{"id": 7}'),
            ({"id": 7}, {"tool_call_id": "c"}, '{"id": 7}'),
            ({"tool_call_id": "c", "result": 4, "is_error": True}, {}, "4"),
        ):
            parts = self.pair(call_message, ("tool_result", content, metadata))
            assert parts[1] == ("tool_result", [result("c", output, is_error=output == "4")])

    def test_arguments_that_have_a_name_are_no_call_of_that_name(self):
        parts = self.pair(("tool_call", {"name": "Ada"}, {"tool_call_id": "c", "tool_name": "f"}))
        assert parts[0] == ("assistant", [ToolCall(id="c", name="f", arguments='{"name": "Ada"}')])

    def test_what_was_said_with_calls_stays_with_them_and_each_round_is_a_step(self):
        parts = self.pair(
            ("user", "Add.", {}),
            ("assistant", "Let me see.", {}),
            ("tool_call", {"id": "a", "name": "f"}, {}),
            ("tool_call", {"id": "b", "name": "f"}, {}),
            ("system", "Be brief.", {}),
            ("tool_result", "2", {"tool_call_id": "b"}),
            ("tool_result", "1", {"tool_call_id": "a"}),
            ("tool_call", {"id": "c", "name": "f"}, {}),
            ("tool_result", "3", {"tool_call_id": "c"}),
            ("assistant", "Done.", {}),
        )
        assert parts == [
            ("user", [Text("Add.")]),
            ("assistant", [Text("Let me see."), *(ToolCall(id=name, name="f", arguments="{}") for name in "ab")]),
            ("tool_result", [result("a", "1"), result("b", "2")]),
            ("system", [Text("Be brief.")]),
            ("assistant", [ToolCall(id="c", name="f", arguments="{}")]),
            ("tool_result", [result("c", "3")]),
            ("assistant", [Text("Done.")]),
        ]

    def test_orphans_are_mended_here_too(self):
        parts = self.pair(
            ("tool_result", "early", {"tool_call_id": "c"}),
            ("tool_call", {"id": "c", "name": "f"}, {}),
            ("user", "Never mind.", {}),
            ("tool_result", "late", {"tool_call_id": "c"}),
            ("tool_call", "nothing of the kind", {}),
        )
        assert parts == [
            ("assistant", [ToolCall(id="c", name="f", arguments="{}")]),
            ("tool_result", [CUT]),
            ("user", [Text("Never mind.")]),
        ]

    def test_a_call_is_not_added_to_an_answer_that_was_stopped(self):
        answer(self.conversation, "Let me", end="cancel")
        self.conversation.create_tool_call_message('{"id": "c", "name": "f"}')
        assert [role for role, _ in said(self.conversation.prompt())] == [
            "user",
            "assistant",
            "assistant",
            "tool_result",
        ]


class FileTests(StorageTestCase, ConversationTestCase):
    def test_files_are_read_where_they_were_said(self):
        picture = self.conversation.attach(samples.PNG, "cat.png")
        self.conversation.create_message("user", "What is this?", attachments=[picture])
        assert said(self.conversation.prompt())[1] == (
            "user",
            [Text("What is this?"), File(name="cat.png", mime_type="image/png", data=samples.PNG)],
        )

    def test_a_file_alone_says_something(self):
        self.conversation.create_message("user", attachments=[self.conversation.attach(samples.PNG, "cat.png")])
        assert len(self.conversation.prompt().messages) == 2

    def test_a_file_that_is_gone_is_said_to_be(self):
        picture = self.conversation.attach(samples.PNG, "cat.png")
        self.conversation.create_message("user", "What is this?", attachments=[picture])
        picture.file.storage.delete(picture.file.name)
        with self.assertLogs("converse.attachments", "WARNING"):
            assert turns(self.conversation.prompt())[1] == (
                "user",
                "What is this?[The file 'cat.png' is not there any more.]",
            )

    async def test_a_reply_sees_them_and_what_providers_made(self):
        picture = await self.conversation.aattach(samples.PNG, "cat.png")
        with scripted(
            ["Here.", FileDelta(data=samples.PNG, mime_type="image/png", name="made.png")], ["And?"]
        ) as script:
            await self.conversation.aask("Draw it again.", attachments=[picture])
            await self.conversation.aask("Nice.")
        names = [
            [part.name for part in message.parts if isinstance(part, File)] for message in script.prompts[1].messages
        ]
        assert names == [[], ["cat.png"], ["made.png"], []]


class TransientTests(ConversationTestCase):
    def test_what_is_meant_for_one_request_is_in_no_part(self):
        """Parity P09: a mark of a provider's cache would pile up in the history until the provider refuses it."""
        marks = {"cache_control": {"type": "ephemeral"}, "cache_type": "x", "provider_options": {"a": 1}}
        message = self.conversation.start_streaming_assistant()
        message.stream.begin_step(HERE)
        message.stream.append("Hi", marks).append(call("c"), marks).append(result("c"), marks)
        message.stream.append(RawBlock({"type": "thing", **marks})).append("Done").complete()
        message.refresh_from_db()
        assert not any(mark in json.dumps(message.parts) for mark in marks)
        assert said(self.conversation.prompt())[3] == ("assistant", [Raw({"type": "thing"}), Text("Done")])


class SystemPromptTests(TestCase):
    def test_a_template_is_rendered_at_once_and_not_as_html(self):
        for template in (
            FromTemplate("prompt.txt", {"name": "<Ada>"}),
            Template("Hello <Ada>"),
        ):
            conversation = Conversation.objects.start(context={"system_prompt": template, "other": 1})
            conversation.refresh_from_db()
            assert conversation.context["other"] == 1
            assert "<Ada>" in conversation.context["system_prompt"]
            assert turns(conversation.prompt()) == [("system", conversation.context["system_prompt"])]

    def test_anything_else_is_refused(self):
        for context, field in (({"system_prompt": 7}, "context.system_prompt"), ([], "context"), ("x", "context")):
            with pytest.raises(InvalidMessage, match=f"^{field}: "):
                Conversation.objects.start(context=context)

    def test_none_is_no_system_prompt(self):
        assert Conversation.objects.start(context={"system_prompt": None}).prompt().messages == []


# Whatever became of a conversation, what comes of it keeps the rules that providers rely on.

texts = st.sampled_from(["", " ", "Hello", "So"])
signatures = st.sampled_from([None, "s"])
ids = st.sampled_from(["a", "b", "c"])
arguments = st.sampled_from(["", "{}", '{"x": 1}', '{"x": ', "[1]"])
server_tools = st.sampled_from(
    [
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
    ]
)
pieces = st.lists(
    texts.map(TextDelta)
    | st.builds(TextDelta, texts, signatures)
    | st.builds(ReasoningDelta, text=texts, signature=signatures)
    | texts.map(RefusalDelta)
    | st.builds(call, ids, arguments, index=st.integers(0, 3), signature=signatures)
    | st.builds(result, ids, is_error=st.booleans())
    | st.just(SourceDelta(url="https://a.example"))
    | server_tools.map(RawBlock)
    | st.none(),
    max_size=8,
)
old_calls = st.builds(lambda name, text: json.dumps({"id": name, "name": "f", "arguments": text}), ids, arguments)
ORIGINS = {
    "openai": OpenAIProvider,
    "anthropic": AnthropicProvider,
    "gemini": GeminiProvider,
    "responses": ResponsesProvider,
    "mistral": MistralProvider,
}
PROVIDERS = {
    alias: {"BACKEND": f"{provider.__module__}.{provider.__name__}", "OPTIONS": {"model": "m", "api_key": "k"}}
    for alias, provider in ORIGINS.items()
}
answers = st.tuples(
    st.just("answer"), st.sampled_from(list(ORIGINS)), pieces, st.sampled_from(["complete", "cancel", "fail", ""])
)
acts = st.lists(
    st.tuples(st.just("user"), texts)
    | st.tuples(st.just("system"), texts)
    | st.tuples(st.just("tool_call"), old_calls)
    | st.tuples(st.just("tool_result"), st.just("ok"), ids)
    | answers
    | st.tuples(st.just("delete"), st.integers(0, 9))
    | st.tuples(st.just("switch"), st.integers(0, 9))
    | st.tuples(st.just("edit"), st.integers(0, 9), texts),
    max_size=9,
)


def play(conversation: Conversation, act: tuple[Any, ...]) -> None:
    messages = list(conversation.messages.filter(deleted_at=None).order_by("offset"))
    match act:
        case ("answer", alias, parts, end):
            origin = f"{alias}/{ORIGINS[alias].__name__}/m"
            answer(conversation, *parts, origin=origin, end=end)
        case ("tool_result", output, call_id):
            conversation.create_tool_result_message(output, {"tool_call_id": call_id})
        case ("delete", place) if messages:
            messages[place % len(messages)].delete()
        case ("switch", place) if messages:
            messages[place % len(messages)].switch()
        case ("edit", place, text) if messages and messages[place % len(messages)].role == "user" and text.strip():
            messages[place % len(messages)].edit(text, provider="openai", policy="allow").stop()
        case (role, text) if role in ("user", "system", "tool_call"):
            conversation.create_message(role, text)


def check_normal_form(messages: list[PromptMessage]) -> None:
    """Fail where a prompt is not what providers rely on."""
    waiting: list[ToolCall] = []
    for message in messages:
        assert message.parts
        if message.role == "tool_result":
            assert [(part.id, part.name) for part in message.parts] == [(one.id, one.name) for one in waiting]
            assert all(isinstance(part, ToolResult) for part in message.parts)
            waiting = []
            continue
        assert not waiting
        assert message.role in ("system", "user", "assistant")
        if message.role == "assistant":
            waiting = [part for part in message.parts if isinstance(part, ToolCall)]
            assert all(isinstance(json.loads(one.arguments), dict) and one.id and one.name for one in waiting)
            assert all(part.signature for part in message.parts if isinstance(part, Reasoning))
            assert not isinstance(message.parts[-1], Reasoning)
        else:
            assert message.text.strip()
            assert all(isinstance(part, Text) for part in message.parts)
    assert not waiting


def signed_parts(messages: list[PromptMessage]) -> list[Any]:
    return [
        part
        for message in messages
        for part in message.parts
        if isinstance(part, Raw) or getattr(part, "signature", None)
    ]


@override_settings(CONVERSE_PROVIDERS=PROVIDERS, CONVERSE_DEFAULT_PROVIDER="openai", CONVERSE_OPEN_LIMIT=100)
@override_settings(CONVERSE_RUNNER="tests.test_prompts.NoRunner")
class PropertyTests(HypothesisTestCase):
    @settings(suppress_health_check=[HealthCheck.too_slow])
    @given(acts=acts, window=st.sampled_from([None, {"messages": 2}, {"tokens": 12}]))
    def test_every_history_becomes_a_prompt_that_every_provider_takes(self, acts, window):
        conversation = Conversation.objects.start(context={"window": window} if window else None)
        for act in acts:
            play(conversation, act)
        for alias, provider in ORIGINS.items():
            prompt = conversation.prompt(alias)
            check_normal_form(prompt.messages)
            json.dumps(provider(model="m", api_key="k").request(prompt))

    @settings(suppress_health_check=[HealthCheck.too_slow])
    @given(parts=pieces, end=st.sampled_from(["complete", "cancel"]), alias=st.sampled_from(list(ORIGINS)))
    def test_only_who_signed_gets_back_what_was_signed(self, parts, end, alias):
        conversation = Conversation.objects.start()
        conversation.add_user_message("Hello")
        play(conversation, ("answer", alias, parts, end))
        prompts = {other: conversation.prompt(other).messages for other in ORIGINS}
        for other, messages in prompts.items():
            assert other == alias or not signed_parts(messages)
        spoken = {
            other: [(message.role, message.text) for message in messages if message.text.strip()]
            for other, messages in prompts.items()
        }
        assert all(told == spoken[alias] for told in spoken.values())


class NoRunner:
    def start(self, run, message_id):
        """Leave the reply as it is."""
