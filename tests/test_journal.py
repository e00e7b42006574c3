from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from asgiref.sync import sync_to_async
from django.db import DataError, OperationalError, connection, transaction
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase as HypothesisTestCase

from converse import flushes, journal
from converse.exceptions import AnotherWriter, InvalidMessage, JournalUnavailable, MessageClosed
from converse.flushes import Entry, Fragment, pack
from converse.models import Conversation, Message, MessageChunk


def text(content: str, part: int = 0) -> Fragment:
    return Fragment("text", part, None, content)


def entry(message: Message, *contents: str) -> Entry:
    message.stream._known = True
    return Entry(message.stream.writer, [text(content) for content in contents], datetime.now(UTC))


class Interruption:
    """Fails statements of the connection as a dying server would: before they run, or after their commit."""

    def __init__(self, marker: str, error: Exception, times: int = 1) -> None:
        self.marker, self.error, self.times = marker, error, times

    def __call__(self, execute, sql, params, many, context):
        if self.times and self.marker in sql:
            self.times -= 1
            raise self.error
        return execute(sql, params, many, context)


@asynccontextmanager
async def interrupted(interruption: Interruption) -> AsyncIterator[None]:
    """Interrupt the connection that the ORM uses for this test, which is that of the thread it was started in."""
    await sync_to_async(lambda: connection.execute_wrappers.append(interruption))()
    try:
        yield
    finally:
        await sync_to_async(lambda: connection.execute_wrappers.remove(interruption))()


class PackingTests(SimpleTestCase):
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["text", "reasoning"]), st.integers(0, 1), st.sampled_from([None, {"n": 1}]), st.text()
            )
        )
    )
    def test_packing_joins_neighbours_that_differ_in_text_only_and_loses_nothing(self, fragments):
        fragments = [Fragment(*fragment) for fragment in fragments]
        packed = pack(fragments)
        assert "".join(f.text for f in packed) == "".join(f.text for f in fragments)
        for first, second in pairwise(packed):
            assert first[:3] != second[:3]

    def test_a_packed_row_is_never_large_and_a_large_fragment_is_a_row_of_its_own(self):
        sizes = [4_000, 4_000, 4_000, 30_000, 1]
        packed = pack([Fragment("text", 0, None, "x" * size) for size in sizes])
        assert [len(fragment.text) for fragment in packed] == [8_000, 4_000, 30_000, 1]


class CommitTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()
        cls.other = Conversation.objects.start()

    def test_streams_of_several_conversations_are_stored_together_each_in_its_own_log(self):
        first, second = self.conversation.start_streaming_assistant(), self.conversation.start_streaming_assistant()
        third = self.other.start_streaming_assistant()
        outcome = flushes.commit([entry(first, "a", "b"), entry(second, "c"), entry(third, "d")])
        assert outcome.refused == []
        self.conversation.refresh_from_db()
        self.other.refresh_from_db()
        offsets = (
            MessageChunk.objects.filter(conversation=self.conversation)
            .order_by("offset")
            .values_list("offset", flat=True)
        )
        assert list(offsets) == [4, 5, 6]
        assert (self.conversation.last_offset, self.other.last_offset) == (6, 3)

    def test_a_closed_message_drops_out_of_the_flush_and_its_neighbours_do_not(self):
        closed, alive = self.conversation.start_streaming_assistant(), self.conversation.start_streaming_assistant()
        closed.complete_streaming()
        outcome = flushes.commit([entry(closed, "late"), entry(alive, "kept")])
        assert [type(reason) for _, reason in outcome.refused] == [MessageClosed]
        assert (closed.chunks.count(), alive.text) == (0, "kept")

    def test_a_flush_in_which_nothing_is_accepted_moves_no_head(self):
        closed = self.conversation.start_streaming_assistant()
        closed.complete_streaming()
        self.conversation.refresh_from_db()
        before = self.conversation.last_offset
        flushes.commit([entry(closed, "late")])
        self.conversation.refresh_from_db()
        assert self.conversation.last_offset == before

    def test_a_bad_row_fails_its_own_stream_and_no_other(self):
        first, bad, last = (self.conversation.start_streaming_assistant() for _ in range(3))
        entries = [entry(first, "a"), entry(bad, "b"), entry(last, "c")]
        entries[1].fragments = [Fragment("text", 0, {"x": object()}, "b")]
        outcome = flushes.commit_each(entries)
        assert [(writer.message_id, type(reason)) for writer, reason in outcome.refused] == [(bad.pk, InvalidMessage)]
        assert (first.text, bad.text, last.text) == ("a", "", "c")

    def test_of_two_writers_of_one_message_the_database_lets_one_go_on(self):
        message = self.conversation.start_streaming_assistant()
        twin = Message.objects.get(pk=message.pk)
        outcome = flushes.commit_each([entry(message, "one"), entry(twin, "two")])
        assert [type(reason) for _, reason in outcome.refused] == [AnotherWriter]
        assert message.text == "one"

    def test_what_a_lost_answer_had_committed_is_not_stored_again(self):
        message, other = self.conversation.start_streaming_assistant(), self.conversation.start_streaming_assistant()
        entries = [entry(message, "a", "b"), entry(other, "c")]
        stored = flushes.commit(entries).written
        again = flushes.commit(entries, again=True)
        assert again.refused == []
        assert [[chunk.offset for chunk in chunks] for _, chunks in again.written] == [
            [chunk.offset for chunk in chunks] for _, chunks in stored
        ]
        assert (message.text, other.text) == ("ab", "c")

    def test_what_a_message_had_before_is_not_taken_for_what_the_lost_answer_was_about(self):
        old, new = self.conversation.start_streaming_assistant(), self.conversation.start_streaming_assistant()
        old.append_chunk("before ")
        entries = [entry(old, "a"), entry(new, "b")]
        flushes.commit(entries)
        again = flushes.commit(entries, again=True)
        assert [[chunk.sequence for chunk in chunks] for _, chunks in again.written] == [[2], [1]]
        assert (old.text, new.text) == ("before a", "b")

    def test_a_second_try_stores_what_the_first_one_had_not(self):
        message = self.conversation.start_streaming_assistant()
        outcome = flushes.commit([entry(message, "a")], again=True)
        assert len(outcome.written) == 1
        assert message.text == "a"

    def test_a_second_try_does_not_take_another_writers_chunk_for_its_own(self):
        message = self.conversation.start_streaming_assistant()
        twin = Message.objects.get(pk=message.pk)
        flushes.commit([entry(twin, "theirs")])
        outcome = flushes.commit_each([entry(message, "ours")], again=True)
        assert [type(reason) for _, reason in outcome.refused] == [AnotherWriter]

    def test_nothing_is_published_when_the_commit_fails(self):
        message = self.conversation.start_streaming_assistant()
        with self.captureOnCommitCallbacks() as callbacks, pytest.raises(ZeroDivisionError), transaction.atomic():
            flushes.commit([entry(message, "never")])
            1 / 0  # noqa: B018
        assert callbacks == []
        assert message.text == ""


class JournalTests(TransactionTestCase):
    def setUp(self):
        self.conversation = Conversation.objects.start()
        logging.disable(logging.ERROR)
        self.addCleanup(logging.disable, logging.NOTSET)

    async def test_a_database_that_is_away_for_a_moment_costs_nothing(self):
        gone = Interruption("INSERT", OperationalError("gone"), times=2)
        async with self.conversation.astream_reply() as stream, interrupted(gone):
            await stream.aappend("kept")
            await stream.adrain()
        assert stream.message.content == "kept"

    async def test_a_commit_whose_answer_was_lost_is_not_doubled(self):
        commit = flushes.commit
        tries = []

        def lossy(entries: Sequence[Entry], *, again: bool = False) -> flushes.Outcome:
            outcome = commit(entries, again=again)
            tries.append(again)
            if len(tries) == 1:
                raise OperationalError("the connection broke after COMMIT")
            return outcome

        flushes.commit = lossy
        self.addCleanup(setattr, flushes, "commit", commit)
        async with self.conversation.astream_reply() as stream:
            await stream.aappend("once")
            await stream.adrain()
            await stream.aappend(" more")
        assert tries[:2] == [False, True]
        assert stream.message.content == "once more"

    async def test_a_database_that_stays_away_fails_its_streams_and_not_the_loop(self):
        journal_pause, journal.PAUSE = journal.PAUSE, 0.001
        self.addCleanup(setattr, journal, "PAUSE", journal_pause)
        message = await self.conversation.astart_streaming_assistant()
        async with interrupted(Interruption("INSERT", OperationalError("gone"), times=99)):
            await message.stream.aappend("lost")
            with pytest.raises(JournalUnavailable):
                await message.stream.adrain()
        other = await self.conversation.astart_streaming_assistant()
        await other.stream.aappend("fine")
        await other.stream.acomplete()
        assert other.content == "fine"

    async def test_a_flush_that_cannot_run_at_all_leaves_nobody_waiting(self):
        message = await self.conversation.astart_streaming_assistant()
        async with interrupted(Interruption("INSERT", RuntimeError("no threads left"))):
            await message.stream.aappend("lost")
            with pytest.raises(JournalUnavailable):
                await message.stream.adrain()

    async def test_data_that_the_database_refuses_is_the_streams_own_fault(self):
        message = await self.conversation.astart_streaming_assistant()
        async with interrupted(Interruption("INSERT", DataError("too odd"))):
            with pytest.raises(InvalidMessage):
                async with message.stream as stream:
                    await stream.aappend("odd")
                    await stream.adrain()
        assert (message.status, message.content) == ("failed", "")

    async def test_a_block_whose_message_another_writer_took_over_leaves_it_alone(self):
        message = await self.conversation.astart_streaming_assistant()
        twin = await Message.objects.aget(pk=message.pk)
        with pytest.raises(AnotherWriter):
            async with message.stream as stream:
                await twin.aappend_chunk("theirs")
                await stream.aappend("ours")
                await asyncio.Event().wait()
        assert await Message.objects.filter(pk=message.pk, status="streaming").aexists()
        await twin.acomplete_streaming()
        assert twin.content == "theirs"

    @override_settings(CONVERSE_JOURNAL_LIMIT=10)
    async def test_a_full_journal_makes_its_producers_wait_and_keeps_their_order(self):
        journal_of_loop = journal.current()
        async with self.conversation.astream_reply() as stream:
            for _ in range(20):
                await stream.aappend("0123456789")
                assert journal_of_loop.size <= 20
        assert stream.message.content == "0123456789" * 20
        assert journal_of_loop.size == 0

    @override_settings(CONVERSE_JOURNAL_LIMIT=1)
    async def test_a_stream_that_is_lost_while_it_waits_for_room_does_not_wait_for_ever(self):
        message = await self.conversation.astart_streaming_assistant()
        await message.astop()
        async with asyncio.timeout(5):
            with pytest.raises(MessageClosed):
                while True:
                    await message.stream.aappend("no room")

    async def test_silent_streams_are_looked_after_though_the_database_was_away_once(self):
        interruption = Interruption("SELECT", OperationalError("gone"))
        with pytest.raises(MessageClosed):
            async with asyncio.timeout(5), self.conversation.astream_reply() as stream:
                async with interrupted(interruption):
                    while interruption.times:
                        await asyncio.sleep(0.01)
                await Message.objects.filter(pk=stream.message.pk).aupdate(status="cancelled")
                await asyncio.Event().wait()


class LogPropertyTests(HypothesisTestCase):
    """Whatever is interleaved, and wherever it breaks off, the log stays dense and the texts stay whole."""

    moves = st.lists(
        st.tuples(
            st.sampled_from(["append", "append", "append", "flush", "crash", "lost answer", "say", "close", "rename"]),
            st.integers(0, 1),
            st.text("abc é", max_size=4),
        ),
        max_size=30,
    )

    @given(moves)
    def test_the_log_is_dense_and_every_text_is_what_was_accepted(self, moves):
        conversation = Conversation.objects.start()
        messages = [conversation.start_streaming_assistant(), conversation.start_streaming_assistant()]
        waiting: list[list[Fragment]] = [[], []]
        accepted = ["", ""]
        offsets = {1, 2, 3}
        for move, which, content in moves:
            message = messages[which]
            if move == "append" and content:
                waiting[which].append(text(content))
            elif move in ("flush", "crash", "lost answer"):
                entries = [
                    Entry(one.stream.writer, pack(fragments), datetime.now(UTC))
                    for one, fragments in zip(messages, waiting, strict=True)
                    if fragments
                ]
                if not entries:
                    continue
                try:
                    with transaction.atomic():
                        outcome = flushes.commit_each(entries)
                        if move == "crash":
                            raise OperationalError
                except OperationalError:
                    continue  # rolled back: what waits is tried again by the next flush
                if move == "lost answer":
                    outcome = flushes.commit_each(entries, again=True)
                for writer, chunks in outcome.written:
                    writer.sequence = chunks[-1].sequence
                    number = [one.pk for one in messages].index(writer.message_id)
                    accepted[number] += "".join(chunk.content for chunk in chunks)
                    offsets |= {chunk.offset for chunk in chunks}
                waiting = [[], []]
            elif move == "say":
                offsets.add(conversation.create_user_message(content).offset)
            elif move == "close" and message.is_open:
                message.stream.complete()
                offsets.add(message.closed_offset)
                assert message.content == accepted[which]
            elif move == "rename":
                conversation.rename(content)
                offsets.add(conversation.last_offset)
        conversation.refresh_from_db()
        assert offsets == set(range(1, conversation.last_offset + 1))
        for message, whole in zip(messages, accepted, strict=True):
            assert message.chunks.text() == whole
            sequences = list(message.chunks.values_list("sequence", flat=True))
            assert sequences == list(range(1, len(sequences) + 1))
