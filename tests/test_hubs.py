from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import asynccontextmanager
from unittest import mock

import pytest
from asgiref.sync import sync_to_async
from django.db import DatabaseError, InterfaceError, connections
from django.test import TransactionTestCase, override_settings
from django.test.utils import CaptureQueriesContext

from converse import hubs
from converse.broadcasting import group_name
from converse.choices import Status
from converse.conf import settings
from converse.hubs import AUDIT, hub
from converse.models import Conversation, Message
from converse.presence import ANNOUNCE, EXPIRE
from converse.subscriptions import subscribe
from tests.layers import held_layer
from tests.readers import Assembled, until

ADA = {"id": "1", "name": "Ada"}
BOB = {"id": "2", "name": "Bob"}


def seconds(**names):
    """Have the hub's long waits be short ones."""
    return mock.patch.multiple(hubs, **names)


def left_behind():
    """Give what a hub without readers has no use for."""
    here = hub()
    return here.readers, here.rosters, here._groups, here._tasks, here._channel


@asynccontextmanager
async def counted():
    """Count the queries of a block, whatever task they are of."""
    queries = await sync_to_async(lambda: CaptureQueriesContext(connections["default"]))()
    await sync_to_async(queries.__enter__)()
    yield queries
    await sync_to_async(queries.__exit__)(None, None, None)


@override_settings(CONVERSE_SWEEP_INTERVAL=0.005)
class HubTestCase(TransactionTestCase):
    def setUp(self):
        held = held_layer()
        self.layer = held.__enter__()
        self.addCleanup(held.__exit__, None, None, None)
        self.conversation = Conversation.objects.start()
        self.group = group_name(str(self.conversation.uuid))

    def members(self):
        """Give the channels in the conversation's group."""
        return list(self.layer.groups.get(self.group, ()))

    @asynccontextmanager
    async def following(self, **kwargs):
        """Follow the conversation, the snapshot read."""
        async with subscribe(self.conversation, **kwargs) as events:
            reader = Assembled()
            snapshot = await anext(events)
            reader.apply(snapshot.name, snapshot.data)
            yield events

    async def text(self, events):
        """Give the text of the next event or replay that has any."""
        found = ""
        async with asyncio.timeout(10):
            while not found:
                delivery = await anext(events)
                updates = delivery.data["events"] if delivery.name == "Replay" else [{"data": delivery.data}]
                found = "".join(update["data"].get("chunk") or "" for update in updates)
        return found


class ListeningTests(HubTestCase):
    async def test_all_readers_of_a_loop_share_one_channel_and_it_is_the_one_that_is_listened_to(self):
        other = await Conversation.objects.astart()
        async with self.following(), self.following(), subscribe(other):
            await until(lambda: "receive" in self.layer.calls)
            assert self.layer.calls.count("new_channel") == 1
            assert self.members() == [hub()._channel]
            assert list(self.layer.groups[group_name(str(other.uuid))]) == [hub()._channel]

    async def test_live_events_arrive_without_a_look_at_the_table(self):
        message = await self.conversation.astart_streaming_assistant()
        with override_settings(CONVERSE_SWEEP_INTERVAL=1000):
            async with self.following() as events:
                await message.aappend_chunk("Once")
                async with counted() as queries:
                    assert await self.text(events) == "Once"
                assert len(queries) == 0

    async def test_when_the_last_reader_leaves_nothing_is_left_behind(self):
        async with self.following():
            async with self.following():
                pass
            assert self.members()
            tasks = list(hub()._tasks)
        await until(lambda: not self.members() and all(task.done() for task in tasks))
        assert not any(left_behind())

    async def test_a_reader_who_comes_while_the_last_one_leaves_is_heard(self):
        for _ in range(5):
            async with self.following():
                pass
        message = await self.conversation.astart_streaming_assistant()
        with override_settings(CONVERSE_SWEEP_INTERVAL=1000):
            async with self.following() as events:
                await until(lambda: self.members() == [hub()._channel])
                await message.aappend_chunk("Once")
                assert await self.text(events) == "Once"

    async def test_a_reader_who_is_cancelled_while_joining_leaves_nothing_behind(self):
        for place in ("new_channel", "group_add"):
            self.layer.hanging = {place}
            joining = asyncio.create_task(subscribe(self.conversation, member=ADA).__aenter__())
            await until(lambda place=place: place in self.layer.calls)
            joining.cancel()
            await asyncio.wait([joining])
            assert joining.cancelled()
            assert not any(left_behind())
            self.layer.hanging = set()
            await until(lambda: not self.members())
            self.layer.calls.clear()

    async def test_a_reader_who_could_not_look_leaves_nothing_behind(self):
        with mock.patch.object(hubs, "_heads", side_effect=DatabaseError("away")), pytest.raises(DatabaseError):
            await subscribe(self.conversation).__aenter__()
        await until(lambda: not any(left_behind()))

    async def test_leaving_twice_does_no_harm(self):
        async with self.following() as events:
            hub().leave(events)
        assert not hub().readers

    async def test_a_hung_layer_delays_nobody_but_its_own_conversation(self):
        other = await Conversation.objects.astart()
        self.layer.hanging.add("group_add")
        async with asyncio.timeout(5):
            joining = asyncio.create_task(subscribe(self.conversation).__aenter__())
            await until(lambda: "group_add" in self.layer.calls)
            self.layer.hanging.clear()
            async with subscribe(other) as events:
                assert (await anext(events)).name == "Snapshot"
            joining.cancel()
            await asyncio.wait([joining])

    async def test_a_dead_layer_makes_readers_slower_and_no_worse(self):
        message = await self.conversation.astart_streaming_assistant()
        calls = ("new_channel", "receive", "group_add", "group_send", "group_discard")
        self.layer.failing = dict.fromkeys(calls, ConnectionError("away"))
        with self.assertLogs("converse", "WARNING"), seconds(PAUSE=0.01):
            async with self.following() as events:
                await message.aappend_chunk("Once")
                assert await self.text(events) == "Once"
                await message.aappend_chunk(" upon")
                assert await self.text(events) == " upon"

    async def test_a_layer_that_comes_back_is_used_again(self):
        message = await self.conversation.astart_streaming_assistant()
        self.layer.failing = dict.fromkeys(("new_channel", "receive", "group_add"), ConnectionError("away"))
        with self.assertLogs("converse", "WARNING"), seconds(PAUSE=0.01, RETUNE=0.01):
            async with self.following() as events:
                await until(lambda: self.layer.calls.count("new_channel") > 3)
                self.layer.failing = {}
                await until(lambda: self.members() == [hub()._channel])
                with override_settings(CONVERSE_SWEEP_INTERVAL=1000):
                    await message.aappend_chunk("Once")
                    assert await self.text(events) == "Once"

    async def test_memberships_that_ended_silently_are_renewed(self):
        with seconds(RETUNE=0.01, REJOIN=0.02):
            async with self.following():
                self.layer.groups.clear()
                await until(self.members)

    async def test_a_group_that_could_not_be_left_is_left_later(self):
        other = await Conversation.objects.astart()
        with seconds(RETUNE=0.01), self.assertLogs("converse.hubs", "WARNING"):
            async with subscribe(other):
                self.layer.failing["group_discard"] = ConnectionError("away")
                async with self.following():
                    pass
                await until(lambda: "group_discard" in self.layer.calls)
                assert self.members()
                self.layer.failing.clear()
                await until(lambda: not self.members())

    async def test_a_layer_that_hangs_while_a_reader_joins_is_given_up_on(self):
        self.layer.hanging.add("group_add")
        with seconds(PATIENCE=0.01), self.assertLogs("converse.hubs", "WARNING"):
            async with self.following():
                pass

    async def test_without_a_layer_readers_poll(self):
        message = await self.conversation.astart_streaming_assistant()
        with override_settings(CONVERSE_CHANNEL_LAYER="none"):
            async with self.following() as events:
                await message.aappend_chunk("Once")
                assert await self.text(events) == "Once"

    async def test_a_message_that_makes_no_sense_is_skipped_and_the_next_is_heard(self):
        message = await self.conversation.astart_streaming_assistant()
        uuid = str(self.conversation.uuid)
        of_ours = {"type": "x", "event": "StreamUpdate", "epoch": self.conversation.epoch}
        nonsense = [
            {"type": "x"},
            {"type": "x", "data": []},
            {"type": "x", "data": "text"},
            {"type": "x", "event": "Presence", "data": {"conversationId": uuid, "members": 7}},
            {**of_ours, "data": {"conversationId": uuid, "offset": "seven"}},
            {**of_ours, "data": {"conversationId": ["x"]}},
        ]
        with override_settings(CONVERSE_SWEEP_INTERVAL=1000):
            async with self.following() as events:
                with self.assertLogs("converse.hubs", "ERROR"):
                    for one in nonsense:
                        await self.layer.ring(self.group, one)
                    await message.aappend_chunk("Once")
                    assert await self.text(events) == "Once"

    async def test_an_event_reaches_the_readers_of_its_own_conversation_only(self):
        other = await Conversation.objects.astart()
        with override_settings(CONVERSE_SWEEP_INTERVAL=1000):
            async with self.following() as events, subscribe(other) as others:
                await anext(others)
                await self.conversation.acreate_user_message("for us")
                assert (await anext(events)).data["content"] == "for us"
                await other.acreate_user_message("for them")
                assert (await anext(others)).data["content"] == "for them"


class SweepingTests(HubTestCase):
    async def test_a_lost_last_event_is_found(self):
        message = await self.conversation.astart_streaming_assistant()
        self.layer.holding = True
        async with self.following() as events:
            await message.aappend_chunk("Once")
            assert await self.text(events) == "Once"

    async def test_nothing_that_fails_ends_the_sweeping(self):
        message = await self.conversation.astart_streaming_assistant()
        self.layer.holding = True
        failures = [
            DatabaseError("away"),
            InterfaceError("closed"),
            InterfaceError("closed"),
            RuntimeError("what?"),
        ] * 2
        async with self.following() as events:
            with (
                self.assertLogs("converse.hubs", "WARNING") as logs,
                mock.patch.object(hubs, "_settle", side_effect=failures) as settle,
            ):
                await until(lambda: settle.call_count >= len(failures) and len(logs.records) >= 4)
            await message.aappend_chunk("Once")
            assert await self.text(events) == "Once"

    async def test_a_connection_that_went_stale_costs_a_second_try_and_nothing_else(self):
        for stale in (DatabaseError("gone"), InterfaceError("closed")):
            calls = iter([stale, None])

            def ask(calls=calls):
                if exc := next(calls):
                    raise exc
                return "found"

            assert await hub().query(ask) == "found"

    async def test_whoever_looks_first_closes_what_a_dead_writer_left(self):
        message = await self.conversation.astart_streaming_assistant()
        await message.aappend_chunk("so far")
        await Message.objects.filter(pk=message.pk).aupdate(lease_expires_at="2020-01-01T00:00Z")
        async with self.following() as events, asyncio.timeout(10):
            assert "MessageFailed" in (await anext(events)).text
        await message.arefresh_from_db()
        assert (message.error_type, message.content) == ("interrupted", "so far")

    async def test_calls_of_providers_that_nobody_will_end_are_looked_for_once_a_minute(self):
        with (
            mock.patch.object(hubs, "monotonic", return_value=1000.0) as clock,
            mock.patch.object(hubs, "_settle", side_effect=hubs._settle) as sweeps,
            mock.patch.object(hubs.calls, "settle", side_effect=hubs.calls.settle) as audits,
            seconds(IDLE=1),
        ):
            async with self.following():
                for number in range(3):
                    seen = sweeps.call_count
                    await until(lambda seen=seen: sweeps.call_count > seen + 2)
                    assert audits.call_count == number
                    clock.return_value += AUDIT + 1
                    await until(lambda number=number: audits.call_count > number)

    async def test_a_process_where_nothing_happens_looks_more_rarely(self):
        with seconds(QUIET=-1.0, IDLE=10**6):
            async with self.following():
                async with counted() as queries:
                    for _ in range(100):
                        await asyncio.sleep(0)
                assert len(queries) == 0
        async with self.following() as events:
            self.layer.holding = True
            await self.conversation.acreate_user_message("Hi")
            await anext(events)

    async def test_readers_are_looked_after_as_often_as_ever_when_they_come_and_while_something_is_written(self):
        message = await self.conversation.astart_streaming_assistant()
        self.layer.holding = True
        with (
            mock.patch.object(hubs, "monotonic", return_value=1000.0) as clock,
            mock.patch.object(hubs, "_settle", side_effect=hubs._settle) as settle,
            seconds(IDLE=10**6),
        ):
            async with self.following() as events:
                for word in ("Once ", "upon "):
                    seen = settle.call_count
                    await until(lambda seen=seen: settle.call_count > seen + 2)
                    await message.aappend_chunk(word)
                    assert await self.text(events) == word
                    clock.return_value += 1000.0
                # For a person: that may last.
                await Message.objects.filter(pk=message.pk).aupdate(status=Status.WAITING)
                seen = settle.call_count
                await asyncio.sleep(20 * settings.CONVERSE_SWEEP_INTERVAL)
                assert settle.call_count <= seen + 2

    async def test_all_heads_are_compared_in_one_query(self):
        others = [await Conversation.objects.astart() for _ in range(3)]
        with override_settings(CONVERSE_SWEEP_INTERVAL=1000):
            async with subscribe(others[0]), subscribe(others[1]), subscribe(others[2]):
                async with counted() as queries:
                    assert await hub()._look(list(hub().readers))
                assert len(queries) == 1

    def test_each_loop_has_one_hub_and_it_goes_with_its_loop(self):
        async def main():
            async with subscribe(self.conversation) as events:
                await anext(events)
            here.append(weakref.ref(hub()))
            assert hub() is here[-1]()

        here: list[weakref.ref[hubs.Hub]] = []
        for _ in range(3):
            asyncio.run(main())
        gc.collect()
        assert [ref() for ref in here[:-1]] == [None, None]


class PresenceTests(HubTestCase):
    """As another process would hear it, and say it, over the layer."""

    async def presence(self, **data):
        told = {"conversationId": str(self.conversation.uuid), "hub": "another", **data}
        await self.layer.ring(self.group, {"type": "converse.presence", "event": "Presence", "data": told})

    async def heard(self, events):
        async with asyncio.timeout(10):
            delivery = await anext(events)
        return delivery.name, delivery.data.get("user") or delivery.data.get("users")

    def said(self):
        """Give what this process told the others of presence."""
        return [
            {key: value for key, value in message["data"].items() if key not in ("conversationId", "hub")}
            for message in self.layer.sent
            if message["event"] == "Presence" and message["data"]["hub"] == hub().name
        ]

    async def test_who_comes_is_told_who_is_here_and_tells_the_other_processes(self):
        async with self.following(member=ADA, name="a") as events:
            assert await self.heard(events) == ("Here", [ADA])
            await until(self.said)
            assert self.said() == [{"members": {"a": ADA}, "ask": True}]

    async def test_who_comes_and_goes_elsewhere_joins_and_leaves_here(self):
        async with self.following(member=ADA, name="a") as events:
            await self.heard(events)
            await self.presence(members={"b": BOB})
            assert await self.heard(events) == ("Joining", BOB)
            await self.presence(members={"b2": BOB})
            await self.presence(gone=["b"])
            await self.presence(gone=["b2"])
            assert await self.heard(events) == ("Leaving", BOB)

    async def test_who_asks_is_answered(self):
        async with self.following(member=ADA, name="a") as events:
            await self.heard(events)
            await self.presence(members={"b": BOB}, ask=True)
            await until(lambda: {"members": {"a": ADA}} in self.said())

    async def test_who_is_not_seen_neither_answers_nor_hears_but_knows_for_those_who_come(self):
        async with self.following(name="a") as silent:
            await self.presence(members={"b": BOB}, ask=True)
            async with self.following(member=ADA, name="c") as events:
                assert await self.heard(events) == ("Here", [BOB, ADA])
            await self.conversation.acreate_user_message("Hi")
            assert (await self.heard(silent))[0] in ("MessageCreated", "Replay")
            assert {"members": {"a": ADA}} not in self.said()

    async def test_two_sockets_of_a_user_join_once_and_leave_once_though_no_layer_tells(self):
        self.layer.holding = True
        async with self.following(member=BOB, name="b") as events:
            assert await self.heard(events) == ("Here", [BOB])
            async with self.following(member=ADA, name="a1") as first:
                assert await self.heard(first) == ("Here", [BOB, ADA])
                async with self.following(member=ADA, name="a2") as second:
                    assert await self.heard(second) == ("Here", [BOB, ADA])
                assert await self.heard(events) == ("Joining", ADA)
            assert await self.heard(events) == ("Leaving", ADA)

    async def test_a_process_does_not_hear_itself(self):
        async with self.following(member=BOB, name="b") as events:
            await self.heard(events)
            async with self.following(member=ADA, name="a"):
                pass
            async with self.following(member=ADA, name="a"):
                await until(lambda: len(self.said()) >= 4)
                names = [(await self.heard(events))[0] for _ in range(3)]
        assert names == ["Joining", "Leaving", "Joining"]

    async def test_the_users_of_a_process_that_died_leave_in_time(self):
        with mock.patch.object(hubs, "monotonic", return_value=1000.0) as clock:
            async with self.following(member=ADA, name="a") as events:
                await self.heard(events)
                await self.presence(members={"b": BOB})
                assert await self.heard(events) == ("Joining", BOB)
                clock.return_value += EXPIRE + 1
                assert await self.heard(events) == ("Leaving", BOB)

    async def test_a_process_announces_its_own_again_and_again(self):
        with mock.patch.object(hubs, "monotonic", return_value=1000.0) as clock:
            async with self.following(member=ADA, name="a") as events:
                await self.heard(events)
                await until(self.said)
                clock.return_value += ANNOUNCE + 1
                await until(lambda: {"members": {"a": ADA}} in self.said())
                assert self.said()[-1] == {"members": {"a": ADA}}

    async def test_and_where_nobody_of_its_own_is_seen_it_announces_nothing_but_forgets_the_others(self):
        with mock.patch.object(hubs, "monotonic", return_value=1000.0) as clock:
            async with self.following():
                await self.presence(members={"b": BOB})
                await until(lambda: hub().rosters and hub().rosters[str(self.conversation.uuid)].users())
                clock.return_value += EXPIRE + 1
                await until(lambda: not hub().rosters[str(self.conversation.uuid)].users())
            assert self.said() == []

    async def test_presence_in_a_conversation_that_nobody_here_reads_is_not_kept(self):
        async with self.following():
            told = {"conversationId": "another", "hub": "x", "members": {"b": BOB}}
            hub().deliver({"event": "Presence", "data": told})
            assert "another" not in hub().rosters
        hub().deliver({"event": "Presence", "data": {**told, "conversationId": str(self.conversation.uuid)}})
        assert hub().rosters == {}
