from __future__ import annotations

import json
from contextlib import asynccontextmanager
from unittest import mock
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.test import SimpleTestCase, TransactionTestCase, override_settings

from converse import subscriptions
from converse.choices import ParticipantRole
from converse.cursors import write_cursor
from converse.hubs import hub
from converse.models import Conversation
from converse.transports.pusher import protocol, sockets
from converse.transports.pusher.lines import Line
from converse.transports.pusher.names import channel
from converse.transports.pusher.whispers import atrigger
from tests.layers import held_layer
from tests.pushers import Pusher
from tests.readers import until

GENEROUS = {"CONVERSE_FRAME_RATE": 10_000}


def nobody(user, action, conversation):
    return False


def broken(user, action, conversation):
    raise ZeroDivisionError("secret")


# The sweeper sleeps: it may be faster than the layer.
@override_settings(CONVERSE_SWEEP_INTERVAL=1000, CONVERSE_RUNNER="tests.runners.WaitingRunner")
class EchoTestCase(TransactionTestCase):
    def setUp(self):
        held = held_layer()
        self.layer = held.__enter__()
        self.addCleanup(held.__exit__, None, None, None)
        self.user = User.objects.create_user("ada", first_name="Ada")
        self.friend = User.objects.create_user("bob", first_name="Bob")
        self.conversation = Conversation.objects.start(self.user, title="Plans")
        self.conversation.share_with(self.friend, role=ParticipantRole.WRITE)
        self.name = f"private-conversation.{self.conversation.uuid}"
        self.room = f"presence-conversation.{self.conversation.uuid}"

    @asynccontextmanager
    async def opened(self, user=None, **options):
        async with Pusher(user or self.user, **options) as client:
            yield await client.open()

    @asynccontextmanager
    async def following(self, channel=None, user=None, **options):
        async with self.opened(user, **options) as client:
            client.success = await client.follow(channel or self.name)
            yield client

    async def head(self):
        await self.conversation.arefresh_from_db()
        return write_cursor(self.conversation.last_offset, self.conversation.epoch)


class SignatureTests(SimpleTestCase):
    @override_settings(CONVERSE_ECHO_KEY="278d425bdf160c739803", CONVERSE_ECHO_SECRET="7ad3773142a6692b25b8")
    def test_signatures_are_those_of_pushers_documentation(self):
        for text, digest in {
            protocol.channel_text(
                "1234.1234", "private-foobar", None
            ): "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4",
            protocol.user_text(
                "1234.1234", '{"id":"12345"}'
            ): "4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba",
            protocol.channel_text(
                "1234.1234", "presence-foobar", '{"user_id":10,"user_info":{"name":"Mr. Channels"}}'
            ): "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80",
        }.items():
            assert protocol.sign(text) == f"278d425bdf160c739803:{digest}"
            assert protocol.signed(f"278d425bdf160c739803:{digest}", text)

    def test_a_signature_of_another_key_is_none_of_ours(self):
        assert not protocol.signed(f"other:{protocol.digest('x')}", "x")
        assert protocol.signed(f"converse:{protocol.digest('x')}", "x")
        for nonsense in (None, 1, "", "converse:", "é", "\ud800"):
            assert not protocol.signed(nonsense, "x")
        assert not protocol.signed(protocol.sign("x"), "\ud800")

    def test_without_a_secret_each_site_has_one_of_its_own(self):
        here = protocol.secret()
        with override_settings(SECRET_KEY="another"):
            assert protocol.secret() != here
        with override_settings(CONVERSE_ECHO_SECRET="mine"):
            assert protocol.secret() == "mine"

    def test_socket_ids_are_of_the_form_that_libraries_demand(self):
        ids = {protocol.new_socket_id() for _ in range(100)}
        assert len(ids) == 100
        assert all(protocol.is_socket_id(one) for one in ids)
        for wrong in (None, 1.2, "", "1", "1.", ".1", "1.2.3", "1.2\n", "a.b", "1:2", "1.2:private-x", "١.٢"):
            assert not protocol.is_socket_id(wrong)


class NameTests(SimpleTestCase):
    def test_which_channels_there_are(self):
        uuid = str(uuid4())
        for name, canonical in (
            (f"private-conversation.{uuid}", None),
            (f"presence-conversation.{uuid}", None),
            (f"private-cache-conversation.{uuid}", None),
            (f"private-private-conversation.{uuid}", f"private-conversation.{uuid}"),
            (f"private-private-private-conversation.{uuid}", f"private-conversation.{uuid}"),
            ("private-user.7", None),
            ("private-private-user.7", "private-user.7"),
            ("#server-to-user-7", None),
        ):
            found = channel(name)
            assert (found.given, found.canonical) == (name, canonical or name)
            assert (found.conversation or found.user) in (uuid, "7")

    def test_all_others_there_are_not(self):
        uuid = str(uuid4())
        for name in (
            None,
            7,
            "",
            "news",
            f"conversation.{uuid}",
            f"private-conversation.{uuid.upper()}" if uuid != uuid.upper() else "",
            f"private-conversation.{uuid}x",
            f"private-conversation.{uuid}\n",
            "private-conversation.1",
            "private-conversation.",
            f"private-encrypted-conversation.{uuid}",
            f"presence-cache-conversation.{uuid}",
            f"presence-presence-conversation.{uuid}",
            "private-user.",
            "private-user.a b",
            "presence-user.7",
            "private-other.7",
            "#server-to-user-",
            "#server-to-user-" + "7" * 129,
            "#other",
            "private-user." + "7" * 200,
        ):
            assert channel(name) is None, name


class DoorTests(EchoTestCase):
    async def refused(self, **options):
        """Give the code of the error and that of the close."""
        async with Pusher(**options) as client:
            closed = await client.closed()
            code, _ = await client.error()
            assert code == closed
            return closed

    async def test_a_client_is_told_its_id_first(self):
        async with self.opened() as one, self.opened() as other:
            assert one.socket_id != other.socket_id
            assert not one.frames

    async def test_refusals_are_final_and_said_after_the_socket_was_accepted(self):
        assert await self.refused(key="other") == 4001
        assert await self.refused(query="") == 4008
        assert await self.refused(query="client=js") == 4008
        for version in ("4", "8", "x", "07"):
            assert await self.refused(query=f"protocol={version}") == 4007

    async def test_all_versions_since_the_fifth_are_spoken(self):
        for version in ("5", "6", "7"):
            async with self.opened(query=f"protocol={version}&client=js&version=8.6.0&flash=false"):
                pass

    async def test_no_page_of_a_foreign_origin_comes_in(self):
        for origin in ("", "null", "http://evil.example", "http://testserver.evil.example", "http://["):
            assert await self.refused(origin=origin) == 4009, origin

    async def test_our_pages_come_in_and_what_is_no_browser(self):
        with override_settings(CONVERSE_ALLOWED_ORIGINS=["https://app.example"]):
            for origin in (None, "http://testserver", "https://app.example"):
                async with self.opened(origin=origin):
                    pass

    async def test_the_key_is_a_setting(self):
        with override_settings(CONVERSE_ECHO_KEY="mine"):
            assert await self.refused() == 4001
            async with self.following(key="mine") as client:
                assert client.success["seq"] == await self.head()

    async def test_a_client_that_goes_before_it_came_in_does_no_harm(self):
        client = Pusher()
        await client.socket.send_input({"type": "websocket.connect"})
        await client.socket.send_input({"type": "websocket.disconnect", "code": 1001})
        await client.socket.wait(10)


class FrameTests(EchoTestCase):
    async def test_a_ping_is_answered(self):
        async with self.opened() as client:
            await client.write({"event": "pusher:ping", "data": {}})
            assert await client.frame() == {"event": "pusher:pong", "data": {}}
            await client.write('{"event":"pusher:ping","data":"{}"}')
            assert await client.frame() == {"event": "pusher:pong", "data": {}}
            await client.write('{"event":"pusher:ping"}')
            assert await client.frame() == {"event": "pusher:pong", "data": {}}

    async def test_what_makes_no_sense_is_said_to_make_none_and_the_socket_stays(self):
        async with self.opened() as client:
            for text in (
                "nonsense",
                "[]",
                "null",
                "{}",
                '{"event":7}',
                '{"event":"other"}',
                '{"event":"pusher:other"}',
                '{"event":"pusher:subscribe","data":"["}',
                '{"event":"pusher:subscribe","data":"7"}',
                '{"event":"pusher_internal:member_added","data":{}}',
                "[" * 5000,
            ):
                await client.write(text)
                code, said = await client.error()
                assert code is None, text
                assert said
            await client.alive()

    async def test_a_binary_frame_is_refused(self):
        async with self.opened() as client:
            await client.socket.send_to(bytes_data=b"{}")
            assert await client.error() == (None, "A frame must be text.")

    async def test_a_frame_that_is_too_large_is_refused(self):
        async with self.opened() as client:
            await client.say("pusher:ping", {"x": "é" * 5000})
            code, said = await client.error()
            assert code == 4301
            assert "10000 bytes" in said
            await client.alive()

    async def test_a_flood_closes_the_socket_for_a_while(self):
        with override_settings(CONVERSE_FRAME_RATE=2.0, CONVERSE_SUBSCRIPTION_LIMIT=1):
            async with self.opened() as client:
                for _ in range(10):
                    await client.write("nonsense")
                assert await client.closed() == 4100

    async def test_a_flood_of_pings_does_too(self):
        with override_settings(CONVERSE_FRAME_RATE=2.0):
            async with self.opened() as client:
                for _ in range(30):
                    await client.say("pusher:ping")
                assert await client.closed() == 4100

    async def test_a_failure_of_ours_tells_nothing(self):
        async with self.following() as client:
            broken = override_settings(CONVERSE_AUTHORIZE="tests.test_echo.broken")
            with broken, self.assertLogs("converse.transports.pusher", "ERROR"):
                await client.say("client-x", {}, channel=self.name)
                assert await client.error() == (None, "The server had a failure.")
            await client.alive()

    async def test_a_server_that_says_that_the_reader_is_gone_is_believed(self):
        sent = []

        async def send(message):
            sent.append(message["text"])
            raise OSError

        line = Line(None, send)
        await line.send("one")
        await line.send("two")
        await line.close(4200)
        assert sent == ["one"]


class SubscriptionTests(EchoTestCase):
    async def test_who_follows_a_conversation_hears_what_happens_from_now_on(self):
        await sync_to_async(self.conversation.add_messages)(["before"])
        async with self.following() as client:
            assert client.success == {"seq": await self.head()}
            message = await sync_to_async(self.conversation.create_user_message)("Hello!")
            told = await client.app("MessageCreated", self.name)
            assert told["messageId"] == str(message.uuid)
            assert told["content"] == "Hello!"
            assert told["seq"] == await self.head()
            assert not client.frames

    async def test_a_reply_streams_with_what_the_originals_pages_read(self):
        async with self.following() as client:
            async with self.conversation.astream_reply() as stream:
                for number, word in enumerate(("Once ", "upon"), 1):
                    await stream.aappend(word)
                    told = await client.app("StreamUpdate")
                    assert told["chunk"] == word
                    assert told["conversationId"] == str(self.conversation.uuid)
                    assert told["messageId"] == str(stream.message.uuid)
                    assert (told["sequence"], told["chunkIndex"]) == (number, number)
                    assert told["seq"] == write_cursor(told["offset"], self.conversation.epoch)
            assert (await client.app("MessageCompleted"))["status"] == "completed"

    async def test_a_name_that_the_hook_doubled_is_answered_as_it_was_asked(self):
        doubled = f"private-{self.name}"
        async with self.following(doubled) as client:
            await sync_to_async(self.conversation.rename)("Other")
            assert (await client.app("ConversationUpdated", doubled))["title"] == "Other"

    async def test_events_have_no_namespace_where_the_settings_want_none(self):
        with override_settings(CONVERSE_ECHO_NAMESPACE=""):
            async with self.following() as client:
                await sync_to_async(self.conversation.rename)("Other")
                assert (await client.event("ConversationUpdated"))["title"] == "Other"

    async def test_events_of_any_namespace(self):
        with override_settings(CONVERSE_ECHO_NAMESPACE="My.Site"):
            async with self.following() as client:
                await sync_to_async(self.conversation.rename)("Other")
                assert (await client.event("My\\Site\\ConversationUpdated"))["title"] == "Other"

    async def test_what_is_followed_already_is_not_followed_twice(self):
        async with self.following() as client:
            assert await client.follow(self.name) == {}
            assert len(hub().readers[str(self.conversation.uuid)]) == 1
            await sync_to_async(self.conversation.rename)("Other")
            await client.app("ConversationUpdated")
            await client.alive()
            assert not client.frames

    async def test_who_asks_twice_at_once_is_answered(self):
        async with self.opened() as client:
            signed = (await client.authorise(self.name)).json()
            for _ in range(2):
                await client.say("pusher:subscribe", {"channel": self.name, **signed})
            await client.event("pusher_internal:subscription_succeeded")
            await client.alive()
            assert len(hub().readers[str(self.conversation.uuid)]) == 1

    async def test_who_leaves_hears_no_more_and_gets_no_answer(self):
        async with self.following() as client:
            await client.say("pusher:unsubscribe", {"channel": self.name})
            await client.say("pusher:unsubscribe", {"channel": self.name})
            await client.say("pusher:unsubscribe", {"channel": 7})
            await client.alive()
            assert not hub().readers
            assert not client.frames
            await client.follow(self.name)

    async def test_two_conversations_on_one_socket(self):
        other = await sync_to_async(Conversation.objects.start)(self.user)
        async with self.following() as client:
            await client.follow(f"private-conversation.{other.uuid}")
            await sync_to_async(other.rename)("Two")
            assert (await client.app("ConversationUpdated", f"private-conversation.{other.uuid}"))["title"] == "Two"

    async def test_a_socket_may_follow_so_many_channels(self):
        with override_settings(CONVERSE_SUBSCRIPTION_LIMIT=1):
            async with self.following() as client:
                await client.ask_for(self.room)
                assert await client.refused(self.room) == {
                    "type": "LimitReached",
                    "error": "A socket may follow 1 channels.",
                    "status": 429,
                }
                await client.say("pusher:unsubscribe", {"channel": self.name})
                await client.follow(self.room)

    async def test_a_subscription_that_fails_has_the_client_come_back(self):
        async with self.following() as client:
            with (
                self.assertLogs("converse.transports.pusher", "ERROR"),
                mock.patch.object(subscriptions, "read", side_effect=ZeroDivisionError),
            ):
                hub().readers[str(self.conversation.uuid)].copy().pop().hear(99, self.conversation.epoch)
                assert await client.closed() == 4100


class RightTests(EchoTestCase):
    DENIED = {"type": "AuthError", "error": "There is no such channel, or you may not follow it.", "status": 403}
    UNSIGNED = {"type": "AuthError", "error": "The signature is not one for this socket and channel.", "status": 401}

    def setUp(self):
        super().setUp()
        self.eve = User.objects.create_user("eve")
        self.facts = json.dumps({"user_id": str(self.user.pk)})

    async def ask(self, client, channel, **data):
        await client.say("pusher:subscribe", {"channel": channel, **data})
        return await client.refused(channel)

    async def test_a_channel_without_a_signature_is_refused_by_its_name(self):
        async with self.opened() as client:
            for data in ({}, {"auth": ""}, {"auth": "converse:"}, {"auth": 7}, {"auth": ["converse"]}):
                assert await self.ask(client, self.name, **data) == self.UNSIGNED
            await client.alive()

    async def test_a_forged_signature_is_refused(self):
        async with self.opened() as client:
            auth = protocol.sign(f"{client.socket_id}:{self.name}:{self.facts}")
            wrong = auth[:-1] + ("0" if auth[-1] != "0" else "1")
            assert await self.ask(client, self.name, auth=wrong, channel_data=self.facts) == self.UNSIGNED
            other = json.dumps({"user_id": str(self.eve.pk)})
            assert await self.ask(client, self.name, auth=auth, channel_data=other) == self.UNSIGNED
            assert await self.ask(client, self.name, auth=auth) == self.UNSIGNED
            assert await self.ask(client, self.room, auth=auth, channel_data=self.facts) == self.UNSIGNED

    async def test_a_signature_holds_for_its_own_socket_only(self):
        async with self.opened() as one, self.opened(self.eve) as other:
            signed = (await one.authorise(self.name)).json()
            assert await self.ask(other, self.name, **signed) == self.UNSIGNED

    async def test_a_signature_that_names_nobody_is_refused_for_it_could_not_be_withdrawn(self):
        async with self.opened() as client:
            bare = protocol.sign(f"{client.socket_id}:{self.name}")
            refused = await self.ask(client, self.name, auth=bare)
            assert refused["status"] == 401
            assert "must name the user" in refused["error"]
            for facts in ("{}", '{"user_id":""}', '{"user_id":null}'):
                await client.claim(self.name, facts)
                assert "must name the user" in (await client.refused(self.name))["error"]

    async def test_channel_data_that_are_no_object_are_refused(self):
        async with self.opened() as client:
            for facts in ("[]", "nonsense", "7"):
                await client.claim(self.name, facts)
                assert await client.refused(self.name) == self.UNSIGNED
            assert await self.ask(client, self.name, auth="x", channel_data={"user_id": 1}) == self.UNSIGNED

    async def test_a_signature_is_worth_nothing_where_there_is_no_right(self):
        async with self.opened() as client:
            for user_id in (self.eve.pk, 10**6, "x", "\ud800", 10**30):
                await client.claim(self.name, {"user_id": user_id})
                assert await client.refused(self.name) == self.DENIED
            missing = f"private-conversation.{uuid4()}"
            await client.claim(missing, self.facts)
            assert await client.refused(missing) == self.DENIED

    async def test_an_inactive_user_is_refused(self):
        await User.objects.filter(pk=self.user.pk).aupdate(is_active=False)
        async with self.opened() as client:
            await client.claim(self.name, self.facts)
            assert await client.refused(self.name) == self.DENIED

    async def test_channels_that_there_are_not_are_refused(self):
        async with self.opened() as client:
            for name in ("news", "#other", "private-encrypted-x", "#server-to-user-", "é\ud800"):
                assert await self.ask(client, name) == self.DENIED
            for name in (None, 7, "x" * 201):
                await client.say("pusher:subscribe", {"channel": name})
                frame = await client.frame(lambda frame: frame["event"] == "pusher:subscription_error")
                assert "channel" not in frame

    async def test_a_channel_that_cannot_be_followed_for_now_is_answered_for_itself(self):
        async with self.opened() as client:
            broken = mock.patch.object(sockets, "find", side_effect=ZeroDivisionError)
            with broken, self.assertLogs("converse.transports.pusher", "ERROR"):
                await client.ask_for(self.name)
                told = await client.refused(self.name)
            assert (told["type"], told["status"]) == ("ServerError", 500)
            await client.alive()

    async def test_who_loses_the_right_is_told_and_cut_off(self):
        async with self.following(user=self.friend) as client:
            signed = (await client.authorise(self.name)).json()
            await sync_to_async(self.conversation.unshare_with)(self.friend)
            assert await client.refused(self.name) == self.DENIED
            assert not hub().readers
            assert (await client.authorise(self.name)).status_code == 403
            await client.say("pusher:subscribe", {"channel": self.name, **signed})  # what was signed before
            assert await client.refused(self.name) == self.DENIED
            await client.say("client-typing", {}, channel=self.name)
            assert (await client.error())[0] == 4009
            await client.alive()


class SnapshotTests(EchoTestCase):
    def setUp(self):
        super().setUp()
        self.cache = f"private-cache-conversation.{self.conversation.uuid}"
        self.conversation.add_messages(["one", "two"])

    async def test_a_cache_channel_begins_with_the_conversation_as_it_is(self):
        async with self.opened() as client:
            assert await client.follow(self.cache) == {}
            told = await client.app("Snapshot", self.cache)
            assert [message["content"] for message in told["messages"]] == ["one", "two"]
            assert told["seq"] == await self.head()
            await sync_to_async(self.conversation.rename)("Other")
            await client.app("ConversationUpdated")

    async def test_a_cache_channel_resumes_like_any_other(self):
        async with self.opened() as client:
            await client.follow(self.cache)
            await client.app("Snapshot")
        await sync_to_async(self.conversation.rename)("Other")
        async with self.opened() as again:
            again.last = client.last
            await again.follow(self.cache, resume=True)
            assert (await again.app("ConversationUpdated"))["title"] == "Other"
            assert not again.frames

    async def test_a_cursor_that_cannot_be_honoured_gets_a_snapshot(self):
        async with self.opened() as client:
            for cursor in ("1-other", write_cursor(10**6, self.conversation.epoch)):
                client.last = {self.name: cursor}
                assert (await client.follow(self.name, resume=True))["seq"] == cursor
                assert len((await client.app("Snapshot"))["messages"]) == 2
                await client.say("pusher:unsubscribe", {"channel": self.name})

    async def test_a_snapshot_that_would_be_too_large_has_fewer_messages(self):
        await sync_to_async(self.conversation.add_messages)(['"' * 230_000, '"' * 230_000, "last"])
        async with self.opened() as client:
            await client.follow(self.cache)
            told = await client.app("Snapshot")
            assert told["truncated"]
            assert told["messages"][-1]["content"] == "last"

    async def test_an_event_that_would_be_too_large_is_told_without_its_text(self):
        async with self.following() as client:
            message = await sync_to_async(self.conversation.create_user_message)('"' * 600_000)
            told = await client.app("MessageCreated")
            await self.conversation.arefresh_from_db()
            assert told == {
                "conversationId": str(self.conversation.uuid),
                "messageId": str(message.uuid),
                "offset": self.conversation.last_offset,
                "seq": await self.head(),
                "tooLarge": True,
            }


class WindowTests(EchoTestCase):
    async def test_a_client_is_asked_how_far_it_is_and_waited_for(self):
        with override_settings(CONVERSE_WINDOW=4000, **GENEROUS):
            async with self.following() as client:
                client.polite = False
                messages = [f"{number} ".ljust(500, "x") for number in range(40)]
                for text in messages:
                    await sync_to_async(self.conversation.create_user_message)(text)
                got, pings = [], 0
                while len(got) < 40:
                    frame = await client.frame()
                    if frame["event"] == "pusher:ping":
                        pings += 1
                        await client.say("pusher:pong")
                    else:
                        got.append(frame["data"]["content"])
                assert got == messages
                assert pings >= 5

    async def test_a_client_that_does_not_answer_is_told_to_come_back(self):
        with override_settings(CONVERSE_WINDOW=1000, CONVERSE_ACK_TIMEOUT=0.05):
            async with self.following() as client:
                client.polite = False
                await sync_to_async(self.conversation.add_messages)(["x" * 600] * 5)
                assert await client.closed() == 4201

    async def test_pongs_that_nobody_asked_for_do_no_harm(self):
        async with self.following() as client:
            for _ in range(5):
                await client.say("pusher:pong")
            await sync_to_async(self.conversation.rename)("Other")
            await client.app("ConversationUpdated")


class WhisperTests(EchoTestCase):
    async def test_a_whisper_reaches_the_others_and_not_who_whispers(self):
        async with self.following() as ada, self.following(user=self.friend) as bob, self.following() as tab:
            await ada.say("client-typing", {"name": "Ada"}, channel=self.name, user_id="forged", socket_id="1.1")
            for client in (bob, tab):
                frame = await client.frame()
                assert frame == {"event": "client-typing", "channel": self.name, "data": {"name": "Ada"}}
            await ada.alive()
            assert not ada.frames

    async def test_data_are_passed_on_whatever_json_they_are(self):
        async with self.following() as ada, self.following(user=self.friend) as bob:
            for data in ({"é": ["漢", "\ud800"]}, [], 7, "text", None, {"__proto__": 1}):
                await ada.write({"event": "client-x", "channel": self.name, "data": data})
                assert (await bob.frame())["data"] == data
            await ada.write({"event": "client-x", "channel": self.name})
            assert (await bob.frame())["data"] is None

    async def test_presence_says_who_it_was_whatever_the_client_says(self):
        async with self.following(self.room) as ada, self.following(self.room, user=self.friend) as bob:
            await ada.say("client-typing", {}, channel=self.room, user_id="1")
            frame = await bob.frame(lambda frame: frame["event"] == "client-typing")
            assert frame["user_id"] == str(self.user.pk)

    async def test_a_whisper_stays_in_its_own_channel(self):
        async with self.following(self.room) as ada, self.following(user=self.friend) as bob:
            await ada.say("client-typing", {}, channel=self.room)
            await sync_to_async(self.conversation.rename)("Other")
            await bob.app("ConversationUpdated")
            assert not bob.frames

    async def test_who_has_not_subscribed_may_not_whisper(self):
        async with self.opened() as client:
            for name in (self.name, "news", None, 7):
                await client.say("client-typing", {}, channel=name)
                assert (await client.error())[0] == 4009
            await client.alive()

    async def test_who_may_only_read_may_not_whisper(self):
        await sync_to_async(self.conversation.share_with)(self.friend, role=ParticipantRole.READ)
        async with self.following(user=self.friend) as bob, self.following() as ada:
            await bob.say("client-typing", {}, channel=self.name)
            assert await bob.error() == (4301, "Who may only read may not say anything.")
            assert not ada.frames

    async def test_who_is_gone_may_not_whisper(self):
        with override_settings(CONVERSE_REAUTHORIZE_INTERVAL=1000):
            async with self.following(user=self.friend) as bob:
                await self.friend.adelete()
                await bob.say("client-typing", {}, channel=self.name)
                assert (await bob.error())[0] in (4301, 4009)  # the second where he is out of the channel already

    async def test_a_name_that_is_half_a_character_is_not_passed_on(self):
        async with self.following() as ada, self.following(user=self.friend) as bob:
            await ada.say("client-\ud800", {}, channel=self.name)
            assert await ada.error() == (4301, "A client event's name must be text that can be written down.")
            assert not bob.frames

    async def test_ten_whispers_a_second(self):
        with override_settings(**GENEROUS):
            async with self.following() as client:
                for _ in range(13):
                    await client.say("client-typing", {}, channel=self.name)
                assert await client.error() == (4301, "May say 10 things a second.")
                await client.alive()

    async def test_what_others_could_not_read_is_refused(self):
        async with self.following() as client:
            for data in ("NaN", "1e999", "-Infinity", '"\\ud800"'):
                await client.write(f'{{"event":"client-x","channel":"{self.name}","data":{data}}}')
                assert await client.error() == (4301, "The data of a client event must be JSON.")
            await client.say("client-" + "x" * 200, {}, channel=self.name)
            assert (await client.error())[0] == 4301


class PresenceTests(EchoTestCase):
    def here(self, success):
        presence = success["presence"]
        assert presence["count"] == len(presence["ids"]) == len(presence["hash"])
        return {user["name"] for user in presence["hash"].values()}

    async def test_who_comes_and_who_leaves(self):
        async with self.following(self.room) as ada:
            assert self.here(ada.success) == {"Ada"}
            bob_id = str(self.friend.pk)
            async with self.following(self.room, user=self.friend) as bob:
                assert self.here(bob.success) == {"Ada", "Bob"}
                told = await ada.event("pusher_internal:member_added", self.room)
                assert told == {"user_id": bob_id, "user_info": {"id": bob_id, "name": "Bob"}}
            assert await ada.event("pusher_internal:member_removed", self.room) == {"user_id": bob_id}
            assert not ada.frames

    async def test_two_tabs_are_one_member(self):
        async with self.following(self.room) as ada, self.following(self.room, user=self.friend) as bob:
            await ada.event("pusher_internal:member_added")
            async with self.following(self.room, user=self.friend) as tab:
                assert self.here(tab.success) == {"Ada", "Bob"}
                await bob.say("pusher:unsubscribe", {"channel": self.room})
                await bob.alive()
                await sync_to_async(self.conversation.rename)("Other")
                await ada.app("ConversationUpdated")
                assert not ada.frames
            await ada.event("pusher_internal:member_removed")

    async def test_who_asks_again_gets_the_list_again(self):
        async with self.following(self.room) as ada, self.following(self.room, user=self.friend):
            await ada.event("pusher_internal:member_added")
            assert self.here(await ada.follow(self.room)) == {"Ada", "Bob"}

    async def test_who_only_listens_is_not_seen_and_sees_nobody(self):
        async with self.following() as quiet, self.following(self.room, user=self.friend) as bob:
            assert self.here(bob.success) == {"Bob"}
            await sync_to_async(self.conversation.rename)("Other")
            await quiet.app("ConversationUpdated")
            assert not quiet.frames

    async def test_a_member_of_another_process_is_added_once(self):
        async with self.following(self.room) as ada:
            uuid = str(self.conversation.uuid)
            told = {"conversationId": uuid, "hub": "another", "members": {"a-socket": {"id": "77", "name": "Cleo"}}}
            for _ in range(2):
                hub().deliver({"event": "Presence", "data": told})
            await ada.event("pusher_internal:member_added")
            hub().deliver(
                {"event": "Presence", "data": {"conversationId": uuid, "hub": "another", "gone": ["a-socket"]}}
            )
            assert await ada.event("pusher_internal:member_removed") == {"user_id": "77"}
            assert not ada.frames

    async def test_typing_of_a_native_client_is_heard(self):
        async with self.following() as ada:
            uuid = str(self.conversation.uuid)
            hub().deliver({"event": "Typing", "data": {"conversationId": uuid, "user": {"id": "1", "name": "B"}}})
            assert (await ada.app("Typing")) == {"conversationId": uuid, "user": {"id": "1", "name": "B"}}


class UserTests(EchoTestCase):
    def setUp(self):
        super().setUp()
        self.own = f"private-user.{self.user.pk}"
        self.sent = f"#server-to-user-{self.user.pk}"

    async def sign_in(self, client):
        answer = await client.http.post("/broadcasting/user-auth", {"socket_id": client.socket_id})
        await client.say("pusher:signin", answer.json())
        told = await client.event("pusher:signin_success")
        assert told["user_data"] == answer.json()["user_data"]
        return json.loads(told["user_data"])

    async def test_who_signs_in_hears_what_the_server_says_to_them(self):
        async with self.opened() as client:
            assert (await self.sign_in(client))["id"] == str(self.user.pk)
            for _ in range(2):
                await client.say("pusher:subscribe", {"channel": self.sent, "auth": ""})
            await client.event("pusher_internal:subscription_succeeded", self.sent)
            await client.say("pusher:subscribe", {"channel": self.sent, "auth": ""})
            await client.event("pusher_internal:subscription_succeeded", self.sent)
            await atrigger(self.sent, "news", {"n": 1})
            assert await client.event("news", self.sent) == {"n": 1}

    async def test_nobody_hears_what_is_said_to_another(self):
        async with self.opened(self.friend) as client:
            await client.say("pusher:subscribe", {"channel": self.sent, "auth": ""})
            assert (await client.refused(self.sent))["status"] == 403
            await self.sign_in(client)
            await client.say("pusher:subscribe", {"channel": self.sent, "auth": ""})
            assert (await client.refused(self.sent))["status"] == 403
            await client.claim(self.own, {"user_id": str(self.friend.pk)})
            assert (await client.refused(self.own))["status"] == 403
            assert (await client.authorise(self.own)).status_code == 403
            assert (await client.authorise(self.sent)).status_code == 403
            await client.alive()

    async def test_a_forged_sign_in_is_final(self):
        for data in (
            {},
            {"auth": "converse:x", "user_data": '{"id":"1"}'},
            {"auth": "", "user_data": {"id": "1"}},
        ):
            async with self.opened() as client:
                await client.say("pusher:signin", data)
                assert await client.closed() == 4009
                assert (await client.error())[0] == 4009

    async def test_a_sign_in_of_another_socket_is_final(self):
        async with self.opened() as one, self.opened(self.friend) as other:
            answer = await one.http.post("/broadcasting/user-auth", {"socket_id": one.socket_id})
            await other.say("pusher:signin", answer.json())
            assert await other.closed() == 4009

    async def test_a_users_own_channel_leaves_out_a_socket(self):
        async with self.following(self.own) as one, self.following(self.own) as other:
            assert one.success == {}
            await atrigger(self.own, "news", {}, socket_id=one.socket_id)
            assert await other.event("news", self.own) == {}
            await atrigger(self.own, "more", {})
            await one.event("more")
            assert not one.frames
            await other.say("pusher:unsubscribe", {"channel": self.own})
            await other.alive()

    async def test_each_channel_of_a_user_gets_its_own(self):
        async with self.following(self.own) as client:
            await atrigger(self.sent, "other", {})
            await atrigger(self.own, "news", {})
            await client.event("news")
            assert not client.frames

    async def test_who_is_no_user_any_more_is_cut_off(self):
        for change in ({"is_active": False}, None):
            with override_settings(CONVERSE_REAUTHORIZE_INTERVAL=0.01):
                user = await User.objects.acreate_user(f"user-{change}")
                async with self.opened(user) as client:
                    await client.follow(f"private-user.{user.pk}")
                    found = User.objects.filter(pk=user.pk)
                    await (found.aupdate(**change) if change else found.adelete())
                    await client.refused(f"private-user.{user.pk}")

    async def test_a_user_is_heard_after_the_layer_has_forgotten_who_listens(self):
        with override_settings(CONVERSE_REAUTHORIZE_INTERVAL=0.01):
            async with self.following(self.own) as client:
                self.layer.groups.clear()  # as when a membership expires, or Redis is emptied
                await until(lambda: self.layer.groups)
                await atrigger(self.own, "news", {"n": 1})
                assert await client.event("news", self.own) == {"n": 1}

    async def test_without_a_layer_nothing_comes_and_nothing_breaks(self):
        with override_settings(CONVERSE_CHANNEL_LAYER="none"):
            async with self.following(self.own) as client:
                await atrigger(self.own, "news", {})
                await client.alive()

    async def test_a_layer_that_fails_has_the_client_come_back(self):
        async with self.opened() as client:
            with self.assertLogs("converse.transports.pusher", "ERROR"):
                self.layer.failing["group_add"] = OSError("gone")
                await client.ask_for(self.own)
                assert await client.closed() == 4100

    async def test_no_whispers_there(self):
        async with self.following(self.own) as client:
            await client.say("client-x", {}, channel=self.own)
            assert (await client.error())[0] == 4009


class TriggerTests(EchoTestCase):
    async def test_code_of_the_site_tells_what_it_likes(self):
        async with self.following() as ada, self.following(user=self.friend) as bob:
            await atrigger(self.conversation, "order.shipped", {"n": 1}, socket_id=ada.socket_id)
            assert await bob.event("order.shipped", self.name) == {"n": 1}
            await atrigger(self.conversation, "App\\Events\\Shipped", {"n": 2}, socket_id="9.9")
            assert await ada.app("Shipped") == {"n": 2}
            assert not ada.frames

    async def test_names_of_the_log_are_not_to_be_had(self):
        for name in (
            "StreamUpdate",
            "App\\Events\\MessageCreated",
            "message.created",
            "Whispered",
            "pusher:x",
            "",
            "x" * 201,
        ):
            with pytest.raises(ValueError, match="own" if 0 < len(name) < 200 else "characters"):
                await atrigger(self.conversation, name, {})
        with pytest.raises(ValueError, match="written down"):
            await atrigger(self.conversation, "half \ud800", {})
        with pytest.raises(ValueError, match="no channel"):
            await atrigger("news", "x", {})
