from __future__ import annotations

from unittest.mock import patch

import pytest
from django.db import connection
from django.db.models.signals import post_delete
from django.template import Template, engines
from django.test import TestCase

from converse import records
from converse.drafts import (
    AssistantMessage,
    Draft,
    FromTemplate,
    SystemMessage,
    ToolCallMessage,
    ToolResultMessage,
    UserMessage,
)
from converse.exceptions import InvalidMessage, MessageClosed
from converse.models import Conversation, ConversationParticipant, Message
from converse.signals import conversation_updated, message_created, message_deleted, message_updated

ROLES = ["user", "assistant", "system", "tool_call", "tool_result"]


class AddingTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()

    def contents(self):
        return [(message.role, message.content) for message in self.conversation.messages.all()]

    def test_fluent_calls_give_the_conversation_and_keep_their_order(self):
        result = (
            self.conversation.add_user_message("1")
            .add_assistant_message("2")
            .add_system_message("3")
            .add_tool_call_message("4")
            .add_tool_result_message("5")
        )
        assert result is self.conversation
        assert self.contents() == list(zip(ROLES, "12345", strict=True))

    def test_direct_calls_give_the_message(self):
        for role in ROLES:
            message = getattr(self.conversation, f"create_{role}_message")("Hi", {"n": 1})
            assert (message.role, message.content, message.metadata, message.is_completed) == (
                role,
                "Hi",
                {"n": 1},
                True,
            )

    async def test_both_styles_have_asynchronous_twins(self):
        for role in ROLES:
            assert await getattr(self.conversation, f"aadd_{role}_message")(role) is self.conversation
            assert (await getattr(self.conversation, f"acreate_{role}_message")(role)).role == role
        assert (await self.conversation.alast_message()).role == "tool_result"
        assert len(await self.conversation.arecent_messages(3)) == 3
        assert len(await self.conversation.awindow(3)) == 5

    def test_many_messages_are_mixed_from_texts_dicts_and_value_objects(self):
        added = self.conversation.add_messages(
            "a text",
            {"role": "assistant", "content": "a dict"},
            {"type": "system", "content": "another spelling", "metadata": {"n": 1}},
            UserMessage("u"),
            AssistantMessage("a"),
            SystemMessage("s"),
            ToolCallMessage("c"),
            ToolResultMessage("r", {"ok": True}),
            Template("Hello {{ name }}"),
        )
        assert [message.role for message in added] == ["user", "assistant", "system", *ROLES[:5], "user"]
        assert [message.pk for message in added] == [message.pk for message in self.conversation.messages.all()]
        assert added[2].metadata == {"n": 1}

    async def test_a_list_does_as_well_as_arguments_and_nothing_adds_nothing(self):
        assert len(await self.conversation.aadd_messages(["1", "2"])) == 2
        assert await self.conversation.aadd_messages([]) == []
        assert self.conversation.add_messages is not None

    def test_one_bad_message_among_many_is_named_and_nothing_is_written(self):
        for bad, field in (
            ({"role": "robot", "content": "x"}, "messages[1].role"),
            ({"content": "x"}, "messages[1].role"),
            ({"role": "user"}, "messages[1].content"),
            ({"role": "user", "content": "x", "colour": "red"}, "messages[1].colour"),
            (7, "messages[1].message"),
            ({"role": "user", "content": 7}, "messages[1].content"),
            ("NUL \x00", "messages[1].content"),
            ("half a pair \ud800", "messages[1].content"),
            ({"role": "user", "content": "x", "metadata": 7}, "messages[1].metadata"),
            ({"role": "user", "content": "x", "metadata": {"x": object()}}, "messages[1].metadata"),
            ({"role": "user", "content": "x", "metadata": {"x": float("nan")}}, "messages[1].metadata"),
            ({"role": "user", "content": "x", "metadata": {"x": "\x00"}}, "messages[1].metadata"),
            ({"role": "user", "content": "x", "external_id": "x" * 101}, "messages[1].external_id"),
        ):
            with pytest.raises(InvalidMessage) as info:
                self.conversation.add_messages("good", bad)
            assert info.value.field == field
            assert str(info.value).startswith(field)
        assert self.contents() == []

    def test_a_backslash_that_only_looks_like_a_nul_is_welcome(self):
        message = self.conversation.create_user_message("x", {"regex": "\\u0000"})
        message.refresh_from_db()
        assert message.metadata == {"regex": "\\u0000"}

    def test_blank_text_is_complete_and_no_text_is_too(self):
        for content in ("", "   ", None):
            assert self.conversation.create_user_message(content).is_completed

    def test_templates_are_rendered_at_once_and_prompts_are_not_escaped(self):
        name = {"name": "<Ada & Co>"}
        for content in (
            FromTemplate("prompt.txt", name),
            engines["django"].from_string("{% autoescape off %}Hello <Ada & Co>!{% endautoescape %}"),
        ):
            message = self.conversation.create_user_message(content)
            assert message.content == "Hello <Ada & Co>!"
            assert type(message.content) is str

    def test_a_template_of_another_engine_does_as_well(self):
        assert (
            self.conversation.create_user_message(FromTemplate("prompt.dollar", {"name": "Ada"})).content
            == "Hello Ada!"
        )

    def test_a_value_object_knows_its_role_and_cannot_change(self):
        draft = ToolCallMessage("x")
        assert draft.role == "tool_call"
        assert Draft("x", role="system").role == "system"
        with pytest.raises(AttributeError):
            draft.role = "user"

    def test_a_message_sent_twice_with_one_external_id_is_stored_once(self):
        first = self.conversation.create_message("user", "Hi", external_id="a")
        second = self.conversation.create_message("user", "Hi again", external_id="a")
        assert first == second
        both = self.conversation.add_messages(
            {"role": "user", "content": "x", "external_id": "b"}, {"role": "user", "content": "x", "external_id": "b"}
        )
        assert both[0] == both[1]
        assert self.conversation.messages.count() == 2

    def test_a_database_that_tells_no_keys_of_a_bulk_insert_does_as_well(self):
        with patch.object(type(connection.features), "can_return_rows_from_bulk_insert", False):
            added = self.conversation.add_messages("1", "2")
        assert [message.pk for message in added] == list(self.conversation.messages.values_list("pk", flat=True))

    def test_every_message_is_announced_after_the_commit(self):
        seen = []
        message_created.connect(seen_by := lambda message, **kwargs: seen.append(message.content))
        self.addCleanup(message_created.disconnect, seen_by)
        with self.captureOnCommitCallbacks(execute=True):
            self.conversation.add_messages("1", "2")
            assert seen == []
        assert seen == ["1", "2"]

    def test_a_new_message_touches_the_conversation(self):
        before = self.conversation.last_activity_at
        self.conversation.add_user_message("Hi")
        self.conversation.refresh_from_db()
        assert self.conversation.last_activity_at > before


class ReadingTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()
        cls.conversation.add_messages({"role": "system", "content": "rule"}, "1", "2", "3")

    def texts(self, messages):
        return [message.content for message in messages]

    def test_recent_messages_are_the_last_ones_oldest_first_in_one_query(self):
        with self.assertNumQueries(1):
            assert self.texts(self.conversation.recent_messages(2)) == ["2", "3"]

    def test_the_last_message_is_the_newest_and_never_stale(self):
        assert self.conversation.last_message.content == "3"
        self.conversation.add_user_message("4")
        assert self.conversation.last_message.content == "4"

    def test_a_window_keeps_the_system_messages(self):
        assert self.texts(self.conversation.window(2)) == ["rule", "2", "3"]

    def test_scopes_read_as_words(self):
        self.conversation.add_assistant_message("a").add_tool_call_message("c").add_tool_result_message("r")
        streaming = self.conversation.start_streaming_assistant()
        failed = self.conversation.start_streaming_assistant()
        failed.fail_streaming("x")
        cancelled = self.conversation.start_streaming_assistant()
        cancelled.stop()
        messages = self.conversation.messages
        assert messages.user().count() == 3
        assert messages.system().count() == messages.tool_calls().count() == messages.tool_results().count() == 1
        assert messages.assistant().count() == 4
        assert list(messages.streaming()) == list(messages.open()) == [streaming]
        assert list(messages.failed()) == [failed]
        assert list(messages.cancelled()) == [cancelled]
        assert messages.completed().count() == 7
        assert messages.finished().count() == 9
        assert not messages.pending().exists()
        assert list(Conversation.objects.recent(1).has_messages()) == [self.conversation]

    def test_usage_is_summed_over_all_and_by_model(self):
        for model, tokens in (("a", 1), ("a", 2), ("b", 3)):
            message = self.conversation.start_streaming_assistant({"model": model})
            message.complete_streaming({"model": model, "prompt_tokens": 10, "completion_tokens": tokens})
        sums = self.conversation.usage()
        assert (sums["input_tokens"], sums["output_tokens"], sums["reasoning_tokens"]) == (30, 6, None)
        by_model = self.conversation.usage(by="model")
        assert [(row["model"], row["output_tokens"]) for row in by_model] == [("a", 3), ("b", 3)]


class HidingTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start(title="Plans")
        cls.first, cls.second = cls.conversation.add_messages("1", "2")

    def test_a_deleted_message_is_hidden_and_comes_back(self):
        assert self.first.delete() == (1, {"converse.Message": 1})
        assert list(Message.objects.all()) == [self.second]
        assert list(Message.all_objects.trashed()) == [self.first]
        assert self.first.delete() == (0, {})
        self.first.restore()
        self.first.restore()
        assert list(Message.objects.all()) == [self.first, self.second]

    def test_restoring_a_conversation_brings_back_what_was_visible_and_nothing_else(self):
        self.first.delete()
        assert self.conversation.delete() == (1, {"converse.Conversation": 1})
        assert not Message.objects.exists()
        assert list(Conversation.all_objects.trashed()) == [self.conversation]
        assert self.conversation.delete() == (0, {})
        self.conversation.restore()
        self.conversation.restore()
        assert list(Message.objects.all()) == [self.second]

    def test_bulk_deletion_obeys_the_same_rules(self):
        assert Message.objects.filter(pk=self.first.pk).delete() == (1, {"converse.Message": 1})
        assert Conversation.objects.all().delete() == (1, {"converse.Conversation": 1})
        assert Conversation.all_objects.count() == 1
        assert Message.all_objects.count() == 2

    async def test_the_twins_do_the_same(self):
        await self.first.adelete()
        assert not await Message.objects.filter(pk=self.first.pk).aexists()
        await self.first.arestore()
        await self.conversation.adelete()
        assert not await Conversation.objects.aexists()
        await self.conversation.arestore()
        assert await Message.objects.acount() == 2
        await self.second.apurge()
        await self.conversation.apurge()
        assert not await Conversation.all_objects.aexists()

    def test_purging_removes_chunks_messages_and_conversations_for_good(self):
        message = self.conversation.start_streaming_assistant()
        message.append_chunk("x")
        message.purge()
        assert Message.all_objects.count() == 2
        Message.all_objects.filter(pk=self.first.pk).purge()
        Conversation.all_objects.all().purge()
        assert not Message.all_objects.exists()

    def test_deleting_stops_what_is_open(self):
        open_message = self.conversation.start_streaming_assistant()
        open_message.append_chunk("so far")
        open_message.delete()
        assert (open_message.status, open_message.content) == ("cancelled", "so far")
        other = self.conversation.start_streaming_assistant()
        self.conversation.delete()
        other.refresh_from_db()
        assert other.is_cancelled
        with pytest.raises(MessageClosed):
            other.append_chunk("too late")

    def test_a_deletion_and_a_restoration_are_told(self):
        told = []
        for signal, name in (
            (message_deleted, "deleted"),
            (message_updated, "updated"),
            (conversation_updated, "renamed"),
        ):
            receiver = lambda name=name, **kwargs: told.append(name)  # noqa: E731
            signal.connect(receiver, weak=False, dispatch_uid=name)
            self.addCleanup(signal.disconnect, dispatch_uid=name)
        with self.captureOnCommitCallbacks(execute=True):
            self.first.delete()
            self.first.restore()
            self.conversation.rename("Other plans")
        assert told == ["deleted", "updated", "renamed"]
        self.conversation.refresh_from_db()
        assert self.conversation.title == "Other plans"

    def test_metadata_is_merged_under_the_lock_so_that_no_merge_is_lost(self):
        same = Message.objects.get(pk=self.first.pk)
        self.first.update_metadata(a=1)
        same.update_metadata(b=2)
        same.refresh_from_db()
        assert same.metadata == {"a": 1, "b": 2}
        with pytest.raises(InvalidMessage, match="metadata"):
            same.update_metadata(c=object())

    def test_a_participant_of_a_conversation_that_is_gone_troubles_nobody(self):
        orphan = ConversationParticipant(conversation_id=10**6, user_id=1)
        post_delete.send(sender=ConversationParticipant, instance=orphan)
        assert ConversationParticipant.objects.count() == 0

    def test_a_title_too_long_is_refused_before_anything_is_written(self):
        for call in (lambda: self.conversation.rename("x" * 256), lambda: Conversation.objects.start(title="x" * 256)):
            with pytest.raises(InvalidMessage, match="title: may have 255 characters, not 256"):
                call()
        assert Conversation.objects.get().title == "Plans"

    def test_a_title_is_text(self):
        for call in (lambda: self.conversation.rename(None), lambda: Conversation.objects.start(title=5)):
            with pytest.raises(InvalidMessage) as caught:
                call()
            assert caught.value.field == "title"

    def test_a_conversation_that_is_gone_takes_nothing(self):
        self.conversation.purge()
        gone = Conversation(pk=10**6)
        with pytest.raises(Conversation.DoesNotExist):
            gone.add_user_message("x")

    def test_the_records_are_found_by_name_and_nothing_else_is(self):
        assert records.Message is Message
        assert not hasattr(records, "__wrapped__")

    def test_rows_say_what_they_are(self):
        assert str(self.conversation) == "Plans"
        assert str(Conversation.objects.start()) != ""
        assert str(self.first) == f"user {self.first.uuid}"
        chunk = self.conversation.start_streaming_assistant().append_chunk("Once")
        assert str(chunk) == "1: Once"
