from __future__ import annotations

import random

from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.test import TestCase, override_settings

from converse.cursors import read_cursor, write_cursor
from converse.deltas import ReasoningDelta
from converse.hubs import Delivery, hub
from converse.models import Conversation
from converse.replays import read
from converse.transports.pusher import runs, tellings
from converse.upkeep import prune_chunks
from tests.pushers import Pusher
from tests.readers import stored
from tests.test_echo import EchoTestCase


class Page:
    """A page as simple as can be: it appends what comes, and keeps the last seq."""

    def __init__(self):
        self.seq = ""
        self.texts = {}
        self.statuses = {}
        self.title = ""

    def take(self, name, data):
        name = name.removeprefix("App\\Events\\")
        message = data.get("messageId")
        if name == "MessageCreated":
            assert message not in self.texts, "told twice"
            self.texts[message], self.statuses[message] = data.get("content") or "", data["status"]
        elif name == "StreamUpdate" and data["kind"] == "text":
            self.texts[message] += data["chunk"]
        elif name == "MessageDeleted":
            self.texts.pop(message, None)
        elif name == "ConversationUpdated":
            self.title = data["title"]
        elif name.startswith("Message"):
            self.statuses[message] = data["status"]
        self.seq = data.get("seq", self.seq)


class StepTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.user = User.objects.create_user("ada")
        cls.conversation = Conversation.objects.start(cls.user, title="Plans")

    def since(self, seq):
        """Give what a page with a cursor is told, as (name, data)."""
        self.conversation.refresh_from_db()
        epoch, head = self.conversation.epoch, self.conversation.last_offset
        after, known = read_cursor(seq)
        assert known == epoch
        told = []
        while after < head:
            replay = read(self.conversation.pk, after, epoch)
            for offset, event in runs.steps(self.conversation.pk, after, replay.offset, epoch):
                told.append((event.name, {**event.wire(), "seq": write_cursor(offset, epoch)}))
            after = replay.offset
        return told

    def beginning(self):
        return write_cursor(0, self.conversation.epoch)

    def read_with_cuts(self, until_seq=None):
        """Read with the socket lost after each single event."""
        page = Page()
        page.seq = self.beginning()
        while told := self.since(page.seq):
            page.take(*told[0])
        return page

    def check(self):
        whole = Page()
        for name, data in self.since(self.beginning()):
            whole.take(name, data)
        cut = self.read_with_cuts()
        texts = {str(m.uuid): m.text for m in self.conversation.messages.filter(deleted_at=None)}
        assert whole.texts == cut.texts == texts
        assert whole.statuses == cut.statuses
        return whole

    def scene(self, seed):
        """Do this and that, several replies at a time."""
        dice = random.Random(seed)
        made, open_ = [], []
        for number in range(60):
            match dice.choice(
                ["user", "open", "append", "append", "append", "append", "close", "delete", "update", "title"]
            ):
                case "user":
                    made.append(self.conversation.create_user_message(f"user {number}"))
                case "open":
                    open_.append(self.conversation.start_streaming_assistant())
                case "append" if open_:
                    dice.choice(open_).append_chunk(f"{number} é漢 ")
                case "close" if open_:
                    message = open_.pop(dice.randrange(len(open_)))
                    message.complete_streaming() if dice.random() < 0.7 else message.stop()
                    made.append(message)
                case "delete" if made and dice.random() < 0.5:
                    made.pop(dice.randrange(len(made))).delete()
                case "update" if made:
                    dice.choice(made).update_metadata(tokens=number)
                case "title":
                    self.conversation.rename(f"Title {number}")

    def test_whatever_happened_a_page_may_lose_its_socket_after_any_event(self):
        for seed in range(12):
            self.conversation = Conversation.objects.start(self.user, title="Plans")
            self.scene(seed)
            self.check()

    def test_parts_that_come_one_after_the_other_are_packed(self):
        message = self.conversation.start_streaming_assistant()
        stream = message.stream
        for _ in range(3):
            stream.append(ReasoningDelta(text="thought "))
        for _ in range(3):
            stream.append("word ")
        message.complete_streaming()
        names = [(name, data.get("chunk")) for name, data in self.since(self.beginning())]
        assert names[-3:] == [
            ("StreamUpdate", "thought thought thought "),
            ("StreamUpdate", "word word word "),
            ("MessageCompleted", None),
        ]

    def test_runs_are_cut_where_they_grow_too_long(self):
        message = self.conversation.start_streaming_assistant()
        for _ in range(5):
            message.append_chunk("x" * (runs.RUN // 2))
        sizes = [len(data["chunk"]) for name, data in self.since(self.beginning()) if name == "StreamUpdate"]
        assert sizes == [runs.RUN, runs.RUN, runs.RUN // 2]
        self.check()

    def test_messages_whose_chunks_were_pruned_are_told_whole(self):
        message = self.conversation.start_streaming_assistant()
        message.append_chunk("text")
        message.complete_streaming()
        message.refresh_from_db()
        prune_chunks(self.conversation, message.finished_at.replace(year=message.finished_at.year + 1))
        self.conversation.refresh_from_db()
        assert self.check().texts == {str(message.uuid): "text"}

    def test_a_message_deleted_before_it_was_told_is_told_as_deleted(self):
        message = self.conversation.start_streaming_assistant()
        message.append_chunk("text")
        message.delete()
        assert [name for name, _ in self.since(self.beginning())] == ["ConversationUpdated", "MessageDeleted"]

    def test_a_deleted_conversation_says_so(self):
        self.conversation.delete()
        conversation = Conversation.all_objects.get(pk=self.conversation.pk)
        [(_, event)] = runs.steps(conversation.pk, 0, conversation.last_offset, conversation.epoch)
        assert event.name == "ConversationDeleted"

    def test_a_log_that_was_renumbered_meanwhile_tells_nothing(self):
        assert runs.steps(self.conversation.pk, 0, 9, "other") == []
        assert runs.steps(10**6, 0, 9, self.conversation.epoch) == []

    def test_what_came_after_the_head_is_left_for_later(self):
        gone = self.conversation.create_user_message("gone")
        message = self.conversation.start_streaming_assistant()
        message.append_chunk("one")
        self.conversation.refresh_from_db()
        head, epoch = self.conversation.last_offset, self.conversation.epoch
        gone.delete()
        message.append_chunk("two")
        message.complete_streaming()
        self.conversation.rename("Other")
        told = [event for _, event in runs.steps(self.conversation.pk, 1, head, epoch)]
        assert [event.name for event in told] == ["MessageCreated", "StreamUpdate"]
        assert (told[0].status, told[1].chunk) == ("streaming", "one")


class ResumeTests(EchoTestCase):
    async def test_a_page_that_loses_its_socket_at_any_moment_loses_nothing_and_gets_nothing_twice(self):
        dice = random.Random(7)
        page, last = Page(), {self.name: write_cursor(0, self.conversation.epoch)}

        async def visit(events):
            """Be there for so many events."""
            async with Pusher(self.user) as client:
                await client.open()
                client.last = last
                success = await client.follow(self.name, resume=True)
                assert success["seq"] == last[self.name]
                for _ in range(events):
                    if last[self.name] == await self.head():
                        break
                    frame = await client.frame(lambda frame: frame["event"].startswith("App"))
                    page.take(frame["event"], frame["data"])

        streams = [self.conversation.astream_reply() for _ in range(2)]
        entered = [await stream.__aenter__() for stream in streams]
        for number in range(40):
            stream = dice.choice(entered)
            said = f"{number} é漢 "
            await stream.aappend(ReasoningDelta(text=said) if number % 3 == 0 else said)
            await stream.adrain()
            if dice.random() < 0.4:
                last[self.name] = page.seq or last[self.name]
                await visit(dice.randint(0, 4))
        for stream in streams:
            await stream.__aexit__(None, None, None)
        await sync_to_async(self.conversation.create_user_message)("Thanks!")
        last[self.name] = page.seq
        await visit(1000)
        assert page.texts == await stored(self.conversation)
        assert set(page.statuses.values()) == {"completed"}

    async def test_what_is_told_while_a_resumed_page_is_slow_comes_once(self):
        last = {self.name: write_cursor(0, self.conversation.epoch)}
        page = Page()
        with override_settings(CONVERSE_WINDOW=2000, CONVERSE_FRAME_RATE=10_000):
            async with Pusher(self.user) as client:
                await client.open()
                client.last = last
                await client.follow(self.name, resume=True)
                async with self.conversation.astream_reply() as stream:
                    for number in range(200):
                        await stream.aappend(f"{number} ".ljust(50, "é"))
                        if number % 50 == 0:
                            await stream.adrain()
                while page.seq != await self.head():
                    frame = await client.frame(lambda frame: frame["event"].startswith("App"))
                    page.take(frame["event"], frame["data"])
        assert page.texts == await stored(self.conversation)

    async def test_without_a_cursor_one_hears_only_what_comes(self):
        await sync_to_async(self.conversation.add_messages)(["one", "two"])
        async with self.following() as client:
            await client.alive()
            assert not client.frames

    async def test_the_place_to_go_on_from_is_told_before_what_was_missed(self):
        before = await self.head()
        await sync_to_async(self.conversation.add_messages)(["one", "two"])
        async with self.opened() as client:
            client.last = {self.name: before}
            assert (await client.follow(self.name, resume=True)) == {"seq": before}
            one, two = await client.app("MessageCreated"), await client.app("MessageCreated")
            assert (one["content"], two["content"]) == ("one", "two")
            assert read_cursor(two["seq"])[0] == read_cursor(one["seq"])[0] + 1
            assert two["seq"] == await self.head()

    async def test_a_replay_in_which_there_is_nothing_moves_the_cursor_silently(self):
        async with self.following() as client:
            uuid, epoch = str(self.conversation.uuid), self.conversation.epoch
            [reader] = hub().readers[uuid]
            empty = {"conversationId": uuid, "epoch": epoch, "offset": reader.offset + 1, "events": []}
            reader.offer(Delivery("Replay", empty), epoch)
            await client.alive()
            assert not client.frames


@override_settings(CONVERSE_ECHO_ALIASES=True)
class AliasTests(EchoTestCase):
    async def test_events_are_told_under_the_originals_names_too(self):
        async with self.following() as client:
            message = await sync_to_async(self.conversation.create_user_message)("Hello!")
            for name in ("message.created", "App\\Events\\message\\created"):
                told = (await client.event(name, self.name))["message"]
                assert told.pop("created_at")
                assert told == {
                    "id": str(message.uuid),
                    "conversation_id": str(self.conversation.uuid),
                    "role": "user",
                    "content": "Hello!",
                    "status": "completed",
                    "is_complete": True,
                    "metadata": {},
                }
            assert (await client.app("MessageCreated"))["content"] == "Hello!"
            assert not client.frames

    async def test_a_chunk_is_one_of_text_there(self):
        async with self.following() as client, self.conversation.astream_reply() as stream:
            await stream.aappend(ReasoningDelta(text="Hm."))
            await stream.aappend("Hello!")
            for name in ("chunk.received", "App\\Events\\chunk\\received"):
                told = await client.event(name, self.name)
                chunk = {"content": "Hello!", "sequence": 2, "metadata": {}}
                assert told == {"message_id": str(stream.message.uuid), "chunk": chunk}

    async def test_the_end_does_not_take_the_text_away(self):
        async with self.following() as client:
            async with self.conversation.astream_reply() as stream:
                await stream.aappend("Hello!")
            told = await client.event("message.completed")
            assert told["message"]["is_complete"]
            assert "content" not in told["message"]

    async def test_what_the_original_did_not_have_has_one_name(self):
        async with self.following() as client:
            await sync_to_async(self.conversation.rename)("Other")
            await client.app("ConversationUpdated")
            await client.alive()
            assert not client.frames


class EncodingTests(EchoTestCase):
    async def test_an_event_is_encoded_once_for_all_readers(self):
        delivery = Delivery("ConversationUpdated", {"conversationId": "c", "offset": 3, "title": "é", "leaf": 0})
        assert tellings.live(delivery, "ab") is tellings.live(delivery, "ab")
        with override_settings(CONVERSE_ECHO_NAMESPACE=""):
            [(name, _)] = tellings.live(delivery, "ab")
            assert name == '"ConversationUpdated"'
