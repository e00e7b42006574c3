from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep

from django.db import connections
from django.db.models.signals import post_init
from django.test import TransactionTestCase, override_settings

from converse import loops
from converse.deltas import Usage
from converse.models import Conversation, Message, ProviderCall
from converse.testing import Script, call, scripted
from tests.accounts import BUSY


@override_settings(CONVERSE_RUNNER="converse.runners.BackgroundRunner", CONVERSE_RETRIES=1)
class DrivenTests(TransactionTestCase):
    """Every attempt at a provider is one row, however it ends, and no row runs on."""

    def setUp(self):
        logging.disable(logging.ERROR)
        self.addCleanup(logging.disable, logging.NOTSET)
        self.conversation = Conversation.objects.start()

    def wait(self, until: Callable[[], object]) -> None:
        deadline = monotonic() + 10
        while not until():
            assert monotonic() < deadline
            sleep(0.01)

    def outcomes(self) -> list[str]:
        return list(ProviderCall.objects.order_by("number").values_list("outcome", flat=True))

    def replied(self, answers: list[object], *outcomes: str, stop: str = "", **kwargs: object) -> Message:
        """Let a script answer in the background; stop it, if asked to, once it said so much."""
        with scripted(*answers) as script:
            reply = self.conversation.reply("Hi", **kwargs)
            if stop:
                self.wait(lambda: Message.objects.get(pk=reply.pk).text == stop)
                reply.stop()
            loops.finish()
        reply.refresh_from_db()
        assert not reply.is_open
        assert self.outcomes() == list(outcomes)
        assert len(script.prompts) == script.closed == len(outcomes)
        assert not ProviderCall.objects.filter(finished_at=None).exists()
        return reply

    def test_an_answer(self):
        reply = self.replied([[Usage(input=3, output=2), "Yes."]], "completed")
        call = reply.calls.get()
        assert call.started_at < call.first_delta_at < call.finished_at
        assert (call.input_tokens, call.finish_reason) == (3, "stop")

    def test_a_failure_that_is_tried_again(self):
        self.replied([[Usage(input=3), BUSY], ["Yes."]], "failed", "completed")

    def test_failures_to_the_end(self):
        reply = self.replied([[BUSY]], "failed", "failed")
        assert reply.status == "failed"

    def test_a_failure_after_the_first_word(self):
        self.replied([[Usage(input=3), "so far", BUSY]], "failed")
        assert ProviderCall.objects.get().input_tokens == 3

    def test_a_break_off(self):
        self.replied([["so far", Script.BREAK_OFF]], "failed")
        assert ProviderCall.objects.get().error_type == "truncated"

    def test_a_fault_in_the_provider(self):
        self.replied([["so far", ZeroDivisionError("sk-1")]], "failed")
        assert ProviderCall.objects.get().error_detail == "ZeroDivisionError: sk-1"

    def test_a_stop_in_the_text(self):
        reply = self.replied([[Usage(input=3), "so far", threading.Event()]], "cancelled", stop="so far")
        assert (reply.status, reply.input_tokens) == ("cancelled", 3)

    @override_settings(CONVERSE_TOTAL_TIMEOUT=0.3)
    def test_the_end_of_its_time(self):
        self.replied([["so far", asyncio.Event()]], "failed")
        assert ProviderCall.objects.get().error_type == "timeout"

    def test_each_step_with_a_tool(self):
        answers = [[Usage(input=1), call("weather", city="Rome")], [Usage(input=2), "Fine."]]
        reply = self.replied(answers, "completed", "completed", tools=["tests.toolbox.weather"])
        assert reply.input_tokens == 3

    def test_a_purge_in_the_middle(self):
        with scripted([Usage(input=3), "so far", asyncio.Event()]) as script:
            reply = self.conversation.reply("Hi")
            self.wait(lambda: Message.objects.get(pk=reply.pk).text == "so far")
            self.conversation.purge()
            loops.finish()
        assert (self.outcomes(), script.closed) == (["cancelled"], 1)
        assert ProviderCall.objects.get().input_tokens == 3

    def test_a_stop_while_its_row_is_being_written(self):
        stopped = []

        def stop(sender: type, instance: ProviderCall, **kwargs: object) -> None:
            """Stop the reply, and let its task hear of it, before the row of its call is there."""
            if instance.pk is None and not stopped:
                stopped.append(instance.message_id)
                with ThreadPoolExecutor(1) as pool:
                    pool.submit(self.stop, instance.message_id).result()
                for _ in range(5):
                    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loops.background()).result()

        post_init.connect(stop, sender=ProviderCall)
        self.addCleanup(post_init.disconnect, stop, sender=ProviderCall)
        with scripted(["Never."]) as script:
            reply = self.conversation.reply("Hi")
            loops.finish()
        assert stopped == [reply.pk]
        assert (self.outcomes(), script.prompts) == (["cancelled"], [])

    def stop(self, pk: int) -> None:
        try:
            Message.objects.get(pk=pk).stop()
        finally:
            connections.close_all()
