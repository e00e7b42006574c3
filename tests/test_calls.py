from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import Error, OperationalError, connection, connections, transaction
from django.test import TestCase, TransactionTestCase, override_settings
from django.utils import timezone

from converse import calls
from converse.choices import CallOutcome, ErrorType
from converse.closing import settle_abandoned
from converse.deltas import Usage
from converse.exceptions import MessageClosed, ProviderError
from converse.models import Conversation, Message, ProviderCall
from tests.accounts import COUNTS, PRICES, SECRETIVE, TALK, call_of, reply_in
from tests.owners.models import Team


class BeginTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.team = Team.objects.create(name="Blue")
        cls.conversation = Conversation.objects.start(cls.team)
        cls.message = reply_in(cls.conversation)

    def test_a_call_is_there_before_its_request_goes_out(self):
        before = timezone.now()
        call = calls.begin(self.message, "default", "m-1")
        stored = ProviderCall.objects.get()
        assert stored == call
        assert (stored.message, stored.conversation, stored.owner) == (self.message, self.conversation, self.team)
        assert (stored.provider, stored.model, stored.number) == ("default", "m-1", 1)
        assert (stored.outcome, stored.finished_at, stored.cost) == ("running", None, None)
        assert before <= stored.started_at <= timezone.now()
        assert str(stored) == "default m-1 (running)"

    def test_the_calls_of_a_message_are_numbered_without_a_gap(self):
        other = reply_in(self.conversation)
        numbers = [calls.begin(message, "default").number for message in (self.message, self.message, other)]
        assert numbers == [1, 2, 1]

    def test_it_takes_as_many_statements_whatever_there_is_already(self):
        for _ in range(3):
            with self.assertNumQueries(4):  # the number, and the row within a savepoint
                calls.begin(self.message, "default")

    def test_a_model_that_nobody_named_is_that_of_the_options(self):
        with override_settings(CONVERSE_PROVIDERS=SECRETIVE):
            assert calls.begin(self.message, "default").model == "m-1"
            assert calls.begin(self.message, "default", "m-2").model == "m-2"
        assert calls.begin(self.message, "default").model == ""

    def test_the_owner_is_that_of_the_time(self):
        nobodys = calls.begin(reply_in(Conversation.objects.start()), "default")
        call = calls.begin(self.message, "default")
        Conversation.objects.filter(pk=self.conversation.pk).update(owner_id="999")
        call.refresh_from_db()
        assert call.owner == self.team
        assert (nobodys.owner_type, nobodys.owner_id) == (None, None)

    def test_a_message_that_is_gone_cannot_be_called_for(self):
        Message.all_objects.filter(pk=self.message.pk).purge()
        with pytest.raises(MessageClosed, match="gone"):
            calls.begin(self.message, "default")


@override_settings(CONVERSE_PRICES=PRICES)
class EndTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()
        cls.message = reply_in(cls.conversation)

    def setUp(self):
        self.call = calls.begin(self.message, "default", "m-1")

    def ended(self, outcome: str = "completed", **facts: object) -> ProviderCall:
        calls.end(self.call, CallOutcome(outcome), **facts)
        stored = ProviderCall.objects.get(pk=self.call.pk)
        for field in ProviderCall._meta.concrete_fields:
            assert getattr(stored, field.attname) == getattr(self.call, field.attname), field.attname
        return stored

    def test_what_became_of_a_call_is_stored_with_its_cost(self):
        first = timezone.now()
        with self.assertNumQueries(1):
            calls.end(
                self.call,
                CallOutcome.COMPLETED,
                usage=TALK,
                finish_reason="stop",
                model="m-1-2026-01-01",
                request_id="r-1",
                first_delta_at=first,
            )
        stored = ProviderCall.objects.values().get()
        assert {name: stored[name] for name in COUNTS} == COUNTS
        assert (stored["reasoning_tokens"], stored["usage"]) == (20, {"prompt_tokens": 1100})
        assert stored["cost"] == Decimal("0.00151")  # 1000 at $1, 100 at $0.10, 50 at $10 a million
        assert (stored["outcome"], stored["finish_reason"]) == ("completed", "stop")
        assert (stored["model"], stored["request_id"]) == ("m-1-2026-01-01", "r-1")
        assert stored["first_delta_at"] == first <= stored["finished_at"] <= timezone.now()
        assert (stored["error_type"], stored["error_detail"]) == ("", "")

    def test_what_is_not_known_is_null_and_no_false_zero(self):
        stored = self.ended("cancelled")
        assert [getattr(stored, name) for name in calls.TOKENS] == [None] * 5
        assert (stored.cost, stored.usage, stored.first_delta_at) == (None, {}, None)
        assert stored.finished_at

    def test_what_came_before_a_failure_is_kept(self):
        error = ProviderError("overloaded", type=ErrorType.OVERLOADED, request_id="r-2")
        stored = self.ended("failed", usage=Usage(input=7), error=error)
        assert (stored.error_type, stored.error_detail) == ("overloaded", "ProviderError: overloaded")
        assert (stored.input_tokens, stored.output_tokens, stored.cost) == (7, None, None)
        assert (stored.request_id, stored.model) == ("r-2", "m-1")

    def test_any_other_error_is_named(self):
        stored = self.ended("failed", error=ZeroDivisionError("by 0"))
        assert (stored.error_type, stored.error_detail) == ("error", "ZeroDivisionError: by 0")
        assert self.ended("failed", error="It broke.").error_detail == "It broke."

    def test_nobodys_secrets_are_stored(self):
        with override_settings(CONVERSE_PROVIDERS=SECRETIVE):
            stored = self.ended("failed", error=ValueError("X-Auth: sk-12345678, key sk-1234, team blue, m-1"))
        assert stored.error_detail == "ValueError: X-Auth: [redacted], key [redacted], team blue, m-1"

    def test_what_fits_no_column_is_cut_and_never_loses_the_rest(self):
        usage = Usage(input=-1, output=2**31, reasoning=5, raw={"cost": Decimal("0.1")})
        stored = self.ended(
            "failed",
            usage=usage,
            model="m" * 300,
            request_id="r\x00" * 300,
            finish_reason="f" * 90,
            error=f"\x00{'e' * 9000}",
        )
        assert (stored.input_tokens, stored.output_tokens, stored.reasoning_tokens) == (None, None, 5)
        assert (stored.model, stored.request_id, stored.finish_reason) == ("m" * 200, "r" * 200, "f" * 50)
        assert (stored.error_detail, stored.usage) == ("e" * 2000, {"cost": "0.1"})

    def test_a_writer_that_comes_back_after_its_lease_has_the_last_word(self):
        calls.interrupt(self.message.pk)
        assert self.ended(usage=TALK).outcome == "completed"

    def test_a_call_that_was_pruned_meanwhile_is_let_go(self):
        ProviderCall.objects.all().delete()
        with self.assertNoLogs("converse.calls", "ERROR"):
            calls.end(self.call, CallOutcome.COMPLETED)
        assert not ProviderCall.objects.exists()

    def test_usage_that_nothing_can_store_fails_nothing_and_is_told(self):
        with self.assertLogs("converse.calls", "ERROR") as logs:
            calls.end(self.call, CallOutcome.COMPLETED, usage=Usage(input="many"))
        assert f"Call 1 of message {self.message.pk}" in logs.output[0]
        assert "'many'" in logs.output[0]


class HiccupTests(TransactionTestCase):
    """A database that is away for a moment."""

    def setUp(self):
        self.message = reply_in(Conversation.objects.start())
        self.call = calls.begin(self.message, "default", "m-1")
        self.left = 0

    def hiccup(self, execute, sql, params, many, context):
        if self.left and sql.startswith("UPDATE"):
            self.left -= 1
            raise OperationalError("server closed the connection")
        return execute(sql, params, many, context)

    def end(self, times: int) -> str:
        self.left = times
        with connection.execute_wrapper(self.hiccup):
            calls.end(self.call, CallOutcome.COMPLETED, usage=TALK)
        assert not self.left
        return ProviderCall.objects.get().outcome

    def break_off(self) -> None:
        """Have the server end the connection; SQLite has none."""
        match connection.vendor:
            case "sqlite":
                connection.connection.close()
            case "postgresql":
                with suppress(Error), connection.cursor() as cursor:
                    cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            case "mysql":
                with suppress(Error), connection.cursor() as cursor:
                    cursor.execute(f"KILL {connection.connection.thread_id()}")

    def test_a_statement_that_failed_is_tried_again(self):
        with self.assertNoLogs("converse.calls", "ERROR"):
            assert self.end(1) == "completed"

    def test_a_broken_connection_is_replaced(self):
        self.break_off()
        with self.assertNoLogs("converse.calls", "ERROR"):
            assert self.end(0) == "completed"

    def test_what_cannot_be_stored_is_logged_and_fails_nothing(self):
        with self.assertLogs("converse.calls", "ERROR") as logs:
            assert self.end(2) == "running"
        assert "completed with Usage(input=1000" in logs.output[0]
        assert "server closed the connection" in logs.output[0]
        assert self.call.outcome == "completed"


class HiccupInTransactionTests(TestCase):
    def test_a_transaction_that_is_not_ours_is_not_tried_twice(self):
        call = calls.begin(reply_in(Conversation.objects.start()), "default")
        tried = []

        def hiccup(execute, sql, params, many, context):
            tried.append(sql)
            raise OperationalError("gone")

        failing = connection.execute_wrapper(hiccup)
        with transaction.atomic(), self.assertLogs("converse.calls", "ERROR"), failing:
            calls.end(call, CallOutcome.COMPLETED)
        assert len(tried) == 1
        assert ProviderCall.objects.get().outcome == "running"


class RaceTests(TransactionTestCase):
    def test_calls_that_begin_at_once_have_numbers_of_their_own(self):
        message = reply_in(Conversation.objects.start())

        def begin(_: int) -> int:
            try:
                return calls.begin(message, "default").number
            finally:
                connections.close_all()

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(begin, range(12))) == list(range(1, 13))

    def test_a_number_that_is_always_taken_is_an_error_in_the_end(self):
        message = reply_in(Conversation.objects.start())

        def taken(execute, sql, params, many, context):
            if sql.startswith("INSERT"):
                raise calls.IntegrityError("taken")
            return execute(sql, params, many, context)

        with connection.execute_wrapper(taken), pytest.raises(calls.IntegrityError):
            calls.begin(message, "default")


class TotalsTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.message = reply_in(Conversation.objects.start())

    def test_a_messages_counts_are_those_of_all_its_calls(self):
        call_of(self.message, input_tokens=10, output_tokens=1)
        call_of(self.message, "failed")
        call_of(self.message, input_tokens=5, reasoning_tokens=0)
        call_of(reply_in(self.message.conversation), input_tokens=100)
        with self.assertNumQueries(1):
            totals = calls.totals(self.message.pk)
        assert totals == {
            "input_tokens": 15,
            "cached_input_tokens": None,
            "cache_write_tokens": None,
            "output_tokens": 1,
            "reasoning_tokens": 0,
        }

    def test_without_calls_nothing_is_known(self):
        assert set(calls.totals(self.message.pk).values()) == {None}

    async def test_a_message_says_what_it_cost(self):
        message = self.message
        assert await message.acost() is None
        for fields in ({"cost": Decimal("0.1")}, {}, {"cost": Decimal("0.2")}):
            call = await ProviderCall.objects.acreate(
                message=message, number=await message.calls.acount() + 1, started_at=timezone.now(), **fields
            )
        assert call.number == 3
        assert await message.acost() == Decimal("0.3")

    def test_the_twin_is_the_same(self):
        call_of(self.message, cost=Decimal("1.5"))
        assert self.message.cost == Decimal("1.5")


class InterruptedTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()
        cls.message = reply_in(cls.conversation)

    def running(self, **fields: object) -> ProviderCall:
        call = calls.begin(self.message, "default", "m-1")
        ProviderCall.objects.filter(pk=call.pk).update(**fields)
        return call

    def outcomes(self) -> list[str]:
        return list(ProviderCall.objects.order_by("pk").values_list("outcome", flat=True))

    def test_the_call_of_a_writer_that_is_gone_is_interrupted_and_what_it_spent_before_is_kept(self):
        call_of(self.message, input_tokens=10, output_tokens=2)
        call = self.running()
        assert settle_abandoned() == []
        Message.all_objects.filter(pk=self.message.pk).update(lease_expires_at=datetime(2026, 1, 1, tzinfo=UTC))
        [settled] = settle_abandoned()
        assert (settled.status, settled.input_tokens, settled.output_tokens) == ("failed", 10, 2)
        assert settled.cached_input_tokens is None
        call.refresh_from_db()
        assert (call.outcome, call.error_type, call.cost) == ("interrupted", "interrupted", None)
        assert call.finished_at
        assert self.outcomes() == ["completed", "interrupted"]

    def test_a_call_that_runs_at_the_stop_of_its_message_is_its_writers(self):
        self.running()
        self.message.stop()
        assert self.outcomes() == ["running"]
        assert calls.settle() == 0

    def test_a_sweep_finds_those_whose_message_was_closed_long_ago(self):
        self.running()
        self.message.stop()
        Message.all_objects.update(finished_at=timezone.now() - timedelta(seconds=61))
        with override_settings(CONVERSE_LEASE=90):
            assert calls.settle() == 0
        call_command("converse_sweep", stdout=StringIO())
        assert self.outcomes() == ["interrupted"]
        assert calls.settle() == 0

    def test_and_those_whose_message_is_gone(self):
        self.running()
        self.message.purge()
        assert calls.settle() == 0
        ProviderCall.objects.update(started_at=timezone.now() - timedelta(hours=1))
        with self.assertNumQueries(2):
            assert calls.settle() == 1
        assert self.outcomes() == ["interrupted"]

    def test_a_call_of_an_open_message_is_left_alone_however_old_it_is(self):
        self.running(started_at=datetime(2026, 1, 1, tzinfo=UTC))
        with self.assertNumQueries(1):
            assert calls.settle() == 0
        assert self.outcomes() == ["running"]


class RemovedTests(TestCase):
    """What was spent stays spent."""

    def setUp(self):
        self.team = Team.objects.create(name="Blue")
        self.conversation = Conversation.objects.start(self.team)
        self.message = reply_in(self.conversation)
        self.call = call_of(self.message, "failed", cost=Decimal(2), error_detail="It said: Dear Ann", request_id="r")

    def kept(self) -> ProviderCall:
        call = ProviderCall.objects.get()
        assert (call.error_detail, call.cost, call.request_id, call.outcome) == ("", 2, "r", "failed")
        assert call.message_id is None
        assert self.team.usage()["cost"] == 2
        return call

    def test_a_purged_message_leaves_its_account_without_its_words(self):
        self.message.purge()
        assert self.kept().conversation == self.conversation
        assert self.conversation.usage()["calls"] == 1

    def test_so_does_a_purged_conversation(self):
        call_of(self.message, cost=Decimal(3))
        call_of(reply_in(Conversation.objects.start()), error_detail="another")
        self.conversation.purge()
        assert self.team.usage()["cost"] == 5
        assert list(ProviderCall.objects.order_by("pk").values_list("conversation", "error_detail"))[:2] == [
            (None, ""),
            (None, ""),
        ]
        assert ProviderCall.objects.filter(error_detail="another", message__isnull=False).count() == 1

    def test_so_does_an_owner_who_is_gone(self):
        key = self.team.pk
        self.team.delete()
        call = ProviderCall.objects.get()
        assert (call.owner_id, call.owner, call.conversation, call.error_detail) == (str(key), None, None, "")

    def test_deleting_hides_and_changes_no_account(self):
        self.conversation.delete()
        self.call.refresh_from_db()
        assert self.call.error_detail == "It said: Dear Ann"
        assert self.conversation.usage()["cost"] == 2

    def test_an_account_is_pruned_when_asked_for(self):
        old = timezone.now() - timedelta(days=40)
        running = calls.begin(self.message, "default")
        call_of(self.message, finished_at=old)
        ProviderCall.objects.filter(pk=running.pk).update(started_at=old)
        for options in ({}, {"calls": True, "dry_run": True}):
            out = StringIO()
            call_command("converse_prune", days=30, stdout=out, **options)
            assert ProviderCall.objects.count() == 3
        assert out.getvalue() == "Would remove 0 conversations and 1 calls of providers.\n"
        out = StringIO()
        call_command("converse_prune", days=30, calls=True, stdout=out)
        assert out.getvalue() == "Removed 0 conversations and 1 calls of providers.\n"
        assert set(ProviderCall.objects.all()) == {self.call, running}


@override_settings(CONVERSE_PRICES=PRICES)
class ByHandTests(TestCase):
    """Whoever streams by hand and says what it took has an account as well."""

    @classmethod
    def setUpTestData(cls):
        cls.team = Team.objects.create(name="Blue")
        cls.conversation = Conversation.objects.start(cls.team)

    def test_what_is_reported_of_a_message_is_one_call(self):
        message = self.conversation.start_streaming_assistant()
        message.append_chunk("Yes.")
        message.complete_streaming(
            {"model": "m-1", "prompt_tokens": 1000, "completion_tokens": 50, "finish_reason": "stop"}
        )
        call = ProviderCall.objects.get()
        assert (call.message, call.conversation, call.owner) == (message, self.conversation, self.team)
        assert (call.number, call.provider, call.model) == (1, "", "m-1")
        assert (call.outcome, call.finish_reason, call.cost) == ("completed", "stop", Decimal("0.0015"))
        assert (call.input_tokens, call.cached_input_tokens, call.output_tokens) == (1000, None, 50)
        assert (call.started_at, call.finished_at) == (message.started_at, message.finished_at)
        assert call.first_delta_at == message.first_chunk_at

    def test_so_it_is_of_one_that_failed_or_was_stopped(self):
        failing = self.conversation.start_streaming_assistant()
        failing.fail_streaming("broken", {"prompt_tokens": 3})
        stopped = self.conversation.start_streaming_assistant().stream
        stopped.usage = Usage(input=1, output=2, raw={"in": 1})
        stopped.cancel()
        outcomes = ProviderCall.objects.order_by("pk").values_list("outcome", "error_type", "input_tokens", "usage")
        assert list(outcomes) == [("failed", "error", 3, {}), ("cancelled", "", 1, {"in": 1})]

    def test_without_a_report_there_is_no_call(self):
        self.conversation.start_streaming_assistant().complete_streaming({"model": "m-1"})
        self.conversation.add_assistant_message("Written at once.")
        assert not ProviderCall.objects.exists()

    def test_whoever_keeps_the_account_by_hand_too_is_not_charged_twice(self):
        message = self.conversation.start_streaming_assistant()
        calls.end(calls.begin(message, "", "m-1"), CallOutcome.COMPLETED, usage=TALK)
        message.complete_streaming({"prompt_tokens": 1100, "completion_tokens": 50})
        assert ProviderCall.objects.get().input_tokens == 1000
