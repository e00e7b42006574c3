from __future__ import annotations

import logging
from unittest import mock
from uuid import uuid4

from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client, TransactionTestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from converse import listing
from converse.choices import FinishReason
from converse.deltas import Finish, RawBlock, ReasoningDelta, ToolCallDelta
from converse.models import Conversation, Message, MessageAttachment
from converse.replays import read
from converse.testing import scripted
from tests import samples, toolbox
from tests.apis import ApiTestCase
from tests.samples import StorageTestCase

CALLS = Finish(reason=FinishReason.TOOL_CALLS, raw="tool_calls")
WAITING = "tests.runners.WaitingRunner"


class ReadingTests(ApiTestCase):
    def page(self, **query):
        return self.ask("GET", "messages", self.conversation.uuid, query=query).json()

    def texts(self, **query):
        return [message["content"] for message in self.page(**query)["messages"]]

    def said(self, *texts):
        return self.conversation.add_messages(*texts)

    def test_messages_are_what_a_snapshot_has(self):
        self.said("Hello!", {"role": "assistant", "content": "<b>Hi</b>", "metadata": {"model": "m", "secret": "x"}})
        failed = self.conversation.start_streaming_assistant()
        failed.append_chunk("so far")
        failed.fail_streaming("private")
        growing = self.conversation.start_streaming_assistant()
        growing.stream.append(ReasoningDelta(text="hm", signature="s"))
        growing.stream.append(RawBlock(data={"secret": 1}))
        growing.append_chunk("Once ")
        growing.append_chunk("upon")
        page = self.page()
        snapshot = read(self.conversation.pk, None, None)
        assert page["messages"] == [*snapshot.messages]
        assert not page["more"]
        assert [part["type"] for part in page["messages"][-1]["parts"]] == ["reasoning", "raw", "text"]
        for state in page["messages"]:
            one = self.ask("GET", "message", self.conversation.uuid, state["messageId"]).json()
            assert one["message"] == state
            assert one["versions"] == page["versions"][state["messageId"]]
        assert "secret" not in str(page)
        assert "private" not in str(page)

    def test_pages_go_back_and_forth(self):
        self.said(*(f"{number}" for number in range(7)))
        newest = self.page(limit=3)
        assert [message["content"] for message in newest["messages"]] == ["4", "5", "6"]
        assert newest["more"]
        older = self.page(limit=3, before=newest["messages"][0]["offset"])
        assert [message["content"] for message in older["messages"]] == ["1", "2", "3"]
        assert self.page(limit=3, before=older["messages"][0]["offset"])["more"] is False
        newer = self.page(limit=2, after=older["messages"][-1]["offset"])
        assert ([message["content"] for message in newer["messages"]], newer["more"]) == (["4", "5"], True)
        assert self.texts(after=newest["messages"][-1]["offset"]) == []
        assert self.texts(before=0) == []

    def test_a_page_holds_what_fits_and_one_message_at_least(self):
        self.said("a" * 90, "b" * 90, "c" * 90)
        with mock.patch.object(listing, "PAGE", 1):
            page = self.page()
            assert [message["content"][0] for message in page["messages"]] == ["c"]
            assert page["more"]
            assert self.page(after=0)["messages"][0]["content"][0] == "a"

    def test_versions_say_which_one_is_shown_and_what_others_there_are(self):
        with override_settings(CONVERSE_RUNNER=WAITING):
            first = self.conversation.reply("Hi")
            first.stop()
            second = first.regenerate()
            second.stop()
            turn = second.reply_to
            edited = turn.edit("Hello")
            edited.stop()
        page = self.page()
        shown = edited.reply_to
        assert [message["messageId"] for message in page["messages"]] == [str(shown.uuid), str(edited.uuid)]
        assert page["versions"][str(shown.uuid)] == {"number": 2, "of": 2, "ids": [str(turn.uuid), str(shown.uuid)]}
        assert page["versions"][str(edited.uuid)]["of"] == 1
        one = self.ask("GET", "message", self.conversation.uuid, first.uuid).json()
        assert one["versions"] == {"number": 1, "of": 2, "ids": [str(first.uuid), str(second.uuid)]}
        second.delete()
        one = self.ask("GET", "message", self.conversation.uuid, first.uuid).json()
        assert one["versions"]["of"] == 1

    def test_a_message_deleted_a_moment_ago_is_a_version_still(self):
        [message] = self.said("Hi")
        state = listing.state(message, self.conversation)
        message.delete()
        assert listing.versions(self.conversation, [state])[str(message.uuid)]["of"] == 1

    def test_chunks_are_the_events_that_were_told(self):
        message = self.conversation.start_streaming_assistant()
        for text in ("Once ", "upon ", "a time"):
            message.append_chunk(text)
        message.stream.append(ToolCallDelta(index=0, id="c", name="pay", arguments="{}"))
        message.complete_streaming()
        args = (self.conversation.uuid, message.uuid)
        page = self.ask("GET", "chunks", *args).json()
        told = read(self.conversation.pk, message.offset + 2, self.conversation.epoch)
        last = [event["data"] for event in told.events if event["event"] == "StreamUpdate"]
        assert page["chunks"][2:] == last
        assert [chunk["sequence"] for chunk in page["chunks"]] == [1, 2, 3, 4]
        page = self.ask("GET", "chunks", *args, query={"after": 1, "limit": 1}).json()
        assert ([chunk["chunk"] for chunk in page["chunks"]], page["more"]) == (["upon "], True)
        with mock.patch.object(listing, "PAGE", 1):
            assert len(self.ask("GET", "chunks", *args).json()["chunks"]) == 1

    def test_what_is_not_there_is_missing(self):
        [deleted] = self.said("Hi")
        deleted.delete()
        other = Conversation.objects.start(self.ada).create_user_message("Hi")
        foreign = Conversation.objects.start(self.bob).create_user_message("Hi")
        for message in (deleted.uuid, other.uuid, foreign.uuid, uuid4()):
            for name in ("message", "chunks"):
                assert self.refused("GET", name, self.conversation.uuid, message) == (404, "not_found", None)
        for client in (Client(), self.as_(self.eve)):
            for name in ("messages", "participants"):
                assert self.refused("GET", name, self.conversation.uuid, client=client) == (404, "not_found", None)

    def test_a_parameter_that_cannot_be_is_named(self):
        for field, value in (("before", "x"), ("after", "-1"), ("limit", "101"), ("before", "9" * 19)):
            refused = self.refused("GET", "messages", self.conversation.uuid, query={field: value})
            assert refused == (400, "invalid", field)
        both = {"before": 1, "after": 1}
        assert self.refused("GET", "messages", self.conversation.uuid, query=both) == (400, "invalid", "after")

    def test_a_page_costs_the_same_however_long(self):
        self.said(*"abcdefghij")
        url = reverse("converse:messages", args=[self.conversation.uuid])
        for limit in (1, 10):
            with self.assertNumQueries(5):  # session, user, conversation, messages, versions
                self.client.get(url, {"limit": limit})
        self.conversation.start_streaming_assistant()
        with self.assertNumQueries(6):  # and the chunks of the open one
            self.client.get(url)


@override_settings(CONVERSE_RUNNER=WAITING)
class SendingTests(ApiTestCase):
    def send(self, body=None, **kwargs):
        return self.ask("POST", "messages", self.conversation.uuid, body=body or {"content": "Hi"}, **kwargs)

    def stopped(self):
        reply = self.conversation.reply("Hi")
        reply.stop()
        return reply

    def test_a_turn_is_stored_and_a_reply_begun(self):
        response = self.send()
        sent = response.json()
        reply = Message.objects.get(uuid=sent["reply"])
        assert response.status_code == 201
        assert (str(reply.reply_to.uuid), reply.reply_to.content) == (sent["message"], "Hi")
        address = reverse("converse:message", args=[self.conversation.uuid, reply.uuid])
        assert response.headers["Location"] == address
        assert self.client.get(address).json()["message"]["status"] == "pending"

    def test_sent_twice_it_is_stored_once(self):
        body = {"content": "Hi", "clientId": "a-1"}
        first, again = self.send(body), self.send(body)
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json() == again.json()
        assert Message.objects.count() == 2
        self.conversation.stop()
        other = Conversation.objects.start(self.ada)
        assert self.ask("POST", "messages", other.uuid, body=body).status_code == 201

    def test_something_else_under_the_same_id_is_refused_and_not_taken_for_sent(self):
        self.send({"content": "Hi", "clientId": "a-1"})
        self.conversation.create_message("user", "Kept", external_id="a-2")
        for client in ("a-1", "a-2"):
            body = {"content": "Something else", "clientId": client, "policy": "allow"}
            refused = self.refused("POST", "messages", self.conversation.uuid, body=body)
            assert refused == (400, "invalid", "clientId")
        assert Message.objects.count() == 3

    def test_another_reply_that_is_open_is_a_conflict(self):
        self.send()
        status, code, field = self.refused("POST", "messages", self.conversation.uuid, body={"content": "Again"})
        assert (status, code, field) == (409, "busy", "conversation")
        assert self.send({"content": "Again", "policy": "queue"}).status_code == 201

    def test_what_is_wrong_is_named_and_nothing_stored(self):
        for body, field in (
            ({}, "content"),
            ({"content": None}, "content"),
            ({"content": 7}, "content"),
            ({"content": "a\x00b"}, "content"),
            ({"content": "x" * 100_001}, "content"),
            ({"content": "Hi", "clientId": "x" * 101}, "clientId"),
            ({"content": "Hi", "clientId": ["x"]}, "clientId"),
            ({"content": "Hi", "clientId": "a\x00"}, "clientId"),
            ({"content": "Hi", "clientId": "\ud800"}, "clientId"),
            ({"content": "Hi", "policy": "hurry"}, "policy"),
            ({"content": "Hi", "provider": "expensive"}, "provider"),
            ({"content": "Hi", "attachments": "x"}, "attachments"),
            ({"content": "Hi", "attachments": ["x"]}, "attachments[0]"),
            ({"content": "Hi", "attachments": [str(uuid4())]}, "attachments[0]"),
            ({"content": "Hi", "role": "system"}, "role"),
            ({"content": "Hi", "conversation": str(uuid4())}, "conversation"),
            ({"content": "Hi", "metadata": {}}, "metadata"),
            ({"content": "Hi", "tools": ["os.system"]}, "tools"),
        ):
            refused = self.refused("POST", "messages", self.conversation.uuid, body=body)
            assert refused == (400, "invalid", field), body
        assert not Message.objects.exists()

    def test_who_may_only_read_changes_nothing(self):
        reply = self.conversation.reply("Hi")
        self.conversation.share_with(self.bob, "read")
        bob, uuid = self.as_(self.bob), self.conversation.uuid
        doors = (("edit", {"content": "x"}), ("retry", {}), ("switch", {}), ("stop", {}), ("approve", {"call": "a"}))

        def tried(client):
            for name, body in (*doors, ("deny", {"call": "a"})):
                assert self.refused("POST", name, uuid, reply.uuid, body=body, client=client)[0] == 404
            assert self.refused("POST", "messages", uuid, body={"content": "x"}, client=client)[0] == 404

        tried(bob)
        tried(Client())
        tried(self.as_(self.eve))
        assert self.ask("GET", "message", uuid, reply.uuid, client=bob).json()["message"]["status"] == "pending"
        self.conversation.unshare_with(self.bob)
        assert self.refused("GET", "message", uuid, reply.uuid, client=bob)[0] == 404
        tried(bob)
        assert Message.objects.count() == 2

    def test_a_message_is_found_in_its_own_conversation_only(self):
        other = Conversation.objects.start(self.ada)
        reply = self.conversation.reply("Hi")
        assert self.refused("POST", "stop", other.uuid, reply.uuid) == (404, "not_found", None)
        reply.refresh_from_db()
        assert reply.is_open

    def test_a_reply_is_stopped_retried_and_a_version_shown_again(self):
        uuid, reply = self.conversation.uuid, self.conversation.reply("Hi")
        for _ in range(2):
            stopped = self.ask("POST", "stop", uuid, reply.uuid).json()
            assert stopped == {"type": "stopped", "message": str(reply.uuid), "status": "cancelled"}
        first, again = (self.ask("POST", "retry", uuid, reply.uuid, body={"clientId": "r"}) for _ in range(2))
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json() == again.json()
        new = Message.objects.get(uuid=first.json()["reply"])
        assert first.headers["Location"] == reverse("converse:message", args=[uuid, new.uuid])
        assert new.reply_to == reply.reply_to
        shown = self.ask("POST", "switch", uuid, reply.uuid, body={}).json()
        assert shown == {"type": "switched", "message": str(reply.uuid), "leaf": reply.offset}

    def test_a_turn_is_said_otherwise(self):
        turn = self.stopped().reply_to
        response = self.ask("POST", "edit", self.conversation.uuid, turn.uuid, body={"content": "Hello"})
        assert response.status_code == 201
        assert Message.objects.get(uuid=response.json()["message"]).content == "Hello"

    def test_what_cannot_be_done_with_a_message_is_said(self):
        reply = self.stopped()
        for name, message, body, field in (
            ("edit", reply, {"content": "x"}, "message"),
            ("edit", reply.reply_to, {}, "content"),
            ("retry", reply.reply_to, {}, "message"),
            ("approve", reply, {"call": "a"}, "message"),
            ("approve", reply, {}, "call"),
            ("deny", reply, {"call": "a", "reason": 1}, "reason"),
            ("stop", reply, {"call": "a"}, "call"),
        ):
            refused = self.refused("POST", name, self.conversation.uuid, message.uuid, body=body)
            assert refused == (400, "invalid", field), name

    def test_sending_costs_the_same_however_long_the_conversation_is(self):
        url = reverse("converse:messages", args=[self.conversation.uuid])
        costs = set()
        for number in range(3):
            with CaptureQueriesContext(connection) as captured:
                response = self.client.post(url, {"content": "Hi", "clientId": f"{number}"}, "application/json")
            assert response.status_code == 201
            costs.add(len(captured))
            self.conversation.stop()
            self.conversation.add_messages(*"abcdefghij")
        locking = 0 if connection.features.has_select_for_update else 1
        assert costs == {15 + locking}
        with self.assertNumQueries(9 + locking):
            self.client.post(url, {"content": "Hi", "clientId": "0"}, "application/json")


class ApprovalTests(ApiTestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(toolbox.scene())
        logging.disable(logging.ERROR)
        self.addCleanup(logging.disable, logging.NOTSET)

    def test_calls_of_tools_are_decided(self):
        calls = [
            ToolCallDelta(index=number, id=f"c{number}", name="pay", arguments='{"amount": 5}') for number in (1, 2)
        ]
        self.enterContext(scripted([*calls, CALLS], ["Done."]))
        reply = self.conversation.ask("Hi", tools=[toolbox.pay])
        args = (self.conversation.uuid, reply.uuid)
        for _ in range(2):
            decided = self.ask("POST", "approve", *args, body={"call": "c1", "reason": "fine"}).json()
            assert decided == {"type": "decided", "message": str(reply.uuid), "call": "c1", "decision": "approved"}
        assert self.refused("POST", "deny", *args, body={"call": "c1"}) == (400, "invalid", "call")
        assert self.ask("POST", "deny", *args, body={"call": "c2"}).json()["decision"] == "denied"
        state = self.ask("GET", "message", *args).json()["message"]
        assert [part["text"] for part in state["parts"] if part["type"] == "approval"] == ["approved", "denied"]


class AttachmentTests(StorageTestCase, ApiTestCase):
    def test_a_file_that_was_not_sent_is_removed(self):
        attachment = self.conversation.attach(samples.PNG, "cat.png")
        args = (self.conversation.uuid, attachment.uuid)
        self.conversation.share_with(self.bob, "read")
        for client in (self.as_(self.bob), Client()):
            assert self.refused("DELETE", "attachment", *args, client=client) == (404, "not_found", None)
        with self.captureOnCommitCallbacks(execute=True):
            assert self.ask("DELETE", "attachment", *args).status_code == 204
        assert not MessageAttachment.objects.exists()
        assert self.files() == []
        assert self.refused("DELETE", "attachment", *args) == (404, "not_found", None)

    def test_a_file_that_was_sent_stays_with_its_message(self):
        self.conversation.create_message("user", "Look!", attachments=[samples.PNG])
        attachment = MessageAttachment.objects.get()
        assert self.refused("DELETE", "attachment", self.conversation.uuid, attachment.uuid)[0] == 404
        other = Conversation.objects.start(self.ada)
        unsent = self.conversation.attach(samples.PNG, "cat.png")
        assert self.refused("DELETE", "attachment", other.uuid, unsent.uuid)[0] == 404
        assert MessageAttachment.objects.count() == 2

    def test_other_methods_are_told(self):
        response = self.client.put(reverse("converse:attachment", args=[self.conversation.uuid, uuid4()]))
        assert (response.status_code, response.headers["Allow"]) == (405, "GET, DELETE, HEAD")


class WholeReplyTests(TransactionTestCase):
    def test_a_client_without_a_socket_sends_and_reads_the_answer(self):
        ada = get_user_model().objects.create_user("ada")
        self.client.force_login(ada)
        json = "application/json"
        begun = self.client.post(reverse("converse:conversations"), {"title": "Sky"}, json)
        with self.settings(CONVERSE_RUNNER="converse.runners.ImmediateRunner"):
            sent = self.client.post(f"{begun.headers['Location']}messages/", {"content": "Why blue?"}, json)
        reply = self.client.get(sent.headers["Location"]).json()["message"]
        assert (reply["status"], reply["content"]) == ("completed", "Why blue?")
