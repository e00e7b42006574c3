"""converse.testing, as the tests of a project use it."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth import get_user_model
from django.db import transaction
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings

from converse import loops, testing
from converse.choices import ErrorType
from converse.deltas import (
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
from converse.models import Conversation, Message
from converse.providers import Prompt, PromptMessage, get_provider
from converse.testing import (
    ChunkFactory,
    ConversationFactory,
    MessageFactory,
    Script,
    ScriptedProvider,
    aassert_reply,
    answers,
    assert_reply,
    breaks_off,
    call,
    captured_events,
    cites,
    ends,
    fails,
    gives,
    raw,
    refuses,
    scripted,
    spends,
    thinks,
)
from tests import watchers


async def said(*steps, prompt=None):
    """Give what a provider yields that follows these steps."""
    provider = ScriptedProvider(Script(steps))
    return [delta async for delta in provider.astream(prompt or Prompt(messages=[]))]


class StepTests(SimpleTestCase):
    async def test_each_step_is_a_delta_of_the_provider(self):
        assert await said(
            thinks("Hm.", signature="sig"), "Hello", cites("https://example.com", "A page"), spends(5, output=7)
        ) == [
            ReasoningDelta(text="Hm.", signature="sig"),
            TextDelta("Hello"),
            SourceDelta(url="https://example.com", title="A page"),
            Usage(input=5, output=7),
            Finish(reason="stop", raw="stop"),
        ]
        assert await said(raw(type="redacted"), gives(b"x", "text/plain", "x.txt"), ends("length")) == [
            RawBlock({"type": "redacted"}),
            FileDelta(data=b"x", mime_type="text/plain", name="x.txt"),
            Finish(reason="length", raw="length"),
        ]

    async def test_calls_are_numbered_and_end_the_answer_as_calls_do(self):
        assert await said(call("weather", city="Paris"), call("time", {"id": 1}, id="mine", signature="sig")) == [
            ToolCallDelta(index=0, id="call_1_1", name="weather", arguments='{"city": "Paris"}'),
            ToolCallDelta(index=1, id="mine", name="time", arguments='{"id": 1}', signature="sig"),
            Finish(reason="tool_calls", raw="tool_calls"),
        ]

    async def test_arguments_may_be_no_json_and_come_in_fragments(self):
        first, second, third, _ = await said(call("weather", '{"city": ', fragments=3))
        assert (first.name, second.name, first.arguments + second.arguments + third.arguments) == (
            "weather",
            None,
            '{"city": ',
        )
        empty, _ = await said(call("now", ""))
        assert empty.arguments == ""

    async def test_an_answer_of_json_comes_in_fragments(self):
        deltas = await said(answers(watchers.Step(text="Cook."), fragments=4), ["more", [" and more"]])
        assert len(deltas) == 4 + 2 + 1
        assert "".join(delta.text for delta in deltas[:-1]) == '{"text":"Cook.","minutes":5}more and more'

    async def test_a_refusal_ends_the_answer(self):
        assert await said(refuses("No.")) == [RefusalDelta("No."), Finish(reason="refusal", raw="refusal")]

    async def test_a_step_may_depend_on_what_was_asked(self):
        prompt = Prompt(messages=[PromptMessage(role="user", text="Ada")])
        assert (await said(lambda prompt: f"Hello, {prompt.messages[-1].text}.", prompt=prompt))[
            0
        ].text == "Hello, Ada."

    async def test_a_script_may_break_off_or_fail_in_the_middle(self):
        assert await said("Half", breaks_off(), "never") == [TextDelta("Half")]
        with pytest.raises(ProviderError) as caught:
            await said("Half", fails(ErrorType.RATE_LIMITED, retry_after=1))
        assert (caught.value.type, caught.value.retryable, caught.value.retry_after) == ("rate_limited", True, 1)

    def test_a_failure_is_given_by_its_type_or_by_a_status(self):
        for why, kind, retryable in (
            ("overloaded", "overloaded", True),
            (ErrorType.INVALID, "invalid", False),
            (429, "rate_limited", True),
            (401, "authentication", False),
            (500, "server", True),
            (502, "server", True),
            (418, "invalid", False),
        ):
            error = fails(why)
            assert (error.type, error.retryable) == (kind, retryable), why
            assert kind in str(error)
        for wrong, known in ((lambda: fails("nope"), "rate_limited"), (lambda: ends("nope"), "tool_calls")):
            with pytest.raises(ValueError, match=f"'nope' is not one of .*{known}"):
                wrong()
        error = fails(429, "spent", retryable=False, request_id="r1")
        assert (str(error), error.retryable, error.request_id) == ("spent", False, "r1")

    async def test_a_script_waits_for_seconds_and_for_events(self):
        gate = asyncio.Event()
        saying = asyncio.ensure_future(said(0, 0.001, gate, "Hello"))
        await asyncio.sleep(0.01)
        assert not saying.done()
        gate.set()
        assert (await saying)[0].text == "Hello"

    async def test_an_event_may_be_set_in_another_thread(self):
        gate = threading.Event()
        saying = asyncio.ensure_future(said(gate, "Hello"))
        await asyncio.sleep(0.01)
        assert not saying.done()
        await asyncio.to_thread(gate.set)
        assert (await saying)[0].text == "Hello"


class ScriptTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()

    def test_the_default_provider_follows_the_script_call_by_call(self):
        with scripted(["Once "], ["Twice"]) as script:
            assert_reply(self.conversation.ask("Tell me."), "Once ")
            assert_reply(self.conversation.ask("Again."), "Twice")
            assert_reply(self.conversation.ask("Again."), "Twice")
        assert script.questions == ["Tell me.", "Again.", "Again."]
        assert script.prompt.messages[-1].text == "Again."
        assert script.closed == 3
        script.assert_finished()

    @override_settings(CONVERSE_DEFAULT_PROVIDER="mine", CONVERSE_PROVIDERS={"mine": {"BACKEND": "no.such.Provider"}})
    def test_whatever_the_default_is_called_and_no_other_is_left(self):
        with scripted(["Hello."]), scripted(["I am the other."], alias="other"):
            assert_reply(self.conversation.ask("Who is it?"), "Hello.")
            assert_reply(self.conversation.ask("Who is it?", provider="other"), "I am the other.", provider="other")
        with (
            override_settings(CONVERSE_PROVIDERS={"real": {"BACKEND": "no.such.Provider"}}),
            scripted(),
            pytest.raises(LookupError),
        ):
            get_provider("real")

    def test_an_empty_script_says_nothing(self):
        with scripted() as script:
            assert_reply(self.conversation.ask("Hello?"), "")
        script.assert_asked("Hello?", times=1)

    def test_what_was_asked_can_be_asserted(self):
        with scripted(["Hello."], ["Never."]) as script:
            script.assert_not_asked()
            for wrong in (script.assert_asked, script.assert_finished, lambda: script.prompt):
                with pytest.raises(AssertionError):
                    wrong()
            self.conversation.ask("Hello?")
        script.assert_asked()
        script.assert_asked("Hello?")
        script.assert_asked("Hello?", times=1)
        with pytest.raises(AssertionError, match="asked 1 times, not 2"):
            script.assert_asked(times=2)
        with pytest.raises(AssertionError, match=r"not asked 'Bye\?', but \['Hello\?'\]"):
            script.assert_asked("Bye?")
        with pytest.raises(AssertionError, match="asked 1 times, not 0"):
            script.assert_not_asked()
        with pytest.raises(AssertionError, match="Of 2 calls in the script 1 began and 1 ended"):
            script.assert_finished()

    def test_a_reply_is_held_against_what_it_should_be(self):
        with scripted([call("weather", city="Paris")], ["Warm."]):
            reply = self.conversation.ask("How is it?", tools=[watchers.weather])
        assert_reply(reply, "Warm.", calls=["weather"], finish_reason="stop")
        with pytest.raises(AssertionError) as caught:
            assert_reply(reply, "Cold.", status="failed", calls=[], finish_reason="length")
        assert str(caught.value) == (
            "The reply's status is 'completed', not 'failed'; text is 'Warm.', not 'Cold.'; "
            "calls is ['weather'], not []; finish_reason is 'stop', not 'length'."
        )
        with scripted([fails(401, "wrong key")]):
            failed = self.conversation.ask("How is it?")
        assert_reply(failed, status="failed", error_type="authentication")
        with pytest.raises(AssertionError, match="It failed: ProviderError: wrong key"):
            assert_reply(failed)

    async def test_and_in_async_code_too(self):
        with scripted(["Warm."]):
            reply = await self.conversation.aask("How is it?")
        await aassert_reply(reply, "Warm.")
        with pytest.raises(AssertionError):
            await aassert_reply(reply, "Cold.")


class CaptureInATestCaseTests(TestCase):
    """Nothing is committed here, but what would be can be seen."""

    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()
        cls.other = Conversation.objects.start()

    def test_what_readers_would_get_is_there_in_order(self):
        self.conversation.create_user_message("before")
        with captured_events(self.conversation) as events:
            self.other.create_user_message("elsewhere")
            self.conversation.create_user_message("Hello!")
            with self.conversation.stream_reply() as stream:
                stream.append("Hello ").append(ReasoningDelta(text="Hm.")).append("to you.")
            self.conversation.rename("Greetings")
        assert events.names == [
            "MessageCreated",
            "MessageCreated",
            "StreamUpdate",
            "StreamUpdate",
            "StreamUpdate",
            "MessageCompleted",
            "ConversationUpdated",
        ]
        assert events.text() == events.text(stream.message) == "Hello to you."
        assert events.text(self.conversation.messages.first()) == ""
        assert [event.offset for event in events] == sorted(event.offset for event in events)
        assert len(events) == 7
        assert events[0].content == "Hello!"
        assert events.of("MessageCompleted")[0].status == "completed"
        assert events.signals == ["message_created", "message_created", "message_completed", "conversation_updated"]
        assert events.sent("message_completed")[0]["message"].pk == stream.message.pk

    def test_what_was_rolled_back_is_not(self):
        with captured_events(self.conversation) as events:
            try:
                with transaction.atomic():
                    self.conversation.create_user_message("Never said.")
                    raise RuntimeError
            except RuntimeError:
                pass
            self.conversation.create_user_message("Said.")
        assert [event.content for event in events] == ["Said."]

    def test_what_is_committed_by_hand_is_there_once(self):
        with (
            captured_events(self.conversation) as events,
            self.captureOnCommitCallbacks(execute=True),
            self.conversation.stream_reply() as stream,
        ):
            stream.append("Hello.")
        assert events.names == ["MessageCreated", "StreamUpdate", "MessageCompleted"]
        assert events.signals == ["message_created", "message_completed"]

    def test_callbacks_of_a_reply_are_no_signals(self):
        reply = self.conversation.reply("Hello?", on_cancel="tests.watchers.on_cancel")
        with captured_events(self.conversation) as events:
            reply.stop()
        assert events.signals == ["message_cancelled"]

    def test_what_else_waits_for_the_commit_is_left_alone(self):
        called = []
        with captured_events(self.conversation) as events:
            transaction.on_commit(lambda: called.append(1))
        assert (list(events), called) == ([], [])

    async def test_in_async_code_it_is_async_with(self):
        with pytest.raises(RuntimeError, match="async with captured_events"), captured_events(self.conversation):
            pass
        with scripted(["Once ", "upon"]):
            async with captured_events(self.conversation) as events:
                await self.conversation.aask("Tell me.")
        assert events.names[0] == "MessageCreated"
        assert events.names[-1] == "MessageCompleted"
        assert events.text() == "Once upon"


class CaptureOfCommitsTests(TransactionTestCase):
    def test_what_readers_get_is_there(self):
        conversation = Conversation.objects.start()
        with scripted(["Once ", "upon"]), captured_events(conversation) as events:
            conversation.reply("Tell me.")
            loops.finish()
        assert events.names[:2] == ["MessageCreated", "MessageCreated"]
        assert events.names[-1] == "MessageCompleted"
        assert events.text() == "Once upon"
        assert events.signals[-1] == "message_completed"
        with captured_events(conversation) as events:
            pass
        assert list(events) == []

    async def test_in_async_code_too(self):
        conversation = await Conversation.objects.astart()
        async with captured_events(conversation) as events, conversation.astream_reply() as stream:
            await stream.aappend("Hello.")
            await stream.adrain()
        assert events.names == ["MessageCreated", "StreamUpdate", "MessageCompleted"]

    async def test_of_streams_that_are_stored_together_it_is_the_conversations_own(self):
        mine, other = [await Conversation.objects.astart() for _ in range(2)]
        async with (
            captured_events(mine) as events,
            mine.astream_reply() as stream,
            other.astream_reply() as elsewhere,
        ):
            await elsewhere.aappend("elsewhere")
            await stream.aappend("mine")
        assert events.text() == "mine"


class FactoryTests(TestCase):
    def test_a_conversation_has_what_its_traits_say(self):
        ada = get_user_model().objects.create_user("ada")
        factory = ConversationFactory().with_owner(ada).with_title("Soup").with_metadata(a=1).with_metadata(b=2)
        conversation = factory.with_context(system_prompt="Be brief.").create(
            "Hello!", {"role": "assistant", "content": "Hi."}
        )
        assert (conversation.owner, conversation.title, conversation.metadata) == (ada, "Soup", {"a": 1, "b": 2})
        assert conversation.context == {"system_prompt": "Be brief."}
        assert [message.text for message in conversation.messages.all()] == ["Hello!", "Hi."]
        assert factory.create().context == {}

    def test_a_message_has_what_its_traits_say(self):
        conversation = ConversationFactory().create()
        factory = MessageFactory().for_conversation(conversation).with_metadata(a=1)
        for role in ("user", "assistant", "system", "tool_call", "tool_result"):
            message = getattr(factory, role)().create()
            assert (message.role, message.status, message.content, message.metadata) == (
                role,
                "completed",
                "Hello!",
                {"a": 1},
            )
        reply = factory.assistant()
        for made, status, text in (
            (reply.pending(), "pending", ""),
            (reply.streaming(), "streaming", "Half"),
            (reply.completed(), "completed", "Half"),
            (reply.failed("rate_limited"), "failed", "Half"),
            (reply.cancelled(), "cancelled", "Half"),
        ):
            message = made.create("Half")
            assert (message.status, message.text, message.metadata["a"]) == (status, text, 1)
        assert Message.objects.failed().get().error_type == "rate_limited"
        assert MessageFactory().create().conversation_id != conversation.pk

    def test_a_chunk_has_what_its_traits_say(self):
        message = MessageFactory().assistant().streaming().create("Once ")
        chunks = ChunkFactory().for_message(message)
        assert chunks.create("upon").sequence == 2
        assert chunks.with_metadata(n=1).create(" a").metadata == {"n": 1}
        assert ChunkFactory().with_sequence(5).create("x").sequence == 5
        assert ChunkFactory().create().content == "Hello"
        assert message.text == "Once upon a"
        with pytest.raises(ValueError, match="a chunk has content"):
            chunks.create("")

    async def test_they_have_asynchronous_twins(self):
        conversation = await ConversationFactory().acreate("Hello!")
        message = await MessageFactory(conversation).assistant().streaming().acreate("Half")
        chunk = await ChunkFactory(message).acreate(" and half")
        assert await sync_to_async(lambda: chunk.message.text)() == "Half and half"


class PackageTests(SimpleTestCase):
    def test_all_that_it_offers_has_a_docstring(self):
        for name in testing.__all__:
            assert name == "Step" or inspect.getdoc(getattr(testing, name)), name

    def test_it_needs_no_pytest(self):
        code = "import django; django.setup(); import converse.testing, sys; sys.exit('pytest' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code], env={"DJANGO_SETTINGS_MODULE": "tests.settings"}, timeout=60
        )
        assert done.returncode == 0

    def test_what_exists_stays(self):
        assert Script.BREAK_OFF is breaks_off()
        assert Script().calls == ([],)
        script = Script(["a"])
        assert async_to_sync(collect)(ScriptedProvider(script=script)) == ["a"]
        assert replace(Prompt(messages=[]), model="m").model == "m"


async def collect(provider):
    return [delta.text async for delta in provider.astream(Prompt(messages=[])) if isinstance(delta, TextDelta)]
