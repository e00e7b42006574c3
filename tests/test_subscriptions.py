from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from unittest import mock

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.test import TransactionTestCase, override_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TransactionTestCase as HypothesisTransactionTestCase

from converse import replays
from converse.broadcasting import group_name
from converse.choices import Action
from converse.events import Typing
from converse.hubs import Delivery, hub
from converse.models import Conversation, ConversationParticipant, Message
from converse.subscriptions import ASIDES, Withdrawn, subscribe
from tests.layers import held_layer
from tests.readers import Assembled, catch_up, parts_of, statuses_of, stored, until
from tests.test_replays import Story, steps

asked: list[str] = []


def only_while_welcome(user, action, conversation):
    """A rule of one's own, on what Converse knows nothing of."""
    asked.append(action)
    return user.last_name != "unwelcome"


def anybody(user, action, conversation):
    return action == Action.READ


async def collect(events, deliveries):
    async for delivery in events:
        deliveries.append(delivery)


# Where a test says nothing else the sweeper sleeps: it may be faster than the layer.
sweeping = override_settings(CONVERSE_SWEEP_INTERVAL=0.005)


@override_settings(CONVERSE_SWEEP_INTERVAL=1000)
class SubscriptionTestCase(TransactionTestCase):
    def setUp(self):
        held = held_layer()
        self.layer = held.__enter__()
        self.addCleanup(held.__exit__, None, None, None)
        self.user = User.objects.create_user("ada")
        self.friend = User.objects.create_user("bob")
        self.conversation = Conversation.objects.start(self.user, title="Plans")
        self.group = group_name(str(self.conversation.uuid))

    @asynccontextmanager
    async def reading(self, user=None, **kwargs):
        """Follow the conversation; give the events and what is assembled of them, the first applied."""
        async with subscribe(self.conversation, user, **kwargs) as events:
            reader = Assembled()
            await self.read(events, reader)
            yield events, reader

    async def read(self, events, reader):
        async with asyncio.timeout(10):
            delivery = await anext(events)
        reader.apply(delivery.name, delivery.data)
        return delivery

    async def offer(self, **data):
        """Ring the group with an event of a StreamUpdate's shape."""
        event = {"conversationId": str(self.conversation.uuid), **data}
        message = {"type": "x", "event": "StreamUpdate", "epoch": self.conversation.epoch, "data": event}
        await self.layer.ring(self.group, message)


class FollowingTests(SubscriptionTestCase):
    async def test_a_new_reader_gets_a_snapshot_and_then_what_is_live(self):
        await self.conversation.acreate_user_message("Why?")
        async with self.reading() as (events, reader):
            assert (events.offset, reader.snapshots, reader.title) == (2, 1, "Plans")
            async with self.conversation.astream_reply() as stream:
                await stream.aappend("Because")
            while "completed" not in list(reader.statuses.values())[1:]:
                await self.read(events, reader)
            assert reader.texts == await stored(self.conversation)
            assert [name for name, _ in reader.events] == [
                "Snapshot",
                "MessageCreated",
                "StreamUpdate",
                "MessageCompleted",
            ]

    async def test_a_reader_who_comes_back_gets_what_was_missed_in_one_replay(self):
        reader = Assembled()
        await catch_up(self.conversation, reader)
        async with self.conversation.astream_reply() as stream:
            for word in ("Once ", "upon ", "a ", "time"):
                await stream.aappend(word)
                await stream.adrain()
        await catch_up(self.conversation, reader)
        assert [name for name, _ in reader.events] == ["Snapshot", "Replay"]
        assert reader.texts == await stored(self.conversation)

    async def test_a_cursor_that_means_nothing_gives_a_snapshot(self):
        epoch = self.conversation.epoch
        for after, known in ((1, "other"), (1, ""), (1, None), (2, epoch), (10**30, epoch), (None, epoch)):
            async with self.reading(after=after, epoch=known) as (_, reader):
                assert reader.snapshots == 1

    async def test_a_reader_who_is_up_to_date_hears_nothing_until_something_happens(self):
        async with subscribe(self.conversation, after=1, epoch=self.conversation.epoch) as events:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await anext(events)
            await self.conversation.acreate_user_message("Hi")
            assert (await anext(events)).data["content"] == "Hi"

    async def test_what_is_committed_between_listening_and_looking_is_not_missed(self):
        async with subscribe(self.conversation) as events:
            await self.conversation.acreate_user_message("Hi")
            reader = Assembled()
            await self.read(events, reader)
            assert list(reader.texts.values()) == ["Hi"]

    async def test_what_is_committed_while_a_reader_reads_is_neither_missed_nor_doubled(self):
        reading = asyncio.Event()
        read = asyncio.Event()

        async def slow(function, *args):
            found = await query(function, *args)
            if function is replays.read:
                reading.set()
                await read.wait()
            return found

        message = await self.conversation.astart_streaming_assistant()
        with override_settings(CONVERSE_SWEEP_INTERVAL=1000):
            async with subscribe(self.conversation) as events:
                query = hub().query
                with mock.patch.object(hub(), "query", slow):
                    reader = Assembled()
                    first = asyncio.create_task(self.read(events, reader))
                    await reading.wait()
                    await message.aappend_chunk("Once")
                    await until(lambda: events._cursor.head > 2)
                    read.set()
                    await first
                assert list(reader.texts.values()) == [""]
                assert (await self.read(events, reader)).name == "StreamUpdate"
                assert list(reader.texts.values()) == ["Once"]

    async def test_doubled_late_and_lost_events_are_put_right(self):
        message = await self.conversation.astart_streaming_assistant()
        async with self.reading() as (events, reader):
            self.layer.holding = True
            for number in range(6):
                await message.aappend_chunk(str(number))
            await until(lambda: len(self.layer.held) == 6)
            for index in (1, 1, 0, 5, 3, 3):
                await self.layer.ring(*self.layer.held[index])
            while reader.texts != {str(message.uuid): "012345"}:
                await self.read(events, reader)

    async def test_an_event_too_large_for_the_layer_is_read_from_the_table(self):
        message = await self.conversation.astart_streaming_assistant()
        with override_settings(CONVERSE_EVENT_LIMIT=100):
            async with self.reading() as (events, reader):
                await message.aappend_chunk("x" * 1000)
                assert (await self.read(events, reader)).name == "Replay"
                assert reader.texts == await stored(self.conversation)

    async def test_a_restored_message_makes_every_reader_begin_afresh(self):
        message = await self.conversation.acreate_user_message("Hi")
        async with self.reading() as (events, reader):
            await message.adelete()
            assert (await self.read(events, reader)).name == "MessageDeleted"
            await message.arestore()
            assert (await self.read(events, reader)).name == "Snapshot"
            assert reader.texts == await stored(self.conversation)
            await self.conversation.acreate_user_message("Well?")
            assert (await self.read(events, reader)).name == "MessageCreated"

    @sweeping
    async def test_a_new_epoch_is_found_though_nobody_told(self):
        message = await self.conversation.acreate_user_message("Hi")
        self.layer.holding = True
        async with self.reading() as (events, reader):
            await message.adelete()
            await message.arestore()
            while reader.snapshots < 2:
                await self.read(events, reader)
            assert reader.texts == await stored(self.conversation)

    async def test_what_waits_for_a_slow_reader_is_bounded_and_packed_when_it_comes(self):
        message = await self.conversation.astart_streaming_assistant()
        with override_settings(CONVERSE_WINDOW=2000):
            async with self.reading() as (events, reader):
                for number in range(50):
                    await message.aappend_chunk(f"{number} ")
                await until(lambda: events._cursor.head == 52)
                assert events._cursor._size <= 2000
                await self.read(events, reader)
                assert reader.offset == 52
                assert reader.texts == await stored(self.conversation)

    async def test_what_is_not_stored_is_passed_on_but_does_not_pile_up(self):
        async with self.reading() as (events, _):
            for number in range(ASIDES + 5):
                event = Typing(conversation_id=events.uuid, user={"id": str(number), "name": ""})
                events.offer(Delivery.of(event), "")
            assert (await anext(events)).data["user"]["id"] == "5"

    async def test_a_waiting_reader_costs_no_queries_but_the_sweepers(self):
        async with subscribe(self.conversation, self.user, after=1, epoch=self.conversation.epoch) as events:
            waiting = asyncio.create_task(anext(events))
            for _ in range(20):
                events.hear(1, self.conversation.epoch)
                await asyncio.sleep(0)
            assert not waiting.done()
            waiting.cancel()

    async def test_breaking_off_in_the_middle_and_going_on_misses_nothing(self):
        async with subscribe(self.conversation) as events:
            for _ in range(5):
                first = asyncio.create_task(anext(events))
                await asyncio.sleep(0)
                first.cancel()
                await asyncio.wait([first])
            assert (await anext(events)).name == "Snapshot"


class DisbeliefTests(SubscriptionTestCase):
    """The table is right, whatever the layer says."""

    async def test_an_offset_that_the_log_never_had_is_looked_for_once(self):
        async with self.reading() as (events, reader):
            await self.offer(offset=10**9, messageId="x", chunk="forged", sequence=1)
            await until(lambda: events._cursor.head == 10**9)
            waiting = asyncio.create_task(self.read(events, reader))
            await until(lambda: events._cursor.head == 1)
            await self.conversation.acreate_user_message("Hi")
            await waiting
            assert reader.offset == 2
            assert list(reader.texts.values()) == ["Hi"]

    async def test_a_log_that_went_back_in_a_failover_makes_its_readers_begin_afresh(self):
        await self.conversation.acreate_user_message("lost")
        async with self.reading() as (events, reader):
            await sync_to_async(Message.all_objects.all().purge)()
            await Conversation.objects.aupdate(last_offset=1)
            await self.offer(offset=3, messageId="x", chunk="of before", sequence=1, kind="text", part=0)
            await until(lambda: events._cursor.head == 3)
            events._cursor.hear(4)
            assert (await self.read(events, reader)).name in ("Snapshot", "StreamUpdate")
            while reader.offset != 1:
                await self.read(events, reader)
            await self.conversation.acreate_user_message("found")
            await self.read(events, reader)
            assert list(reader.texts.values()) == ["found"]

    @sweeping
    async def test_a_conversation_that_was_purged_ends_its_readers(self):
        async with self.reading() as (events, _):
            await self.conversation.apurge()
            with pytest.raises(Withdrawn):
                async with asyncio.timeout(10):
                    await anext(events)

    async def test_a_conversation_that_is_gone_already_has_no_readers(self):
        await self.conversation.apurge()
        self.conversation.pk = 10**6
        with pytest.raises(Withdrawn):
            async with self.reading():
                pass


class RightsTests(SubscriptionTestCase):
    async def until_withdrawn(self, events):
        """Give what is still read before the right is found to have ended."""
        deliveries = []
        with pytest.raises(Withdrawn):
            await asyncio.wait_for(collect(events, deliveries), 10)
        return [delivery.name for delivery in deliveries]

    async def test_a_participant_who_is_removed_reads_nothing_more(self):
        await self.conversation.ashare_with(self.friend, "read")
        async with self.reading(self.friend) as (events, _):
            await self.conversation.aunshare_with(self.friend)
            await self.conversation.acreate_user_message("not for you")
            assert await self.until_withdrawn(events) == []

    @sweeping
    async def test_nor_does_one_who_was_removed_while_the_layer_told_nothing(self):
        await self.conversation.ashare_with(self.friend, "read")
        async with self.reading(self.friend) as (events, _):
            self.layer.holding = True
            await self.conversation.aunshare_with(self.friend)
            await self.conversation.acreate_user_message("not for you")
            assert await self.until_withdrawn(events) == []

    @sweeping
    async def test_nor_does_one_who_was_removed_and_missed_it_in_a_new_epoch(self):
        await self.conversation.ashare_with(self.friend, "read")
        message = await self.conversation.acreate_user_message("Hi")
        async with self.reading(self.friend) as (events, _):
            self.layer.holding = True
            await self.conversation.aunshare_with(self.friend)
            await message.adelete()
            await message.arestore()
            assert await self.until_withdrawn(events) == []

    async def test_others_read_on_when_somebody_is_removed(self):
        await self.conversation.ashare_with(self.friend)
        async with self.reading(self.user) as (events, reader):
            await self.conversation.aunshare_with(self.friend)
            assert (await self.read(events, reader)).name == "ConversationUpdated"

    async def test_a_participant_whose_user_is_deleted_reads_nothing_more(self):
        await self.conversation.ashare_with(self.friend)
        async with self.reading(self.friend) as (events, _):
            await User.objects.filter(pk=self.friend.pk).adelete()
            assert await self.until_withdrawn(events) == []
        assert not await ConversationParticipant.objects.aexists()

    async def test_a_role_that_is_less_still_reads(self):
        await self.conversation.ashare_with(self.friend, "write")
        async with self.reading(self.friend) as (events, reader):
            await self.conversation.ashare_with(self.friend, "read")
            await self.conversation.acreate_user_message("Hi")
            assert (await self.read(events, reader)).data["content"] == "Hi"

    @sweeping
    async def test_the_right_of_a_standing_reader_is_asked_about_in_time(self):
        with override_settings(CONVERSE_REAUTHORIZE_INTERVAL=0.02):
            async with self.reading(self.user) as (events, _):
                await User.objects.filter(pk=self.user.pk).aupdate(is_active=False)
                assert await self.until_withdrawn(events) == []

    @sweeping
    async def test_a_rule_of_ones_own_is_asked_with_the_user_as_they_are_now(self):
        rule = {"CONVERSE_AUTHORIZE": "tests.test_subscriptions.only_while_welcome"}
        with override_settings(CONVERSE_REAUTHORIZE_INTERVAL=0.02, **rule):
            async with self.reading(self.user) as (events, _):
                await User.objects.filter(pk=self.user.pk).aupdate(last_name="unwelcome")
                assert await self.until_withdrawn(events) == []
        assert set(asked) == {"read"}

    async def test_a_rule_that_is_replaced_counts_at_the_next_question(self):
        async with self.reading(self.user) as (events, _):
            with override_settings(CONVERSE_AUTHORIZE="tests.test_subscriptions.nobody"):
                await self.conversation.arename("Other plans")
                assert await self.until_withdrawn(events) == []

    async def test_who_is_not_signed_in_may_read_where_a_rule_says_so(self):
        with override_settings(CONVERSE_AUTHORIZE="tests.test_subscriptions.anybody"):
            async with self.reading(AnonymousUser()) as (events, reader):
                await self.conversation.arename("Other plans")
                assert (await self.read(events, reader)).data["title"] == "Other plans"

    async def test_a_reader_of_a_deleted_conversation_is_told_and_hears_when_it_is_back(self):
        async with self.reading(self.user) as (events, reader):
            await self.conversation.adelete()
            assert (await self.read(events, reader)).name == "ConversationDeleted"
            await self.conversation.arestore()
            assert (await self.read(events, reader)).name == "Snapshot"

    async def test_without_a_user_nobody_is_asked(self):
        with override_settings(CONVERSE_AUTHORIZE="tests.test_subscriptions.nobody", CONVERSE_REAUTHORIZE_INTERVAL=0):
            async with self.reading() as (events, reader):
                await self.conversation.arename("Other plans")
                assert (await self.read(events, reader)).name == "ConversationUpdated"


def nobody(user, action, conversation):
    return False


class StaleReplicaTests(SubscriptionTestCase):
    @sweeping
    async def test_readers_look_where_it_is_written_not_in_a_replica_that_lags(self):
        message = await self.conversation.astart_streaming_assistant()
        await message.aappend_chunk("Once")
        await self.conversation.arefresh_from_db()
        self.layer.holding = True
        with override_settings(DATABASE_ROUTERS=["tests.test_permissions.ElsewhereRouter"]):
            async with self.reading(self.user) as (events, reader):
                await self.conversation.arename("Other plans")
                assert (await self.read(events, reader)).name == "Replay"
                assert reader.title == "Other plans"


class Weather:
    """What happens to events on their way: by the dice, each is lost, doubled, or late."""

    def __init__(self, layer, seed):
        self.layer = layer
        self.dice = random.Random(seed)
        layer.holding = True

    async def blow(self):
        """Deliver some of what is held, in some order; what remains may come later, or never."""
        self.dice.shuffle(self.layer.held)
        for _ in range(self.dice.randint(0, len(self.layer.held))):
            held = self.layer.held.pop()
            for _ in range(self.dice.choice((0, 1, 1, 1, 2))):
                await self.layer.ring(*held)


class Wanderer:
    """A reader who comes and goes, and whose connection may break before the last frame arrives."""

    def __init__(self, conversation):
        self.conversation = conversation
        self.reader = Assembled()
        self.events = None

    async def come(self):
        known = self.reader
        after = known.offset if known.epoch else None
        self.events = subscribe(self.conversation, after=after, epoch=known.epoch or None)
        await self.events.__aenter__()

    async def go(self):
        if self.events:
            await self.events.__aexit__(None, None, None)
            self.events = None

    async def read(self, count, lose=False):
        """Read so many events, as long as they come; perhaps lose one on its way, and the connection with it."""
        if not self.events:
            await self.come()
        for _ in range(count):
            try:
                async with asyncio.timeout(0.01):
                    delivery = await anext(self.events)
            except TimeoutError:
                return
            if lose:
                await self.go()
                return
            self.reader.apply(delivery.name, delivery.data)

    async def finish(self, head):
        if not self.events:
            await self.come()
        async with asyncio.timeout(20):
            while self.reader.offset < head or self.reader.epoch != self.conversation.epoch:
                delivery = await anext(self.events)
                self.reader.apply(delivery.name, delivery.data)
        await self.go()


EXAMPLES = max(settings().max_examples // 10, 1)  # each is a story with readers who listen to it


@sweeping
class PropertyTests(HypothesisTransactionTestCase):
    @settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
    @given(
        story=st.lists(
            st.one_of(
                steps,
                st.tuples(st.just("read"), st.integers(0, 5)),
                st.tuples(st.just("lose"), st.integers(0, 5)),
                st.tuples(st.just("leave"), st.integers(0, 5)),
                st.tuples(st.just("weather"), st.just(0)),
            ),
            max_size=60,
        ),
        page=st.integers(1, 5),
        window=st.sampled_from([200, 2000, 256_000]),
        seed=st.integers(0, 10**6),
    )
    def test_whatever_is_lost_doubled_or_late_readers_assemble_what_is_stored(self, story, page, window, seed):
        with held_layer() as layer, mock.patch.object(replays, "PAGE", page), override_settings(CONVERSE_WINDOW=window):
            async_to_sync(self.live)(story, Weather(layer, seed))

    async def live(self, story, weather):
        conversation = await Conversation.objects.astart()
        told = Story(conversation)
        readers = [Wanderer(conversation) for _ in range(3)]
        for name, which in story:
            reader = readers[which % len(readers)]
            if name in ("read", "lose"):
                await reader.read(1 + which, lose=name == "lose")
            elif name == "leave":
                await reader.go()
            elif name == "weather":
                await weather.blow()
            else:
                await sync_to_async(told.step)(name, which)
        await conversation.arestore()
        await weather.blow()
        conversation = await Conversation.objects.aget(pk=conversation.pk)
        parts = await sync_to_async(parts_of)(conversation)
        statuses = await sync_to_async(statuses_of)(conversation)
        for reader in readers:
            reader.conversation = conversation
            await reader.finish(conversation.last_offset)
            assert reader.reader.parts == parts
            assert reader.reader.statuses == statuses
            assert reader.reader.title == conversation.title
        assert not hub().readers
