from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from unittest import mock

from asgiref.sync import async_to_sync
from django.conf import settings
from django.db import DatabaseError
from django.test import TestCase, override_settings

from converse import attempts
from converse.choices import FinishReason
from converse.deltas import (
    Finish,
    RawBlock,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from converse.driving import run
from converse.events import MessageFailed
from converse.exceptions import ProviderError
from converse.models import Conversation
from converse.parts import Raw, Reasoning
from converse.testing import Script, ScriptedProvider
from tests import toolbox

BUSY = ProviderError("busy", type="overloaded", retryable=True, retry_after=0)
CALLS = Finish(reason=FinishReason.TOOL_CALLS, raw="tool_calls")


class Another(ScriptedProvider):
    """Some other service."""


@contextmanager
def providers(**scripts):
    """Have each alias follow its script; those after the first stand in for it, in this order."""
    config = {
        alias: {"BACKEND": "converse.testing.ScriptedProvider", "OPTIONS": {"script": script}}
        for alias, script in scripts.items()
    }
    first, *others = config
    config[first]["FALLBACKS"] = others
    with override_settings(CONVERSE_PROVIDERS=config, CONVERSE_DEFAULT_PROVIDER=first):
        yield


class Quietly(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()

    def setUp(self):
        self.enterContext(toolbox.scene())
        logging.disable(logging.ERROR)
        self.addCleanup(logging.disable, logging.NOTSET)

    def ask(self, *calls, **kwargs):
        self.script = Script(*calls)
        with providers(default=self.script):
            return self.conversation.ask("Hi", **kwargs)


class RetryTests(Quietly):
    def pauses(self, *errors, **settings):
        """Give the seconds waited before each further attempt."""
        slept = []

        async def sleep(seconds):
            slept.append(seconds)

        with mock.patch("converse.answers.sleep", sleep), override_settings(**settings):
            self.reply = self.ask(*([error] for error in errors), ["fine"])
        return slept

    def test_the_provider_says_how_long_to_wait(self):
        errors = [ProviderError("x", type="rate_limited", retryable=True, retry_after=after) for after in (7.5, 60)]
        assert self.pauses(*errors) == [7.5, 60]
        assert self.reply.content == "fine"

    def test_who_is_not_told_waits_at_random_up_to_a_time_that_doubles(self):
        error = ProviderError("x", type="server", retryable=True)
        with mock.patch("converse.answers.uniform", lambda low, high: (low, high)):
            slept = self.pauses(*[error] * 8, CONVERSE_RETRIES=8, CONVERSE_RETRY_DELAY=1)
        assert slept == [(0, longest) for longest in (1, 2, 4, 8, 16, 30, 30, 30)]
        assert self.reply.content == "fine"

    def test_a_wait_that_is_too_long_is_left_to_people(self):
        error = ProviderError("x", type="rate_limited", retryable=True, retry_after=61)
        assert self.pauses(error) == []
        assert (self.reply.status, self.reply.error_type) == ("failed", "rate_limited")
        assert (self.reply.metadata["retryable"], self.reply.metadata["retry_after"]) == (True, 61)

    def test_clients_are_told_whether_and_when_to_try_again(self):
        self.pauses(ProviderError("x", type="rate_limited", retryable=True, retry_after=90.5))
        told = self.reply.event(MessageFailed, "c").wire()["metadata"]
        assert (told["retryable"], told["retry_after"]) == (True, 90.5)
        self.pauses(ProviderError("x", type="authentication"))
        told = self.reply.event(MessageFailed, "c").wire()["metadata"]
        assert (told["retryable"], "retry_after" in told) == (False, False)

    def test_a_reply_is_not_lost_with_its_account(self):
        with mock.patch("converse.calls.totals", side_effect=DatabaseError("away")):
            reply = self.ask([Usage(input=3), "fine"])
        assert (reply.content, reply.input_tokens) == ("fine", 3)

    def test_each_attempt_is_accounted_for(self):
        reply = self.ask(
            [Started(request_id="r1", model="m"), Usage(input=3), BUSY],
            [Started(request_id="r2", model="m"), Usage(input=4, output=2), "fine"],
        )
        rows = [(call.outcome, call.error_type, call.request_id, call.input_tokens) for call in reply.calls.all()]
        assert rows == [("failed", "overloaded", "r1", 3), ("completed", "", "r2", 4)]
        assert (reply.input_tokens, reply.output_tokens) == (7, 2)
        assert [call.first_delta_at is None for call in reply.calls.all()] == [True, False]


class FallbackTests(Quietly):
    def ask(self, *scripts, **kwargs):
        named = dict(zip(("first", "second", "third"), scripts, strict=False))
        with providers(**named):
            return self.conversation.ask("Hi", **kwargs)

    def test_the_next_provider_answers_when_retries_are_spent(self):
        first, second = Script([Started(model="m-1"), BUSY]), Script(["from the second"])
        with override_settings(CONVERSE_RETRIES=1):
            reply = self.ask(first, second, model="m-1", options={"seed": 1})
        assert (reply.status, reply.content, reply.provider, reply.model) == (
            "completed",
            "from the second",
            "second",
            "",
        )
        assert (len(first.prompts), len(second.prompts)) == (2, 1)
        assert (first.prompts[0].model, second.prompts[0].model) == ("m-1", "")
        assert second.prompts[0].options == {"seed": 1}  # of the same backend, hence in its words
        assert [call.provider for call in reply.calls.all()] == ["first", "first", "second"]

    def test_what_another_provider_may_not_have_is_not_tried_again(self):
        for kind in ("authentication", "permission", "not_found", "context_too_long"):
            first, second = Script([ProviderError("x", type=kind)]), Script(["yes"])
            assert self.ask(first, second).content == "yes"
            assert len(first.prompts) == 1

    def test_what_is_the_request_s_own_fault_is_carried_to_nobody_else(self):
        for kind in ("invalid", "content_blocked"):
            second = Script(["yes"])
            reply = self.ask(Script([ProviderError("x", type=kind)]), second)
            assert (reply.status, reply.error_type, second.prompts) == ("failed", kind, [])

    def test_once_something_was_said_nobody_else_takes_over(self):
        second = Script(["yes"])
        reply = self.ask(Script(["half ", BUSY]), second)
        assert (reply.status, reply.content, reply.provider, second.prompts) == ("failed", "half ", "first", [])

    def test_the_last_one_s_error_is_the_reply_s(self):
        scripts = [Script([ProviderError(str(n), type="authentication")]) for n in range(3)]
        reply = self.ask(*scripts)
        assert (reply.status, reply.provider, reply.error_detail) == ("failed", "third", "ProviderError: 2")

    def test_one_that_is_not_set_up_is_passed_over(self):
        second = Script(["yes"])
        with providers(first=Script([BUSY]), second=second):
            config = {**settings.CONVERSE_PROVIDERS}
            config["first"] = {**config["first"], "FALLBACKS": ["none", "broken", "second"]}
            config["broken"] = {"BACKEND": "converse.nothing"}
            with override_settings(CONVERSE_PROVIDERS=config, CONVERSE_RETRIES=0):
                reply = self.conversation.ask("Hi")
        assert (reply.content, reply.provider) == ("yes", "second")

    def test_options_are_words_of_one_backend(self):
        second = Script(["yes"])
        with providers(first=Script([ProviderError("x", type="authentication")]), second=second):
            settings.CONVERSE_PROVIDERS["second"]["BACKEND"] = "tests.test_answers.Another"
            self.conversation.ask("Hi", options={"seed": 1})
        assert second.prompts[0].options == {}

    def test_who_took_over_goes_on_after_the_tools_and_the_next_attempt_asks_the_first_again(self):
        city = ToolCallDelta(index=0, id="c", name="weather", arguments='{"city": "Oslo"}')
        first, second = (
            Script([ProviderError("x", type="authentication")], ["first again"]),
            Script([city, CALLS], ["x"]),
        )
        with providers(first=first, second=second):
            reply = self.conversation.ask("Hi", tools=[toolbox.weather], model="m-1")
            assert (reply.status, reply.provider, len(first.prompts), len(second.prompts)) == (
                "completed",
                "second",
                1,
                2,
            )
            again = reply.retry()
            async_to_sync(run)(again.pk)
        again.refresh_from_db()
        assert (again.provider, again.content, first.prompts[1].model) == ("first", "first again", "m-1")

    def test_who_took_over_goes_on_after_a_person_has_decided(self):
        pay = ToolCallDelta(index=0, id="c", name="pay", arguments='{"amount": 5}')
        first, second = Script([ProviderError("x", type="authentication")]), Script([pay, CALLS], ["Paid."])
        with providers(first=first, second=second):
            reply = self.conversation.ask("Hi", tools=[toolbox.pay], model="m-1")
            assert (reply.status, reply.provider) == ("waiting", "second")
            reply.approve("c")
            async_to_sync(run)(reply.pk)
        reply.refresh_from_db()
        assert (reply.content, reply.provider, reply.model, len(first.prompts)) == ("Paid.", "second", "", 1)
        assert second.prompts[1].model == ""


class SignedTests(Quietly):
    INVALID = ProviderError("Invalid signature in thinking block", type="invalid")

    def setUp(self):
        super().setUp()
        self.ask([Started(model="m"), ReasoningDelta(text="Hm.", signature="s"), RawBlock({"x": 1}), "First."])

    def parts(self, prompt):
        return [type(part) for message in prompt.messages for part in message.parts]

    def test_a_prompt_refused_for_what_was_signed_goes_once_more_without(self):
        reply = self.ask([self.INVALID], ["Second."])
        with_signature, without = self.script.prompts
        assert Reasoning in self.parts(with_signature)
        assert Raw in self.parts(with_signature)
        assert not {Reasoning, Raw} & set(self.parts(without))
        assert (reply.status, reply.content) == ("completed", "Second.")

    def test_it_goes_no_third_time(self):
        reply = self.ask([self.INVALID])
        assert (reply.status, reply.error_type, len(self.script.prompts)) == ("failed", "invalid", 2)

    def test_a_prompt_without_signatures_goes_once(self):
        self.conversation = Conversation.objects.start()
        self.ask([self.INVALID])
        assert len(self.script.prompts) == 1


class SilenceTests(Quietly):
    @override_settings(CONVERSE_IDLE_TIMEOUT=0.1, CONVERSE_RETRIES=0)
    def test_signs_of_life_that_say_nothing_do_not_keep_a_reply_waiting(self):
        nothings = (
            Started(),
            Usage(output=1),
            TextDelta(""),
            RefusalDelta(""),
            ReasoningDelta(),
            ToolCallDelta(index=0),
        )
        for nothing in nothings:
            reply = self.ask(["half", *[0.02, nothing] * 50, "late"])
            assert (reply.status, reply.error_type, reply.content) == ("failed", "timeout", "half"), nothing

    @override_settings(CONVERSE_IDLE_TIMEOUT=0.7, CONVERSE_RETRIES=0)
    def test_each_kind_of_what_says_something_does(self):
        reply = self.ask(
            [
                *(0.4, TextDelta("x")),
                *(0.4, RefusalDelta("x")),
                *(0.4, ReasoningDelta(signature="x")),
                *(0.4, ToolCallDelta(index=0, name="f", id="1")),
                *(0.4, RawBlock({"x": 1}), 0.4),
            ]
        )
        assert (reply.status, len(reply.parts)) == ("completed", 5)

    def test_a_provider_that_hangs_after_its_end_has_ended(self):
        with mock.patch.object(attempts, "AFTER_FINISH", 0.05):
            reply = self.ask(["All.", Finish(reason=FinishReason.STOP), Usage(output=1), asyncio.Event()])
        assert (reply.status, reply.content, reply.output_tokens) == ("completed", "All.", 1)
        assert [call.outcome for call in reply.calls.all()] == ["completed"]

    def test_a_provider_that_fails_after_its_end_has_ended(self):
        reply = self.ask(["All.", Finish(reason=FinishReason.STOP), ProviderError("dropped", type="connection")])
        assert (reply.status, reply.content) == ("completed", "All.")

    def test_a_provider_s_own_timeout_is_one(self):
        with override_settings(CONVERSE_RETRIES=0):
            reply = self.ask([TimeoutError("the pool was full")])
        assert (reply.error_type, reply.error_detail) == ("timeout", "ProviderError: the pool was full")
