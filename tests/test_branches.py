"""Versions of turns and replies: regenerate, edit, switch, fork. Nothing is lost by any of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.db import connection, connections
from django.test import TestCase, TransactionTestCase, override_settings
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase as HypothesisTestCase

from converse.driving import run
from converse.exceptions import ConversationBusy, InvalidMessage, UnknownProvider
from converse.log import walk
from converse.models import Conversation, Message, MessageAttachment
from converse.signals import conversation_created, conversation_updated, message_created, message_deleted
from converse.testing import scripted
from tests import samples
from tests.readers import Assembled, catch_up, shown_in
from tests.samples import StorageTestCase


def texts(messages: Any) -> list[str]:
    return [message.content for message in messages]


def shown(conversation: Conversation) -> list[str]:
    """Give the texts of the branch that is shown."""
    return texts(conversation.messages.filter(deleted_at=None).current().order_by("offset"))


def check(conversation: Conversation) -> None:
    """Fail where the marks of the branch that is shown are not those of the way from its leaf."""
    conversation.refresh_from_db()
    rows = Message.all_objects.filter(conversation=conversation)
    links = dict(rows.values_list("offset", "follows"))
    path = walk(links, conversation.leaf_offset)
    assert path == sorted(rows.filter(current=True).values_list("offset", flat=True))
    assert all(follows == 0 or follows in links for follows in links.values())
    assert conversation.leaf_offset in links or not path


class BranchTestCase(TestCase):
    """A conversation of two questions, the first answered twice and the second once."""

    conversation: Conversation

    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()
        with scripted(["one"], ["two"], ["three"]):
            cls.first = cls.conversation.ask("Question", options={"seed": 1})
            cls.second = cls.conversation.ask("More")
            cls.again = cls.first.regenerate()
            async_to_sync(run)(cls.again.pk)
        cls.again.refresh_from_db()
        cls.question, cls.more = cls.first.reply_to, cls.second.reply_to

    def tearDown(self):
        check(self.conversation)


class RegenerateTests(BranchTestCase):
    def test_the_new_version_is_shown_and_the_old_one_is_kept_with_all_that_followed_it(self):
        assert shown(self.conversation) == ["Question", "three"]
        assert self.conversation.last_message == self.again
        assert (self.again.attempt, self.again.reply_to, self.again.follows) == (2, self.question, self.first.follows)
        assert self.conversation.messages.count() == 5
        assert texts(self.first.versions()) == texts(self.again.versions()) == ["one", "three"]
        assert [version.current for version in self.again.versions()] == [False, True]

    def test_it_is_asked_for_in_the_same_way_unless_something_else_is_said(self):
        with scripted(["x"]):
            for keywords, model, options in (
                ({}, "", {"seed": 1}),
                ({"model": "m-2"}, "m-2", {"seed": 1}),
                ({"options": {}}, "", {}),
                ({"model": "m-3", "options": {"seed": 2}, "max_steps": 3}, "m-3", {"seed": 2}),
            ):
                other = self.first.regenerate(**keywords)
                other.stop()
                assert (other.model, other.options) == (model, options), keywords
            assert other.plan == {"model": "m-3", "max_steps": 3}
            again = other.regenerate(metadata={"why": "because"})
            again.stop()
            assert (again.model, again.plan, again.metadata["why"]) == ("m-3", other.plan, "because")
        assert self.first.versions()[-1].attempt == 7

    def test_another_provider_gets_no_model_and_options_of_the_first(self):
        providers = {alias: {"BACKEND": "converse.providers.echo.EchoProvider"} for alias in ("default", "other")}
        with override_settings(CONVERSE_PROVIDERS=providers):
            other = self.first.regenerate(provider="other")
            other.stop()
            assert (other.provider, other.model, other.options) == ("other", "", {})
            again = other.regenerate()
            again.stop()
        assert again.provider == "other"

    async def test_asked_for_twice_under_one_id_it_is_made_once(self):
        with scripted(["x"]):
            again = await self.first.aregenerate(external_id="r1")
            assert await self.first.aregenerate(external_id="r1") == again
            await again.astop()
            assert await self.first.aretry(external_id="r1") == again

    def test_the_turn_that_is_regenerated_need_not_be_shown(self):
        with scripted(["x"]):
            self.second.regenerate().stop()
        assert shown(self.conversation) == ["Question", "one", "More", ""]

    def test_what_cannot_be_regenerated_is_refused_and_nothing_changes(self):
        by_hand = self.conversation.create_assistant_message("by hand")
        deleted = self.second
        deleted.delete()
        for message, reason in ((self.question, "not a reply"), (by_hand, "not a reply"), (deleted, "deleted")):
            with pytest.raises(InvalidMessage, match=f"message: is {reason}"):
                message.regenerate()
        with pytest.raises(UnknownProvider):
            self.first.regenerate(provider="nobody")
        with pytest.raises(TypeError, match="sed"):
            self.first.regenerate(sed=1)
        assert shown(self.conversation) == ["Question", "three", "by hand"]

    def test_the_policy_applies_as_to_any_reply(self):
        with scripted(["x"]):
            open_reply = self.conversation.reply("Third")
            with pytest.raises(ConversationBusy):
                self.first.regenerate()
            with pytest.raises(ConversationBusy):
                open_reply.regenerate()
            assert shown(self.conversation) == ["Question", "three", "Third", ""]
            queued = self.first.regenerate(policy="queue")
            assert queued.lease_expires_at is None
            allowed = open_reply.regenerate(policy="allow")
            again = allowed.regenerate(policy="cancel_previous")
        statuses = [Message.objects.get(pk=message.pk).status for message in (open_reply, queued, allowed, again)]
        assert statuses == ["cancelled", "cancelled", "cancelled", "pending"]
        assert shown(self.conversation) == ["Question", "three", "Third", ""]
        assert len(again.versions()) == 3


class EditTests(StorageTestCase, BranchTestCase):
    def test_the_new_turn_stands_beside_the_old_one_and_is_answered(self):
        with scripted(["four"]) as script:
            reply = self.question.edit("Another question")
            async_to_sync(run)(reply.pk)
        assert shown(self.conversation) == ["Another question", "four"]
        assert [message.text for message in script.prompts[0].messages] == ["Another question"]
        assert texts(self.question.versions()) == ["Question", "Another question"]
        edited = reply.reply_to
        assert edited.metadata == {"edited_from": str(self.question.uuid)}
        assert (edited.follows, reply.attempt) == (self.question.follows, 1)

    def test_it_is_asked_in_the_way_in_which_the_old_one_was(self):
        with scripted(["x"]):
            reply = self.question.edit("Another")
            reply.stop()
            assert reply.options == {"seed": 1}
            other = reply.reply_to.edit("Yet another", options={"seed": 2}, model="m-2", external_id="c1")
            assert other == self.question.edit("Yet another", external_id="c1")
            other.stop()
        assert (other.options, other.model, other.reply_to.external_id) == ({"seed": 2}, "m-2", "c1")

    async def test_a_turn_that_was_never_answered_can_be_edited(self):
        turn = await self.conversation.acreate_user_message("Unanswered")
        with scripted(["x"]):
            reply = await turn.aedit("Answered")
            await reply.astop()
        assert (reply.provider, reply.reply_to.content) == ("default", "Answered")

    def test_its_files_are_sent_again_unless_others_are_given(self):
        with scripted(["x"]):
            picture = self.conversation.attach(samples.PNG, "cat.png")
            sent = self.conversation.ask("What is this?", attachments=[picture]).reply_to
            kept, none, other = (
                sent.edit("What was this?", **files)
                for files in ({}, {"attachments": ()}, {"attachments": [samples.PDF]})
                if self.conversation.stop() >= 0
            )
            other.stop()
        names = [[row.name for row in reply.reply_to.attachments.all()] for reply in (kept, none, other)]
        assert names == [["cat.png"], [], ["document.pdf"]]
        assert [row.name for row in sent.attachments.all()] == ["cat.png"]

    def test_what_cannot_be_edited_is_refused_and_nothing_changes(self):
        self.more.delete()
        for message, content, reason in (
            (self.first, "x", "message: is not a turn"),
            (self.more, "x", "message: is deleted"),
            (self.question, " ", "content: must not be empty"),
            (self.question, 7, "content: must be text"),
        ):
            with pytest.raises(InvalidMessage, match=reason):
                message.edit(content)
        assert shown(self.conversation) == ["Question", "three"]

    def test_of_two_edits_at_once_the_second_is_refused(self):
        with scripted(["x"]):
            self.question.edit("first to come")
            with pytest.raises(ConversationBusy):
                self.question.edit("second")
        assert shown(self.conversation) == ["first to come", ""]


class SwitchTests(BranchTestCase):
    def test_another_version_is_shown_with_what_was_last_said_after_it(self):
        self.first.switch()
        assert self.first.current
        assert shown(self.conversation) == ["Question", "one", "More", "two"]
        assert self.conversation.last_message == self.second
        assert [message.content for message in self.conversation.recent_messages(2)] == ["More", "two"]
        assert texts(self.conversation.window(1)) == ["two"]
        self.again.switch()
        assert shown(self.conversation) == ["Question", "three"]

    async def test_the_next_turn_follows_what_is_shown(self):
        await self.first.aswitch()
        with scripted(["four"]) as script:
            await self.conversation.aask("Then?")
        assert [message.text for message in script.prompts[0].messages] == ["Question", "one", "More", "two", "Then?"]
        assert texts(await self.first.aversions()) == ["one", "three"]
        await self.again.aswitch()
        with scripted(["five"]) as script:
            await self.conversation.aask("Here?")
        assert [message.text for message in script.prompts[0].messages] == ["Question", "three", "Here?"]

    def test_without_a_question_the_last_message_that_is_shown_is_answered(self):
        self.conversation.create_user_message("Last")
        self.first.switch()
        with scripted(["x"]):
            reply = self.conversation.ask()
        assert reply.reply_to == self.second

    def test_a_version_that_is_shown_already_is_left_where_it_is(self):
        self.conversation.refresh_from_db()
        head = self.conversation.last_offset
        self.question.switch()
        self.again.switch()
        self.conversation.refresh_from_db()
        assert self.conversation.last_offset == head

    def test_a_deleted_version_cannot_be_shown(self):
        self.first.delete()
        with pytest.raises(InvalidMessage, match="is deleted"):
            self.first.switch()
        assert texts(self.again.versions()) == ["three"]

    def test_what_was_deleted_after_a_version_does_not_decide_what_is_shown_with_it(self):
        with scripted(["x"]):
            newer = self.second.regenerate()
        newer.delete()
        self.again.switch()
        self.first.switch()
        assert shown(self.conversation) == ["Question", "one", "More", "two"]

    def test_a_reply_that_streams_goes_on_on_its_branch(self):
        message = self.conversation.start_streaming_assistant()
        message.append_chunk("so ")
        self.first.switch()
        message.append_chunk("far")
        message.complete_streaming()
        assert shown(self.conversation) == ["Question", "one", "More", "two"]
        message.switch()
        assert shown(self.conversation) == ["Question", "three", "so far"]

    def test_it_takes_the_same_few_statements_however_long_the_branch(self):
        def cost(message: Message) -> int:
            with CaptureQueriesContext(connection) as captured:
                message.switch()
            return len(captured)

        first, again, once_more = (Message.objects.get(pk=pk) for pk in (self.first.pk, self.again.pk, self.first.pk))
        before = cost(first)
        self.conversation.add_messages(*["more"] * 200)
        assert cost(again) == cost(once_more) == before

    def test_a_branch_of_thousands_is_shown_whole(self):
        self.first.switch()
        self.conversation.add_messages(*["more"] * 1100)
        self.again.switch()
        Message.objects.get(pk=self.first.pk).switch()
        assert len(shown(self.conversation)) == 1104

    def test_readers_are_told(self):
        told = []
        conversation_updated.connect(receiver := lambda conversation, **kwargs: told.append(conversation.leaf_offset))
        self.addCleanup(conversation_updated.disconnect, receiver)
        with self.captureOnCommitCallbacks(execute=True):
            self.first.switch()
        assert told == [self.second.offset]
        reader = Assembled()
        async_to_sync(catch_up)(self.conversation, reader)
        assert reader.shown == shown_in(self.conversation)
        self.again.switch()
        async_to_sync(catch_up)(self.conversation, reader)
        assert (reader.shown, reader.snapshots) == (shown_in(self.conversation), 1)


class DeletionTests(BranchTestCase):
    def test_deleting_a_message_hides_only_that_one(self):
        self.first.switch()
        self.more.delete()
        assert shown(self.conversation) == ["Question", "one", "two"]
        with scripted(["x"]) as script:
            self.conversation.ask("Next")
        assert [message.text for message in script.prompts[0].messages] == ["Question", "one", "two", "Next"]
        self.more.restore()
        assert shown(self.conversation) == ["Question", "one", "More", "two", "Next", "x"]

    def test_what_followed_a_purged_message_follows_what_that_followed(self):
        self.first.switch()
        self.conversation.refresh_from_db()
        epoch = self.conversation.epoch
        assert self.first.purge()[1]["converse.Message"] == 1
        assert shown(self.conversation) == ["Question", "More", "two"]
        self.conversation.refresh_from_db()
        assert self.conversation.epoch != epoch
        with scripted(["x"]) as script:
            self.conversation.ask("Next")
        assert [message.text for message in script.prompts[0].messages] == ["Question", "More", "two", "Next"]

    def test_purging_the_end_of_a_branch_leaves_the_rest(self):
        self.first.switch()
        Message.objects.filter(pk__in=[self.more.pk, self.second.pk]).purge()
        check(self.conversation)
        assert self.conversation.leaf_offset == self.first.offset
        assert shown(self.conversation) == ["Question", "one"]

    def test_messages_of_several_conversations_are_purged_together(self):
        other = Conversation.objects.start()
        other.add_messages("a", "b", "c")
        Message.objects.filter(content__in=["Question", "b"]).purge()
        check(other)
        assert (shown(other), shown(self.conversation)) == (["a", "c"], ["three"])
        Message.objects.filter(content="nothing of the kind").purge()

    def test_clearing_hides_everything_but_what_the_system_said(self):
        self.conversation.add_system_message("rule")
        stopped = self.conversation.start_streaming_assistant()
        deleted = []
        message_deleted.connect(receiver := lambda message, **kwargs: deleted.append(message.pk))
        self.addCleanup(message_deleted.disconnect, receiver)
        reader = Assembled()
        async_to_sync(catch_up)(self.conversation, reader)
        with self.captureOnCommitCallbacks(execute=True):
            assert self.conversation.clear() == 6
        stopped.refresh_from_db()
        assert (stopped.status, len(deleted)) == ("cancelled", 6)
        assert shown(self.conversation) == ["rule"]
        async_to_sync(catch_up)(self.conversation, reader)
        assert (reader.shown, reader.snapshots) == (shown_in(self.conversation), 1)
        assert self.conversation.clear() == 0

    async def test_clearing_may_take_that_too(self):
        await self.conversation.aadd_system_message("rule")
        assert await self.conversation.aclear(keep_system=False) == 6
        assert await self.conversation.alast_message() is None

    def test_clearing_takes_the_same_few_statements_however_much_there_is(self):
        def cost(count: int) -> int:
            conversation = Conversation.objects.start()
            conversation.add_messages(*["x"] * count)
            with CaptureQueriesContext(connection) as captured:
                conversation.clear()
            return len(captured)

        assert cost(1) == cost(20)


class ForkTests(StorageTestCase, BranchTestCase):
    def test_a_copy_has_what_is_shown_and_goes_its_own_way(self):
        copy = self.conversation.fork()
        assert (shown(copy), shown(self.conversation)) == (["Question", "three"], ["Question", "three"])
        assert (copy.forked_from, copy.forked_at) == (self.conversation, self.again.offset)
        question, answer = copy.messages.order_by("offset")
        assert (answer.reply_to, answer.follows, question.follows) == (question, question.offset, 0)
        assert (answer.provider, answer.finish_reason, answer.attempt) == ("default", "stop", 2)
        assert (answer.created_at, answer.finished_at) == (self.again.created_at, self.again.finished_at)
        assert {answer.uuid, question.uuid}.isdisjoint({self.again.uuid, self.question.uuid})
        with scripted(["there"]) as script:
            copy.ask("Go on")
        assert [message.text for message in script.prompts[0].messages] == ["Question", "three", "Go on"]
        assert shown(self.conversation) == ["Question", "three"]
        check(copy)

    async def test_it_may_end_at_any_message_of_any_branch(self):
        copy = await self.conversation.afork(self.more, title="Another way")
        assert [m.content async for m in copy.messages.order_by("offset")] == ["Question", "one", "More"]
        assert (copy.title, copy.forked_at) == ("Another way", self.more.offset)
        copy = await self.conversation.afork(at=self.question)
        assert [m.content async for m in copy.messages.order_by("offset")] == ["Question"]

    def test_it_ends_at_a_message_and_has_a_title_that_is_text(self):
        for wrong, field in (({"at": 5}, "at"), ({"at": str(self.more.uuid)}, "at"), ({"title": 5}, "title")):
            with pytest.raises(InvalidMessage) as caught:
                self.conversation.fork(**wrong)
            assert caught.value.field == field
        assert Conversation.objects.count() == 1

    def test_it_has_the_owner_title_context_and_metadata_of_the_original(self):
        users = get_user_model().objects
        owner, friend = users.create_user("owner"), users.create_user("friend")
        original = Conversation.objects.start(
            owner, title="Title", metadata={"a": 1}, context={"system_prompt": "Be brief."}
        )
        copy = original.fork()
        assert (copy.owner, copy.title, copy.metadata, copy.context) == (
            owner,
            "Title",
            {"a": 1},
            {"system_prompt": "Be brief."},
        )
        assert (copy.forked_at, copy.last_message) == (None, None)
        assert original.fork(owner=friend).owner == friend

    def test_what_failed_is_taken_over_and_what_is_deleted_or_open_is_not(self):
        self.conversation.start_streaming_assistant().fail_streaming("why")
        self.conversation.create_user_message("deleted").delete()
        open_still = self.conversation.start_streaming_assistant()
        copy = self.conversation.fork()
        assert [message.status for message in copy.messages.order_by("offset")] == ["completed", "completed", "failed"]
        assert copy.last_message.error_detail == "why"
        for message, reason in (
            (open_still, "is open"),
            (copy.last_message, "another conversation"),
            (Message.all_objects.get(content="deleted"), "is deleted"),
        ):
            with pytest.raises(InvalidMessage, match=reason):
                self.conversation.fork(at=message)
        assert Conversation.objects.count() == 2

    def test_tokens_are_counted_once(self):
        Message.objects.filter(pk=self.again.pk).update(input_tokens=5, output_tokens=7)
        copy = self.conversation.fork().last_message
        assert (copy.input_tokens, copy.output_tokens, copy.usage, copy.calls.count()) == (None, None, {}, 0)

    def test_files_are_shared_and_stay_as_long_as_anybody_has_them(self):
        sent = self.conversation.create_message("user", "Look", attachments=[samples.PNG])
        copy = self.conversation.fork()
        [mine], [theirs] = sent.attachments.all(), copy.last_message.attachments.all()
        assert mine.file.name == theirs.file.name
        assert mine.uuid != theirs.uuid
        assert copy.last_message.parts[1]["attachment"] == str(theirs.uuid)
        with self.captureOnCommitCallbacks(execute=True):
            Conversation.objects.get(pk=self.conversation.pk).messages.all().purge()
        assert copy.prompt().messages[-1].parts[1].data == samples.PNG
        assert MessageAttachment.objects.count() == 1
        Conversation.objects.filter(pk=copy.pk).purge()

    def test_it_is_told_like_any_other_beginning(self):
        told = []
        for signal in (conversation_created, message_created):
            signal.connect(receiver := lambda sender, **kwargs: told.append(sender.__name__), weak=False)
            self.addCleanup(signal.disconnect, receiver)
        with self.captureOnCommitCallbacks(execute=True):
            copy = self.conversation.fork()
        assert told == ["Conversation", "Message", "Message"]
        assert (copy.last_offset, copy.leaf_offset) == (3, 3)
        reader = Assembled()
        async_to_sync(catch_up)(copy, reader)
        assert reader.shown == shown_in(copy)


class OriginalTests(TestCase):
    def test_a_copy_outlives_its_original(self):
        conversation = Conversation.objects.start().add_user_message("Hello")
        copy = conversation.fork()
        conversation.purge()
        copy.refresh_from_db()
        assert (copy.forked_from, copy.forked_at, shown(copy)) == (None, 2, ["Hello"])


class NoRunner:
    def start(self, run, message_id):
        """Leave the reply as it is."""


@override_settings(CONVERSE_RUNNER=f"{__name__}.NoRunner")
class RaceTests(TransactionTestCase):
    def race(self, *acts: Callable[[], Any]) -> list[str]:
        """Do all at once, each in a thread of its own; give what became of them."""
        barrier = threading.Barrier(len(acts))

        def attempt(act: Callable[[], Any]) -> str:
            try:
                barrier.wait(10)
                act()
            except ConversationBusy:
                return "refused"
            finally:
                connections.close_all()
            return "done"

        with ThreadPoolExecutor(len(acts)) as threads:
            return sorted(threads.map(attempt, acts))

    def test_of_several_at_once_one_wins(self):
        conversation = Conversation.objects.start()
        conversation.add_messages("zero", {"role": "assistant", "content": "by hand"})
        question = conversation.create_user_message("one")
        reply = conversation.reply()
        reply.stop()
        outcome = self.race(reply.regenerate, lambda: question.edit("other"), reply.retry, lambda: question.edit("x"))
        assert outcome == ["done", "refused", "refused", "refused"]
        check(conversation)
        assert conversation.messages.filter(status="pending").count() == 1

    def test_whatever_is_switched_at_once_the_marks_are_right(self):
        conversation = Conversation.objects.start()
        conversation.reply("one").stop()
        question = conversation.messages.get(role="user")
        for text in ("two", "three", "four"):
            question.edit(text).stop()
        versions = question.versions()
        outcome = self.race(*(version.switch for version in versions), *(version.switch for version in versions))
        assert outcome == ["done"] * 8
        check(conversation)


numbers = st.integers(0, 30)
acts = st.lists(
    st.tuples(st.sampled_from(["say", "reply", "answer", "stop", "clear", "read", "fork"]))
    | st.tuples(st.sampled_from(["regenerate", "edit", "switch", "delete", "restore", "purge"]), numbers),
    max_size=25,
)


@override_settings(CONVERSE_OPEN_LIMIT=1000, CONVERSE_POLICY="allow")
class PropertyTests(HypothesisTestCase):
    @settings(suppress_health_check=[HealthCheck.too_slow])
    @given(acts=acts)
    def test_marks_are_those_of_the_way_from_the_leaf_and_no_version_is_lost(self, acts):
        conversation = Conversation.objects.start()
        reader = Assembled()
        for act in acts:
            known = set(Message.all_objects.values_list("pk", "content"))
            self.play(conversation, reader, *act)
            check(conversation)
            if act[0] != "purge":
                assert {pk for pk, _ in known} <= set(Message.all_objects.values_list("pk", flat=True))
        self.play(conversation, reader, "read")

    def play(self, conversation: Conversation, reader: Assembled, act: str, number: int = 0) -> None:
        messages = list(Message.all_objects.filter(conversation=conversation).order_by("offset"))
        message = messages[number % len(messages)] if messages else None
        match act:
            case "say":
                conversation.add_user_message("x")
            case "reply" | "answer":
                with suppress(InvalidMessage):  # there is nothing to reply to
                    conversation.reply("x" if act == "reply" else None)
            case "stop":
                conversation.stop()
            case "clear":
                conversation.clear()
            case "fork":
                check(conversation.fork())
            case "read":
                async_to_sync(catch_up)(conversation, reader)
                assert reader.shown == shown_in(conversation)
                assert set(reader.parts) == {str(u) for u in conversation.messages.values_list("uuid", flat=True)}
            case "regenerate" | "switch" if message:
                with suppress(InvalidMessage):
                    getattr(message, act)()
            case "edit" if message:
                with suppress(InvalidMessage):
                    message.edit("y")
            case "delete" | "restore" | "purge" if message:
                getattr(message, act)()
