from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from unittest import mock
from uuid import uuid4

from asgiref.sync import async_to_sync
from channels.auth import AuthMiddlewareStack
from channels.routing import URLRouter
from django.contrib.auth.models import AnonymousUser, User
from django.test import Client as Browser
from django.test import TransactionTestCase, override_settings

from converse import loops, subscriptions
from converse.hubs import hub
from converse.models import Conversation, Message
from converse.routing import websocket_urlpatterns
from converse.testing import scripted
from converse.transports import websocket as transport
from tests.layers import held_layer
from tests.readers import Assembled, stored, until
from tests.sockets import Client

NOT_FOUND = {"type": "error", "code": "not_found", "reason": "There is no such conversation or message."}
GENEROUS = {"CONVERSE_FRAME_RATE": 10_000}


class HereRunner:
    """Runs replies in the readers' loop."""

    def start(self, run, message_id):
        loops.run_in(loops.home(), run(message_id))


class WaitingRunner:
    """Leaves replies as they are."""

    def start(self, run, message_id):
        pass


def nobody(user, action, conversation):
    return False


def broken(user, action, conversation):
    raise ZeroDivisionError("secret")


# The sweeper sleeps: it may be faster than the layer.
@override_settings(CONVERSE_SWEEP_INTERVAL=1000, CONVERSE_RUNNER="tests.test_websocket.WaitingRunner")
class SocketTestCase(TransactionTestCase):
    def setUp(self):
        held = held_layer()
        self.layer = held.__enter__()
        self.addCleanup(held.__exit__, None, None, None)
        self.user = User.objects.create_user("ada", first_name="Ada")
        self.friend = User.objects.create_user("bob")
        self.conversation = Conversation.objects.start(self.user, title="Plans")
        self.uuid = str(self.conversation.uuid)

    @asynccontextmanager
    async def following(self, user=None, **fields):
        """Give a socket that follows the conversation, its snapshot read."""
        async with Client(user or self.user) as client:
            await client.follow(self.conversation, **fields)
            await client.event("Snapshot")
            yield client


class DoorTests(SocketTestCase):
    async def closes(self, client):
        async with client:
            return await client.closed()

    async def test_nobody_who_is_not_signed_in_comes_in(self):
        for user in (None, AnonymousUser()):
            assert await self.closes(Client(user)) == 4401

    async def test_no_page_of_a_foreign_origin_comes_in(self):
        for origin in (
            None,
            "",
            "null",
            "http://evil.example",
            "http://testserver.evil.example",
            "http://[",
            "http://x:99999",
        ):
            assert await self.closes(Client(self.user, origin=origin)) == 4403, origin

    async def test_an_origin_with_an_impossible_port_is_foreign(self):
        with override_settings(CONVERSE_ALLOWED_ORIGINS=["https://app.example"]):
            assert await self.closes(Client(self.user, origin="https://app.example:99999")) == 4403

    async def test_pages_of_our_hosts_and_of_the_origins_that_the_settings_name_come_in(self):
        with override_settings(CONVERSE_ALLOWED_ORIGINS=["https://app.example"]):
            for origin in ("http://testserver", "https://localhost:8000", "https://app.example"):
                async with Client(self.user, origin=origin) as client:
                    assert (await client.ask("ping"))["type"] == "pong"
            assert await self.closes(Client(self.user, origin="http://app.example")) == 4403

    async def test_a_page_on_this_machine_comes_in_while_debugging_only(self):
        with override_settings(ALLOWED_HOSTS=[], DEBUG=True):
            async with Client(self.user, origin="http://localhost:8000") as client:
                assert (await client.ask("ping"))["type"] == "pong"
        with override_settings(ALLOWED_HOSTS=[]):
            assert await self.closes(Client(self.user, origin="http://localhost:8000")) == 4403

    def test_the_user_is_the_one_of_the_session(self):
        browser = Browser()
        browser.force_login(self.user)
        cookie = f"sessionid={browser.cookies['sessionid'].value}"
        application = AuthMiddlewareStack(URLRouter(websocket_urlpatterns))

        async def visit(*headers):
            client = Client(None, application=application)
            client.socket.scope["headers"] += headers
            async with client:
                if not headers:
                    return await client.closed()
                return (await client.follow(self.conversation))["head"]

        assert async_to_sync(visit)((b"cookie", cookie.encode())) == 1
        assert async_to_sync(visit)() == 4401

    async def test_a_client_that_goes_before_it_came_in_does_no_harm(self):
        client = Client(self.user)
        await client.socket.send_input({"type": "websocket.connect"})
        await client.socket.send_input({"type": "websocket.disconnect", "code": 1001})
        await client.socket.wait(10)


class FrameTests(SocketTestCase):
    async def test_answers_repeat_the_id_of_the_frame_in_any_form_that_is_one(self):
        async with Client(self.user) as client:
            for value in (1, 0, -1.5, "a", "é\u2028</script>\ud800", True, 10**4000):
                await client.write({"type": "ping", "id": value})
                frame = await client.frame(lambda frame: True)
                assert frame == {"type": "pong", "id": value}
            for text in (
                '{"type":"ping","id":null}',
                '{"type":"ping","id":NaN}',
                '{"type":"ping","id":1e999}',
                '{"type":"ping","id":[[1]]}',
            ):
                await client.write(text)
                assert await client.frame(lambda frame: True) == {"type": "pong"}

    async def test_an_id_that_is_nested_as_deep_as_can_be_does_no_harm(self):
        with override_settings(**GENEROUS):
            async with Client(self.user) as client:
                for depth in (10, 100, 300, 900, 950, 980, 990, 1000, 5000, 50_000):
                    await client.write('{"type":"ping","id":' + "[" * depth + "]" * depth + "}")
                    frame = await client.frame(lambda frame: True)
                    assert frame in (
                        {"type": "pong"},
                        {"type": "error", "code": "bad_frame", "reason": "A frame must be JSON."},
                    )

    async def test_what_is_no_command_is_said_to_be_none(self):
        async with Client(self.user) as client:
            for text, code in (
                ("nonsense", "bad_frame"),
                ("[" * 100_000, "bad_frame"),
                ("9" * 100_000, "bad_frame"),
                ("[]", "bad_frame"),
                ("null", "bad_frame"),
                ("{}", "unknown_type"),
                ('{"type": 7}', "unknown_type"),
                ('{"type": ["ack"]}', "unknown_type"),
                ('{"type": {}}', "unknown_type"),
                ('{"type": "__class__"}', "unknown_type"),
                ('{"type": "delete"}', "unknown_type"),
            ):
                await client.write(text)
                frame = await client.frame(lambda frame: True)
                assert (frame["type"], frame["code"]) == ("error", code), text
            assert (await client.ask("ping"))["type"] == "pong"

    async def test_a_field_that_is_wrong_is_named(self):
        uuid = self.uuid
        for command, fields, field in (
            ("subscribe", {}, "conversation"),
            ("subscribe", {"conversation": 7}, "conversation"),
            ("subscribe", {"conversation": None}, "conversation"),
            ("subscribe", {"conversation": [uuid]}, "conversation"),
            ("subscribe", {"conversation": uuid, "after": "1"}, "after"),
            ("subscribe", {"conversation": uuid, "after": -1}, "after"),
            ("subscribe", {"conversation": uuid, "after": 1.5}, "after"),
            ("subscribe", {"conversation": uuid, "after": True}, "after"),
            ("subscribe", {"conversation": uuid, "after": 1, "epoch": 7}, "epoch"),
            ("unsubscribe", {}, "conversation"),
            ("send", {"content": "Hi"}, "conversation"),
            ("send", {"conversation": uuid}, "content"),
            ("send", {"conversation": uuid, "content": {"x": 1}}, "content"),
            ("send", {"conversation": uuid, "content": ""}, "content"),
            ("send", {"conversation": uuid, "content": " \n"}, "content"),
            ("send", {"conversation": uuid, "content": "x" * 100_001}, "content"),
            ("send", {"conversation": uuid, "content": "NUL \x00"}, "content"),
            ("send", {"conversation": uuid, "content": "half \ud800"}, "content"),
            ("send", {"conversation": uuid, "content": "Hi", "clientId": 7}, "clientId"),
            ("send", {"conversation": uuid, "content": "Hi", "clientId": "x" * 101}, "clientId"),
            ("send", {"conversation": uuid, "content": "Hi", "clientId": "\x00"}, "clientId"),
            ("send", {"conversation": uuid, "content": "Hi", "clientId": "\ud800"}, "clientId"),
            ("send", {"conversation": uuid, "content": "Hi", "provider": "other"}, "provider"),
            ("send", {"conversation": uuid, "content": "Hi", "provider": ["default"]}, "provider"),
            ("send", {"conversation": uuid, "content": "Hi", "policy": "please"}, "policy"),
            ("stop", {}, "message"),
            ("stop", {"message": 7}, "message"),
            ("typing", {}, "conversation"),
            ("ack", {"conversation": uuid}, "offset"),
            ("ack", {"conversation": uuid, "offset": "1"}, "offset"),
            ("ack", {"offset": 1}, "conversation"),
        ):
            async with Client(self.user) as client:
                answer = await client.ask(command, **fields)
                assert (answer["type"], answer.get("code"), answer.get("field")) == ("error", "invalid", field), (
                    command,
                    fields,
                )
        assert not await Message.objects.aexists()

    async def test_a_conversation_or_message_that_is_missing_or_foreign_or_nonsense_is_not_found(self):
        foreign = await Conversation.objects.astart(self.friend)
        message = await foreign.astart_streaming_assistant()
        hidden = await Conversation.objects.astart(self.user)
        await hidden.adelete()
        async with Client(self.user) as client:
            for uuid in (str(foreign.uuid), str(hidden.uuid), str(uuid4()), "nonsense", "", "*", "conversation.x"):
                for command, fields in (("subscribe", {}), ("send", {"content": "Hi"}), ("typing", {})):
                    answer = await client.ask(command, conversation=uuid, **fields)
                    assert {**answer, "id": None} == {**NOT_FOUND, "id": None}
            for uuid in (str(message.uuid), str(uuid4()), "nonsense", ""):
                assert {**await client.ask("stop", message=uuid), "id": None} == {**NOT_FOUND, "id": None}
        await message.arefresh_from_db()
        assert message.is_streaming

    async def test_a_failure_of_ours_is_not_explained(self):
        with override_settings(CONVERSE_AUTHORIZE="tests.test_websocket.broken"), self.assertLogs("converse", "ERROR"):
            async with Client(self.user) as client:
                answer = await client.ask("subscribe", conversation=self.uuid)
                assert answer == {
                    "type": "error",
                    "code": "server_error",
                    "reason": "The server had a failure.",
                    "id": 1,
                }

    async def test_a_binary_frame_closes_the_socket(self):
        async with Client(self.user) as client:
            await client.socket.send_to(bytes_data=b"{}")
            assert await client.closed() == 1003

    async def test_a_frame_too_large_closes_the_socket_and_bytes_are_counted(self):
        with override_settings(CONVERSE_FRAME_LIMIT=100):
            async with Client(self.user) as client:
                await client.write('{"type":"ping","x":"' + "x" * 78 + '"}')
                assert (await client.frame(lambda frame: True))["type"] == "pong"
                await client.write('{"type":"ping","x":"' + "é" * 50 + '"}')
                assert await client.closed() == 1009

    async def test_a_flood_closes_the_socket_be_it_of_commands_or_of_nonsense(self):
        uuid = self.uuid
        for text in ("nonsense", "{}", json.dumps({"type": "unsubscribe", "conversation": uuid})):
            with override_settings(CONVERSE_FRAME_RATE=5, CONVERSE_SUBSCRIPTION_LIMIT=5):
                async with Client(self.user) as client:
                    for _ in range(30):
                        await client.write(text)
                    assert await client.closed() == 4429
                    assert 10 <= len(client.frames) < 30

    async def test_acknowledgements_and_pings_may_come_more_often_but_not_without_end(self):
        with override_settings(CONVERSE_FRAME_RATE=5, CONVERSE_SUBSCRIPTION_LIMIT=0):
            async with Client(self.user) as client:
                for _ in range(40):
                    assert (await client.ask("ping"))["type"] == "pong"
                for _ in range(100):
                    await client.write({"type": "ack", "conversation": self.uuid, "offset": 1})
                assert await client.closed() == 4429

    async def test_a_rate_below_one_still_lets_one_frame_through(self):
        with override_settings(CONVERSE_FRAME_RATE=0.001, CONVERSE_SUBSCRIPTION_LIMIT=0):
            async with Client(self.user) as client:
                assert (await client.ask("unsubscribe", conversation=self.uuid))["type"] == "unsubscribed"
                await client.write({"type": "unsubscribe", "conversation": self.uuid})
                assert await client.closed() == 4429

    async def test_who_comes_back_may_follow_everything_again_at_once(self):
        others = [await Conversation.objects.astart(self.user) for _ in range(30)]
        with override_settings(CONVERSE_FRAME_RATE=1, CONVERSE_SUBSCRIPTION_LIMIT=30):
            async with Client(self.user) as client:
                for other in others:
                    await client.follow(other)


class SubscribingTests(SocketTestCase):
    async def test_the_answer_comes_first_then_the_snapshot_then_what_is_live(self):
        async with Client(self.user) as client:
            answer = await client.follow(self.conversation)
            assert answer == {
                "type": "subscribed",
                "conversation": self.uuid,
                "epoch": self.conversation.epoch,
                "head": 1,
                "id": 1,
            }
            assert client.frames == type(client.frames)()
            assert (await client.event("Snapshot"))["conversation"]["title"] == "Plans"
            await self.conversation.acreate_user_message("<b>é\u2028</b>")
            data = await client.event("MessageCreated")
            assert (data["content"], data["offset"]) == ("<b>é\u2028</b>", 2)

    async def test_a_cursor_resumes_and_one_that_means_nothing_begins_afresh(self):
        await self.conversation.acreate_user_message("Hi")
        epoch = self.conversation.epoch
        async with Client(self.user) as client:
            await client.follow(self.conversation, after=1, epoch=epoch)
            assert [event["event"] for event in (await client.event("Replay"))["events"]] == ["MessageCreated"]
            for cursor in (
                {"after": 1},
                {"after": 1, "epoch": "x"},
                {"after": 3, "epoch": epoch},
                {"after": 10**30, "epoch": epoch},
            ):
                await client.follow(self.conversation, **cursor)
                assert (await client.event("Snapshot"))["offset"] == 2

    async def test_subscribing_again_replaces_what_was(self):
        async with self.following() as client:
            await client.follow(self.conversation)
            await client.event("Snapshot")
            assert len(hub().readers[self.uuid]) == 1
            await self.conversation.acreate_user_message("Hi")
            await client.event("MessageCreated")
            assert (await client.ask("ping"))["type"] == "pong"
            assert not client.frames

    async def test_subscribing_in_vain_leaves_what_was(self):
        async with self.following() as client:
            assert (await client.ask("subscribe", conversation=self.uuid, after="x"))["code"] == "invalid"
            await self.conversation.acreate_user_message("Hi")
            await client.event("MessageCreated")

    async def test_unsubscribing_ends_the_events_however_the_uuid_is_written(self):
        for spelling in (self.uuid, self.uuid.upper(), self.conversation.uuid.hex):
            async with self.following() as client:
                answer = await client.ask("unsubscribe", conversation=spelling)
                assert answer == {"type": "unsubscribed", "conversation": self.uuid, "id": 2}
                assert not hub().readers

    async def test_unsubscribing_from_what_is_not_followed_is_no_error(self):
        async with Client(self.user) as client:
            for uuid in (str(uuid4()), "nonsense", "\u2028"):
                assert (await client.ask("unsubscribe", conversation=uuid))["type"] == "unsubscribed"

    async def test_a_socket_follows_so_many_conversations_and_no_more(self):
        others = [await Conversation.objects.astart(self.user) for _ in range(3)]
        with override_settings(CONVERSE_SUBSCRIPTION_LIMIT=2):
            async with Client(self.user) as client:
                await client.follow(others[0])
                await client.follow(others[1])
                assert (await client.ask("subscribe", conversation=str(others[2].uuid)))[
                    "code"
                ] == "too_many_subscriptions"
                await client.follow(others[1])
                await client.ask("unsubscribe", conversation=str(others[0].uuid))
                await client.follow(others[2])

    async def test_many_conversations_share_a_socket_and_each_has_its_own_order(self):
        other = await Conversation.objects.astart(self.user)
        async with self.following() as client:
            await client.follow(other)
            await client.event("Snapshot")
            await self.conversation.acreate_user_message("here")
            await other.acreate_user_message("there")
            found = {data["content"]: (data["conversationId"], data["offset"]) for data in
                     (await client.event("MessageCreated"), await client.event("MessageCreated"))}  # fmt: skip
            assert found == {"here": (self.uuid, 2), "there": (str(other.uuid), 2)}

    async def test_a_socket_that_goes_leaves_nothing_behind(self):
        before = asyncio.all_tasks()
        async with self.following(presence=True):
            pass
        await until(lambda: not self.layer.groups and asyncio.all_tasks() <= before)
        assert not any((hub().readers, hub().rosters, hub()._tasks))

    async def test_a_socket_whose_server_cancels_it_leaves_nothing_behind(self):
        client = Client(self.user)
        await client.__aenter__()
        await client.follow(self.conversation)
        client.socket.future.cancel()
        await until(lambda: client.socket.future.done() and not hub().readers)

    async def test_a_socket_that_goes_at_once_after_subscribing_leaves_nothing_behind(self):
        for _ in range(5):
            client = Client(self.user)
            await client.__aenter__()
            await client.write({"type": "subscribe", "conversation": self.uuid})
            await client.socket.disconnect(timeout=10)
        assert not hub().readers

    async def test_a_reader_who_is_gone_is_no_failure(self):
        sent = []

        async def send(message):
            sent.append(message)
            raise BrokenPipeError

        socket = transport.Socket(self.user, None, send)
        with self.assertNoLogs("converse"):
            await socket.send({"type": "pong"})
            await socket.send({"type": "pong"})
            await socket.close(1011)
        assert len(sent) == 1

    async def test_a_subscription_that_fails_closes_the_socket(self):
        async with self.following() as client:
            failing = mock.patch.object(subscriptions, "read", side_effect=ZeroDivisionError)
            with failing, self.assertLogs("converse", "ERROR"):
                await client.follow(self.conversation)
                assert await client.closed() == 1011


class FlowTests(SocketTestCase):
    async def test_a_feed_waits_for_its_acknowledgements_and_goes_on_packed(self):
        message = await self.conversation.astart_streaming_assistant()
        await self.conversation.arefresh_from_db()
        reader = Assembled()
        with override_settings(CONVERSE_WINDOW=1000, **GENEROUS):
            async with Client(self.user) as client:
                await client.follow(self.conversation)
                reader.apply("Snapshot", await client.event("Snapshot"))
                for number in range(100):
                    await message.aappend_chunk(f"{number} ")
                assert (await client.ask("ping"))["type"] == "pong"  # the socket is not blocked, the feed is
                early = len(client.frames)
                assert early < 10
                while client.frames:
                    frame = client.frames.popleft()
                    reader.apply(frame["event"], frame["data"])
                while reader.offset < 102:
                    await client.write({"type": "ack", "conversation": self.uuid.upper(), "offset": reader.offset})
                    frame = await client.frame(lambda frame: "event" in frame)
                    reader.apply(frame["event"], frame["data"])
                assert len(reader.events) < early + 10
                assert reader.texts == await stored(self.conversation)

    async def test_a_client_that_does_not_acknowledge_is_closed(self):
        await self.conversation.acreate_user_message("x" * 500)
        with override_settings(CONVERSE_WINDOW=100, CONVERSE_ACK_TIMEOUT=0.05):
            async with self.following() as client:
                assert await client.closed() == 4408

    async def test_acknowledging_what_was_before_does_not_empty_the_window(self):
        await self.conversation.acreate_user_message("x" * 500)
        with override_settings(CONVERSE_WINDOW=100, CONVERSE_ACK_TIMEOUT=0.2):
            async with self.following() as client:
                await client.write({"type": "ack", "conversation": self.uuid, "offset": 1})
                assert await client.closed() == 4408

    async def test_a_window_that_is_not_full_may_stand_as_long_as_it_likes(self):
        with override_settings(CONVERSE_ACK_TIMEOUT=0):
            async with self.following() as client:
                await self.conversation.acreate_user_message("Hi")
                await client.event("MessageCreated")
                assert (await client.ask("ping"))["type"] == "pong"

    async def test_acknowledging_what_is_not_followed_or_was_not_sent_does_no_harm(self):
        async with self.following() as client:
            for uuid, offset in ((str(uuid4()), 1), ("nonsense", 1), (self.uuid, 0), (self.uuid, 10**30)):
                await client.write({"type": "ack", "conversation": uuid, "offset": offset})
            await self.conversation.acreate_user_message("Hi")
            await client.event("MessageCreated")


class SendingTests(SocketTestCase):
    async def send(self, client, content="Hi", **fields):
        return await client.ask("send", conversation=self.uuid, content=content, **fields)

    @override_settings(CONVERSE_RUNNER="tests.test_websocket.HereRunner")
    async def test_a_turn_is_stored_answered_and_streamed(self):
        with scripted(["Once ", "upon"]):
            async with self.following() as client:
                answer = await self.send(client, "Why?")
                assert answer["type"] == "sent"
                done = await client.event("MessageCompleted")
        assert done["messageId"] == answer["reply"]
        turn, reply = [message async for message in self.conversation.messages.order_by("offset")]
        assert (str(turn.uuid), str(reply.uuid)) == (answer["message"], answer["reply"])
        assert (turn.content, reply.content) == ("Why?", "Once upon")

    async def test_a_turn_sent_twice_with_one_client_id_is_stored_once_and_answered_the_same(self):
        async with Client(self.user) as client:
            first = await self.send(client, clientId="a")
            again = await self.send(client, clientId="a")
            assert {**first, "id": 0} == {**again, "id": 0}
        assert await self.conversation.messages.acount() == 2

    async def test_a_policy_says_what_becomes_of_a_reply_that_is_open(self):
        async with Client(self.user) as client:
            first = await self.send(client)
            busy = await self.send(client)
            assert (busy["type"], busy["code"], busy["field"]) == ("error", "busy", "conversation")
            assert (await self.send(client, policy="reject"))["code"] == "busy"
            assert (await self.send(client, policy="allow"))["type"] == "sent"
            assert (await self.send(client, policy="queue"))["type"] == "sent"
            assert (await self.send(client, policy="cancel_previous"))["type"] == "sent"
        assert (await Message.objects.aget(uuid=first["reply"])).is_cancelled
        assert await self.conversation.messages.open().acount() == 1

    async def test_a_provider_is_chosen_from_those_that_the_settings_let_clients_choose(self):
        echo = {"BACKEND": "converse.providers.echo.EchoProvider"}
        with override_settings(
            CONVERSE_PROVIDERS={"default": echo, "open": echo, "secret": echo},
            CONVERSE_CLIENT_PROVIDERS=["open", "gone"],
        ):
            async with Client(self.user) as client:
                for alias, code in (("default", None), ("open", None), ("secret", "invalid"), ("gone", "invalid")):
                    assert (await self.send(client, provider=alias, policy="allow")).get("code") == code

    async def test_a_reply_is_stopped_and_stopping_again_says_the_same(self):
        async with Client(self.user) as client:
            reply = (await self.send(client))["reply"]
            for _ in range(2):
                answer = await client.ask("stop", message=reply)
                assert (answer["type"], answer["message"], answer["status"]) == ("stopped", reply, "cancelled")
            turn = await self.conversation.messages.user().afirst()
            assert (await client.ask("stop", message=str(turn.uuid)))["status"] == "completed"

    async def test_closing_the_socket_stops_no_reply(self):
        async with self.following() as client:
            reply = (await self.send(client))["reply"]
        assert (await Message.objects.aget(uuid=reply)).is_open

    async def test_writes_and_reads_go_where_it_is_written_not_to_a_replica_that_lags(self):
        with override_settings(DATABASE_ROUTERS=["tests.test_permissions.ElsewhereRouter"]):
            async with self.following() as client:
                sent = await self.send(client, clientId="a")
                assert (await self.send(client, clientId="a"))["reply"] == sent["reply"]
                assert (await client.ask("stop", message=sent["reply"]))["status"] == "cancelled"


class RightsTests(SocketTestCase):
    async def test_a_role_says_which_commands_are_allowed(self):
        message = await self.conversation.astart_streaming_assistant()
        commands = {
            "subscribe": {"conversation": self.uuid},
            "send": {"conversation": self.uuid, "content": "Hi", "policy": "allow"},
            "stop": {"message": str(message.uuid)},
        }
        for role, allowed in (
            (None, set()),
            ("read", {"subscribe"}),
            ("write", set(commands)),
            ("owner", set(commands)),
        ):
            if role:
                await self.conversation.ashare_with(self.friend, role)
            async with Client(self.friend) as client:
                for command, fields in commands.items():
                    answer = await client.ask(command, **fields)
                    assert (answer["type"] != "error") == (command in allowed), (role, answer)
                    assert answer["type"] != "error" or answer["code"] == "not_found"

    async def test_a_participant_who_is_removed_is_cut_off_and_may_do_nothing_more(self):
        await self.conversation.ashare_with(self.friend)
        async with self.following(self.friend) as client:
            await self.conversation.aunshare_with(self.friend)
            await self.conversation.acreate_user_message("not for you")
            end = await client.frame(lambda frame: frame.get("type") == "unsubscribed")
            assert end == {
                "type": "unsubscribed",
                "conversation": self.uuid,
                "code": "not_found",
                "reason": "There is no such conversation any more.",
            }
            assert not client.frames
            assert (await client.ask("send", conversation=self.uuid, content="Hi"))["code"] == "not_found"
            assert (await client.ask("subscribe", conversation=self.uuid))["code"] == "not_found"
            await self.conversation.ashare_with(self.friend)
            await client.follow(self.conversation)
            await client.event("Snapshot")

    async def test_a_user_who_is_deactivated_may_do_nothing_more_on_an_open_socket(self):
        message = await self.conversation.astart_streaming_assistant()
        async with Client(self.user) as client:
            assert (await client.ask("ping"))["type"] == "pong"
            await User.objects.filter(pk=self.user.pk).aupdate(is_active=False)
            for command, fields in (
                ("subscribe", {"conversation": self.uuid}),
                ("send", {"conversation": self.uuid, "content": "Hi"}),
                ("typing", {"conversation": self.uuid}),
                ("stop", {"message": str(message.uuid)}),
            ):
                assert (await client.ask(command, **fields))["code"] == "not_found"

    async def test_a_user_who_is_deleted_may_do_nothing_more_either(self):
        async with Client(self.user) as client:
            await User.objects.filter(pk=self.user.pk).adelete()
            assert (await client.ask("send", conversation=self.uuid, content="Hi"))["code"] == "not_found"

    async def test_a_standing_reader_is_asked_about_in_time_and_cut_off(self):
        with override_settings(CONVERSE_REAUTHORIZE_INTERVAL=0.05, CONVERSE_SWEEP_INTERVAL=0.01):
            async with self.following() as client:
                with override_settings(CONVERSE_AUTHORIZE="tests.test_websocket.nobody"):
                    end = await client.frame(lambda frame: frame.get("type") == "unsubscribed")
        assert end["code"] == "not_found"

    async def test_a_deleted_conversation_is_told_of_and_then_not_found(self):
        async with self.following() as client:
            await self.conversation.adelete()
            assert (await client.event("ConversationDeleted"))["title"] == "Plans"
            assert (await client.ask("subscribe", conversation=self.uuid))["code"] == "not_found"
            assert (await client.ask("send", conversation=self.uuid, content="Hi"))["code"] == "not_found"


class CompanyTests(SocketTestCase):
    """Typing and presence."""

    ada = property(lambda self: {"id": str(self.user.pk), "name": "Ada"})
    bob = property(lambda self: {"id": str(self.friend.pk), "name": "bob"})

    def setUp(self):
        super().setUp()
        self.conversation.share_with(self.friend, "read")

    async def test_typing_reaches_everybody_else_and_says_nothing_but_who(self):
        async with self.following() as writer, self.following(self.friend) as reader, self.following() as other_tab:
            forged = {"user": {"id": "1", "name": "root"}, "event": "MessageDeleted", "offset": 7, "data": {}}
            await writer.write({"type": "typing", "conversation": self.uuid, **forged})
            for client in (reader, other_tab):
                assert await client.event("Typing") == {"conversationId": self.uuid, "user": self.ada}
            assert (await writer.ask("ping"))["type"] == "pong"
            assert not writer.frames

    async def test_typing_is_passed_on_at_most_once_in_a_while(self):
        with mock.patch.object(transport, "monotonic", return_value=1000.0) as clock:
            async with self.following() as writer, self.following(self.friend) as reader:
                for _ in range(5):
                    await writer.write({"type": "typing", "conversation": self.uuid})
                await writer.ask("ping")
                await reader.event("Typing")
                clock.return_value += transport.TYPING_INTERVAL
                await writer.write({"type": "typing", "conversation": self.uuid})
                await reader.event("Typing")
                await self.conversation.acreate_user_message("Hi")
                await reader.event("MessageCreated")
                assert not reader.frames

    async def test_who_may_only_read_does_not_type(self):
        async with Client(self.friend) as client:
            assert (await client.ask("typing", conversation=self.uuid))["code"] == "not_found"

    async def test_who_is_here_comes_and_goes_is_told_once_per_user(self):
        async with self.following(presence=True) as ada:
            assert await ada.event("Here") == {"conversationId": self.uuid, "users": [self.ada]}
            async with self.following(self.friend, presence=True) as first:
                assert (await first.event("Here"))["users"] == [self.ada, self.bob]
                assert (await ada.event("Joining"))["user"] == self.bob
                async with self.following(self.friend, presence=True) as second:
                    assert (await second.event("Here"))["users"] == [self.ada, self.bob]
            assert (await ada.event("Leaving"))["user"] == self.bob
            await ada.ask("ping")
            assert not ada.frames

    async def test_who_did_not_ask_to_be_seen_is_not_and_sees_nobody(self):
        for presence in (False, None, 1, "true"):
            async with self.following(presence=True) as ada, self.following(self.friend, presence=presence) as bob:
                assert (await ada.event("Here"))["users"] == [self.ada]
                await self.conversation.acreate_user_message("Hi")
                await bob.event("MessageCreated")
                await ada.event("MessageCreated")
                assert not [*ada.frames, *bob.frames]

    async def test_who_is_cut_off_leaves(self):
        async with self.following(presence=True) as ada:
            await ada.event("Here")
            async with self.following(self.friend, presence=True):
                await ada.event("Joining")
                await self.conversation.aunshare_with(self.friend)
                assert (await ada.event("Leaving"))["user"] == self.bob
