from __future__ import annotations

import logging
from unittest import mock
from uuid import uuid4

from django.contrib.auth.models import User
from django.middleware.gzip import GZipMiddleware
from django.test import SimpleTestCase, override_settings
from django.urls import reverse

from converse.broadcasting import publish
from converse.checks import check_installation, check_settings
from converse.choices import ParticipantRole
from converse.cursors import write_cursor
from converse.events import Typing
from converse.hubs import hub
from converse.models import Conversation
from converse.transports import sse
from tests.readers import Assembled, stored, until
from tests.streams import Source, StreamTestCase


class EventsTestCase(StreamTestCase):
    def setUp(self):
        super().setUp()
        self.url = reverse("converse:events", args=[self.uuid])

    async def open(self, url="", after=None, **headers):
        """Give the events of an address, as a browser that comes back with a cursor does."""
        response = await self.async_client.get(url or self.url, {"after": after} if after else {}, headers=headers)
        assert response.status_code == 200, response.content
        return Source(response)

    def of(self, message):
        return reverse("converse:message-events", args=[self.uuid, message.uuid])

    async def cursor(self):
        await self.conversation.arefresh_from_db()
        return write_cursor(self.conversation.last_offset, self.conversation.epoch)


class ConversationTests(EventsTestCase):
    async def test_a_browser_assembles_what_is_stored(self):
        source, reader = await self.open(), Assembled()
        reader.apply(*await source.event())
        async with self.conversation.astream_reply() as stream:
            for word in ("Once ", "upon\n\n", "a\r time"):
                await stream.aappend(word)
                await stream.adrain()
        while reader.statuses.get(str(stream.message.uuid)) != "completed":
            reader.apply(*await source.event())
        assert reader.texts == await stored(self.conversation)
        assert source.last_id == await self.cursor()
        await source.close()

    async def test_a_browser_that_comes_back_gets_what_it_missed_and_nothing_twice(self):
        source, reader = await self.open(), Assembled()
        reader.apply(*await source.event())
        async with self.conversation.astream_reply() as stream:
            await stream.aappend("Once ")
            await stream.adrain()
            while "Once " not in reader.texts.values():
                reader.apply(*await source.event())
            await source.close()
            await stream.aappend("upon ")
            await stream.aappend("a time")
        for where in ({"Last-Event-ID": source.last_id}, {}):
            again = await self.open(after=source.last_id if not where else "1-x", **where)
            name, data = await again.event()
            assert name == "Replay"
            await again.close()
        reader.apply(name, data)
        assert reader.texts == await stored(self.conversation)
        assert reader.snapshots == 1

    async def test_a_cursor_of_another_epoch_gets_a_snapshot(self):
        for after in ("1-other", write_cursor(10_000, self.conversation.epoch)):
            source = await self.open(after=after)
            assert (await source.event())[0] == "Snapshot"
            await source.close()

    async def test_a_cursor_that_is_none_is_named(self):
        for after in ("x", "", "17", "-1-abc", "1-", f"{'9' * 50}-a"):
            response = await self.async_client.get(self.url, {"after": after})
            assert (response.status_code, response.json()["field"]) == (400, "after")
        message = await self.conversation.acreate_user_message("Hi")
        for url in (self.url, self.of(message)):
            response = await self.async_client.get(url, headers={"Last-Event-ID": "x"})
            assert (response.status_code, response.json()["field"]) == (400, "Last-Event-ID")
        source = await self.open(**{"Last-Event-ID": ""})
        await source.close()

    async def test_nothing_on_the_way_gathers_the_text(self):
        response = await self.async_client.get(self.url)
        assert response["Content-Type"] == "text/event-stream; charset=utf-8"
        assert "no-store" in response["Cache-Control"]
        assert "no-transform" in response["Cache-Control"]
        assert response["X-Accel-Buffering"] == "no"
        middleware = GZipMiddleware(lambda request: response)
        zipped = middleware.process_response(mock.Mock(META={"HTTP_ACCEPT_ENCODING": "gzip"}), response)
        assert zipped["Content-Encoding"] == "identity"
        source = Source(response)
        await source.event()
        assert source.retry == 2000
        await source.close()

    @override_settings(CONVERSE_SSE_HEARTBEAT=0.01)
    async def test_a_quiet_connection_shows_that_it_lives(self):
        source = await self.open()
        body = [await anext(source.body) for _ in range(4)]
        assert b":\n\n" in body
        await source.close()

    async def test_what_is_not_stored_has_no_cursor(self):
        source = await self.open()
        await source.event()
        publish(self.conversation.epoch, [Typing(conversation_id=self.uuid, user={"id": "1", "name": "Bob"})])
        before = source.last_id
        assert (await source.until("Typing"))["user"]["name"] == "Bob"
        assert source.last_id == before
        await source.close()

    async def test_a_foreign_and_a_missing_conversation_look_the_same(self):
        message = await self.conversation.acreate_user_message("Hi")
        await self.async_client.aforce_login(self.stranger)
        missing = str(uuid4())
        for url, unknown in (
            (self.url, self.url.replace(self.uuid, missing)),
            (self.of(message), self.of(message).replace(self.uuid, missing)),
            (self.of(message), self.of(message).replace(str(message.uuid), missing)),
        ):
            refused, gone = [await self.async_client.get(address) for address in (url, unknown)]
            assert refused.status_code == gone.status_code == 404
            assert refused.json() == gone.json()
        await self.async_client.alogout()
        assert (await self.async_client.get(self.url)).status_code == 404

    async def test_a_message_of_another_conversation_is_missing(self):
        other = await Conversation.objects.astart(self.user)
        message = await other.acreate_user_message("Hi")
        assert (await self.async_client.get(self.of(message))).status_code == 404

    async def test_who_may_read_no_more_is_told_and_then_refused(self):
        friend = await User.objects.acreate_user("bob")
        await self.conversation.ashare_with(friend, role=ParticipantRole.READ)
        await self.async_client.aforce_login(friend)
        source = await self.open()
        await source.event()
        await self.conversation.aunshare_with(friend)
        name, data = (await source.all())[-1]
        assert (name, data) == ("Withdrawn", {"conversationId": self.uuid})
        assert (await self.async_client.get(self.url)).status_code == 404

    @override_settings(CONVERSE_SSE_LIMIT=1)
    async def test_a_response_ends_before_it_fills_the_memory_and_the_reader_goes_on(self):
        await self.conversation.acreate_user_message("One")
        source = await self.open()
        [(name, _)] = await source.all()
        assert name == "Snapshot"
        message = await self.conversation.acreate_user_message("Two")
        again = await self.open(**{"Last-Event-ID": source.last_id})
        [(name, data)] = await again.all()
        assert [event["data"]["messageId"] for event in data["events"]] == [str(message.uuid)]

    async def test_a_failure_ends_the_response_in_order(self):
        logging.disable(logging.CRITICAL)
        self.addCleanup(logging.disable, logging.NOTSET)
        with self.settings(CONVERSE_AUTHORIZE="tests.test_sse.failing", CONVERSE_REAUTHORIZE_INTERVAL=-1):
            source = await self.open()
            assert await source.all() == []

    async def test_who_leaves_is_forgotten_and_the_reply_goes_on(self):
        async with self.conversation.astream_reply() as stream:
            source = await self.open()
            await source.event()
            assert hub().readers
            await source.close()
            await until(lambda: not hub().readers)
            await stream.aappend("still here")
        await stream.message.arefresh_from_db()
        assert stream.message.content == "still here"

    def test_under_wsgi_a_stream_is_refused_instead_of_gathered(self):
        message = self.conversation.create_user_message("Hi")
        for url in (self.url, self.of(message)):
            response = self.client.get(url)
            assert (response.status_code, response.json()["code"]) == (501, "needs_asgi")
            assert "ASGI" in response.json()["detail"]

    async def test_only_reading_is_done_here(self):
        assert (await self.async_client.post(self.url)).status_code == 405


asked = []


def failing(user, action, conversation):
    asked.append(action)
    if len(asked) % 2 == 0:
        raise ZeroDivisionError
    return True


class MessageTests(EventsTestCase):
    async def test_a_reply_is_told_from_its_beginning_to_its_end_and_nothing_else(self):
        async with self.conversation.astream_reply() as stream:
            await stream.aappend("Once ")
            await stream.adrain()
            source, reader = await self.open(self.of(stream.message)), Assembled()
            name, data = await source.event()
            assert name == "Replay"
            reader.apply(name, data)
            await self.conversation.acreate_user_message("By the way")
            await stream.aappend("upon a time")
        for name, data in await source.all():
            if name == "Replay":
                reader.apply(name, data)
            else:
                reader._one(name, data)
        assert reader.texts == {str(stream.message.uuid): "Once upon a time"}
        assert reader.statuses == {str(stream.message.uuid): "completed"}

    async def test_a_browser_that_has_seen_the_end_does_not_come_back_for_ever(self):
        async with self.conversation.astream_reply() as stream:
            source = await self.open(self.of(stream.message))
            await source.event()
            await stream.aappend("Done.")
        await source.all()
        url = self.of(stream.message)
        response = await self.async_client.get(url, headers={"Last-Event-ID": source.last_id})
        assert (response.status_code, response.content) == (204, b"")
        whole = await self.open(url)
        await whole.all()
        assert (await self.async_client.get(url, headers={"Last-Event-ID": whole.last_id})).status_code == 204

    async def test_a_closed_message_is_told_at_once(self):
        message = await self.conversation.acreate_user_message("Hello")
        await self.conversation.acreate_user_message("And then?")
        for after in (None, "1-other", write_cursor(0, self.conversation.epoch)):
            [(name, data)] = await (await self.open(self.of(message), after=after)).all()
            assert name == "Replay"
            [created] = data["events"]
            assert (created["event"], created["data"]["content"]) == ("MessageCreated", "Hello")

    async def test_a_browser_that_comes_back_after_the_end_gets_the_rest(self):
        async with self.conversation.astream_reply() as stream:
            await stream.aappend("Once ")
            await stream.adrain()
            source = await self.open(self.of(stream.message))
            await source.event()
            await source.close()
            await stream.aappend("more")
        again = await self.open(self.of(stream.message), **{"Last-Event-ID": source.last_id})
        [(_, data)] = await again.all()
        assert [event["event"] for event in data["events"]] == ["StreamUpdate", "MessageCompleted"]

    async def test_a_renumbered_log_ends_the_response_and_the_next_begins_afresh(self):
        async with self.conversation.astream_reply() as stream:
            await stream.aappend("Once ")
            await stream.adrain()
            source = await self.open(self.of(stream.message))
            await source.event()
            await Conversation.objects.filter(pk=self.conversation.pk).aupdate(epoch="newone")
            await source.all()
            again = await self.open(self.of(stream.message), **{"Last-Event-ID": source.last_id})
            name, data = await again.event()
            assert name == "Replay"
            assert [event["event"] for event in data["events"]] == ["MessageCreated", "StreamUpdate"]
            await again.close()

    async def test_a_deleted_message_is_told_and_then_missing(self):
        async with self.conversation.astream_reply() as stream:
            source = await self.open(self.of(stream.message))
            await source.event()
            await stream.aappend("x")
        message = await self.conversation.acreate_user_message("Hi")
        await message.adelete()
        assert (await self.async_client.get(self.of(message))).status_code == 404
        assert sse.ends("MessageDeleted", {"messageId": "m"}, "m")
        assert not sse.ends("MessageDeleted", {"messageId": "m"}, "n")
        await source.close()


class CheckTests(SimpleTestCase):
    def found(self, **settings):
        with override_settings(**settings):
            return [message.id for message in check_installation(app_configs=None)]

    def test_a_runserver_that_speaks_wsgi_is_complained_of(self):
        assert self.found(DEBUG=True) == ["converse.W006"]
        assert self.found(DEBUG=False) == []
        with mock.patch("converse.checks.surroundings.apps.is_installed", return_value=True):
            assert self.found(DEBUG=True) == []

    def test_what_the_settings_of_streams_cannot_be_is_refused(self):
        for name, values in {
            "CONVERSE_SSE_HEARTBEAT": (0, "15", None),
            "CONVERSE_SSE_RETRY": (-1, None),
            "CONVERSE_SSE_LIMIT": (0, 1.5),
            "CONVERSE_CHAT_SDK": (4, "5", 5.0, True, None),
            "CONVERSE_CHAT_LIMIT": (0, None),
            "CONVERSE_CHAT_REPLAY": (-1, "60"),
        }.items():
            for value in values:
                with override_settings(**{name: value}):
                    [message] = check_settings(app_configs=None)
                assert message.msg.startswith(f"{name} must be ")
