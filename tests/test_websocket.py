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
from django.test import SimpleTestCase, TransactionTestCase, override_settings
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from converse import approvals, loops, subscriptions
from converse.choices import Status
from converse.deltas import ToolCallDelta
from converse.hubs import hub
from converse.models import Conversation, Message
from converse.routing import websocket_urlpatterns
from converse.testing import scripted
from converse.tools import tool
from converse.transports import frames
from converse.transports import websocket as transport
from converse.transports.flow import Wire
from tests.layers import held_layer
from tests.readers import Assembled, stored, until
from tests.sockets import Client

NOT_FOUND = {"type": "error", "code": "not_found", "reason": "There is no such conversation or message."}
GENEROUS = {"CONVERSE_FRAME_RATE": 10_000}


ABOUT_A_MESSAGE = ("edit", "retry", "switch", "approve", "deny", "stop")


class HereRunner:
    """Runs replies in the readers' loop."""

    def start(self, run, message_id):
        loops.run_in(loops.home(), run(message_id))


def claimed(reply):
    """Have a reply stand as if its runner had begun with it."""
    Message.objects.filter(pk=reply.pk).update(status=Status.STREAMING, started_at=timezone.now())
    return reply


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool(approval=True)
def pay(amount: int) -> str:
    """Pay an amount."""
    return f"Paid {amount}."


def as_accountant(user, conversation):
    assert isinstance(user, User)
    return {"tools": [add, pay], "max_steps": 3, "metadata": {"for": conversation.title}}


def ill_advised(user, conversation):
    return {"tools": ["tests.secret.place"]}


def misspelt(user, conversation):
    return {"tool": [add], "policy": "allow", "model": "m"}


def nobody(user, action, conversation):
    return False


def broken(user, action, conversation):
    raise ZeroDivisionError("secret")


# The sweeper sleeps: it may be faster than the layer.
@override_settings(CONVERSE_SWEEP_INTERVAL=1000, CONVERSE_RUNNER="tests.runners.WaitingRunner")
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
            ("send", {"conversation": uuid, "attachments": []}, "content"),
            ("send", {"conversation": uuid, "attachments": [], "content": ""}, "content"),
            ("send", {"conversation": uuid, "content": "Hi", "attachments": "x"}, "attachments"),
            ("send", {"conversation": uuid, "content": "Hi", "attachments": {}}, "attachments"),
            ("send", {"conversation": uuid, "content": "Hi", "attachments": [7]}, "attachments"),
            ("send", {"conversation": uuid, "content": "Hi", "attachments": ["\ud800"]}, "attachments"),
            ("send", {"conversation": uuid, "content": "Hi", "attachments": ["nonsense"]}, "attachments[0]"),
            ("send", {"conversation": uuid, "attachments": [str(uuid4())]}, "attachments[0]"),
            ("send", {"conversation": uuid, "attachments": [str(uuid4())] * 11}, "attachments"),
            *((command, {}, "message") for command in ABOUT_A_MESSAGE),
            *((command, {"message": 7}, "message") for command in ABOUT_A_MESSAGE),
            *((command, {"message": [uuid]}, "message") for command in ABOUT_A_MESSAGE),
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
                for command in ABOUT_A_MESSAGE:
                    answer = await client.ask(command, message=uuid, content="Hi", call="a")
                    assert {**answer, "id": None} == {**NOT_FOUND, "id": None}
        await message.arefresh_from_db()
        assert message.is_streaming
        assert await foreign.messages.acount() == 1

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
            assert await client.closed() == 4415

    async def test_a_frame_too_large_closes_the_socket_and_bytes_are_counted(self):
        with override_settings(CONVERSE_FRAME_LIMIT=100):
            async with Client(self.user) as client:
                await client.write('{"type":"ping","x":"' + "x" * 78 + '"}')
                assert (await client.frame(lambda frame: True))["type"] == "pong"
                await client.write('{"type":"ping","x":"' + "é" * 50 + '"}')
                assert await client.closed() == 4413

    async def test_a_flood_closes_the_socket_be_it_of_commands_or_of_nonsense(self):
        uuid = self.uuid
        approval = json.dumps({"type": "approve", "message": uuid, "call": "a"})
        for text in ("nonsense", "{}", json.dumps({"type": "unsubscribe", "conversation": uuid}), approval):
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
                "mayWrite": True,
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

        socket = transport.Socket(self.user, Wire(None, send))
        with self.assertNoLogs("converse"):
            await socket.send({"type": "pong"})
            await socket.send({"type": "pong"})
            await socket.close(4500)
        assert len(sent) == 1

    async def test_a_subscription_that_fails_closes_the_socket(self):
        async with self.following() as client:
            failing = mock.patch.object(subscriptions, "read", side_effect=ZeroDivisionError)
            with failing, self.assertLogs("converse", "ERROR"):
                await client.follow(self.conversation)
                assert await client.closed() == 4500


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

    async def test_a_file_that_was_uploaded_is_sent_along_and_needs_no_words(self):
        files = [await self.conversation.aattach(f"note {number}".encode(), "note.txt") for number in range(2)]
        uuids = [str(file.uuid) for file in files]
        async with self.following() as client:
            await self.send(client, "See", attachments=uuids)
            said = await client.event("MessageCreated")
            assert [part.get("attachment") for part in said["parts"]] == [None, *uuids]
            await self.send(client, "", attachments=uuids[:1], policy="allow")
            wordless = {"type": "send", "conversation": self.uuid, "attachments": uuids[1:], "policy": "allow"}
            await client.write(wordless)
            assert (await client.frame(lambda frame: frame.get("type") == "sent"))["reply"]
        turns = self.conversation.messages.user().order_by("offset")
        assert [[part["type"] for part in turn.parts] async for turn in turns] == [
            ["text", "file", "file"],
            ["file"],
            ["file"],
        ]

    async def test_a_file_of_another_conversation_is_none(self):
        foreign = await Conversation.objects.astart(self.friend)
        theirs = await foreign.aattach(b"secret", "note.txt")
        async with Client(self.user) as client:
            answer = await self.send(client, attachments=[str(theirs.uuid)])
            assert (answer["code"], answer["field"]) == ("invalid", "attachments[0]")
        assert not await self.conversation.messages.aexists()

    async def test_the_site_says_how_replies_to_clients_are_asked_for(self):
        rule = {"CONVERSE_CLIENT_REPLY": "tests.test_websocket.as_accountant"}
        async with Client(self.user) as client:
            with override_settings(**rule):
                mine = {"tools": ["os.system"], "max_steps": 99, "metadata": {"for": "me"}, "options": {"x": 1}}
                reply = await Message.objects.aget(uuid=(await self.send(client, **mine))["reply"])
            assert reply.plan["tools"] == ["tests.test_websocket.add", "tests.test_websocket.pay"]
            assert (reply.plan["max_steps"], reply.metadata["for"], reply.options) == (3, "Plans", {})
            bad = {"CONVERSE_CLIENT_REPLY": "tests.test_websocket.ill_advised"}
            with override_settings(**bad), self.assertLogs("converse", "ERROR"):
                answer = await self.send(client)
            assert (answer["code"], answer["reason"]) == ("server_error", "The server had a failure.")
            bad = {"CONVERSE_CLIENT_REPLY": "tests.test_websocket.misspelt"}
            with override_settings(**bad), self.assertLogs("converse", "ERROR") as logs:
                assert (await self.send(client))["code"] == "server_error"
            assert "CONVERSE_CLIENT_REPLY: tests.test_websocket.misspelt gave policy, tool, but" in logs.output[0]

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


class VersionTests(SocketTestCase):
    """Other versions of turns and replies."""

    def setUp(self):
        super().setUp()
        self.conversation.add_user_message("Hello")
        self.turn = self.conversation.create_user_message("Why?")
        self.reply = claimed(self.conversation.reply(None))
        self.reply.stream.append("Because.").complete()

    async def shown(self):
        current = self.conversation.messages.current().order_by("offset")
        return [message.content async for message in current]

    async def test_a_reply_is_asked_for_again_on_a_branch_of_its_own_and_only_once_a_client_id(self):
        async with Client(self.user) as client:
            first = await client.ask("retry", message=str(self.reply.uuid), clientId="a")
            assert (first["type"], first["conversation"], first["message"]) == ("sent", self.uuid, str(self.turn.uuid))
            again = await client.ask("retry", message=str(self.reply.uuid), clientId="a")
            assert {**first, "id": 0} == {**again, "id": 0}
            assert (await client.ask("retry", message=str(self.reply.uuid), clientId="b"))["code"] == "busy"
        version = await Message.objects.aget(uuid=first["reply"])
        assert (version.follows, version.attempt, version.external_id) == (self.turn.offset, 2, "a")
        assert await self.shown() == ["Hello", "Why?", ""]

    async def test_a_turn_is_said_otherwise_on_a_branch_of_its_own_and_only_once_a_client_id(self):
        async with Client(self.user) as client:
            first = await client.ask("edit", message=str(self.turn.uuid), content="How?", clientId="a")
            again = await client.ask("edit", message=str(self.turn.uuid), content="How?", clientId="a")
            assert first["type"] == "sent"
            assert {**first, "id": 0} == {**again, "id": 0}
        turn = await Message.objects.aget(uuid=first["message"])
        assert (turn.content, turn.follows, turn.external_id) == ("How?", self.turn.follows, "a")
        assert await self.shown() == ["Hello", "How?", ""]

    async def test_an_edited_turn_keeps_its_files_unless_others_are_given(self):
        file = await self.conversation.aattach(b"note", "note.txt")
        turn = await self.conversation.acreate_message("user", "See", attachments=[file])
        async with Client(self.user) as client:
            for fields, files in (({}, 1), ({"attachments": []}, 0), ({"attachments": [str(file.uuid)]}, 1)):
                answer = await client.ask("edit", message=str(turn.uuid), content="Look", policy="allow", **fields)
                edited = await Message.objects.aget(uuid=answer["message"])
                assert [part["type"] for part in edited.parts] == ["text", *["file"] * files]

    async def test_a_branch_is_shown_again_and_all_readers_are_told(self):
        async with self.following() as client, self.following() as other_tab:
            await client.ask("retry", message=str(self.reply.uuid))
            for _ in range(2):
                answer = await client.ask("switch", message=str(self.reply.uuid))
                assert answer == {"type": "switched", "message": str(self.reply.uuid), "leaf": self.reply.offset,
                                  "id": answer["id"]}  # fmt: skip
            assert (await other_tab.event("ConversationUpdated"))["leaf"] == self.reply.offset
        assert await self.shown() == ["Hello", "Why?", "Because."]

    async def test_what_cannot_be_is_refused_with_the_field_to_blame(self):
        turn, reply = str(self.turn.uuid), str(self.reply.uuid)
        await self.conversation.acreate_message("user", "Mine", external_id="taken")
        gone = await self.conversation.acreate_user_message("gone")
        await gone.adelete()
        async with Client(self.user) as client:
            for command, fields, field in (
                ("retry", {"message": turn}, "message"),
                ("retry", {"message": reply, "clientId": "x" * 101}, "clientId"),
                ("retry", {"message": reply, "clientId": "taken"}, "clientId"),
                ("retry", {"message": reply, "policy": "please"}, "policy"),
                ("retry", {"message": reply, "provider": "secret"}, "provider"),
                ("edit", {"message": turn}, "content"),
                ("edit", {"message": turn, "content": " "}, "content"),
                ("edit", {"message": turn, "content": "x" * 100_001}, "content"),
                ("edit", {"message": turn, "content": "x", "attachments": ["x"]}, "attachments[0]"),
                ("edit", {"message": reply, "content": "x"}, "message"),
            ):
                answer = await client.ask(command, **fields)
                assert (answer.get("code"), answer.get("field")) == ("invalid", field), (command, fields, answer)
            assert (await client.ask("switch", message=str(gone.uuid)))["code"] == "not_found"
        assert await self.shown() == ["Hello", "Why?", "Because.", "Mine"]


class ApprovalTests(SocketTestCase):
    """Calls of tools that wait for a person."""

    def setUp(self):
        super().setUp()
        self.reply = self.waiting()

    def waiting(self):
        reply = claimed(self.conversation.reply("Pay!", tools=[add, pay]))
        for index, call in enumerate("ab"):
            reply.stream.append(ToolCallDelta(index=index, id=call, name="pay", arguments='{"amount": 7}'))
        approvals.suspend(reply)
        return reply

    async def decide(self, client, command, call="a", **fields):
        return await client.ask(command, message=str(self.reply.uuid), call=call, **fields)

    async def decisions(self):
        chunks = self.reply.chunks.filter(kind="approval").order_by("sequence")
        return [(chunk.content, chunk.metadata["id"], chunk.metadata["by"]) async for chunk in chunks]

    async def test_each_call_is_decided_once_and_when_all_are_the_reply_goes_on(self):
        uuid, me = str(self.reply.uuid), str(self.user.pk)
        async with self.following() as client, self.following() as other_tab:
            for _ in range(2):
                answer = await self.decide(client, "approve", reason="fine")
                assert answer == {"type": "decided", "message": uuid, "call": "a", "decision": "approved",
                                  "id": answer["id"]}  # fmt: skip
            assert (await self.decide(client, "deny"))["field"] == "call"
            assert (await self.decide(client, "deny", "b"))["decision"] == "denied"
            assert (await self.decide(client, "deny", "b"))["decision"] == "denied"
            told = await other_tab.event("StreamUpdate")
            assert (told["kind"], told["chunk"], told["toolCallId"]) == ("approval", "approved", "a")
            assert told["data"] == {"reason": "fine"}
            assert (await other_tab.event("MessageUpdated"))["status"] == "pending"
        assert await self.decisions() == [("approved", "a", me), ("denied", "b", me)]

    @override_settings(CONVERSE_RUNNER="tests.test_websocket.HereRunner")
    async def test_an_approved_call_is_made_and_the_reply_comes_to_its_end(self):
        with scripted(["All done."]):
            async with self.following() as client:
                await self.decide(client, "approve")
                await self.decide(client, "deny", "b", reason="Not today.")
                done = await client.event("MessageCompleted")
                assert done["messageId"] == str(self.reply.uuid)
                for _ in range(2):  # also when all is over
                    assert (await self.decide(client, "approve"))["type"] == "decided"
                late = await self.decide(client, "approve", "b")
                assert (late["code"], late["field"]) == ("invalid", "message")
        message = await Message.objects.aget(pk=self.reply.pk)
        results = [part["output"] for part in message.parts if part["type"] == "tool_result"]
        assert (results[0], message.content) == ("Paid 7.", "All done.")
        assert "Not today." in results[1]

    async def test_what_does_not_wait_cannot_be_decided(self):
        turn = await self.conversation.messages.user().afirst()
        async with Client(self.user) as client:
            for call in ("c", "", "\u2028", "x" * 100):
                answer = await self.decide(client, "approve", call)
                assert (answer["code"], answer["field"]) == ("invalid", "call")
            for fields, field in (
                ({"call": None}, "call"),
                ({"call": ["a"]}, "call"),
                ({"call": "x" * 101}, "call"),
                ({"call": "\x00"}, "call"),
                ({"reason": 7}, "reason"),
                ({"reason": "x" * 1001}, "reason"),
                ({"reason": "\ud800"}, "reason"),
                ({"message": str(turn.uuid)}, "message"),
            ):
                answer = await client.ask("deny", **{"message": str(self.reply.uuid), "call": "a", **fields})
                assert (answer["code"], answer["field"]) == ("invalid", field), fields
            streaming = await self.conversation.astart_streaming_assistant()
            answer = await client.ask("approve", message=str(streaming.uuid), call="a")
            assert (answer["code"], answer["field"]) == ("invalid", "message")
            await client.ask("stop", message=str(self.reply.uuid))
            assert (await self.decide(client, "approve"))["field"] == "message"
        assert await self.decisions() == []

    async def test_two_who_decide_at_once_cannot_both_win(self):
        await self.conversation.ashare_with(self.friend)
        async with Client(self.user) as ada, Client(self.friend) as bob:
            both = await asyncio.gather(self.decide(ada, "approve"), self.decide(bob, "deny"))
        assert sorted(answer["type"] for answer in both) == ["decided", "error"]
        assert len(await self.decisions()) == 1


class LargeTests(SocketTestCase):
    """What is too large for one frame."""

    async def test_a_message_over_a_megabyte_reaches_its_reader_whole_in_frames_that_daphne_sends(self):
        hard = '"\\\u2028🙂\n' * 200_000
        async with Client(self.user) as client:
            message = await self.conversation.acreate_user_message(hard)
            await client.follow(self.conversation)
            snapshot = await client.event("Snapshot")
            assert snapshot["messages"][0]["content"] == hard
            await client.follow(self.conversation, after=1, epoch=self.conversation.epoch)
            [created] = (await client.event("Replay"))["events"]
            assert (created["data"]["messageId"], created["data"]["content"]) == (str(message.uuid), hard)
            assert client.largest <= 2**20
            assert client.largest > 2**19

    async def test_pieces_of_two_conversations_do_not_mix(self):
        other = await Conversation.objects.astart(self.user)
        await self.conversation.acreate_user_message("a" * 5000)
        await other.acreate_user_message("b" * 5000)
        with mock.patch.object(frames, "LARGEST", 1000):
            async with Client(self.user) as client:
                await client.write({"type": "subscribe", "conversation": self.uuid})
                await client.write({"type": "subscribe", "conversation": str(other.uuid)})
                found = [await client.event("Snapshot") for _ in range(2)]
        assert {said["messages"][0]["content"] for said in found} == {"a" * 5000, "b" * 5000}

    async def test_a_reader_who_goes_in_the_middle_of_one_does_no_harm(self):
        sent = []

        async def send(message):
            sent.append(message)
            raise BrokenPipeError

        with mock.patch.object(frames, "LARGEST", 1000):
            await transport.Socket(self.user, Wire(None, send)).send({"type": "pong", "x": "x" * 5000})
        assert len(sent) == 1


class PieceTests(SimpleTestCase):
    @given(text=st.text(st.characters(exclude_categories=["Cs"])), largest=st.integers(4, 40))
    def test_pieces_come_together_to_the_frame_and_none_is_too_large(self, text, largest):
        whole = json.dumps(text, ensure_ascii=False)
        with mock.patch.object(frames, "LARGEST", largest):
            cut = frames.pieces(whole)
        if len(cut) == 1:
            assert cut == [whole]
            assert len(whole.encode()) <= max(largest, largest // 4)
            return
        read = [json.loads(piece) for piece in cut]
        assert "".join(piece["text"] for piece in read) == whole
        assert [piece["more"] for piece in read] == [True] * (len(cut) - 1) + [False]
        envelope = len(json.dumps({"type": "piece", "text": "", "more": False}))
        assert all(len(piece.encode()) <= largest + envelope for piece in cut)


class RightsTests(SocketTestCase):
    async def test_a_role_says_which_commands_are_allowed(self):
        turn = await self.conversation.acreate_user_message("Why?")
        reply = await self.conversation.acreate_assistant_message("Because.")
        await Message.objects.filter(pk=reply.pk).aupdate(reply_to=turn)
        message = await self.conversation.astart_streaming_assistant()
        await message.stream.aappend(ToolCallDelta(index=0, id="a", name="pay", arguments="{}"))
        await message.stream.aappend(ToolCallDelta(index=1, id="b", name="pay", arguments="{}"))
        await message.stream.adrain()
        await Message.objects.filter(pk=message.pk).aupdate(status=Status.WAITING)
        commands = {
            "subscribe": {"conversation": self.uuid},
            "send": {"conversation": self.uuid, "content": "Hi", "policy": "allow"},
            "edit": {"message": str(turn.uuid), "content": "Hi", "policy": "allow"},
            "retry": {"message": str(reply.uuid), "policy": "allow"},
            "switch": {"message": str(reply.uuid)},
            "approve": {"message": str(message.uuid), "call": "a"},
            "deny": {"message": str(message.uuid), "call": "b"},
            "stop": {"message": str(message.uuid)},
        }
        assert {*commands, "unsubscribe", "typing", "ack", "ping"} == set(transport.COMMANDS)
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
                    if answer["type"] == "subscribed":
                        assert answer["mayWrite"] == ("send" in allowed)
                    assert (answer["type"] != "error") == (command in allowed), (role, command, answer)
                    assert answer["type"] != "error" or answer["code"] == "not_found"
                await Message.objects.filter(pk=message.pk).aupdate(status=Status.WAITING)  # as before
                await message.chunks.filter(kind="approval").adelete()

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
            about = {"message": str(message.uuid), "content": "Hi", "call": "a"}
            for command, fields in (
                ("subscribe", {"conversation": self.uuid}),
                ("send", {"conversation": self.uuid, "content": "Hi"}),
                ("typing", {"conversation": self.uuid}),
                *((command, about) for command in ABOUT_A_MESSAGE),
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
