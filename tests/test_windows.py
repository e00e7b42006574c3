"""How much of a conversation a provider is to see, and what is told of the rest."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.db import connection
from django.test import SimpleTestCase, TestCase, override_settings
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from converse.deltas import RawBlock, ReasoningDelta, ToolCallDelta
from converse.exceptions import InvalidMessage
from converse.models import Conversation, Message
from converse.parts import File, StoredFile, Text, ToolResult
from converse.steps import Turn
from converse.testing import scripted
from converse.windows import SUMMARIES, Costs, Window, checked, choose, count, estimate, stays
from tests import samples
from tests.samples import StorageTestCase

SUMMARY = "What was said before, in short:\n\n"


def started(*texts: str, **context: Any) -> Conversation:
    """Start a conversation of the user's turns and the assistant's answers, in turn."""
    conversation = Conversation.objects.start(context=context)
    roles = ("user", "assistant") * len(texts)
    conversation.add_messages(*({"role": role, "content": text} for role, text in zip(roles, texts, strict=False)))
    return conversation


def seen(conversation: Conversation, alias: str = "") -> list[str]:
    return [message.text for message in conversation.prompt(alias).messages]


class WindowTests(TestCase):
    def test_without_a_window_everything_is_sent(self):
        conversation = started("one", "two", "three")
        assert seen(conversation) == ["one", "two", "three"]

    def test_the_last_messages_are_sent_and_those_of_the_system_besides(self):
        conversation = started("one", "two", window={"messages": 3}, system_prompt="Be brief.")
        conversation.add_system_message("rule").add_messages("three", {"role": "assistant", "content": "four"}, "five")
        assert seen(conversation) == ["Be brief.", "rule", "three", "four", "five"]

    def test_what_is_sent_begins_with_the_user(self):
        conversation = started("one", "two", "three", "four", "five", window={"messages": 4})
        assert seen(conversation) == ["three", "four", "five"]

    def test_a_conversation_that_the_assistant_began_begins_with_it_while_it_fits(self):
        conversation = Conversation.objects.start(context={"window": {"messages": 3}})
        conversation.add_assistant_message("How can I help?").add_user_message("one")
        assert seen(conversation) == ["How can I help?", "one"]
        conversation.add_assistant_message("two").add_user_message("three")
        assert seen(conversation) == ["one", "two", "three"]

    def test_the_last_turn_is_sent_however_large_it_is(self):
        conversation = started("one", "two", "x" * 1000, window={"tokens": 5})
        assert seen(conversation) == ["x" * 1000]
        assert seen(started("one", "two", "three", window={"messages": 1})) == ["three"]

    def test_without_any_turn_of_the_users_the_last_message_is_sent(self):
        conversation = Conversation.objects.start(context={"window": {"messages": 1}})
        conversation.add_assistant_message("one").add_assistant_message("two")
        assert seen(conversation) == ["two"]
        assert seen(Conversation.objects.start(context={"window": {"messages": 1}})) == []

    def test_tokens_are_counted_with_what_frames_a_message(self):
        conversation = started("a" * 40, "b" * 40, "c" * 40)  # 14 tokens each
        for tokens, expected in ((42, 3), (41, 1), (14, 1)):
            Conversation.objects.update(context={"window": {"tokens": tokens}})
            assert len(seen(conversation)) == expected, tokens

    @override_settings(CONVERSE_TOKEN_COUNTER="builtins.len")
    def test_they_are_counted_by_a_function_of_yours(self):
        conversation = started("a" * 10, "b" * 10, "c" * 10, window={"tokens": 42})
        assert len(seen(conversation)) == 3
        conversation.add_user_message("d" * 10)
        assert len(seen(conversation)) == 2

    def test_both_limits_count(self):
        assert seen(started("one", "two", "three", window={"tokens": 1000, "messages": 1})) == ["three"]
        assert seen(started("one", "two", "three", window={"tokens": 5, "messages": 100})) == ["three"]

    def test_a_pinned_message_stays_with_what_it_answers(self):
        conversation = started("one", "two", "three", "four", "five", "six", "seven", window={"messages": 1})
        _, answer, *_, fifth, _, _ = conversation.messages.all()
        answer.pin()
        fifth.pin()
        assert seen(conversation) == ["one", "two", "five", "seven"]
        answer.unpin()
        assert seen(conversation) == ["five", "seven"]

    async def test_pinning_is_told_and_has_twins(self):
        conversation = await Conversation.objects.astart()
        message = await conversation.acreate_user_message("one")
        await message.apin()
        await message.arefresh_from_db()
        assert (message.pinned, message.changed_offset) == (True, 3)
        await message.aunpin()
        await message.arefresh_from_db()
        assert (message.pinned, message.changed_offset) == (False, 4)

    def test_a_call_is_never_without_its_result(self):
        conversation = started("one", window={"messages": 2})
        with conversation.stream_reply() as stream:
            stream.append(ToolCallDelta(index=0, id="c", name="f", arguments="{}"))
            stream.append(ToolResult(id="c", name="f", output="x" * 100)).append("two")
        conversation.add_user_message("three")
        assert [message.role for message in conversation.prompt().messages] == ["user"]
        Conversation.objects.update(context={"window": {"messages": 3}})
        assert [message.role for message in conversation.prompt().messages] == [
            "user",
            "assistant",
            "tool_result",
            "assistant",
            "user",
        ]

    def test_messages_that_are_calls_and_results_go_with_the_answer_that_they_belong_to(self):
        conversation = started("one", "two", window={"messages": 4})
        conversation.add_tool_call_message('{"id": "c", "name": "f"}').add_tool_result_message("x")
        conversation.add_user_message("three")
        assert seen(conversation) == ["three"]  # the answer with its call and result is three messages
        Conversation.objects.update(context={"window": {"messages": 5}})
        assert [message.role for message in conversation.prompt().messages] == [
            "user",
            "assistant",
            "tool_result",
            "user",
        ]

    def test_a_message_far_back_is_read_only_where_it_stays(self):
        conversation = Conversation.objects.start()
        conversation.add_system_message("rule")
        conversation.add_messages(*["x" * 40] * 500)
        conversation.messages.get(offset=5).pin()
        for window, expected in (({"messages": 3}, 5), ({"tokens": 14 * 100}, 100), ({"messages": 400}, 402)):
            Conversation.objects.update(context={"window": window})
            with CaptureQueriesContext(connection) as captured:
                prompt = conversation.prompt()
            assert len(prompt.messages) == expected, window
            assert len(captured) <= 6
        assert prompt.messages[0].text == "rule"

    def test_a_long_turn_of_the_assistants_own_does_not_hide_the_users_last_one(self):
        conversation = started("old", "old", "one", window={"messages": 1})
        conversation.add_messages(*[{"role": "assistant", "content": "x"}] * 100)
        assert seen(conversation) == ["one", *"x" * 100]


class ChoiceTests(TestCase):
    """Where the window is said."""

    PROVIDERS = {
        "default": {"BACKEND": "converse.providers.echo.EchoProvider"},
        "small": {"BACKEND": "converse.providers.echo.EchoProvider", "WINDOW": {"messages": 1}},
    }

    def test_the_reply_comes_before_the_conversation_and_that_before_the_settings(self):
        conversation = started("one", "two", "three")
        with override_settings(CONVERSE_PROVIDERS=self.PROVIDERS):
            assert len(seen(conversation)) == 3
            assert len(seen(conversation, "small")) == 1
            with override_settings(CONVERSE_CONTEXT_WINDOW={"messages": 1}):
                assert len(seen(conversation)) == 1
            Conversation.objects.update(context={"window": {"messages": 3}})
            assert len(seen(conversation, "small")) == 3
            Conversation.objects.update(context={"window": {}})
            with override_settings(CONVERSE_CONTEXT_WINDOW={"messages": 1}):
                assert len(seen(conversation)) == 3

    async def test_a_reply_has_a_window_of_its_own_and_may_have_none(self):
        conversation = await Conversation.objects.astart(context={"window": {"messages": 1}})
        with scripted(["two"]) as script:
            await conversation.aask("one")
            await conversation.aask("three", window={"messages": 3})
            await conversation.aask("five")
            await conversation.aask("seven", window={})
        assert [len(prompt.messages) for prompt in script.prompts] == [1, 3, 1, 7]

    def test_what_is_no_window_is_refused(self):
        conversation = started("one")
        for window in ({"token": 1}, {"tokens": 0}, {"messages": "5"}, {"tokens": True}, 5, [("tokens", 5)]):
            with pytest.raises(InvalidMessage, match=r"^window: "):
                conversation.reply("two", window=window)
            with pytest.raises(InvalidMessage, match=r"^context\.window: "):
                Conversation.objects.start(context={"window": window})
        assert conversation.messages.count() == 1

    def test_what_somebody_wrote_into_the_context_by_hand_is_looked_at(self):
        conversation = started("one")
        Conversation.objects.update(context={"window": {"tokens": "many"}})
        with pytest.raises(InvalidMessage, match="window: tokens must be a whole number"):
            conversation.prompt()


class CountTests(StorageTestCase, TestCase):
    def test_every_part_that_is_sent_counts(self):
        conversation = started("one")
        with conversation.stream_reply() as stream:
            stream.begin_step("default/EchoProvider/")
            stream.append(ReasoningDelta(text="x" * 8, signature="s")).append(RawBlock({"a": "b"}))
            stream.append("x" * 4).append(ToolCallDelta(index=0, id="c", name="name", arguments='{"a": 1}'))
            stream.append(ToolResult(id="c", name="name", output="x" * 12))
        [_, said, result] = conversation.prompt().messages
        assert count(said.parts, estimate) == 4 + 2 + 3 + 1 + 1 + 2
        assert count(result.parts, estimate) == 4 + 3

    def test_files_count_by_what_they_are(self):
        for kind, size, expected in (("image/png", 5_000_000, 1000), ("text/plain", 400, 100), ("audio/mp3", 500, 10)):
            file = StoredFile(attachment="x", name="x", mime_type=kind, size=size)
            assert count([file], estimate) == 4 + expected
        with pytest.raises(TypeError, match="File cannot be counted"):
            count([File(name="x", mime_type="x", data=b"")], estimate)

    def test_they_are_counted_without_being_read(self):
        conversation = started("one", "two", window={"tokens": 500})
        picture = conversation.attach(samples.PNG, "cat.png")
        conversation.create_message("user", "What is this?", attachments=[picture])
        picture.file.storage.delete(picture.file.name)
        conversation.add_messages({"role": "assistant", "content": "A cat."}, "Thanks.")
        assert seen(conversation) == ["Thanks."]


@st.composite
def turn_lists(draw: st.DrawFn) -> list[Turn]:
    roles = draw(st.lists(st.sampled_from(["user", "assistant", "system"]), max_size=12))
    return [
        Turn(
            offset,
            role,
            pinned=draw(st.integers(0, 5)) == 0,
            rows=draw(st.integers(1, 3)),
            pieces=[Text("x" * draw(st.integers(0, 60)))],
        )
        for offset, role in enumerate(roles, 1)
    ]


class ChoosePropertyTests(SimpleTestCase):
    @given(
        turns=turn_lists(),
        window=st.builds(Window, st.none() | st.integers(1, 100), st.none() | st.integers(1, 10)),
    )
    def test_what_must_stay_stays_and_the_newest_of_the_rest_that_fit(self, turns, window):
        costs = Costs(window, "")
        chosen = choose(turns, window, costs)
        kept = {turn.offset for turn in chosen}
        assert [turn.offset for turn in chosen] == sorted(kept)
        assert {turn.offset for turn in turns if stays(turn)} <= kept
        users = [turn.offset for turn in turns if turn.role == "user"]
        if users:
            assert {turn.offset for turn in turns if turn.offset >= users[-1]} <= kept
        if window.holds(*costs.sum(turns)):
            assert len(chosen) == len(turns)
        if users and len(chosen) < len(turns):
            first = next(turn for turn in chosen if turn.role != "system")
            assert first.role == "user" or not [user for user in users if user < first.offset]
            free = [turn for turn in chosen if not stays(turn) and turn.offset < users[-1]]
            answered = {max((u for u in users if u < turn.offset), default=0) for turn in chosen if turn.pinned}
            if [turn for turn in free if turn.offset not in answered]:
                assert window.holds(*costs.sum(chosen))

    @given(window=st.builds(Window, st.none() | st.integers(1, 9), st.none() | st.integers(1, 9)))
    def test_half_of_a_window_is_one_too(self, window):
        for half, whole in zip(window.half(), window, strict=True):
            assert half == (whole and max(whole // 2, 1))

    def test_a_window_is_given_back_as_it_is(self):
        assert checked({"tokens": 5, "messages": 1}) == {"tokens": 5, "messages": 1}
        assert checked({}) == {}


# Summaries.

calls: list[tuple[str, list[str], str]] = []


def summarise(conversation: Conversation, messages: list[Message], before: str) -> str:
    calls.append((conversation.title, [message.text for message in messages], before))
    return f"{before}{len(messages)} "


async def summarise_soon(conversation: Conversation, messages: list[Message], before: str) -> str:
    await asyncio.sleep(0)
    assert messages[0].created_at  # whole, for there is no asking the database here
    return summarise(conversation, messages, before)


def fail(*args: Any) -> str:
    raise RuntimeError("no")


def say_nothing(*args: Any) -> str:
    calls.append(("", [], ""))
    return ""


def say_what_cannot_be_stored(*args: Any) -> str:
    return "a\x00b"


async def take_forever(*args: Any) -> str:
    await asyncio.Event().wait()
    return ""


def named(function: Any, **settings: Any) -> Any:
    return override_settings(CONVERSE_SUMMARIZER=f"{__name__}.{function.__name__}", **settings)


class SummaryTests(TestCase):
    def setUp(self):
        calls.clear()

    def ask(self, conversation: Conversation, *questions: str) -> list[list[str]]:
        """Ask, and give what the provider saw each time."""
        with scripted(["answer"]) as script:
            for question in questions:
                conversation.ask(question)
        return [[message.text for message in prompt.messages] for prompt in script.prompts]

    @named(summarise)
    def test_what_falls_out_of_the_window_is_told_in_short(self):
        conversation = started("1", "2", "3", "4", window={"messages": 5}, system_prompt="Be brief.")
        conversation.rename("Title")
        first, second, third, fourth = self.ask(conversation, "5", "6", "7", "8")
        assert first == ["Be brief.", "1", "2", "3", "4", "5"]
        assert second == ["Be brief.", SUMMARY + "6 ", "6"]
        assert third == ["Be brief.", SUMMARY + "6 ", "6", "answer", "7"]
        assert fourth == ["Be brief.", SUMMARY + "6 ", "6", "answer", "7", "answer", "8"]
        assert calls == [("Title", ["1", "2", "3", "4", "5", "answer"], "")]

    @named(summarise_soon)
    def test_the_next_summary_goes_on_from_the_last(self):
        conversation = started(window={"messages": 3})
        self.ask(conversation, *"123456")
        assert [(texts, before) for _, texts, before in calls] == [
            (["1", "answer", "2", "answer"], ""),
            (["3", "answer", "4", "answer"], "4 "),
        ]
        assert seen(conversation)[0] == SUMMARY + "4 4 "
        conversation.refresh_from_db()
        assert [kept["text"] for kept in conversation.context[SUMMARIES]] == ["4 ", "4 4 "]

    @named(summarise)
    def test_what_stays_is_neither_summarised_nor_left_out(self):
        conversation = started("1", "2", window={"messages": 2})
        conversation.add_system_message("rule")
        conversation.messages.get(offset=3).pin()
        [[*texts]] = self.ask(conversation, "3")
        assert texts == ["1", "2", "rule", "3"]
        [[*texts]] = self.ask(conversation, "4")
        assert texts == ["1", "2", "rule", SUMMARY + "3 ", "4"]
        assert calls[-1][1] == ["1", "3", "answer"]  # the question is there for its answer only

    @named(summarise)
    def test_a_summary_of_what_was_deleted_since_is_made_anew(self):
        conversation = started("1", "2", "3", "4", window={"messages": 3})
        self.ask(conversation, "5")
        conversation.messages.get(content="2").delete()
        assert SUMMARY not in "".join(seen(conversation))
        [seen_again] = self.ask(conversation, "6")
        assert seen_again[0] == SUMMARY + "5 "
        assert calls[-1] == ("", ["1", "3", "4", "5", "answer"], "")
        conversation.refresh_from_db()
        assert [kept["text"] for kept in conversation.context[SUMMARIES]] == ["5 "]
        Message.all_objects.get(content="2").restore()
        assert SUMMARY not in "".join(seen(conversation))

    @named(summarise)
    def test_a_summary_of_what_was_cleared_is_forgotten(self):
        conversation = started("1", "2", "3", "4", window={"messages": 3}, system_prompt="Be brief.")
        self.ask(conversation, "5")
        conversation.clear()
        conversation.refresh_from_db()
        assert conversation.context == {"window": {"messages": 3}, "system_prompt": "Be brief."}

    @named(summarise)
    def test_each_branch_has_a_summary_of_its_own(self):
        conversation = started("1", "2", "3", "4", window={"messages": 3})
        self.ask(conversation, "5")
        with scripted(["other"]):
            conversation.messages.get(content="1").edit("1b").stop()
        self.ask(conversation, "2b", "3b")
        assert seen(conversation)[0] == SUMMARY + "3 "
        conversation.messages.get(content="1").switch()
        assert seen(conversation)[0] == SUMMARY + "4 "

    @named(summarise)
    def test_a_copy_does_not_take_over_what_was_told_of_the_original(self):
        conversation = started("1", "2", "3", "4", window={"messages": 3})
        self.ask(conversation, "5")
        assert SUMMARIES not in conversation.fork().context

    def test_a_summariser_that_fails_or_takes_too_long_is_logged_and_the_reply_goes_on(self):
        for function in (fail, say_what_cannot_be_stored, take_forever):
            conversation = started("1", "2", "3", "4", window={"messages": 3})
            limit = {"CONVERSE_IDLE_TIMEOUT": 0.05} if function is take_forever else {}
            with named(function, **limit), self.assertLogs("converse.summaries", "ERROR"):
                [texts] = self.ask(conversation, "5")
            assert texts == ["3", "4", "5"], function

    @named(say_nothing)
    def test_one_that_says_nothing_is_not_asked_again(self):
        conversation = started("1", "2", "3", "4", window={"messages": 3})
        assert self.ask(conversation, "5", "6") == [["5"], ["5", "answer", "6"]]
        assert len(calls) == 1

    @named(summarise)
    def test_without_a_window_or_while_everything_fits_nobody_is_asked(self):
        self.ask(started("1", "2"), "3")
        self.ask(started("1", "2", window={"messages": 10}), "3")
        assert calls == []

    def test_without_a_summariser_what_was_told_is_not_sent(self):
        conversation = started("1", "2", "3", "4", window={"messages": 3})
        with named(summarise):
            self.ask(conversation, "5")
        assert seen(conversation) == ["5", "answer"]

    @named(summarise)
    def test_a_conversation_that_is_gone_on_with_on_many_branches_keeps_its_latest_summaries(self):
        conversation = started("1", "2", "3", window={"messages": 1})
        for number in range(7):
            self.ask(conversation, f"q{number}")
        conversation.refresh_from_db()
        assert len(conversation.context[SUMMARIES]) == 5
