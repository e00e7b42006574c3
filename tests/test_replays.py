from __future__ import annotations

from contextlib import contextmanager
from unittest import mock

from django.contrib.auth.models import User
from django.db import connection
from django.test import TestCase, override_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase as HypothesisTestCase

from converse import replays
from converse.deltas import RawBlock, ReasoningDelta, RefusalDelta, SourceDelta, TextDelta, ToolCallDelta
from converse.events import Replay, Snapshot
from converse.models import Conversation, Message
from converse.parts import StoredFile, ToolResult
from converse.replays import read
from tests.readers import Assembled, parts_of, shown_in, statuses_of


def small_pages(size):
    return mock.patch.object(replays, "PAGE", size)


@contextmanager
def between_queries(act):
    """Have something happen after each query of a block, once for each: ``act(0)``, ``act(1)`` …"""
    count = 0
    acting = False

    def wrapper(execute, *args):
        nonlocal count, acting
        result = execute(*args)
        if not acting:
            acting = True
            try:
                act(count)
            finally:
                acting = False
            count += 1
        return result

    with connection.execute_wrapper(wrapper):
        yield


class Reading:
    """A reader of the table only."""

    def __init__(self, conversation):
        self.conversation = conversation
        self.assembled = Assembled()

    def once(self):
        """Read on from the cursor; say whether there was anything."""
        known = self.assembled
        found = read(self.conversation.pk, known.offset if known.epoch else None, known.epoch or None)
        before = (known.offset, known.epoch)
        assert all(event["data"]["offset"] <= found.offset for event in getattr(found, "events", ()))
        known.apply(found.name, found.wire())
        return before != (known.offset, known.epoch)

    def up(self):
        while self.once():
            pass


class ReplayTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start(title="Plans")

    def head(self):
        self.conversation.refresh_from_db()
        return self.conversation.last_offset

    def replay(self, after, **changes):
        found = read(self.conversation.pk, after, self.conversation.epoch)
        assert isinstance(found, Replay)
        return [(event["event"], event["data"]) for event in found.events]

    def snapshot(self):
        found = read(self.conversation.pk, None, None)
        assert isinstance(found, Snapshot)
        return found

    def test_a_reader_at_the_head_missed_nothing(self):
        head = self.head()
        found = read(self.conversation.pk, head, self.conversation.epoch)
        assert (found.offset, list(found.events)) == (head, [])

    def test_without_a_cursor_or_with_one_that_means_nothing_a_reader_gets_a_snapshot(self):
        epoch = self.conversation.epoch
        beyond = [(10**6, epoch), (10**40, epoch)]
        for after, known in [(None, None), (None, epoch), (0, None), (0, "other"), (0, ""), *beyond]:
            assert isinstance(read(self.conversation.pk, after, known), Snapshot)

    def test_a_conversation_that_is_gone_gives_nothing(self):
        self.conversation.purge()
        assert read(self.conversation.pk, 0, self.conversation.epoch) is None

    def test_text_comes_in_one_update_however_many_chunks_it_was_stored_in(self):
        message = self.conversation.start_streaming_assistant()
        for word in ("Once ", "upon ", "a ", "time"):
            message.append_chunk(word)
        [(name, created), (update, text)] = self.replay(message.offset - 1)
        assert (name, created["status"], created["sequence"]) == ("MessageCreated", "streaming", 0)
        assert (update, text["chunk"], text["sequence"]) == ("StreamUpdate", "Once upon a time", 4)
        assert text["offset"] == self.head()

    def test_a_message_that_was_closed_meanwhile_comes_whole(self):
        message = self.conversation.start_streaming_assistant()
        message.append_chunk("Once")
        message.complete_streaming()
        [(name, created)] = self.replay(message.offset - 1)
        assert (name, created["content"]) == ("MessageCreated", "Once")
        assert (created["status"], created["sequence"]) == ("completed", 1)

    def test_each_way_to_close_is_told_in_its_own_event(self):
        for close, name, error in (
            (lambda message: message.complete_streaming(), "MessageCompleted", None),
            (lambda message: message.fail_streaming("secret"), "MessageFailed", "The reply failed. Please try again."),
            (lambda message: message.stop(), "MessageCancelled", None),
        ):
            message = self.conversation.start_streaming_assistant()
            after = self.head()
            message.append_chunk("Once")
            close(message)
            (text, _), (closing, closed) = self.replay(after)
            assert (text, closing) == ("StreamUpdate", name)
            assert (closed.get("error") or {}).get("message") == error
            assert "content" not in closed
            assert "secret" not in str(closed)

    def test_a_change_is_told_once_with_the_latest_state(self):
        message = self.conversation.create_user_message("Hi")
        after = self.head()
        message.update_metadata(tokens=1, private="x")
        message.update_metadata(tokens=2)
        [(name, data)] = self.replay(after)
        assert (name, data["metadata"], data["offset"]) == ("MessageUpdated", {"tokens": 2}, self.head())

    def test_a_deleted_message_is_told_of_and_nothing_of_what_it_said(self):
        message = self.conversation.create_user_message("secret")
        after = self.head()
        message.delete()
        assert [name for name, _ in self.replay(after)] == ["MessageDeleted"]
        assert "secret" not in str(self.replay(0))
        assert self.replay(self.head()) == []

    def test_what_is_noted_at_a_deleted_message_is_not_told(self):
        message = self.conversation.create_user_message("secret")
        message.delete()
        head = self.head()
        message.update_metadata(tokens=7)
        assert self.head() == head
        assert Message.all_objects.get(pk=message.pk).metadata == {"tokens": 7}

    def test_the_conversations_own_change_is_told(self):
        after = self.head()
        self.conversation.rename("Other plans")
        [(name, data)] = self.replay(after)
        assert (name, data["title"], data["offset"]) == ("ConversationUpdated", "Other plans", after + 1)
        self.conversation.delete()
        assert [name for name, _ in self.replay(after)] == ["ConversationDeleted"]

    def test_interleaved_calls_of_tools_are_packed_each_and_sequences_only_rise(self):
        message = self.conversation.start_streaming_assistant()
        after = self.head()
        for piece in (
            ToolCallDelta(index=0, id="a", name="add", arguments="{"),
            ToolCallDelta(index=1, id="b", name="sub", arguments="["),
            ToolCallDelta(index=1, arguments="]"),
            ToolCallDelta(index=0, arguments="}"),
        ):
            message.stream.append(piece)
        updates = [data for _, data in self.replay(after)]
        assert [(data["part"], data["chunk"], data["sequence"]) for data in updates] == [(1, "[]", 3), (0, "{}", 4)]
        assert [(data["toolCallId"], data["toolName"]) for data in updates] == [("b", "sub"), ("a", "add")]

    def test_a_replay_costs_the_same_few_queries_however_much_was_missed(self):
        epoch = self.conversation.epoch
        for _ in range(5):
            asked = self.conversation.create_user_message("Why?")
            message = self.conversation.start_streaming_assistant()
            Message.objects.filter(pk=message.pk).update(reply_to=asked)
            message.append_chunk("Because")
        with self.assertNumQueries(4):
            read(self.conversation.pk, 0, epoch)
        with self.assertNumQueries(3):
            read(self.conversation.pk, None, epoch)

    def test_a_replay_holds_no_more_text_than_a_window_and_the_next_goes_on(self):
        message = self.conversation.start_streaming_assistant()
        reader = Reading(self.conversation)
        reader.once()
        for _ in range(30):
            message.append_chunk("x" * 100)
        message.complete_streaming()
        sizes = []
        with override_settings(CONVERSE_WINDOW=1000):
            while reader.assembled.offset < Conversation.objects.get().last_offset:
                before = len(reader.assembled.texts[str(message.uuid)])
                reader.once()
                sizes.append(len(reader.assembled.texts[str(message.uuid)]) - before)
        assert sizes == [1100, 1100, 800]
        assert reader.assembled.texts == {str(message.uuid): "x" * 3000}

    def test_a_replay_holds_no_more_messages_than_fit_into_a_frame(self):
        reader = Reading(self.conversation)
        reader.once()
        for _ in range(5):
            self.conversation.create_user_message("x" * 100)
        told = []
        with mock.patch.object(replays, "FRAME", 800):  # as if each character took four bytes
            while reader.assembled.offset < Conversation.objects.get().last_offset:
                reader.once()
                told.append(len(reader.assembled.texts))
        assert told == [2, 4, 5]

    def test_a_message_larger_than_a_frame_is_told_all_the_same(self):
        reader = Reading(self.conversation)
        reader.once()
        message = self.conversation.create_user_message("x" * 100)
        with mock.patch.object(replays, "FRAME", 10):
            reader.once()
        assert reader.assembled.texts == {str(message.uuid): "x" * 100}

    def test_a_snapshot_holds_the_latest_messages_that_fit_into_a_frame(self):
        messages = [self.conversation.create_user_message("x" * 1000) for _ in range(5)]
        with mock.patch.object(replays, "FRAME", 5000):
            snapshot = read(self.conversation.pk, None, None)
        assert [told["messageId"] for told in snapshot.messages] == [str(message.uuid) for message in messages[-3:]]
        assert snapshot.truncated
        with mock.patch.object(replays, "FRAME", 10):
            assert len(read(self.conversation.pk, None, None).messages) == 1

    def test_what_a_snapshot_has_no_room_for_are_other_versions_first(self):
        messages = [self.conversation.create_user_message("x" * 1000) for _ in range(5)]
        Message.objects.filter(pk__in=[message.pk for message in messages[2:]]).update(current=False)
        Conversation.objects.update(leaf_offset=messages[1].offset)

        def told():
            snapshot = read(self.conversation.pk, None, None)
            assert snapshot.truncated == (len(snapshot.messages) < 5)
            return [messages.index(Message.objects.get(uuid=state["messageId"])) for state in snapshot.messages]

        for limit, expected in ((1, [1]), (2, [0, 1]), (3, [0, 1, 4]), (5, [0, 1, 2, 3, 4])):
            with override_settings(CONVERSE_SNAPSHOT_LIMIT=limit):
                assert told() == expected
        with mock.patch.object(replays, "FRAME", 5000):
            assert told() == [0, 1, 4]

    def test_a_snapshot_of_closed_messages_asks_for_no_chunks(self):
        self.conversation.create_user_message("Hi")
        with self.assertNumQueries(2):
            self.snapshot()


class SnapshotTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start(title="Plans")

    def snapshot(self):
        return read(self.conversation.pk, None, None)

    def test_it_has_what_is_visible_with_the_text_so_far(self):
        self.conversation.add_messages("1", "2")
        self.conversation.last_message.delete()
        message = self.conversation.start_streaming_assistant({"private": "secret"})
        message.append_chunk("Once ")
        message.append_chunk("upon")
        found = self.snapshot()
        assert [data["content"] for data in found.messages] == ["1", "Once upon"]
        assert [data["sequence"] for data in found.messages] == [0, 2]
        assert found.conversation == {"title": "Plans", "deleted": False, "leaf": message.offset}
        assert not found.truncated
        assert "secret" not in str(found.wire())

    def test_it_leads_over_deleted_messages_to_what_they_followed(self):
        messages = self.conversation.add_messages("1", "2", "3", "4", "5", "6")
        for number in (1, 2, 5):
            messages[number].delete()
        places = [message.offset for message in messages]
        found = self.snapshot()
        assert found.gone == [{"place": places[n], "follows": places[n - 1]} for n in (1, 2, 5)]
        assert found.conversation["leaf"] == places[5]
        with override_settings(CONVERSE_SNAPSHOT_LIMIT=1):  # what comes before the first one told is nothing to it
            assert self.snapshot().gone == found.gone[2:]
        for message in messages:
            message.delete()
        assert [link["place"] for link in self.snapshot().gone] == places

    def test_it_has_the_newest_messages_oldest_first_and_says_when_there_are_more(self):
        self.conversation.add_messages("1", "2", "3")
        with override_settings(CONVERSE_SNAPSHOT_LIMIT=2):
            found = self.snapshot()
            assert ([data["content"] for data in found.messages], found.truncated) == (["2", "3"], True)
        with override_settings(CONVERSE_SNAPSHOT_LIMIT=3):
            assert not self.snapshot().truncated

    def test_a_message_has_the_same_parts_open_and_closed_and_no_private_word_in_them(self):
        message = self.conversation.start_streaming_assistant()
        for piece in (
            ReasoningDelta(text="Let me "),
            ReasoningDelta(text="think", signature="secret"),
            TextDelta(text="It is "),
            ToolCallDelta(index=0, id="a", name="add", arguments="{"),
            RefusalDelta(text="No."),
        ):
            message.stream.append(piece)
        message.stream.append(ToolCallDelta(index=0, arguments="}"), {"type": "text", "private": "secret"})
        [opened] = self.snapshot().messages
        message.complete_streaming()
        [closed] = self.snapshot().messages
        assert (
            opened["parts"]
            == closed["parts"]
            == [
                {"type": "reasoning", "text": "Let me think"},
                {"type": "text", "text": "It is "},
                {"type": "tool_call", "id": "a", "name": "add", "arguments": "{}"},
                {"type": "refusal", "text": "No."},
            ]
        )
        assert opened["content"] == closed["content"] == "It is "
        assert opened["sequence"] == closed["sequence"] == 6
        assert message.tool_calls[0]["arguments"] == "{}"

    def test_a_deleted_conversation_says_so(self):
        self.conversation.delete()
        assert self.snapshot().conversation["deleted"]


class CommitBetweenQueriesTests(TestCase):
    """What is committed while a reader reads comes with the next reading, not half."""

    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start(User.objects.create_user("ada"))
        cls.conversation.add_user_message("Why?")

    def check(self, act, *, after):
        """Do something after the first, second … query of a reading, and see that nothing is missing in the end."""
        for moment in range(3):
            message = self.conversation.start_streaming_assistant()
            message.append_chunk("Once ")
            reader = Reading(self.conversation)
            if after:
                reader.up()
                message.append_chunk("upon ")
            with between_queries(lambda now, message=message, moment=moment: act(message) if now == moment else None):
                reader.once()
            self.conversation.refresh_from_db()
            assert reader.assembled.offset < self.conversation.last_offset
            reader.up()
            assert reader.assembled.parts == parts_of(self.conversation)
            assert reader.assembled.statuses == statuses_of(self.conversation)

    def acts(self):
        def grow(message):
            message.append_chunk("a time")

        def close(message):
            message.append_chunk("a time")
            message.complete_streaming()

        def fail(message):
            message.fail_streaming("why")

        def delete(message):
            message.append_chunk("a time")
            message.delete()

        def add(message):
            self.conversation.add_user_message("Well?")

        def restore(message):
            message.delete()
            message.restore()

        return [grow, close, fail, delete, add, restore]

    def test_a_replay_is_as_of_the_head_that_was_read(self):
        for act in self.acts():
            with self.subTest(act.__name__):
                self.check(act, after=True)

    def test_a_snapshot_is_as_of_the_head_that_was_read(self):
        for act in self.acts():
            with self.subTest(act.__name__):
                self.check(act, after=False)

    def test_a_message_open_at_the_head_is_told_open_though_it_was_closed_meanwhile(self):
        for after in (0, None):
            message = self.conversation.start_streaming_assistant()
            message.append_chunk("Once")
            with between_queries(lambda now, message=message: message.fail_streaming("why") if now == 0 else None):
                found = read(self.conversation.pk, after, self.conversation.epoch)
            states = found.messages if after is None else [event["data"] for event in found.events]
            [state] = [state for state in states if state.get("messageId") == str(message.uuid) and "status" in state]
            assert (state["status"], state["finishedAt"]) == ("streaming", None)
            assert "error" not in state


class PageTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()

    def test_a_long_replay_comes_in_pages_each_whole(self):
        reader = Reading(self.conversation)
        reader.up()
        message = self.conversation.start_streaming_assistant()
        for number in range(10):
            message.append_chunk(str(number))
            if number % 3 == 0:
                self.conversation.add_user_message("meanwhile")
        message.complete_streaming()
        pages = 0
        with small_pages(4):
            while reader.once():
                pages += 1
                assert reader.assembled.texts[str(message.uuid)] in "0123456789"
        assert pages == 3
        assert reader.assembled.parts == parts_of(self.conversation)
        assert reader.assembled.statuses == statuses_of(self.conversation)

    def test_a_page_that_is_just_full_is_followed_by_what_is_left(self):
        reader = Reading(self.conversation)
        reader.up()
        message = self.conversation.start_streaming_assistant()
        for number in range(4):
            message.append_chunk(str(number))
        with small_pages(4):
            assert reader.once()
            assert not reader.once()
            message.complete_streaming()
            assert reader.once()
        assert reader.assembled.statuses == statuses_of(self.conversation)


EXAMPLES = settings().max_examples // 4  # each is a whole story in the database


class Story:
    """Does to a conversation what people and providers do, step by step."""

    pieces = (
        "Once ",
        "é\u2028🙂",
        ReasoningDelta(text="hm"),
        ToolCallDelta(index=0, id="a", name="add", arguments="{"),
        ToolCallDelta(index=1, id="b", name="sub", arguments="["),
        ToolCallDelta(index=0, arguments="1"),
        RefusalDelta(text="No"),
        ReasoningDelta(text="well", signature="secret"),
        TextDelta("signed", signature="secret"),
        ToolResult(id="a", name="add", output="1é", is_error=True),
        ToolResult(id="b", name="sub", output=""),
        SourceDelta(url="https://example.org/", title="There", text="as quoted"),
        SourceDelta(url="https://example.org/"),
        StoredFile(attachment="f", name="a.png", mime_type="image/png", size=7),
        RawBlock({"secret": 1}),
    )

    def __init__(self, conversation):
        self.conversation = conversation

    def open(self, which):
        found = self.conversation.messages.open().order_by("offset")
        return found[which % len(found)] if found else None

    def any(self, which):
        found = Message.all_objects.filter(conversation=self.conversation).order_by("offset")
        return found[which % len(found)] if found else None

    def step(self, name, which):
        getattr(self, name)(which)

    def start(self, which):
        if self.conversation.messages.open().count() < 2:
            self.conversation.start_streaming_assistant()

    def append(self, which):
        if message := self.open(which):
            message.stream.append(self.pieces[which % len(self.pieces)])

    def complete(self, which):
        if message := self.open(which):
            message.complete_streaming()

    def fail(self, which):
        if message := self.open(which):
            message.fail_streaming("why")

    def stop(self, which):
        if message := self.any(which):
            message.stop()

    def say(self, which):
        self.conversation.add_user_message(f"Turn {which}")

    def edit(self, which):
        if (message := self.any(which)) and message.role == "user" and not message.deleted_at:
            message.edit("Otherwise", policy="allow").stop()

    def retry(self, which):
        if (message := self.any(which)) and message.reply_to and not message.deleted_at:
            message.regenerate(policy="allow").stop()

    def switch(self, which):
        if (message := self.any(which)) and not message.deleted_at:
            message.switch()

    def delete(self, which):
        if message := self.any(which):
            message.delete()

    def restore(self, which):
        if message := self.any(which):
            message.restore()

    def note(self, which):
        if message := self.any(which):
            message.update_metadata(tokens=which)

    def rename(self, which):
        self.conversation.rename(f"Title {which}")

    def hide(self, which):
        self.conversation.delete()

    def unhide(self, which):
        self.conversation.restore()


STEPS = (
    *("start", "append", "append", "append", "complete", "fail", "stop"),
    *("say", "edit", "retry", "switch", "delete", "restore", "note", "rename", "hide", "unhide"),
)
steps = st.tuples(st.sampled_from(STEPS), st.integers(0, 20))


@override_settings(CONVERSE_RUNNER="tests.runners.WaitingRunner", CONVERSE_OPEN_LIMIT=1000)
class PropertyTests(HypothesisTestCase):
    @settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
    @given(
        story=st.lists(st.one_of(steps, st.tuples(st.just("read"), st.integers(0, 2))), min_size=12, max_size=60),
        page=st.integers(1, 5),
        meanwhile=st.lists(st.tuples(st.integers(0, 30), steps), max_size=4),
    )
    def test_what_readers_assemble_equals_what_is_stored_whatever_happens_meanwhile(self, story, page, meanwhile):
        conversation = Conversation.objects.start()
        told = Story(conversation)
        readers = [Reading(conversation) for _ in range(3)]
        queries = 0
        interruptions = dict(meanwhile)

        def interrupt(now):
            nonlocal queries
            queries += 1
            if step := interruptions.pop(queries, None):
                told.step(*step)

        with small_pages(page):
            for name, which in story:
                if name == "read":
                    with between_queries(interrupt):
                        readers[which].once()
                else:
                    told.step(name, which)
            conversation = Conversation.all_objects.get(pk=conversation.pk)
            conversation.restore()
            for reader in readers:
                reader.up()
                assert reader.assembled.parts == parts_of(conversation)
                assert "secret" not in str(reader.assembled.events)
                assert reader.assembled.statuses == statuses_of(conversation)
                assert reader.assembled.shown == shown_in(conversation)
                assert reader.assembled.title == Conversation.objects.get(pk=conversation.pk).title
