from __future__ import annotations

import asyncio
import logging
import threading
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db.models.functions import Now
from django.test import TestCase, TransactionTestCase, override_settings

from converse.choices import FinishReason
from converse.closing import settle_abandoned
from converse.deltas import Finish, ReasoningDelta, Started, TextDelta, ToolCallDelta, Usage
from converse.drafts import storable
from converse.driving import run
from converse.exceptions import ConversationBusy, InvalidMessage, ProviderError, UnknownProvider
from converse.models import Conversation, Message
from converse.replies import start_queued
from converse.signals import message_cancelled, message_completed, message_failed
from converse.testing import Script, call, scripted
from tests import toolbox

OVERLOADED = ProviderError("busy", type="overloaded", retryable=True, retry_after=0)


class AskTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start(context={"system_prompt": "Be brief."})

    def setUp(self):
        logging.disable(logging.ERROR)
        self.addCleanup(logging.disable, logging.NOTSET)

    def test_an_answer_is_stored_with_all_that_is_known_of_it(self):
        usage = Usage(input=9, cached_input=1, cache_write=0, output=3, reasoning=2, raw={"in": 10})
        with scripted(
            [Started(request_id="r", model="m-1"), ReasoningDelta(text="Hm."), "Once ", TextDelta("upon"), usage]
        ):
            reply = self.conversation.ask("Tell me.")
        assert (reply.status, reply.content, reply.reasoning, reply.model) == ("completed", "Once upon", "Hm.", "m-1")
        assert (reply.input_tokens, reply.cached_input_tokens, reply.cache_write_tokens) == (9, 1, 0)
        assert (reply.output_tokens, reply.reasoning_tokens, reply.usage) == (3, 2, {"in": 10})
        assert (reply.finish_reason, reply.metadata["provider_finish_reason"]) == ("stop", "stop")
        assert (reply.provider, reply.reply_to.content, reply.attempt) == ("default", "Tell me.", 1)

    async def test_the_twin_does_the_same_and_what_was_asked_is_at_hand(self):
        with scripted(["Yes."]):
            reply = await self.conversation.aask("Really?")
        assert (reply.content, reply.reply_to.content, reply.conversation) == ("Yes.", "Really?", self.conversation)

    def test_the_provider_sees_the_system_prompt_and_the_turns_that_matter(self):
        self.conversation.add_system_message("rule").add_user_message("one").add_user_message("").add_assistant_message(
            "two"
        )
        self.conversation.start_streaming_assistant().fail_streaming("failed")
        stopped = self.conversation.start_streaming_assistant()
        stopped.append_chunk("stopped half-way")
        stopped.stop()
        self.conversation.start_streaming_assistant().stop()
        self.conversation.create_user_message("deleted").delete()
        with scripted(["three"]) as script:
            self.conversation.ask("last", model="m-2", options={"temperature": 0})
        prompt = script.prompts[0]
        assert [(message.role, message.text) for message in prompt.messages] == [
            ("system", "Be brief."),
            ("system", "rule"),
            ("user", "one"),
            ("assistant", "two"),
            ("assistant", "stopped half-way"),
            ("user", "last"),
        ]
        assert (prompt.model, prompt.options) == ("m-2", {"temperature": 0})

    def test_a_conversation_without_a_system_prompt_has_none(self):
        with scripted(["x"]) as script:
            Conversation.objects.start().ask("Hello")
        assert [message.role for message in script.prompts[0].messages] == ["user"]

    def test_without_content_the_last_message_is_answered(self):
        self.conversation.add_user_message("Already here")
        with scripted(["Yes."]):
            reply = self.conversation.ask()
        assert reply.reply_to.content == "Already here"
        with pytest.raises(InvalidMessage, match="nothing to reply to"):
            Conversation.objects.start().ask()

    def test_an_error_before_the_first_token_is_tried_again(self):
        with scripted([OVERLOADED], [OVERLOADED], ["third time lucky"]) as script:
            reply = self.conversation.ask("Hi")
        assert (reply.status, reply.content, len(script.prompts), script.closed) == (
            "completed",
            "third time lucky",
            3,
            3,
        )

    @override_settings(CONVERSE_RETRY_DELAY=0)
    def test_without_a_word_from_the_provider_the_delay_is_our_own(self):
        with scripted([ProviderError("x", type="server", retryable=True)], ["fine"]):
            assert self.conversation.ask("Hi").content == "fine"

    @override_settings(CONVERSE_RETRIES=1)
    def test_an_error_that_lasts_fails_the_reply(self):
        with scripted([OVERLOADED]) as script:
            reply = self.conversation.ask("Hi")
        assert (reply.status, reply.error_type, len(script.prompts)) == ("failed", "overloaded", 2)
        assert reply.error_message == "The assistant is very busy. Please try again in a moment."

    def test_an_error_after_the_first_token_is_not_tried_again_and_the_text_is_kept(self):
        with scripted(["Once ", OVERLOADED]) as script:
            reply = self.conversation.ask("Hi")
        assert (reply.status, reply.content, reply.error_type, len(script.prompts)) == (
            "failed",
            "Once ",
            "overloaded",
            1,
        )

    def test_an_error_that_will_not_pass_is_not_tried_again(self):
        with scripted([ProviderError("no", type="authentication")]) as script:
            reply = self.conversation.ask("Hi")
        assert (reply.status, reply.error_type, len(script.prompts)) == ("failed", "authentication", 1)

    def test_a_fault_in_a_provider_fails_its_reply_and_tells_people_nothing_private(self):
        with scripted([ValueError("secret")]):
            reply = self.conversation.ask("Hi")
        assert (reply.status, reply.error_type, reply.error_detail) == ("failed", "error", "ValueError: secret")
        assert "secret" not in reply.error_message

    def test_a_reply_without_its_end_is_truncated_never_completed(self):
        with scripted(["half", Script.BREAK_OFF]):
            reply = self.conversation.ask("Hi")
        assert (reply.status, reply.error_type, reply.content) == ("failed", "truncated", "half")

    @override_settings(CONVERSE_IDLE_TIMEOUT=0.05, CONVERSE_RETRIES=0)
    def test_a_provider_that_falls_silent_is_given_up(self):
        with scripted(["half", 5.0]) as script:
            reply = self.conversation.ask("Hi")
        assert (reply.status, reply.error_type, reply.content, script.closed) == ("failed", "timeout", "half", 1)

    @override_settings(CONVERSE_TOTAL_TIMEOUT=0.1)
    def test_a_reply_that_takes_too_long_is_ended_however_busy_it_is(self):
        with scripted(["x", *[0.02, "x"] * 100]):
            reply = self.conversation.ask("Hi")
        assert (reply.status, reply.error_type) == ("failed", "timeout")

    def test_text_that_no_database_can_store_is_replaced_not_lost(self):
        with scripted(["a\x00b", "c\ud800d", ToolCallDelta(index=0, id="1", name="f", arguments='"\x00"')]):
            reply = self.conversation.ask("Hi")
        assert (reply.content, reply.tool_calls[0]["arguments"]) == ("a\ufffdbc\ufffdd", '"\ufffd"')
        assert storable("\U0001f600") == "\U0001f600"

    def test_what_the_provider_called_the_end_is_kept(self):
        with scripted(["x", Finish(reason=FinishReason.LENGTH, raw="max_tokens")]):
            reply = self.conversation.ask("Hi")
        assert (reply.finish_reason, reply.metadata["provider_finish_reason"]) == ("length", "max_tokens")

    def test_bad_input_is_refused_before_anything_is_stored(self):
        for kwargs, error in (
            ({"content": "Hi", "provider": "nobody"}, UnknownProvider),
            ({"content": "Hi", "policy": "whatever"}, InvalidMessage),
            ({"content": "  "}, InvalidMessage),
            ({"content": "\x00"}, InvalidMessage),
            ({"content": "Hi", "metadata": {"x": object()}}, InvalidMessage),
        ):
            with pytest.raises(error):
                self.conversation.reply(**kwargs)
        assert not self.conversation.messages.exists()


class PolicyTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()

    def test_a_second_reply_is_rejected_while_the_first_is_open(self):
        first = self.conversation.reply("one")
        with pytest.raises(ConversationBusy, match="cancel_previous, queue or allow"):
            self.conversation.reply("two")
        assert self.conversation.messages.count() == 2
        first.stop()
        self.conversation.reply("two")

    def test_the_same_turn_sent_twice_gets_the_same_reply(self):
        first = self.conversation.reply("one", external_id="c1")
        assert self.conversation.reply("one", external_id="c1") == first
        first.stop()
        assert self.conversation.reply("one", external_id="c1") == first
        assert self.conversation.messages.count() == 2

    def test_the_previous_one_is_cancelled(self):
        first = self.conversation.reply("one")
        second = self.conversation.reply("two", policy="cancel_previous")
        first.refresh_from_db()
        assert (first.status, second.status) == ("cancelled", "pending")
        self.conversation.refresh_from_db()
        assert self.conversation.last_offset == 6

    @override_settings(CONVERSE_POLICY="allow")
    def test_both_may_run(self):
        self.conversation.reply("one")
        self.conversation.reply("two")
        assert self.conversation.messages.pending().count() == 2

    @override_settings(CONVERSE_OPEN_LIMIT=2)
    def test_no_policy_lets_open_replies_pile_up_without_end(self):
        for policy in ("allow", "queue"):
            self.conversation.reply("x", policy=policy)
        for policy in ("allow", "queue"):
            with pytest.raises(ConversationBusy, match="2 replies"):
                self.conversation.reply("x", policy=policy)

    def test_a_queued_reply_has_no_lease_and_waits_its_turn(self):
        self.conversation.reply("one")
        queued = self.conversation.reply("two", policy="queue")
        queued.refresh_from_db()
        assert queued.lease_expires_at is None
        assert settle_abandoned() == []

    async def test_a_queued_reply_cannot_be_begun_out_of_turn(self):
        await self.conversation.areply("one")
        queued = await self.conversation.areply("two", policy="queue")
        await run(queued.pk)
        await queued.arefresh_from_db()
        assert queued.status == "pending"

    async def test_asking_behind_another_reply_waits_for_it(self):
        first = await self.conversation.areply("one")
        asking = asyncio.create_task(self.conversation.aask("two", policy="queue"))
        await run(first.pk)
        assert (await asking).content == "two"

    async def test_a_reply_is_driven_once_however_often_it_is_started(self):
        with scripted(["once"]) as script:
            reply = await self.conversation.areply("Hi")
            await asyncio.gather(run(reply.pk), run(reply.pk))
            await run(10**6)
        await reply.arefresh_from_db()
        assert (reply.content, len(script.prompts)) == ("once", 1)


class RetryTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()
        with scripted(["first"]):
            cls.reply = cls.conversation.ask("Question", options={"seed": 1})

    async def test_another_attempt_stands_beside_the_first_and_does_not_see_it(self):
        with scripted(["second"]) as script:
            again = await self.reply.aretry()
            await run(again.pk)
        await again.arefresh_from_db()
        assert (again.content, again.attempt, again.reply_to_id) == ("second", 2, self.reply.reply_to_id)
        assert [message.text for message in script.prompts[0].messages] == ["Question"]
        assert script.prompts[0].options == {"seed": 1}
        await self.reply.arefresh_from_db()
        assert self.reply.content == "first"

    def test_the_next_turn_sees_only_the_latest_of_several_attempts(self):
        with scripted(["second"]):
            again = self.reply.retry()
            async_to_sync(run)(again.pk)
        with scripted(["third"]) as script:
            self.conversation.ask("More")
        assert [message.text for message in script.prompts[0].messages] == ["Question", "second", "More"]

    def test_only_a_closed_reply_can_be_retried(self):
        open_reply = self.conversation.reply("x")
        with pytest.raises(ConversationBusy):
            open_reply.retry()
        with pytest.raises(InvalidMessage, match="not a reply"):
            self.reply.reply_to.retry()


class StopTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()

    async def test_a_stop_breaks_off_the_provider_and_keeps_text_and_usage(self):
        never = asyncio.Event()
        with scripted([Started(), Started(model="m-1"), Usage(input=5), "so far", never]) as script:
            reply = await self.conversation.areply("Hi")
            running = asyncio.create_task(run(reply.pk))
            async with asyncio.timeout(5):
                while await reply.atext() != "so far":
                    await asyncio.sleep(0.01)
                assert await reply.astop()
                await running
        await reply.arefresh_from_db()
        assert (reply.status, reply.content, reply.input_tokens, script.closed) == ("cancelled", "so far", 5, 1)
        assert reply.model == "m-1"
        assert not await reply.astop()

    async def test_a_reply_whose_conversation_is_purged_ends_without_a_fault(self):
        with scripted([Started(model="m"), Usage(input=5), "so far", asyncio.Event()]) as script:
            reply = await self.conversation.areply("Hi")
            running = asyncio.create_task(run(reply.pk))
            async with asyncio.timeout(5):
                while await reply.atext() != "so far":
                    await asyncio.sleep(0.01)
                await self.conversation.apurge()
                await running
        assert script.closed == 1

    async def test_a_reply_stopped_before_it_began_never_asks_the_provider(self):
        with scripted(["x"]) as script:
            reply = await self.conversation.areply("Hi")
            await reply.astop()
            await run(reply.pk)
        assert script.prompts == []

    async def test_a_stop_before_the_first_word_leaves_an_empty_cancelled_reply(self):
        with scripted([asyncio.Event()]):
            reply = await self.conversation.areply("Hi")
            running = asyncio.create_task(run(reply.pk))
            async with asyncio.timeout(5):
                while reply.status != "streaming":
                    await asyncio.sleep(0.01)
                    await reply.arefresh_from_db()
                await self.conversation.astop()
                await running
        await reply.arefresh_from_db()
        assert (reply.status, reply.content, reply.input_tokens) == ("cancelled", "", None)


class RunnerTests(TransactionTestCase):
    def setUp(self):
        self.conversation = Conversation.objects.start()

    @override_settings(CONVERSE_RUNNER="converse.runners.ImmediateRunner")
    def test_an_immediate_runner_has_the_reply_ready_when_the_call_returns(self):
        reply = self.conversation.reply("Hello there")
        reply.refresh_from_db()
        assert (reply.status, reply.content) == ("completed", "Hello there")

    @override_settings(CONVERSE_RUNNER="converse.runners.ImmediateRunner")
    def test_a_queue_goes_on_when_the_one_before_it_closes_whatever_way(self):
        for close in ("complete_streaming", "stop"):
            before = self.conversation.start_streaming_assistant()
            queued = self.conversation.reply("next", policy="queue")
            assert queued.status == "pending"
            getattr(before, close)()
            queued.refresh_from_db()
            assert queued.is_completed

    @override_settings(CONVERSE_RUNNER="converse.runners.ImmediateRunner")
    def test_a_queue_whose_process_died_is_started_by_whoever_looks(self):
        before = self.conversation.start_streaming_assistant()
        queued = self.conversation.reply("next", policy="queue")
        start_queued([self.conversation.pk])
        queued.refresh_from_db()
        assert queued.status == "pending"
        Message.objects.filter(pk=before.pk).update(status="failed", closed_offset=99)
        start_queued([self.conversation.pk])
        queued.refresh_from_db()
        assert queued.is_completed

    def test_a_reply_in_the_background_outlives_the_call_that_asked_for_it(self):
        done = threading.Event()
        receiver = lambda **kwargs: done.set()  # noqa: E731
        for signal in (message_completed, message_failed, message_cancelled):
            signal.connect(receiver, weak=False, dispatch_uid="done")
            self.addCleanup(signal.disconnect, dispatch_uid="done")
        reply = self.conversation.reply("Hello there")
        assert done.wait(10)
        reply.refresh_from_db()
        assert (reply.status, reply.content) == ("completed", "Hello there")

    def test_a_reply_whose_process_died_before_it_began_is_settled(self):
        with override_settings(CONVERSE_RUNNER="tests.test_replies.NoRunner"):
            reply = self.conversation.reply("Hello")
        Message.objects.filter(pk=reply.pk).update(lease_expires_at=Now() - timedelta(seconds=1))
        assert settle_abandoned() == [reply]
        reply.refresh_from_db()
        assert (reply.status, reply.error_type) == ("failed", "interrupted")


class EndTests(TransactionTestCase):
    """Waiting for the end of a message that somebody else writes."""

    def setUp(self):
        self.conversation = Conversation.objects.start()

    def test_a_reply_in_the_background_is_given_when_it_has_ended(self):
        wait = threading.Event()
        with scripted(["Once ", wait, "upon"]):
            reply = self.conversation.reply("Tell me a story.")
            threading.Timer(0.3, wait.set).start()
            assert reply.wait_end(timeout=20) is reply
        assert (reply.status, reply.content) == ("completed", "Once upon")
        assert reply.wait_end(timeout=0) is reply

    async def test_the_twin_does_the_same(self):
        with scripted([0.2, "Once"]):
            reply = await self.conversation.areply("Tell me a story.")
            assert await reply.await_end() is reply
        assert (reply.status, reply.content) == ("completed", "Once")

    def test_so_is_one_that_waits_for_a_person(self):
        with scripted([call("pay", amount=5)], ["Paid."]):
            reply = self.conversation.ask("Pay!", tools=[toolbox.pay])
            assert (reply.status, reply.wait_end(0).status) == ("waiting", "waiting")
            reply.approve(reply.undecided[0]["id"])
            assert reply.wait_end(timeout=20).content == "Paid."

    async def test_there_is_a_limit_to_patience(self):
        message = await self.conversation.astart_streaming_assistant()
        with pytest.raises(TimeoutError, match=r"0\.3 seconds"):
            await message.await_end(timeout=0.3)
        for timeout in (0, 0.1):
            with pytest.raises(TimeoutError):
                await sync_to_async(message.wait_end)(timeout)
        assert message.status == "streaming"

    def test_a_dead_writer_is_not_waited_for(self):
        message = self.conversation.start_streaming_assistant()
        message.append_chunk("so far")
        Message.objects.update(lease_expires_at=Now() - timedelta(seconds=1))
        assert message.wait_end(timeout=20).error_type == "interrupted"
        assert message.content == "so far"

    def test_a_message_that_is_purged_has_no_end(self):
        message = self.conversation.start_streaming_assistant()
        Message.objects.get().purge()
        with pytest.raises(Message.DoesNotExist):
            message.wait_end(timeout=20)


class NoRunner:
    def start(self, run, message_id):
        """Die before the work begins."""
