"""What things cost in statements: the same however long, however many."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from math import ceil
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connection
from django.test import TestCase
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from converse import flushes, hubs
from converse.events import Replay, Snapshot
from converse.flushes import Entry, Fragment, Outcome
from converse.managers import NewChunk
from converse.models import Conversation, Message, MessageChunk
from converse.opening import start
from converse.replays import read

STATEMENT = re.compile(r"^(?:\d+ times: )?((?:SELECT|INSERT|UPDATE|DELETE)\b.*)", re.DOTALL)


def statements_of(call: Callable[[], Any]) -> list[str]:
    """Give the statements that a call makes, other than those that begin and end transactions."""
    with CaptureQueriesContext(connection) as captured:
        call()
    return [found[1] for query in captured.captured_queries if (found := STATEMENT.match(query["sql"]))]


def cost_of(call: Callable[[], Any]) -> int:
    return len(statements_of(call))


def locking() -> int:
    """How many statements a lock takes: where rows cannot be locked a write goes first."""
    return 1 if connection.features.has_select_for_update else 2


def grow(*messages: Message, chunks: int) -> None:
    """Store so many chunks, in turn for each of some messages of one conversation."""
    conversation = Conversation.objects.get(pk=messages[0].conversation_id)
    now = timezone.now()
    rows = []
    for number in range(chunks):
        message, sequence = messages[number % len(messages)], number // len(messages) + 1
        offset = conversation.last_offset + number + 1
        text = f"{number} "
        rows.append(NewChunk(message.pk, sequence, conversation.pk, offset, "text", 0, text, None, now))
    MessageChunk.objects.insert(rows)
    Conversation.all_objects.advance({conversation.pk: conversation.last_offset + chunks})


class FlushTests(TestCase):
    """One flush costs four statements, be it of one stream or of fifty: lock, look, insert, move the heads."""

    def streaming(self, count: int) -> list[Message]:
        return [Conversation.objects.start().start_streaming_assistant() for _ in range(count)]

    def flush(self, messages: list[Message], *texts: str) -> Outcome:
        fragments = [Fragment("text", 0, None, text) for text in texts]
        outcome = flushes.commit([Entry(message.stream.writer, fragments, datetime.now(UTC)) for message in messages])
        for writer, chunks in outcome.written:
            writer.sequence = chunks[-1].sequence
        return outcome

    def test_a_flush_costs_the_same_for_one_stream_and_for_fifty(self):
        for count in (1, 50):
            messages = self.streaming(count)
            self.flush(messages, "the first renews the leases, too")
            assert cost_of(lambda messages=messages: self.flush(messages, "text")) == locking() + 3

    def test_a_flush_costs_the_same_for_one_chunk_and_for_twenty_in_each_stream(self):
        messages = self.streaming(10)
        self.flush(messages, "the first renews the leases, too")
        assert cost_of(lambda: self.flush(messages, *"abcdefghijklmnopqrst")) == locking() + 3

    def test_leases_of_all_streams_are_renewed_in_one_statement_and_not_in_every_flush(self):
        messages = self.streaming(50)
        first, second = (statements_of(lambda: self.flush(messages, "text")) for _ in range(2))
        assert [sum("lease_expires_at" in sql for sql in made) for made in (first, second)] == [1, 0]
        assert len(first) == len(second) + 1

    def test_a_stream_that_was_closed_costs_its_neighbours_nothing(self):
        messages = self.streaming(5)
        self.flush(messages, "the first renews the leases, too")
        messages[2].complete_streaming()
        assert cost_of(lambda: self.flush(messages, "text")) == locking() + 3
        assert [message.chunks.count() for message in messages] == [2, 2, 1, 2, 2]

    async def test_deltas_that_come_together_are_stored_together(self):
        async def stream(deltas: int) -> int:
            conversation = await Conversation.objects.astart()
            captured = CaptureQueriesContext(connection)
            async with conversation.astream_reply() as opened:
                await sync_to_async(captured.__enter__)()
                for number in range(deltas):
                    await opened.aappend(f"{number} ")
                await opened.adrain()
                await sync_to_async(captured.__exit__)(None, None, None)
            return sum(bool(STATEMENT.match(query["sql"])) for query in captured.captured_queries)

        assert await stream(1) == await stream(1000)


class ContentTests(TestCase):
    """The text of a message is written once, when it closes."""

    def writings_of_content(self, chunks: int) -> int:
        conversation = Conversation.objects.start()

        def stream() -> None:
            with conversation.stream_reply() as stream:
                for number in range(chunks):
                    stream.append(f"{number} ")

        made = statements_of(stream)
        return sum(sql.startswith("UPDATE") and bool(re.search(r"\bcontent\W? = ", sql)) for sql in made)

    def test_content_is_written_once_however_many_chunks_there_are(self):
        assert self.writings_of_content(1) == 1
        assert self.writings_of_content(60) == 1

    def test_a_message_costs_the_same_to_close_however_many_chunks_it_has(self):
        costs = []
        for chunks in (1, 5_000):
            message = Conversation.objects.start().start_streaming_assistant()
            grow(message, chunks=chunks)
            costs.append(cost_of(lambda message=message: message.complete_streaming()))
            assert message.last_sequence == chunks
        assert costs[0] == costs[1]

    def test_a_chunk_costs_the_same_after_ten_thousand_as_after_one(self):
        costs = []
        for chunks in (1, 10_000):
            message = Conversation.objects.start().start_streaming_assistant()
            grow(message, chunks=chunks)
            message.append_chunk("the first looks how far the message has come")
            costs.append(cost_of(lambda message=message: message.append_chunk("text")))
        assert costs == [locking() + 3] * 2


class ReadingTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()

    def read(self, after: int | None) -> Replay | Snapshot:
        return read(self.conversation.pk, after, self.conversation.epoch)

    def test_ten_thousand_missed_chunks_come_in_six_queries_as_one_event_a_message(self):
        messages = [start(self.conversation, "assistant") for _ in range(3)]
        grow(*messages, chunks=10_000)
        found = []
        # The conversation, its messages, and the chunks in four steps: few rows first, for they may be long.
        assert cost_of(lambda: found.append(self.read(messages[-1].offset))) == 6
        [replay] = found
        assert [event["event"] for event in replay.events] == ["StreamUpdate"] * 3
        texts = {event["data"]["messageId"]: event["data"]["chunk"] for event in replay.events}
        assert texts == {str(message.uuid): message.text for message in messages}

    def test_twice_the_chunks_cost_no_query_more(self):
        message = start(self.conversation, "assistant")
        grow(message, chunks=2_000)
        few = cost_of(lambda: self.read(message.offset))
        grow(start(self.conversation, "assistant"), chunks=2_000)
        assert cost_of(lambda: self.read(message.offset)) == few

    def test_a_snapshot_costs_the_same_for_two_messages_and_for_a_hundred(self):
        self.conversation.add_messages("a question", {"role": "assistant", "content": "an answer"})
        assert cost_of(lambda: self.read(None)) == 2  # the conversation and its messages
        self.conversation.add_messages([f"message {number}" for number in range(98)])
        assert cost_of(lambda: self.read(None)) == 2

    def test_a_snapshot_reads_the_text_of_all_growing_messages_in_one_query(self):
        for _ in range(2):
            start(self.conversation, "assistant").append_chunk("text")
            assert cost_of(lambda: self.read(None)) == 3

    def test_the_heads_of_all_conversations_are_looked_at_in_one_query(self):
        uuids = [str(Conversation.objects.start().uuid) for _ in range(50)]
        assert cost_of(lambda: hubs._heads(uuids)) == 1

    def test_looking_for_abandoned_and_queued_replies_costs_the_same_for_one_conversation_and_for_fifty(self):
        many = [Conversation.objects.start().pk for _ in range(50)]
        assert cost_of(lambda: hubs._settle(many)) == cost_of(lambda: hubs._settle(many[:1]))


class AddingTests(TestCase):
    def insertions(self, count: int) -> list[str]:
        conversation = Conversation.objects.start()
        made = statements_of(lambda: conversation.add_messages([f"message {number}" for number in range(count)]))
        return [sql for sql in made if sql.startswith("INSERT")]

    def test_a_hundred_messages_are_added_in_one_insert(self):
        fields = [field for field in Message._meta.concrete_fields if not field.primary_key]
        at_most = connection.ops.bulk_batch_size(fields, [None] * 100)  # old SQLite takes few parameters
        assert len(self.insertions(100)) == ceil(100 / at_most)
        assert len(self.insertions(2)) == 1

    def test_adding_costs_nothing_more_for_each_message(self):
        conversation = Conversation.objects.start()
        costs = [cost_of(lambda n=n: conversation.add_messages(["text"] * n)) for n in (2, 20)]
        assert costs[0] == costs[1]
