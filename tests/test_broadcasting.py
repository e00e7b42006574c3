from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from time import monotonic

from channels.layers import InMemoryChannelLayer
from django.test import SimpleTestCase, TransactionTestCase, override_settings

from converse import broadcasting
from converse.broadcasting import group_name, layer, publish, whisper
from converse.events import MessageCreated, StreamUpdate, Typing
from converse.loops import background, settle
from converse.models import Conversation
from tests.layers import held_layer
from tests.readers import until


def update(offset, chunk="x", conversation="c"):
    return StreamUpdate(conversation_id=conversation, message_id="m", chunk=chunk, sequence=offset, offset=offset)


class PublishingTests(SimpleTestCase):
    def setUp(self):
        held = held_layer()
        self.layer = held.__enter__()
        self.addCleanup(held.__exit__, None, None, None)

    async def sent(self, count):
        """Give so many messages, as soon as they are there."""
        await until(lambda: len(self.ours()) >= count)
        assert len(self.ours()) == count
        return self.ours()

    def ours(self):
        """Give what was sent, but for what another test may have left to the background."""
        return [message for message in self.layer.sent if message["data"]["conversationId"] == "c"]

    async def test_an_event_goes_to_its_conversations_group_in_the_order_of_the_log(self):
        settle()
        channel = await self.layer.new_channel()
        await self.layer.group_add(group_name("c"), channel)
        publish("e", [update(1), update(2)])
        publish("e", [update(3)])
        received = [await self.layer.receive(channel) for _ in range(3)]
        assert [message["data"]["offset"] for message in received] == [1, 2, 3]
        assert received[0] == {
            "type": "stream.update",
            "event": "StreamUpdate",
            "epoch": "e",
            "data": update(1).wire(),
        }

    async def test_what_is_published_in_another_thread_goes_out_in_the_readers_loop(self):
        settle()
        await asyncio.to_thread(publish, "e", [update(1)])
        assert len(await self.sent(1)) == 1

    def test_where_there_are_no_readers_the_background_does_it(self):
        async def ring():
            # Again and again, for it may be resting after another test's failure.
            await until(lambda: publish("e", [update(1, conversation="background")]) or self.layer.sent)

        asyncio.run_coroutine_threadsafe(ring(), background()).result(10)

    async def test_a_large_event_goes_as_a_pointer_and_a_small_one_whole(self):
        settle()
        with override_settings(CONVERSE_EVENT_LIMIT=1000):
            publish("e", [update(1, "é" * 800), update(2, "x" * 200)])
            large, small = await self.sent(2)
        assert large["pointer"] is True
        assert large["data"] == {"conversationId": "c", "offset": 1}
        assert "pointer" not in small
        assert small["data"]["chunk"] == "x" * 200

    async def test_whatever_makes_an_event_large_it_goes_as_a_pointer(self):
        settle()
        created = MessageCreated(
            conversation_id="c",
            message_id="m",
            offset=4,
            role="user",
            status="completed",
            metadata={"model": "x" * 1000},
        )
        with override_settings(CONVERSE_EVENT_LIMIT=1000):
            publish("e", [created])
            [message] = await self.sent(1)
        assert message["data"] == {"conversationId": "c", "offset": 4}

    async def test_an_event_without_an_offset_is_in_no_table_to_point_to(self):
        settle()
        with override_settings(CONVERSE_EVENT_LIMIT=10):
            publish("e", [Typing(conversation_id="c", user={"id": "1", "name": "Ada"})], origin="s")
            [message] = await self.sent(1)
        assert message["origin"] == "s"
        assert message["data"]["user"] == {"id": "1", "name": "Ada"}

    async def test_a_layer_that_fails_is_given_a_rest_and_works_again(self):
        settle()
        self.layer.failing["group_send"] = ConnectionError("away")
        with self.assertLogs("converse.broadcasting", "WARNING") as logs:
            publish("e", [update(1)])
            await until(lambda: logs.records)
        publish("e", [update(2)])  # during the rest: dropped, readers find it in the table
        self.layer.failing.clear()
        publisher = broadcasting._publisher()
        await asyncio.wait_for(publisher.task, 10)
        publish("e", [update(3)])
        [message] = await self.sent(1)
        assert message["data"]["offset"] == 3

    async def test_a_layer_that_hangs_is_not_waited_for_for_ever(self):
        settle()
        self.layer.hanging.add("group_send")
        patience, broadcasting.PATIENCE = broadcasting.PATIENCE, 0.01
        self.addCleanup(setattr, broadcasting, "PATIENCE", patience)
        with self.assertLogs("converse.broadcasting", "WARNING") as logs:
            publish("e", [update(1)])
            await until(lambda: logs.records)

    async def test_a_message_that_the_layer_cannot_carry_harms_no_other(self):
        settle()
        self.layer.failing["group_send"] = OverflowError("Integer value out of range")
        with self.assertLogs("converse.broadcasting", "WARNING") as logs:
            publish("e", [update(1)])
            await until(lambda: logs.records)
        self.layer.failing.clear()
        begun = monotonic()
        publish("e", [update(2)])
        await self.sent(1)
        assert monotonic() - begun < broadcasting.PAUSE / 2

    async def test_what_waits_for_a_slow_layer_is_bounded(self):
        settle()
        self.layer.hanging.add("group_send")
        publish("e", [update(1)])
        await until(lambda: "group_send" in self.layer.calls)
        for offset in range(broadcasting.QUEUE_LIMIT + 10):
            publish("e", [update(offset)])
        publisher = broadcasting._publisher()
        await until(lambda: len(publisher.waiting) == broadcasting.QUEUE_LIMIT)
        publisher.task.cancel()

    async def test_nothing_to_say_says_nothing(self):
        settle()
        publish("e", [])
        whisper({"type": "x", "data": {"conversationId": "c"}})
        assert [message["type"] for message in await self.sent(1)] == ["x"]

    async def test_without_a_layer_events_fall_silent(self):
        settle()
        with override_settings(CONVERSE_CHANNEL_LAYER="none"):
            publish("e", [update(1)])
            publisher = broadcasting._publisher()
            await until(lambda: publisher.task and publisher.task.done() and not publisher.waiting)
        assert self.ours() == []

    def test_a_loop_that_closes_in_this_very_moment_is_no_ones_trouble(self):
        class Closing:
            def is_running(self):
                return True

            def call_soon_threadsafe(self, *args):
                raise RuntimeError("Event loop is closed")

        broadcasting.loops._readers[:] = [Closing()]
        self.addCleanup(broadcasting.loops._readers.clear)
        with self.assertLogs("converse.broadcasting", "INFO"):
            publish("e", [update(1)])


class SlowLayer(InMemoryChannelLayer):
    """Takes its time to be made, as one does whose modules are yet to be imported."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        Event().wait(0.05)


class LaggingLayer(InMemoryChannelLayer):
    """Takes its time for each message."""

    async def group_send(self, group, message):
        await asyncio.sleep(0.05)
        await super().group_send(group, message)


class LaggingTests(TransactionTestCase):
    async def rows(self) -> int:
        """Stream forty words; give how many rows they became."""
        conversation = await Conversation.objects.astart()
        async with conversation.astream_reply() as stream:
            for _ in range(40):
                await stream.aappend("word ")
                await asyncio.sleep(0.01)
        assert stream.message.content == "word " * 40
        return await stream.message.chunks.acount()

    async def test_a_layer_that_falls_behind_is_given_fewer_and_larger_chunks_until_it_has_caught_up(self):
        with override_settings(CONVERSE_FLUSH_INTERVAL=0):
            calm = await self.rows()
            assert broadcasting.lag() == 0.0
            with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "tests.test_broadcasting.LaggingLayer"}}):
                for number in range(1000):
                    publish("e", [update(number, conversation=str(number))])
                await until(broadcasting.lag)
                assert await self.rows() < calm / 2
                await until(lambda: broadcasting.lag() == 0.0)


class LayerTests(TransactionTestCase):
    def test_two_threads_that_ask_for_the_layer_first_get_the_same(self):
        backend = {"BACKEND": "tests.test_broadcasting.SlowLayer"}
        with override_settings(CHANNEL_LAYERS={"default": backend}), ThreadPoolExecutor() as threads:
            assert len({asked.result() for asked in [threads.submit(layer) for _ in range(4)]}) == 1

    def test_a_layer_that_cannot_be_made_does_not_stop_writing(self):
        with (
            override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "no.such.Layer"}}),
            self.assertLogs("converse.broadcasting", "WARNING") as logs,
        ):
            conversation = Conversation.objects.start()
            conversation.add_user_message("Hi")
            begun = monotonic()
            while not logs.records:
                assert monotonic() - begun < 10
        assert conversation.messages.count() == 1

    async def test_group_names_are_fit_for_every_layer(self):
        conversation = await Conversation.objects.astart()
        with held_layer() as layer:
            layer.require_valid_group_name(group_name(str(conversation.uuid)))
