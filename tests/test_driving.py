from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import asynccontextmanager
from unittest import mock

from asgiref.sync import async_to_sync
from django.db import DatabaseError
from django.test import TestCase, TransactionTestCase, override_settings

from converse import loops
from converse.choices import FinishReason
from converse.deltas import (
    FileDelta,
    Finish,
    RawBlock,
    ReasoningDelta,
    SourceDelta,
    Started,
    ToolCallDelta,
    Usage,
)
from converse.driving import run
from converse.exceptions import ProviderError
from converse.models import Conversation, Message
from converse.parts import ToolCall, ToolResult
from converse.providers.base import PromptMessage
from converse.testing import scripted
from tests import toolbox

CALLS = Finish(reason=FinishReason.TOOL_CALLS, raw="tool_calls")


def call(name, arguments="{}", id="c1", index=0):
    return ToolCallDelta(index=index, id=id, name=name, arguments=arguments)


def results(message):
    return [(part["output"], part.get("is_error", False)) for part in message.parts if part["type"] == "tool_result"]


async def until(condition, seconds=5):
    """Wait until a condition holds; give what it gave."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)


class StepsTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start(title="Trip")

    def setUp(self):
        self.enterContext(toolbox.scene())
        logging.disable(logging.ERROR)
        self.addCleanup(logging.disable, logging.NOTSET)

    def ask(self, *calls, **kwargs):
        with scripted(*calls) as script:
            reply = self.conversation.ask("Hi", **{"tools": ["tests.toolbox.weather", toolbox.wait], **kwargs})
        self.prompts = script.prompts
        return reply

    def test_a_tool_is_called_and_the_model_goes_on_with_what_it_gave(self):
        reply = self.ask(
            [
                Started(model="m"),
                "Let me see. ",
                call("weather", '{"city": '),
                ToolCallDelta(index=0, arguments='"Oslo"}'),
                CALLS,
            ],
            ["It is 21°."],
        )
        assert (reply.status, reply.content, reply.finish_reason) == ("completed", "Let me see. It is 21°.", "stop")
        assert [part["type"] for part in reply.parts] == ["text", "tool_call", "tool_result", "text"]
        assert results(reply) == [('{"city":"Oslo","degrees":21}', False)]
        assert toolbox.called == [("weather", "Oslo", "c")]
        first, second = self.prompts
        assert [(spec.name, spec.description) for spec in first.tools] == [
            ("weather", "Tell the weather of a city."),
            ("wait", "Wait until a gate is open."),
        ]
        assert second.tools == first.tools
        assert second.messages[-2].parts[-1] == ToolCall(id="c1", name="weather", arguments='{"city": "Oslo"}')
        assert second.messages[-1] == PromptMessage(
            role="tool_result", parts=[ToolResult(id="c1", name="weather", output='{"city":"Oslo","degrees":21}')]
        )

    async def test_calls_run_side_by_side_and_their_results_come_in_the_order_of_the_calls(self):
        toolbox.gates.update(one=asyncio.Event(), two=asyncio.Event())
        calls = [call("wait", '{"gate": "one"}'), call("wait", '{"gate": "two"}', "c2", 1), CALLS]
        async with self.driven(calls, ["Done."]) as reply:
            await until(lambda: len(toolbox.called) == 2)
            toolbox.gates["two"].set()
            await asyncio.sleep(0)
            assert not [part async for part in reply.chunks.filter(kind="tool_result")]
            toolbox.gates["one"].set()
        assert results(reply) == [("one is open", False), ("two is open", False)]

    async def test_a_result_is_seen_while_the_calls_after_it_run_still(self):
        toolbox.gates["two"] = asyncio.Event()
        calls = [call("weather", '{"city": "Oslo"}'), call("wait", '{"gate": "two"}', "c2", 1), CALLS]
        async with self.driven(calls, ["Done."]) as reply:
            chunk = await until(reply.chunks.filter(kind="tool_result").afirst)
            assert chunk.metadata["id"] == "c1"
            toolbox.gates["two"].set()
        assert len(results(reply)) == 2

    @asynccontextmanager
    async def driven(self, *calls):
        """Give a reply that is being driven; it has come to its end when this is left."""
        with scripted(*calls):
            reply = await self.conversation.areply("Hi", tools=[toolbox.weather, toolbox.wait])
            running = asyncio.create_task(run(reply.pk))
            yield reply
            async with asyncio.timeout(5):
                await running
        await reply.arefresh_from_db()

    def test_what_goes_wrong_with_a_call_is_told_to_the_model(self):
        for name, arguments, error in (
            ("fly", "{}", "There is no tool 'fly', only weather, wait."),
            (
                "weather",
                '{"city',
                "The arguments are not valid: Invalid JSON: EOF while parsing a string at line 1 column 6",
            ),
            (
                "weather",
                '{"town": 1}',
                "The arguments are not valid: city: Field required; town: Extra inputs are not permitted",
            ),
            ("wait", '{"gate": "none"}', "KeyError: 'none'"),
        ):
            reply = self.ask([call(name, arguments), CALLS], ["Sorry."])
            assert (reply.status, reply.content) == ("completed", "Sorry."), name
            assert results(reply) == [(error, True)]
            assert [part.output for part in self.prompts[1].messages[-1].parts] == [error]

    def test_a_reply_that_has_taken_its_steps_is_completed_and_says_so(self):
        for kwargs, setting in (({"max_steps": 2}, 10), ({}, 2)):
            with override_settings(CONVERSE_MAX_STEPS=setting):
                reply = self.ask(["Again. ", call("weather", '{"city": "Oslo"}'), CALLS], **kwargs)
            assert (reply.status, reply.finish_reason, reply.content) == ("completed", "steps", "Again. Again. ")
            assert len(results(reply)) == 2

    def test_the_choice_of_a_tool_is_for_the_first_step(self):
        for choice in ("any", "weather"):
            self.ask([call("weather", '{"city": "Oslo"}'), CALLS], ["Fine."], tool_choice=choice)
            assert [prompt.tool_choice for prompt in self.prompts] == [choice, ""]

    def test_a_provider_made_to_call_a_tool_may_call_that_its_end(self):
        reply = self.ask([call("weather", '{"city": "Oslo"}')], ["Fine."], tool_choice="weather")
        assert (reply.content, len(results(reply))) == ("Fine.", 1)

    def test_calls_of_an_answer_that_was_cut_off_are_not_run(self):
        for reason in (FinishReason.LENGTH, FinishReason.CONTENT_FILTER, FinishReason.REFUSAL):
            reply = self.ask([call("weather", '{"city": "Os'), Finish(reason=reason)])
            assert (reply.status, reply.finish_reason, results(reply)) == ("completed", reason, [])
        assert toolbox.called == []

    def test_a_provider_that_pauses_goes_on(self):
        reply = self.ask(["First ", Finish(reason=FinishReason.PAUSE, raw="pause_turn")], ["and last."], tools=None)
        assert (reply.content, reply.finish_reason, reply.metadata["provider_finish_reason"]) == (
            "First and last.",
            "stop",
            "stop",
        )
        assert self.prompts[1].messages[-1].text == "First "

    def test_calls_of_tools_that_are_not_ours_are_left_to_the_application(self):
        reply = self.ask([call("theirs"), CALLS], tools=None)
        assert (reply.status, reply.finish_reason, len(self.prompts), results(reply)) == (
            "completed",
            "tool_calls",
            1,
            [],
        )

    def test_every_call_of_a_reply_has_an_id_of_its_own(self):
        city = '{"city": "Oslo"}'
        twice = [call("weather", city, id="0"), call("weather", city, id=None, index=1), CALLS]
        reply = self.ask(twice, [call("weather", city, id="0"), ToolCallDelta(index=0, id="0"), CALLS], ["Fine."])
        ids = [part["id"] for part in reply.tool_calls]
        assert ids[0] == "0"
        assert len({*ids, ""}) == 4
        assert [part["id"] for part in reply.parts if part["type"] == "tool_result"] == ids

    def test_a_reply_that_begins_in_other_words_keeps_every_kind_of_part(self):
        reply = self.ask(
            [
                ReasoningDelta(text="Hm\x00.", signature="s"),
                SourceDelta(url="https://example.com/\ud800", title="T\x00", text="quoted"),
                RawBlock({"type": "x", "data": ["a\x00", 1]}),
                FileDelta(data=b"\x89PNG\r\n\x1a\n", mime_type="image/png", name="p.png"),
                "Seen.",
            ],
        )
        kinds = [part["type"] for part in reply.parts]
        assert kinds == ["reasoning", "source", "raw", "file", "text"]
        assert (reply.parts[1]["url"], reply.parts[1]["title"]) == ("https://example.com/\ufffd", "T\ufffd")
        assert reply.parts[2]["data"] == {"type": "x", "data": ["a\ufffd", 1]}
        assert reply.parts[3]["name"] == "p.png"

    def test_what_the_calls_took_is_summed(self):
        reply = self.ask(
            [Usage(input=10, output=5, raw={"n": 1}), call("weather", '{"city": "Oslo"}'), CALLS],
            [Usage(input=20, output=0, reasoning=3, raw={"n": 2}), "Fine."],
        )
        assert (reply.input_tokens, reply.output_tokens, reply.reasoning_tokens) == (30, 5, 3)
        assert (reply.cached_input_tokens, reply.usage) == (None, {"n": 2})
        rows = list(reply.calls.values_list("number", "outcome", "finish_reason", "input_tokens"))
        assert rows == [(1, "completed", "tool_calls", 10), (2, "completed", "stop", 20)]

    def test_a_failure_after_the_tools_keeps_what_came_and_can_be_retried(self):
        busy = ProviderError("busy", type="overloaded", retryable=True, retry_after=0)
        with override_settings(CONVERSE_RETRIES=1):
            reply = self.ask([call("weather", '{"city": "Oslo"}'), CALLS], [busy], [busy], ["Never."])
        assert (reply.status, reply.error_type, len(results(reply)), len(self.prompts)) == (
            "failed",
            "overloaded",
            1,
            3,
        )
        assert reply.finish_reason == ""
        reply = self.ask([call("weather", '{"city": "Oslo"}'), CALLS], [busy], ["Fine."])
        assert (reply.status, reply.content, len(results(reply))) == ("completed", "Fine.", 1)

    def test_the_time_for_a_reply_counts_its_tools_too(self):
        toolbox.gates["never"] = asyncio.Event()
        with override_settings(CONVERSE_TOTAL_TIMEOUT=0.2):
            reply = self.ask(["So far.", call("wait", '{"gate": "never"}'), CALLS])
        assert (reply.status, reply.error_type, reply.content) == ("failed", "timeout", "So far.")
        assert toolbox.called == [("wait", "never"), ("cancelled", "never")]

    def test_a_tool_that_is_gone_by_then_fails_the_reply(self):
        reply = self.conversation.reply("Hi", tools=[toolbox.weather])
        reply.plan["tools"] = ["tests.toolbox.gone"]
        reply.save(update_fields=["plan"])
        async_to_sync(run)(reply.pk)
        reply.refresh_from_db()
        assert (reply.status, reply.error_type) == ("failed", "error")
        assert "tests.toolbox.gone" in reply.error_detail

    def test_an_answer_after_tools_is_read_in_the_form_that_was_asked_for(self):
        reply = self.ask(
            ["Let me see.", call("weather", '{"city": "Oslo"}'), CALLS], ['{"city": "Oslo"}'], output=toolbox.Place
        )
        assert (reply.status, reply.structured) == ("completed", {"city": "Oslo", "zip": None})
        assert self.prompts[1].output.name == "Place"
        reply = self.ask(["No form."], output=toolbox.Place)
        assert (reply.status, reply.error_type, reply.content) == ("failed", "invalid_output", "No form.")
        reply = self.ask(["I won't.", Finish(reason=FinishReason.REFUSAL)], output=toolbox.Place)
        assert (reply.status, reply.structured) == ("completed", None)


class FaultTests(TestCase):
    """Whatever goes wrong outside of the reply itself: nobody waits for the answer of run()."""

    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()

    async def test_a_reply_that_cannot_be_begun_is_told_to_the_log_and_can_be_begun_later(self):
        reply = await self.conversation.areply("Hi")
        with (
            mock.patch("converse.driving.writing", side_effect=DatabaseError("away")),
            self.assertLogs("converse.driving", "ERROR") as logs,
        ):
            await run(reply.pk)
        assert f"key {reply.pk}" in logs.output[0]
        await run(reply.pk)
        assert (await Message.objects.aget(pk=reply.pk)).content == "Hi"

    async def test_so_is_what_a_stopped_reply_took_and_nobody_could_store(self):
        with scripted([Usage(input=5), "Once", asyncio.Event()]):
            reply = await self.conversation.areply("Hi")
            with (
                mock.patch("converse.driving.update", side_effect=DatabaseError("away")),
                self.assertLogs("converse.driving", "ERROR"),
            ):
                driven = asyncio.ensure_future(run(reply.pk))
                await until(lambda: reply.chunks.aexists())
                await reply.astop()
                await driven
        assert (await Message.objects.aget(pk=reply.pk)).status == "cancelled"


class StopTests(TestCase):
    """A stop in each state closes the provider's connection, keeps what came, and the next turn works."""

    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()

    def setUp(self):
        self.enterContext(toolbox.scene())
        logging.disable(logging.ERROR)
        self.addCleanup(logging.disable, logging.NOTSET)
        self.never = asyncio.Event()

    async def stopped(self, *calls, when, tools=(toolbox.wait, toolbox.block)):
        """Stop a reply once ``when`` holds for its chunks; give it as it was left, and what the next turn was told."""
        with scripted(*calls) as script:
            reply = await self.conversation.areply("Hi", tools=tools)
            running = asyncio.create_task(run(reply.pk))

            async def holds():
                return when(script, [chunk async for chunk in reply.chunks.order_by("sequence")])

            await until(holds)
            assert await reply.astop()
            async with asyncio.timeout(5):
                await running
        await reply.arefresh_from_db()
        assert reply.status == "cancelled"
        assert script.closed == len(script.prompts)
        with scripted(["Fine."]) as after:
            assert (await self.conversation.aask("And now?")).content == "Fine."
        return reply, after.prompts[0].messages

    async def outcomes(self, reply):
        return [call.outcome async for call in reply.calls.all()]

    async def test_before_the_provider_has_answered(self):
        reply, _ = await self.stopped([self.never], when=lambda script, chunks: script.prompts)
        assert (reply.parts, await self.outcomes(reply)) == ([], ["cancelled"])

    async def test_while_it_reasons(self):
        reply, _ = await self.stopped([ReasoningDelta(text="Hm."), self.never], when=lambda script, chunks: chunks)
        assert (reply.reasoning, await self.outcomes(reply)) == ("Hm.", ["cancelled"])

    async def test_while_it_speaks(self):
        reply, told = await self.stopped([Usage(input=5), "So far", self.never], when=lambda script, chunks: chunks)
        assert (reply.content, reply.input_tokens, told[1].text) == ("So far", 5, "So far")

    async def test_while_it_writes_the_arguments_of_a_call(self):
        reply, told = await self.stopped(
            ["I call.", call("wait", '{"ga'), self.never], when=lambda script, chunks: len(chunks) == 2
        )
        assert (reply.tool_calls[0]["arguments"], toolbox.called) == ('{"ga', [])
        assert [message.text for message in told] == ["Hi", "I call.", "And now?"]

    async def test_while_a_tool_runs(self):
        toolbox.gates["one"] = asyncio.Event()
        reply, told = await self.stopped(
            [call("wait", '{"gate": "one"}'), CALLS], when=lambda script, chunks: toolbox.called
        )
        assert toolbox.called == [("wait", "one"), ("cancelled", "one")]
        assert results(reply) == []
        assert [part.is_error for part in told[-2].parts] == [True]  # made up: no provider takes a call without

    async def test_while_it_waits_to_try_again(self):
        busy = ProviderError("busy", type="overloaded", retryable=True, retry_after=30)
        reply, _ = await self.stopped([busy], when=lambda script, chunks: script.closed)
        assert (reply.parts, await self.outcomes(reply)) == ([], ["failed"])


class ThreadStopTests(TransactionTestCase):
    def test_a_stop_does_not_wait_for_a_tool_that_ponders_whether_somebody_has_to_approve(self):
        self.enterContext(toolbox.scene())
        toolbox.doors["answer"] = threading.Event()
        conversation = Conversation.objects.start()
        with scripted([call("pondered"), CALLS], ["Never."]) as script:
            reply = conversation.reply("Hi", tools=[toolbox.pondered])
            asyncio.run(until(lambda: toolbox.called))
            assert reply.stop()
            loops.finish()
        reply.refresh_from_db()
        assert (reply.status, results(reply), len(script.prompts)) == ("cancelled", [], 1)

    def test_what_a_synchronous_tool_gives_after_a_stop_is_dropped(self):
        self.enterContext(toolbox.scene())
        toolbox.doors["one"] = threading.Event()
        conversation = Conversation.objects.start()
        with scripted([call("block", '{"door": "one"}'), CALLS], ["Never."]) as script:
            reply = conversation.reply("Hi", tools=[toolbox.block])
            asyncio.run(until(lambda: toolbox.called))
            assert reply.stop()
            toolbox.doors["one"].set()
            asyncio.run(until(lambda: ("unblocked", "one") in toolbox.called))
            loops.finish()
        reply.refresh_from_db()
        assert (reply.status, results(reply), len(script.prompts)) == ("cancelled", [], 1)
