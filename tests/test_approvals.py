from __future__ import annotations

import asyncio
import logging
import threading
from datetime import timedelta
from unittest import mock

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.db import connection
from django.db.models.functions import Now
from django.test import TestCase, TransactionTestCase, override_settings

from converse.approvals import open_calls, suspend
from converse.choices import FinishReason
from converse.closing import settle_abandoned
from converse.deltas import Finish, Started, ToolCallDelta, Usage
from converse.driving import run
from converse.exceptions import InvalidMessage, MessageClosed
from converse.models import Conversation, Message
from converse.parts import ToolResult
from converse.replays import read
from converse.replies import start_queued
from converse.signals import message_updated
from converse.testing import scripted
from tests import toolbox

CALLS = Finish(reason=FinishReason.TOOL_CALLS, raw="tool_calls")


def call(name, arguments, id, index=0):
    return ToolCallDelta(index=index, id=id, name=name, arguments=arguments)


def results(message):
    return [
        (part["id"], part["output"], part.get("is_error", False))
        for part in message.parts
        if part["type"] == "tool_result"
    ]


class ApprovalTests(TestCase):
    TOOLS = (toolbox.weather, toolbox.pay, toolbox.refund, toolbox.doubtful)

    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start(title="Trip")
        cls.user = get_user_model().objects.create_user("ada")

    def setUp(self):
        self.enterContext(toolbox.scene())
        logging.disable(logging.ERROR)
        self.addCleanup(logging.disable, logging.NOTSET)

    def ask(self, *calls, tools=TOOLS, **kwargs):
        self.script = self.enterContext(scripted([*calls, CALLS], [Started(model="m"), "Done."]))
        return self.conversation.ask("Hi", tools=tools, **kwargs)

    def go_on(self, reply):
        """Do what the runner does once the decision is committed, which in a TestCase never happens."""
        async_to_sync(run)(reply.pk)
        reply.refresh_from_db()

    def test_a_reply_waits_for_a_person_and_goes_on_when_they_approve(self):
        reply = self.ask(
            Started(model="m"),
            Usage(input=3),
            call("weather", '{"city": "Oslo"}', "c1"),
            call("pay", '{"amount": 5}', "c2", 1),
        )
        assert (reply.status, reply.is_open, reply.lease_expires_at, reply.input_tokens) == ("waiting", True, None, 3)
        assert toolbox.called == [("weather", "Oslo", "c")]
        assert reply.undecided == [{"type": "tool_call", "id": "c2", "name": "pay", "arguments": '{"amount": 5}'}]
        reply.approve("c2", by=self.user, reason="cheap")
        assert (reply.status, reply.undecided) == ("pending", [])
        reply.refresh_from_db()
        assert reply.lease_expires_at is not None
        self.go_on(reply)
        assert (reply.status, reply.content, reply.model) == ("completed", "Done.", "m")
        assert [part["type"] for part in reply.parts] == [
            "tool_call",
            "tool_call",
            "tool_result",
            "approval",
            "tool_result",
            "text",
        ]
        assert results(reply) == [
            ("c1", '{"city":"Oslo","degrees":21}', False),
            ("c2", "paid 5 by c2", False),
        ]
        assert reply.parts[3] == {
            "type": "approval",
            "text": "approved",
            "id": "c2",
            "name": "pay",
            "by": str(self.user.pk),
            "reason": "cheap",
        }
        assert [part.id for part in self.script.prompts[1].messages[-1].parts] == ["c1", "c2"]
        assert [call.outcome for call in reply.calls.all()] == ["completed", "completed"]

    def test_a_person_who_denies_is_told_to_the_model_and_fails_nothing(self):
        for reason, output in (("too dear", "The user denied this call. too dear"), ("", "The user denied this call.")):
            reply = self.ask(call("pay", '{"amount": 5}', "c1"))
            reply.deny("c1", reason=reason)
            self.go_on(reply)
            assert (reply.status, reply.content) == ("completed", "Done.")
            assert results(reply) == [("c1", output, True)]
        assert toolbox.called == []

    def test_every_call_has_to_be_decided(self):
        reply = self.ask(call("pay", '{"amount": 1}', "c1"), call("pay", '{"amount": 2}', "c2", 1))
        reply.approve("c2")
        assert reply.status == "waiting"
        assert [part["id"] for part in reply.undecided] == ["c1"]
        self.go_on(reply)
        assert (reply.status, toolbox.called) == ("waiting", [])
        reply.deny("c1")
        self.go_on(reply)
        assert results(reply) == [("c1", "The user denied this call.", True), ("c2", "paid 2 by c2", False)]

    def test_a_tool_says_of_which_calls_somebody_has_to_approve(self):
        reply = self.ask(call("give-back", '{"amount": 100}', "c1"), call("give-back", '{"amount": 101}', "c2", 1))
        assert [part["id"] for part in reply.undecided] == ["c2"]
        assert toolbox.called == [("refund", 100)]
        reply.stop()
        reply = self.ask(call("doubtful", "{}", "c1"))
        assert [part["id"] for part in reply.undecided] == ["c1"]  # where that cannot be told, somebody has to

    def test_nobody_is_asked_about_a_call_that_cannot_be_run(self):
        reply = self.ask(call("pay", '{"amount": "much"}', "c1"))
        assert reply.status == "completed"
        assert results(reply)[0][2]

    def test_a_decision_is_made_once_and_only_where_one_is_waited_for(self):
        reply = self.ask(call("pay", '{"amount": 1}', "c1"), call("pay", '{"amount": 2}', "c2", 1))
        reply.approve("c1")
        for call_id, problem in (("c1", "call_id: this call was approved already"), ("c9", "no call 'c9' waits")):
            for decide in (reply.approve, reply.deny):
                with pytest.raises(InvalidMessage, match=problem):
                    decide(call_id)
        with pytest.raises(InvalidMessage, match="NUL"):
            reply.deny("c2", reason="\x00")
        reply.deny("c2")
        with pytest.raises(InvalidMessage, match="message: does not wait for an approval"):
            reply.deny("c2")
        reply.stop()
        with pytest.raises(MessageClosed):
            reply.approve("c2")
        reply.purge()
        reply.pk = 10**6
        with pytest.raises(MessageClosed):
            reply.approve("c2")

    async def test_the_twins_do_the_same(self):
        self.script = self.enterContext(scripted([call("pay", '{"amount": 5}', "c1"), CALLS], ["Done."]))
        reply = await self.conversation.aask("Hi", tools=self.TOOLS)
        assert [part["id"] for part in await reply.aundecided()] == ["c1"]
        await reply.aapprove("c1")
        await run(reply.pk)
        await reply.arefresh_from_db()
        assert reply.content == "Done."
        reply = await self.conversation.aask("Hi", tools=self.TOOLS)
        assert reply.content == "Done."
        with pytest.raises(MessageClosed):
            await reply.adeny("c1")

    def test_a_reply_that_waits_is_never_abandoned_and_keeps_others_waiting(self):
        reply = self.ask(call("pay", '{"amount": 5}', "c1"))
        queued = self.conversation.reply("Next", policy="queue")
        assert settle_abandoned() == []
        assert start_queued() == 0
        immediate = override_settings(CONVERSE_RUNNER="converse.runners.ImmediateRunner")
        with immediate, self.captureOnCommitCallbacks(execute=True):
            reply.stop()
        queued.refresh_from_db()
        assert (reply.status, queued.status) == ("cancelled", "completed")
        assert reply.undecided == []

    def test_a_stop_while_waiting_keeps_what_came_and_what_it_took_and_the_next_turn_works(self):
        reply = self.ask(Started(model="m"), Usage(input=3), "First. ", call("pay", '{"amount": 5}', "c1"))
        assert reply.stop()
        reply.refresh_from_db()
        assert (reply.status, reply.content, reply.input_tokens, toolbox.called) == ("cancelled", "First. ", 3, [])
        with scripted(["Fine."]) as script:
            assert self.conversation.ask("And now?").content == "Fine."
        calls = [part for message in script.prompts[0].messages for part in message.parts if hasattr(part, "arguments")]
        results = [part for message in script.prompts[0].messages for part in message.parts if hasattr(part, "output")]
        assert [part.id for part in calls] == [part.id for part in results]

    def test_a_process_that_dies_after_the_decision_leaves_a_reply_to_be_retried(self):
        reply = self.ask(call("pay", '{"amount": 5}', "c1"))
        reply.approve("c1")
        Message.objects.filter(pk=reply.pk).update(lease_expires_at=Now() - timedelta(seconds=1))
        assert settle_abandoned() == [reply]
        reply.refresh_from_db()
        assert (reply.status, reply.error_type, len(reply.parts)) == ("failed", "interrupted", 2)
        with scripted(["Another way."]):
            again = reply.retry()
            self.go_on(again)
        assert (again.content, again.attempt) == ("Another way.", 2)

    def test_a_reply_stopped_in_the_moment_in_which_it_would_wait_stays_stopped(self):
        def stopped_first(message, **fields):
            Message.objects.get(pk=message.pk).stop()
            suspend(message, **fields)

        with mock.patch("converse.approvals.suspend", stopped_first):
            reply = self.ask(Usage(input=3), call("pay", '{"amount": 5}', "c1"))
        assert (reply.status, reply.undecided, reply.input_tokens) == ("cancelled", [], 3)

    def test_steps_are_counted_on_after_a_decision(self):
        reply = self.ask(call("pay", '{"amount": 5}', "c1"), max_steps=1)
        assert reply.status == "waiting"
        reply.approve("c1")
        self.go_on(reply)
        assert (reply.status, reply.finish_reason, len(self.script.prompts)) == ("completed", "steps", 1)
        assert results(reply) == [("c1", "paid 5 by c1", False)]

    def test_a_reply_may_wait_more_than_once(self):
        steps = [call("pay", '{"amount": 5}', "c1"), CALLS]
        self.script = self.enterContext(scripted(steps, steps, ["Done."]))
        reply = self.conversation.ask("Hi", tools=self.TOOLS, tool_choice="pay")
        reply.approve("c1")
        self.go_on(reply)
        [waiting] = reply.undecided
        assert waiting["id"] != "c1"
        reply.deny(waiting["id"])
        self.go_on(reply)
        assert (reply.content, [part["is_error"] for part in reply.parts if "is_error" in part]) == ("Done.", [True])
        assert [prompt.tool_choice for prompt in self.script.prompts] == ["pay", "", ""]

    def test_readers_are_told_of_the_wait_and_of_the_decision_but_not_by_whom(self):
        told = []
        receiver = lambda message, **kwargs: told.append(message.status)  # noqa: E731
        message_updated.connect(receiver, weak=False, dispatch_uid="tests")
        self.addCleanup(message_updated.disconnect, dispatch_uid="tests")
        with self.captureOnCommitCallbacks(execute=True):
            reply = self.ask(call("pay", '{"amount": 5}', "c1"))
        self.conversation.refresh_from_db()
        before = self.conversation.last_offset
        snapshot = read(self.conversation.pk, None, None)
        assert [message["status"] for message in snapshot.messages] == ["completed", "waiting"]
        nobody = override_settings(CONVERSE_RUNNER="tests.test_replies.NoRunner")
        with nobody, self.captureOnCommitCallbacks(execute=True):
            reply.approve("c1", by=self.user, reason="cheap")
        assert told == ["streaming", "waiting", "pending"]
        replay = read(self.conversation.pk, before, self.conversation.epoch)
        decision, updated = (event["data"] for event in replay.events)
        assert (decision["kind"], decision["chunk"], decision["toolCallId"], decision["toolName"]) == (
            "approval",
            "approved",
            "c1",
            "pay",
        )
        assert str(self.user.pk) not in str(decision.get("data"))
        assert updated["status"] == "pending"
        assert replay.offset == before + 2

    def test_results_that_nobody_asked_for_are_no_calls(self):
        message = self.conversation.start_streaming_assistant()
        message.stream.append(call("pay", "{}", "c1")).append(ToolResult(id="c2", name="pay", output="x"))
        message.complete_streaming()
        assert [found.id for found in open_calls(message.parts)] == ["c1"]


class RacesTests(TransactionTestCase):
    def setUp(self):
        self.enterContext(toolbox.scene())
        self.conversation = Conversation.objects.start()

    def test_of_two_people_who_decide_at_once_one_wins_and_the_reply_goes_on_once(self):
        with scripted([call("pay", '{"amount": 5}', "c1"), CALLS], ["Done."]) as script:
            reply = self.conversation.ask("Hi", tools=[toolbox.pay])
            start, lost = threading.Barrier(2), []

            def decide(verb):
                message = Message.objects.get(pk=reply.pk)
                start.wait(5)
                try:
                    getattr(message, verb)("c1")
                except InvalidMessage as exc:
                    lost.append((verb, exc.reason))
                finally:
                    connection.close()

            deciding = [threading.Thread(target=decide, args=(verb,)) for verb in ("approve", "deny")]
            for thread in deciding:
                thread.start()
            for thread in deciding:
                thread.join(10)
            asyncio.run(closed(reply))
        reply.refresh_from_db()
        assert len(lost) == 1
        assert len([part for part in reply.parts if part["type"] == "approval"]) == 1
        assert toolbox.called == ([("pay", 5)] if lost[0][0] == "deny" else [])
        assert (reply.status, len(script.prompts)) == ("completed", 2)

    @override_settings(CONVERSE_RUNNER="converse.runners.ImmediateRunner")
    def test_a_decision_starts_the_runner_once_it_is_committed(self):
        with scripted([call("pay", '{"amount": 5}', "c1"), CALLS], ["Done."]):
            reply = self.conversation.reply("Hi", tools=[toolbox.pay])
            reply.refresh_from_db()
            assert reply.status == "waiting"
            reply.approve("c1")
        reply.refresh_from_db()
        assert (reply.status, reply.content) == ("completed", "Done.")


async def closed(reply):
    """Wait until a reply is closed."""
    async with asyncio.timeout(10):
        while True:
            await reply.arefresh_from_db()
            if not reply.is_open:
                return
            await asyncio.sleep(0.02)
