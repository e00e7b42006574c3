from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection
from django.db.models.functions import Now
from django.test import TestCase, override_settings
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase as HypothesisTestCase

from converse import journal
from converse.closing import settle_abandoned
from converse.deltas import ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta, Usage
from converse.exceptions import AnotherWriter, InvalidMessage, MessageClosed, ProviderError
from converse.models import Conversation, Message
from converse.signals import message_cancelled, message_completed, message_failed


class OriginalFlowTests(TestCase):
    """start, append, complete or fail: as the original's users know it."""

    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()

    def test_a_streamed_message_grows_chunk_by_chunk_and_closes_with_its_content(self):
        message = self.conversation.start_streaming_assistant({"request": "r1"})
        assert (message.role, message.is_streaming, message.is_open, message.content, message.text) == (
            "assistant",
            True,
            True,
            "",
            "",
        )
        first = message.append_chunk("Once ", {"n": 1})
        second = message.append_chunk("upon")
        assert (first.sequence, second.sequence) == (1, 2)
        assert second.offset == first.offset + 1
        assert first.metadata == {"n": 1}
        assert message.text == "Once upon"
        assert (
            message.complete_streaming(
                {"completion_tokens": 2, "prompt_tokens": 5, "model": "m-1", "finish_reason": "stop"}
            )
            is message
        )
        assert message.is_completed
        assert not message.is_open
        assert message.content == message.text == "Once upon"
        assert message.parts == [{"type": "text", "text": "Once upon"}]
        assert (message.output_tokens, message.input_tokens, message.model, message.finish_reason) == (
            2,
            5,
            "m-1",
            "stop",
        )
        assert list(message.chunks.values_list("sequence", "content")) == [(1, "Once "), (2, "upon")]
        assert Message.objects.get(pk=message.pk).content == "Once upon"

    def test_a_user_message_can_be_streamed_with_its_own_final_metadata(self):
        message = self.conversation.start_streaming_user()
        message.append_chunk("dictated")
        message.complete_streaming({"confidence": 0.9})
        assert (message.role, message.metadata["confidence"]) == ("user", 0.9)

    def test_the_promised_metadata_is_there_under_the_promised_names(self):
        message = self.conversation.start_streaming_assistant({"request": "r1"})
        message.append_chunk("x")
        message.complete_streaming({"prompt_tokens": 0, "completion_tokens": 3, "model": "m", "finish_reason": "stop"})
        metadata = message.metadata
        assert metadata["request"] == "r1"
        assert metadata["streamed"] is True
        assert metadata["stream_chunks"] == 1
        assert 0 <= metadata["stream_duration"] < 10
        assert metadata["stream_duration_ms"] == round(metadata["stream_duration"] * 1000)
        assert 0 <= metadata["stream_first_chunk_ms"] <= metadata["stream_duration"] * 1000
        assert datetime.fromisoformat(metadata["stream_started_at"]) <= datetime.fromisoformat(
            metadata["stream_completed_at"]
        )
        assert (metadata["tokens"], metadata["prompt_tokens"], metadata["model"], metadata["finish_reason"]) == (
            3,
            0,
            "m",
            "stop",
        )
        assert "stream_failed_at" not in metadata

    def test_a_failed_message_keeps_its_text_and_tells_people_nothing_private(self):
        message = self.conversation.start_streaming_assistant({"request": "r1"})
        message.append_chunk("partial")
        message.fail_streaming("password=hunter2", {"code": 7})
        assert message.is_failed
        assert message.content == "partial"
        assert message.metadata["error"] == message.error_detail == "password=hunter2"
        assert message.metadata["code"] == 7
        assert "stream_failed_at" in message.metadata
        assert "stream_completed_at" not in message.metadata
        assert (message.error_type, message.error_message) == ("error", "The reply failed. Please try again.")

    def test_a_closed_message_stays_closed(self):
        for close in (
            lambda message: message.complete_streaming(),
            lambda message: message.fail_streaming("x"),
            lambda message: message.stop(),
        ):
            message = self.conversation.start_streaming_assistant()
            close(message)
            status = message.status
            for move in (
                lambda: message.append_chunk("y"),
                message.complete_streaming,
                lambda: message.fail_streaming("y"),
            ):
                with pytest.raises(MessageClosed):
                    move()
            assert message.stop() is False
            message.refresh_from_db()
            assert (message.status, message.content) == (status, "")

    def test_an_empty_chunk_adds_nothing_and_an_empty_reply_is_complete(self):
        message = self.conversation.start_streaming_assistant()
        assert message.append_chunk("") is None
        message.complete_streaming()
        assert (message.is_completed, message.content, message.parts, message.metadata["stream_chunks"]) == (
            True,
            "",
            [],
            0,
        )
        assert "stream_first_chunk_ms" not in message.metadata

    def test_a_lone_zero_is_text(self):
        message = self.conversation.start_streaming_assistant()
        message.append_chunk("0")
        message.complete_streaming()
        assert message.content == "0"

    def test_text_that_cannot_be_stored_is_refused_and_the_message_goes_on(self):
        message = self.conversation.start_streaming_assistant()
        message.append_chunk("good")
        for bad, metadata in (("\x00", None), ("\ud800", None), ("x", {"x": object()}), (b"bytes", None)):
            with pytest.raises(InvalidMessage):
                message.append_chunk(bad, metadata)
        message.append_chunk(" still")
        message.complete_streaming()
        assert message.content == "good still"

    def test_another_instance_goes_on_where_the_first_one_stopped_but_not_both(self):
        first = self.conversation.start_streaming_assistant()
        first.append_chunk("1")
        second = Message.objects.get(pk=first.pk)
        second.append_chunk("2")
        with pytest.raises(AnotherWriter):
            first.append_chunk("lost")
        second.append_chunk("3")
        second.complete_streaming()
        assert second.content == "123"
        assert [chunk.part for chunk in second.chunks.all()] == [0, 0, 0]

    def test_a_role_that_is_none_is_refused(self):
        with pytest.raises(InvalidMessage, match="role"):
            self.conversation.start_streaming("robot")

    async def test_every_move_has_an_asynchronous_twin(self):
        message = await self.conversation.astart_streaming_assistant()
        assert (await message.aappend_chunk("Once")).sequence == 1
        assert await message.atext() == "Once"
        await message.acomplete_streaming()
        assert await message.atext() == "Once"
        failed = await self.conversation.astart_streaming_user()
        await failed.afail_streaming(ValueError("why"))
        assert failed.error_detail == "ValueError: why"
        stopped = await self.conversation.astart_streaming("system")
        assert await stopped.astop()
        await self.conversation.astart_streaming_assistant()
        assert await self.conversation.astop() == 1

    def test_each_closing_sends_its_own_signal_once_after_the_commit(self):
        seen = []
        for signal in (message_completed, message_failed, message_cancelled):
            receiver = lambda message, **kwargs: seen.append(message.status)  # noqa: E731
            signal.connect(receiver, weak=False, dispatch_uid="seen")
            self.addCleanup(signal.disconnect, dispatch_uid="seen")
        with self.captureOnCommitCallbacks(execute=True):
            self.conversation.start_streaming_assistant().complete_streaming()
            self.conversation.start_streaming_assistant().fail_streaming("x")
            self.conversation.start_streaming_assistant().stop()
            assert seen == []
        assert seen == ["completed", "failed", "cancelled"]


class StreamObjectTests(TestCase):
    """Prism's stream object, and the context managers."""

    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()

    def test_the_stream_object_appends_fluently_and_completes(self):
        stream = self.conversation.start_streaming_assistant().stream
        message = stream.append("Once ").append(TextDelta("upon")).complete({"model": "m"})
        assert message is stream.message
        assert (message.content, message.model) == ("Once upon", "m")
        assert self.conversation.start_streaming_assistant().stream.fail("why").is_failed
        assert self.conversation.start_streaming_assistant().stream.cancel().is_cancelled

    def test_leaving_the_block_normally_completes_and_by_an_exception_fails(self):
        with self.conversation.stream_reply({"request": 1}) as stream:
            stream.append("whole")
        assert (stream.message.status, stream.message.content, stream.message.metadata["request"]) == (
            "completed",
            "whole",
            1,
        )
        with pytest.raises(ZeroDivisionError), self.conversation.stream_reply() as stream:
            stream.append("partial")
            1 / 0  # noqa: B018
        assert (stream.message.status, stream.message.content) == ("failed", "partial")
        assert stream.message.error_detail == "ZeroDivisionError: division by zero"

    def test_a_block_left_by_the_keyboard_is_cancelled_and_one_that_was_stopped_says_so(self):
        with pytest.raises(KeyboardInterrupt), self.conversation.stream_reply() as stream:
            raise KeyboardInterrupt
        assert stream.message.is_cancelled
        with pytest.raises(MessageClosed), self.conversation.stream_reply() as stream:
            Message.objects.get(pk=stream.message.pk).stop()
            stream.append("x")

    def test_the_parts_keep_the_order_in_which_they_came(self):
        stream = self.conversation.start_streaming_assistant().stream
        pieces = [
            ReasoningDelta(text="Let me "),
            ReasoningDelta(text="see."),
            ReasoningDelta(signature="sig=="),
            "I ask: ",
            ToolCallDelta(index=0, id="c1", name="add"),
            ToolCallDelta(index=0, arguments='{"a":'),
            ToolCallDelta(index=1, id="c2", name="sub", arguments="{}"),
            ToolCallDelta(index=0, arguments=" 1}"),
            "Done.",
            RefusalDelta("No more."),
            ReasoningDelta(),
            RefusalDelta(""),
            ToolCallDelta(index=0),
        ]
        for piece in pieces:
            stream.append(piece)
        message = stream.complete()
        assert message.parts == [
            {"type": "reasoning", "text": "Let me see.", "signature": "sig=="},
            {"type": "text", "text": "I ask: "},
            {"type": "tool_call", "id": "c1", "name": "add", "arguments": '{"a": 1}'},
            {"type": "tool_call", "id": "c2", "name": "sub", "arguments": "{}"},
            {"type": "text", "text": "Done."},
            {"type": "refusal", "text": "No more."},
        ]
        assert message.content == "I ask: Done."
        assert (message.reasoning, message.refusal, len(message.tool_calls)) == ("Let me see.", "No more.", 2)
        assert async_to_sync(message.atool_calls)() == message.tool_calls

    async def test_an_open_message_tells_what_came_so_far(self):
        async with self.conversation.astream_reply() as stream:
            message = await Message.objects.aget(pk=stream.message.pk)
            assert (await message.atool_calls(), await message.areasoning(), await message.arefusal()) == ([], "", "")
            for piece in (
                ReasoningDelta(text="Let me "),
                ReasoningDelta(text="see."),
                "I ask: ",
                ToolCallDelta(index=0, id="c1", name="add", arguments='{"a"'),
            ):
                await stream.aappend(piece)
            await stream.adrain()
            assert await message.areasoning() == "Let me see."
            assert await message.atool_calls() == [
                {"type": "tool_call", "id": "c1", "name": "add", "arguments": '{"a"'}
            ]
            await stream.aappend(RefusalDelta("No more."))
            await stream.adrain()
            assert await sync_to_async(lambda: message.refusal)() == "No more."

    def test_usage_is_kept_and_null_is_never_a_false_zero(self):
        stream = self.conversation.start_streaming_assistant().stream
        stream.usage = Usage(input=0, output=7, raw={"output_tokens": 7})
        message = stream.complete()
        assert (message.input_tokens, message.output_tokens, message.cached_input_tokens) == (0, 7, None)
        assert message.usage == {"output_tokens": 7}
        assert message.metadata["tokens"] == 7

    def test_a_provider_error_tells_its_type_and_its_public_text(self):
        stream = self.conversation.start_streaming_assistant().stream
        message = stream.fail(ProviderError("key sk-1 is bad", type="authentication"))
        assert (message.error_type, message.error_message) == (
            "authentication",
            "The assistant is not set up correctly.",
        )
        other = self.conversation.start_streaming_assistant().stream.fail(
            "x", error_type="timeout", public_error="Too slow."
        )
        assert (other.error_type, other.error_message) == ("timeout", "Too slow.")


class AsynchronousStreamTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()

    async def test_deltas_of_one_kind_are_packed_and_the_text_is_whole(self):
        async with self.conversation.astream_reply() as stream:
            assert Message.objects.filter(pk=stream.message.pk) is not None
            for number in range(500):
                await stream.aappend(f"{number} ")
        message = await Message.objects.aget(pk=stream.message.pk)
        assert message.content == "".join(f"{number} " for number in range(500))
        assert 1 <= await message.chunks.acount() < 500
        assert message.is_completed

    async def test_a_delta_without_anything_in_it_adds_nothing(self):
        async with self.conversation.astream_reply() as stream:
            await stream.aappend("")
            await stream.aappend(ReasoningDelta())
        assert stream.message.parts == []

    async def test_failing_a_message_that_was_stopped_meanwhile_says_that_it_is_closed(self):
        message = await self.conversation.astart_streaming_assistant()
        await message.stream.aappend("one")
        await message.stream.adrain()
        await (await Message.objects.aget(pk=message.pk)).astop()
        await message.stream.aappend("two")
        with pytest.raises(MessageClosed):
            await message.stream.afail("why")

    @override_settings(CONVERSE_FLUSH_INTERVAL=0.3)
    async def test_what_waits_when_a_message_is_stopped_is_dropped(self):
        with pytest.raises(MessageClosed):
            async with self.conversation.astream_reply() as stream:
                await stream.aappend("kept")
                await stream.adrain()
                await stream.aappend("dropped")
                await stream.message.astop()
                stream.writer.lose(MessageClosed("as the notice of another process says"))
                await asyncio.Event().wait()
        while journal.current().size:
            await asyncio.sleep(0.01)
        await stream.message.arefresh_from_db()
        assert stream.message.content == "kept"

    async def test_a_block_that_ends_without_noticing_that_another_writer_took_over_is_told(self):
        message = await self.conversation.astart_streaming_assistant()
        twin = await Message.objects.aget(pk=message.pk)
        with pytest.raises(AnotherWriter):
            async with message.stream as stream:
                stream.writer.on_lost = None
                await twin.aappend_chunk("theirs")
                await stream.aappend("ours")
                with pytest.raises(AnotherWriter):
                    await stream.adrain()
        await twin.acomplete_streaming()
        assert twin.content == "theirs"

    async def test_what_was_drained_is_stored(self):
        async with self.conversation.astream_reply() as stream:
            await stream.aappend("kept")
            await stream.adrain()
            assert await stream.message.atext() == "kept"

    async def test_a_whole_iterator_is_consumed(self):
        async def source():
            yield "Once "
            yield TextDelta("upon")

        async with self.conversation.astream_reply() as stream:
            await stream.aconsume(source())
        assert stream.message.content == "Once upon"

    async def test_leaving_by_an_exception_fails_and_keeps_the_text(self):
        with pytest.raises(ZeroDivisionError):
            async with self.conversation.astream_reply() as stream:
                await stream.aappend("partial")
                1 / 0  # noqa: B018
        assert (stream.message.status, stream.message.content) == ("failed", "partial")

    async def test_a_cancelled_task_cancels_its_message_and_keeps_the_text(self):
        streams = []

        async def work():
            async with self.conversation.astream_reply() as stream:
                streams.append(stream)
                await stream.aappend("partial")
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        while not streams or not streams[0].touched:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        message = await Message.objects.aget(pk=streams[0].message.pk)
        assert (message.status, message.content) == ("cancelled", "partial")

    async def test_a_stop_from_elsewhere_breaks_off_a_silent_block(self):
        with pytest.raises(MessageClosed):
            async with asyncio.timeout(5), self.conversation.astream_reply() as stream:
                await stream.aappend("so far")
                await stream.adrain()
                # Not through this process's own notice: as another process would.
                message = await Message.objects.aget(pk=stream.message.pk)
                await message.astop()
                await asyncio.Event().wait()
        message = await Message.objects.aget(pk=stream.message.pk)
        assert (message.status, message.content) == ("cancelled", "so far")

    async def test_appending_to_a_stopped_message_says_that_it_is_closed(self):
        message = await self.conversation.astart_streaming_assistant()
        await message.stream.aappend("one")
        await message.stream.adrain()
        await (await Message.objects.aget(pk=message.pk)).astop()
        await message.stream.aappend("two")
        with pytest.raises(MessageClosed):
            await message.stream.adrain()
        with pytest.raises(MessageClosed):
            await message.stream.aappend("three")
        with pytest.raises(MessageClosed):
            await message.stream.acomplete()
        assert await Message.objects.filter(pk=message.pk, content="one").aexists()

    async def test_completing_waits_for_what_was_appended_and_refuses_when_it_was_refused(self):
        message = await self.conversation.astart_streaming_assistant()
        await message.stream.aappend("one")
        await message.stream.adrain()
        await (await Message.objects.aget(pk=message.pk)).astop()
        await message.stream.aappend("two")
        with pytest.raises(MessageClosed):
            await message.stream.acomplete()

    async def test_failing_and_cancelling_by_hand(self):
        failed = await self.conversation.astart_streaming_assistant()
        await failed.stream.aappend("f")
        assert (await failed.stream.afail("why", {"n": 1})).content == "f"
        cancelled = await self.conversation.astart_streaming_assistant()
        assert (await cancelled.stream.acancel()).is_cancelled

    async def test_an_exception_in_a_block_that_was_stopped_is_the_one_that_goes_on(self):
        with pytest.raises(ZeroDivisionError):
            async with self.conversation.astream_reply() as stream:
                message = await Message.objects.aget(pk=stream.message.pk)
                stream.writer.on_lost = None  # the block does not look up
                await message.astop()
                1 / 0  # noqa: B018
        assert (await Message.objects.aget(pk=stream.message.pk)).is_cancelled


class LeaseTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()

    def expire(self, message):
        Message.objects.filter(pk=message.pk).update(lease_expires_at=Now() - timedelta(seconds=1))

    def test_whoever_looks_first_closes_what_a_dead_writer_left(self):
        message = self.conversation.start_streaming_assistant()
        message.append_chunk("partial")
        assert settle_abandoned() == []
        self.expire(message)
        assert settle_abandoned([self.conversation.pk + 1]) == []
        assert settle_abandoned([self.conversation.pk]) == [message]
        message.refresh_from_db()
        assert (message.status, message.error_type, message.content) == ("failed", "interrupted", "partial")
        assert settle_abandoned() == []

    def test_a_message_that_was_closed_between_the_look_and_the_lock_is_left_alone(self):
        message = self.conversation.start_streaming_assistant()
        self.expire(message)

        def close_it_first(execute, sql, params, many, context):
            if "converse_conversation" in sql and not closed:
                closed.append(Message.all_objects.filter(pk=message.pk).update(status="cancelled"))
            return execute(sql, params, many, context)

        closed: list[int] = []
        with connection.execute_wrapper(close_it_first):
            assert settle_abandoned() == []
        assert closed == [1]
        assert Message.objects.get(pk=message.pk).error_type == ""

    def test_an_append_renews_the_lease(self):
        with override_settings(CONVERSE_STALE_AFTER=100):
            message = self.conversation.start_streaming_assistant()
            before = Message.objects.get(pk=message.pk).lease_expires_at
            Message.objects.filter(pk=message.pk).update(lease_expires_at=Now() + timedelta(seconds=1))
            message.append_chunk("x")
        assert Message.objects.get(pk=message.pk).lease_expires_at >= before

    @override_settings(CONVERSE_LEASE=0.3)
    async def test_a_silent_block_keeps_its_lease(self):
        async with self.conversation.astream_reply() as stream:
            message = await Message.objects.aget(pk=stream.message.pk)
            first = message.lease_expires_at
            async with asyncio.timeout(5):
                while message.lease_expires_at <= first or message.lease_expires_at > first + timedelta(minutes=1):
                    await asyncio.sleep(0.05)
                    await message.arefresh_from_db()
                    first = min(first, message.lease_expires_at)
        assert stream.message.is_completed


class RoundTripTests(HypothesisTestCase):
    @given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")), max_size=12))
    def test_any_text_comes_back_to_the_byte(self, texts):
        conversation = Conversation.objects.start()
        message = conversation.start_streaming_assistant()
        for text in texts:
            message.append_chunk(text)
        message.complete_streaming()
        message = Message.objects.get(pk=message.pk)
        assert message.content == "".join(texts)
        assert message.chunks.text() == message.content
        json.dumps(message.parts)
