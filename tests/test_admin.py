from __future__ import annotations

import re
from datetime import datetime, timedelta
from unittest.mock import patch
from uuid import uuid4

from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.core.files.base import ContentFile
from django.test import Client, TestCase, override_settings
from django.urls import reverse

from converse.admin import MessageAdmin
from converse.admin.shown import duration, moment, pretty
from converse.choices import ErrorType, Status
from converse.deltas import RawBlock, ReasoningDelta, RefusalDelta, SourceDelta, ToolCallDelta, Usage
from converse.exceptions import ProviderError
from converse.models import Conversation, Message, MessageAttachment, MessageChunk
from converse.parts import ToolResult
from tests.owners.models import Project, Team

HOSTILE = "<script>alert(1)</script>"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;"
LIST = reverse("admin:converse_conversation_changelist")
MESSAGES = reverse("admin:converse_message_changelist")
NO_PARTICIPANTS = {
    "participants-TOTAL_FORMS": "0",
    "participants-INITIAL_FORMS": "0",
}


def change(conversation: Conversation) -> str:
    return reverse("admin:converse_conversation_change", args=[conversation.pk])


def transcript(conversation: Conversation) -> str:
    return reverse("admin:converse_conversation_transcript", args=[conversation.pk])


def message_page(message: Message) -> str:
    return reverse("admin:converse_message_change", args=[message.pk])


def streamed(conversation: Conversation, *pieces: object, **columns: object) -> Message:
    """Give a completed reply that was streamed in these pieces."""
    message = conversation.start_streaming_assistant()
    for piece in pieces:
        message.stream.append(piece)
    message.stream.facts.update(columns)
    return message.stream.complete()


class AdminTestCase(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.boss = User.objects.create_superuser("boss")
        cls.team = Team.objects.create(name="Blue")
        cls.conversation = Conversation.objects.start(cls.team, title="Rain in Spain")

    def setUp(self):
        self.client.force_login(self.boss)
        for model in (Message, Project, Team, User):  # remembered by every process that has served a page
            ContentType.objects.get_for_model(model)

    def sign_in(self, *permissions: str) -> None:
        user = User.objects.create(username="-".join(permissions) or "none", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        self.client.force_login(user)

    def page(self, url: str, **query: object) -> str:
        response = self.client.get(url, query)
        assert response.status_code == 200, response.status_code
        return response.content.decode()

    def act(self, url: str, action: str, *rows: object, query: str = "", **more: object) -> str:
        data = {"action": action, "_selected_action": [row.pk for row in rows], "index": "0", **more}
        response = self.client.post(url + query, data, follow=True)
        assert response.status_code == 200, response.status_code
        return response.content.decode()


class ConversationListTests(AdminTestCase):
    def rows(self, **query: object) -> list[Conversation]:
        return list(self.client.get(LIST, query).context["cl"].result_list)

    def fill(self, count: int) -> None:
        owners = [self.team, self.boss, Project.objects.create(), None]
        for number in range(count):
            conversation = Conversation.objects.start(owners[number % 4])
            conversation.create_user_message("Hello")
            streamed(conversation, "Hi")

    def test_the_list_takes_as_many_queries_for_3_rows_as_for_30(self):
        self.fill(3)
        Conversation.objects.start(Project.objects.create())
        for more in (0, 26):
            self.fill(more)
            # Session, user, owner types of the filter, count, rows, and one for each model of owner.
            with self.assertNumQueries(8):
                self.page(LIST)
        assert len(self.rows()) == 31

    def test_messages_tokens_and_what_is_open_are_counted(self):
        self.conversation.create_user_message("Hello")
        self.conversation.create_user_message("Gone").delete()
        message = self.conversation.start_streaming_assistant()
        message.stream.usage = Usage(input=1000, cached_input=500, output=20)
        message.stream.complete()
        self.conversation.start_streaming_assistant()
        page = self.page(LIST)
        assert "1,500 in, 20 out" in page
        assert f'<a href="{MESSAGES}?conversation__id__exact={self.conversation.pk}">3</a>' in page
        assert ">1 open</span>" in page

    def test_tokens_that_nobody_counted_are_not_zero(self):
        self.conversation.create_user_message("Hello")
        assert '<td class="field-tokens">-</td>' in self.page(LIST)

    def test_the_owner_is_named_whoever_it_is(self):
        self.fill(4)
        page = self.page(LIST)
        assert "Blue (team)" in page
        assert "boss (user)" in page
        assert '<td class="field-owner_name">-</td>' in page

    def test_an_owner_that_is_gone_is_named_by_its_key(self):
        Conversation.objects.filter(pk=self.conversation.pk).update(owner_id="999")
        assert "team 999, gone" in self.page(LIST)

    def test_an_owner_whose_model_is_gone_breaks_nothing(self):
        stale = ContentType.objects.create(app_label="removed", model="club")
        Conversation.all_objects.filter(pk=self.conversation.pk).update(owner_type=stale, owner_id="7")
        assert "club 7, gone" in self.page(LIST)
        assert "club 7, gone" in self.page(change(self.conversation))

    def test_a_hostile_title_is_text(self):
        self.conversation.rename(HOSTILE)
        for url in (LIST, change(self.conversation), transcript(self.conversation)):
            page = self.page(url)
            assert ESCAPED in page
            assert HOSTILE not in page

    def test_it_is_searched_by_title_uuid_and_owner(self):
        project = Project.objects.create()
        owned = Conversation.objects.start(project, title="Another")
        assert self.rows(q="spain") == [self.conversation]
        assert self.rows(q=str(owned.uuid)) == [owned]
        assert self.rows(q=str(project.pk)) == [owned]
        assert self.rows(q=str(self.team.pk)) == [self.conversation]
        assert self.rows(q="nowhere") == []

    def test_it_is_filtered_by_what_is_open(self):
        busy = Conversation.objects.start()
        busy.start_streaming_assistant()
        assert self.rows(open="yes") == [busy]
        assert self.rows(open="no") == [self.conversation]

    def test_it_is_filtered_by_the_kind_of_owner(self):
        nobodys = Conversation.objects.start()
        team = ContentType.objects.get_for_model(Team)
        assert self.rows(owner_type=team.pk) == [self.conversation]
        assert self.rows(owner_type="none") == [nobodys]
        assert self.rows(owner_type="nonsense") == []

    def test_deleted_rows_are_shown_on_request(self):
        gone = Conversation.objects.start(title="Gone")
        gone.delete()
        assert self.rows() == [self.conversation]
        assert self.rows(deleted="yes") == [gone]
        assert set(self.rows(deleted="all")) == {self.conversation, gone}
        assert ">deleted</span>" in self.page(LIST, deleted="yes")
        assert self.page(change(gone))


class ConversationChangeTests(AdminTestCase):
    def save(self, conversation: Conversation, **data: str) -> object:
        shown = {"title": conversation.title, "context": "{}", "metadata": "{}"}
        hidden = {"initial-context": "{}", "initial-metadata": "{}", **NO_PARTICIPANTS}
        return self.client.post(change(conversation), {**shown, **hidden, **data})

    def test_a_new_title_is_told_to_readers(self):
        before = self.conversation.last_offset
        response = self.save(self.conversation, title="New", context='{"system_prompt": "Be brief."}')
        assert response.status_code == 302
        row = Conversation.objects.get()
        assert (row.title, row.context) == ("New", {"system_prompt": "Be brief."})
        assert row.last_offset == row.changed_offset == before + 1

    def test_saving_never_moves_the_head_back(self):
        with patch.object(Conversation, "refresh_from_db"):  # the form's row is from before the message
            Conversation.all_objects.filter(pk=self.conversation.pk).update(last_offset=50)
            self.save(self.conversation, metadata='{"a": 1}')
        row = Conversation.objects.get()
        assert (row.last_offset, row.metadata) == (50, {"a": 1})

    def test_saving_without_a_change_writes_nothing(self):
        before = Conversation.objects.values().get()
        self.save(self.conversation)
        assert Conversation.objects.values().get() == before

    def test_context_and_metadata_must_be_storable_objects(self):
        for field in ("context", "metadata"):
            for value in ("[]", '"text"', r'{"a": "\u0000"}'):
                response = self.save(self.conversation, **{field: value})
                assert list(response.context["adminform"].form.errors) == [field], value
        self.save(self.conversation, context="")
        assert Conversation.objects.get().context == {}

    def test_nothing_else_can_be_typed(self):
        uuid, offset = self.conversation.uuid, self.conversation.last_offset
        self.save(self.conversation, uuid=str(self.boss.pk), last_offset="7", epoch="x", owner_id="9")
        row = Conversation.objects.get()
        assert (row.uuid, row.last_offset, row.owner) == (uuid, offset, self.team)

    def test_participants_are_let_in_and_out(self):
        form = {"participants-TOTAL_FORMS": "1", "participants-INITIAL_FORMS": "0", "participants-0-role": "read"}
        form |= {"participants-0-user": str(self.boss.pk), "participants-0-conversation": str(self.conversation.pk)}
        self.save(self.conversation, **form)
        participant = self.conversation.participants.get()
        assert (participant.user, participant.role) == (self.boss, "read")
        assert "boss" in self.page(change(self.conversation))
        form |= {"participants-INITIAL_FORMS": "1", "participants-0-DELETE": "on"}
        self.save(self.conversation, **form, **{"participants-0-id": str(participant.pk)})
        assert not self.conversation.participants.exists()

    def test_conversations_and_messages_are_not_made_by_hand(self):
        for name in ("converse_conversation_add", "converse_message_add"):
            assert self.client.get(reverse(f"admin:{name}")).status_code == 403

    def test_deleting_hides_and_says_so(self):
        self.conversation.create_user_message("Hello")
        url = reverse("admin:converse_conversation_delete", args=[self.conversation.pk])
        page = self.page(url)
        assert "To delete is to hide here" in page
        assert "Conversations: 1" in page
        self.client.post(url, {"post": "yes"})
        assert Conversation.all_objects.get().deleted_at
        assert Message.all_objects.count() == 1
        assert self.client.get(url).status_code == 403  # once is enough


class ActionTests(AdminTestCase):
    def test_conversations_are_stopped(self):
        message = self.conversation.start_streaming_assistant()
        message.append_chunk("so far")
        assert "1 open message was stopped." in self.act(LIST, "stop", self.conversation)
        message.refresh_from_db()
        assert (message.status, message.content) == (Status.CANCELLED, "so far")
        assert LogEntry.objects.get().get_change_message() == "Stopped."

    def test_messages_are_stopped(self):
        message = self.conversation.start_streaming_assistant()
        closed = self.conversation.create_user_message("Hello")
        assert "1 open message was stopped." in self.act(MESSAGES, "stop", message, closed)
        message.refresh_from_db()
        assert message.is_cancelled
        assert LogEntry.objects.get().object_id == str(message.pk)

    def test_where_nothing_is_open_nothing_is_stopped(self):
        assert "0 open messages were stopped." in self.act(LIST, "stop", self.conversation)
        assert not LogEntry.objects.exists()

    def test_selected_rows_are_hidden_and_restored(self):
        message = self.conversation.create_user_message("Hello")
        for url, row in ((MESSAGES, message), (LIST, self.conversation)):
            assert "To delete is to hide here" in self.act(url, "delete_selected", row)
            self.act(url, "delete_selected", row, post="yes")
            row.refresh_from_db()
            assert row.deleted_at
            assert "1 row was restored." in self.act(url, "restore", row, query="?deleted=yes")
            row.refresh_from_db()
            assert row.deleted_at is None
        assert "0 rows were restored." in self.act(LIST, "restore", self.conversation)

    def test_stopping_and_restoring_take_the_permission_to_change(self):
        message = self.conversation.start_streaming_assistant()
        for url, model, row in ((LIST, "conversation", self.conversation), (MESSAGES, "message", message)):
            self.sign_in(f"view_{model}")
            assert 'value="stop"' not in self.page(url)
            self.act(url, "stop", row)
            message.refresh_from_db()
            assert message.is_open
            self.sign_in(f"change_{model}")
            page = self.page(url)
            assert 'value="stop"' in page
            assert 'value="restore"' in page
            assert 'value="delete_selected"' not in page
        self.act(MESSAGES, "stop", message)
        message.refresh_from_db()
        assert message.is_cancelled


class TranscriptTests(AdminTestCase):
    def test_it_reads_like_a_chat(self):
        self.conversation.create_system_message("Be brief.")
        self.conversation.create_user_message("Where?\n\n**Here**")
        call = ToolCallDelta(index=0, id="call_1", name="rainfall", arguments='{"city": "Madrid"}')
        answer = streamed(
            self.conversation, ReasoningDelta(text="Hm."), "On the plain.", call, provider="default", model="m-1"
        )
        page = self.page(transcript(self.conversation))
        for text in (
            "Blue (team)",
            'converse-role-system"',
            'converse-role-user"',
            f'id="message-{answer.uuid}"',
            '<div class="converse-text">Where?\n\n**Here**</div>',
            '<summary>Reasoning</summary><div class="converse-text">Hm.</div></details>',
            "<code>rainfall</code> <small>call_1</small>",
            "{\n  &quot;city&quot;: &quot;Madrid&quot;\n}",
            "default / m-1",
            "first chunk after",
        ):
            assert text in page, text
        assert "converse-badge-completed" not in page

    def test_what_became_of_a_message_is_shown(self):
        try:
            with self.conversation.stream_reply() as stream:
                stream.append(RefusalDelta("I will not."))
                raise ProviderError("HTTP 529 from <b>there</b>", type=ErrorType.OVERLOADED)
        except ProviderError:
            pass
        self.conversation.start_streaming_assistant().stop()
        self.conversation.start_streaming_assistant()
        self.conversation.create_user_message("hidden").delete()
        cut = self.conversation.start_streaming_assistant()
        cut.delete()
        page = self.page(transcript(self.conversation))
        for text in (
            '<div class="converse-text converse-refusal">I will not.</div>',
            "<strong>Overloaded</strong> The assistant is very busy.",
            "ProviderError: HTTP 529 from &lt;b&gt;there&lt;/b&gt;",
            "converse-badge-failed",
            "converse-badge-cancelled",
            "converse-badge-streaming",
            "converse-gone",
            "Nothing yet",
            "No text",
        ):
            assert text in page, text
        assert len(re.findall("converse-badge-deleted", page)) == 2

    def test_an_open_message_shows_its_chunks(self):
        message = self.conversation.start_streaming_assistant()
        message.append_chunk("Once upon ")
        message.append_chunk("a time")
        assert '<div class="converse-text">Once upon a time</div>' in self.page(transcript(self.conversation))
        message.refresh_from_db()
        assert (message.content, message.parts) == ("", [])  # looking writes nothing

    def test_hostile_text_is_text(self):
        self.conversation.create_user_message(HOSTILE)
        call = ToolCallDelta(index=0, id=HOSTILE, name=HOSTILE, arguments=HOSTILE)
        message = streamed(
            self.conversation, HOSTILE, ReasoningDelta(text=HOSTILE), RefusalDelta(HOSTILE), call, model=HOSTILE
        )
        hostile = dict.fromkeys(("name", "url", "title", "text", "output", "reason", "mime_type"), HOSTILE)
        attachment = str(uuid4())
        kinds = ("tool_result", "approval", "source", "file", HOSTILE)
        message.parts += [{**hostile, "type": kind, "id": "x", "attachment": attachment, "size": 7} for kind in kinds]
        message.parts.append({"type": "raw", "data": {HOSTILE: HOSTILE}})
        message.structured = {HOSTILE: [HOSTILE]}
        message.plan = {HOSTILE: HOSTILE}
        message.save(update_fields=["parts", "structured", "plan"])
        failed = self.conversation.start_streaming_assistant()
        failed.stream.fail(HOSTILE, public_error=HOSTILE)
        for url in (transcript(self.conversation), message_page(message), message_page(failed), MESSAGES):
            page = self.page(url)
            assert HOSTILE not in page
            assert ESCAPED in page

    def test_a_part_of_an_unknown_kind_is_shown_as_json(self):
        message = self.conversation.create_assistant_message("See there")
        Message.all_objects.filter(pk=message.pk).update(parts=[{"type": "hologram", "url": "there"}])
        page = self.page(transcript(self.conversation))
        assert "<code>hologram</code>" in page
        assert "&quot;url&quot;: &quot;there&quot;" in page

    def test_text_without_parts_is_shown(self):
        message = self.conversation.create_user_message("Plain")
        Message.all_objects.filter(pk=message.pk).update(parts=[])
        assert '<div class="converse-text">Plain</div>' in self.page(transcript(self.conversation))

    def test_an_empty_conversation_says_so(self):
        assert "There is no message in it yet." in self.page(transcript(self.conversation))

    def test_it_takes_as_many_queries_for_3_messages_as_for_30(self):
        for count in (3, 27):
            for _ in range(count):
                self.conversation.create_user_message("Hello")
            # Session, user, conversation, owner's type, owner, count, messages, versions.
            with self.assertNumQueries(8):
                self.page(transcript(self.conversation))

    def test_long_ones_begin_at_the_end_and_have_pages(self):
        messages = self.conversation.add_messages([f"number {number}." for number in range(201)])
        page = self.page(transcript(self.conversation))
        assert "number 200." in page
        assert "number 199." not in page
        assert "Page 3 of 3" in page
        assert 'href="?p=2"' in page
        page = self.page(transcript(self.conversation), p="1")
        assert "number 0." in page
        assert 'href="?p=2"' in page
        assert "number 100." in self.page(transcript(self.conversation), at=str(messages[100].offset))
        assert "number 200." in self.page(transcript(self.conversation), at="9" * 30, p="nonsense")
        assert "number 0." in self.page(transcript(self.conversation), at="-1", p="nonsense")

    def test_it_takes_the_permission_to_view_conversations_and_messages(self):
        self.client.logout()
        assert self.client.get(transcript(self.conversation)).status_code == 302
        for permissions, status in (
            ((), 403),
            (("view_conversation",), 403),
            (("view_message",), 403),
            (("view_conversation", "view_message"), 200),
            (("change_conversation", "change_message"), 200),
        ):
            self.sign_in(*permissions)
            assert self.client.get(transcript(self.conversation)).status_code == status, permissions

    def test_who_may_not_read_it_is_not_led_to_it(self):
        link = transcript(self.conversation)
        for url in (LIST, change(self.conversation)):
            assert link in self.page(url)
        self.sign_in("view_conversation")
        for url in (LIST, change(self.conversation)):
            assert link not in self.page(url)

    def test_one_that_is_missing_is_not_found(self):
        assert self.client.get(reverse("admin:converse_conversation_transcript", args=["0"])).status_code == 404
        assert self.client.get(reverse("admin:converse_conversation_transcript", args=["x"])).status_code == 404

    def test_it_stops_and_restores(self):
        message = self.conversation.start_streaming_assistant()
        assert 'name="stop"' in self.page(transcript(self.conversation))
        response = self.client.post(transcript(self.conversation), {"stop": ""})
        assert response.url == transcript(self.conversation)
        message.refresh_from_db()
        assert message.is_cancelled
        assert 'name="stop"' not in self.page(transcript(self.conversation))
        self.conversation.delete()
        assert 'name="restore"' in self.page(transcript(self.conversation))
        self.client.post(transcript(self.conversation), {"restore": ""})
        assert Conversation.objects.get()

    def test_who_may_only_look_cannot_stop(self):
        self.conversation.start_streaming_assistant()
        self.sign_in("view_conversation", "view_message")
        assert 'name="stop"' not in self.page(transcript(self.conversation))
        assert self.client.post(transcript(self.conversation), {"stop": ""}).status_code == 403


def call(id: str, index: int = 0) -> ToolCallDelta:
    return ToolCallDelta(index=index, id=id, name="pay", arguments='{"sum": 7}')


class PartsTests(AdminTestCase):
    """What a reply did besides talking, in the transcript and on the message's own page alike."""

    def pages(self, message: Message) -> list[str]:
        return [self.page(url) for url in (transcript(message.conversation), message_page(message))]

    def test_a_call_has_its_arguments_and_its_result_folded_away_in_one_place(self):
        message = streamed(
            self.conversation,
            call("a"),
            call("b", 1),
            ToolResult(id="b", name="pay", output="No money.", is_error=True),
            ToolResult(id="a", name="pay", output='{"paid": true}'),
        )
        for page in self.pages(message):
            assert page.count('class="converse-tool"') == 2
            first, second = page.split('class="converse-tool"')[1:]
            arguments = "<details><summary>Arguments</summary>"
            assert f'{arguments}<pre class="converse-text">{{\n  &quot;sum&quot;: 7\n}}</pre></details>' in first
            assert '<summary>Result</summary><pre class="converse-text">{\n  &quot;paid&quot;: true\n}</pre>' in first
            assert 'converse-badge-completed">done<' in first
            assert "No money." in second
            assert 'converse-badge-failed">failed<' in second

    def test_a_call_that_was_never_made_says_so(self):
        for page in self.pages(streamed(self.conversation, call("a"))):
            assert ">never made<" in page

    def test_a_result_without_its_call_is_shown_as_it_is(self):
        for page in self.pages(streamed(self.conversation, ToolResult(id="a", name="pay", output="Paid."))):
            assert "<code>tool_result</code>" in page
            assert "&quot;Paid.&quot;" in page

    def test_only_an_address_of_the_web_becomes_a_link(self):
        for url, links in (
            ("https://example.org/?a=1&b=2", True),
            ("http://example.org/", True),
            ("javascript:alert(1)", False),
            ("JavaScript:alert(1)", False),
            ("data:text/html,x", False),
            ("//example.org/", False),
            ("http://[", False),
            (" https://example.org", True),
        ):
            conversation = Conversation.objects.start()
            message = streamed(conversation, SourceDelta(url=url, title="There", text="as quoted"))
            for page in self.pages(message):
                href = f'<a href="{url}"'.replace("&", "&amp;")
                assert (href in page) is links, url
                assert ("javascript:" in page.lower()) is url.lower().startswith("javascript:")
                assert "<q>as quoted</q>" in page

    def test_a_block_that_only_its_provider_understands_is_folded_and_not_without_end(self):
        for page in self.pages(streamed(self.conversation, RawBlock({"a": "secret", "data": "x" * 30_000}))):
            assert '<details class="converse-aside"><summary><code>raw</code></summary>' in page
            assert "&quot;a&quot;: &quot;secret&quot;" in page
            assert "… and 10033 characters more" in page
            assert "x" * 20_001 not in page

    def test_a_structured_answer_is_shown(self):
        message = streamed(self.conversation, "Done.", structured={"sum": 7})
        for page in self.pages(message):
            assert "{\n  &quot;sum&quot;: 7\n}" in page
        for answer, shown in (([], True), (None, False)):
            conversation = Conversation.objects.start()
            streamed(conversation, "Done.", structured=answer)
            assert ("Structured answer" in self.page(transcript(conversation))) is shown

    def test_looking_at_many_takes_no_query_each(self):
        for count in (2, 20):
            for _ in range(count):
                parts = [
                    {"type": "tool_call", "id": "a", "name": "pay", "arguments": "{}"},
                    {"type": "approval", "id": "a", "name": "pay", "text": "approved", "by": str(self.boss.pk)},
                    {"type": "file", "text": "", "attachment": str(uuid4()), "name": "a", "mime_type": "b", "size": 7},
                ]
                message = self.conversation.create_assistant_message("x")
                Message.all_objects.filter(pk=message.pk).update(parts=parts)
            # As without such parts, and when and by whom it was approved.
            with self.assertNumQueries(10):
                self.page(transcript(self.conversation))


class FileTests(AdminTestCase):
    def setUp(self):
        super().setUp()
        attachment = self.conversation.attach(ContentFile(b"%PDF-1.4 <script>"), "Plan <b>.pdf")
        self.message = self.conversation.create_message("user", "See", attachments=[attachment])
        self.attachment = MessageAttachment.objects.get()
        self.addCleanup(self.attachment.file.delete)
        self.url = reverse("admin:converse_message_attachment", args=[self.message.pk, self.attachment.uuid])

    def test_a_file_is_a_link_to_save_it(self):
        for url in (transcript(self.conversation), message_page(self.message)):
            page = self.page(url)
            assert f'<a href="{self.url}">Plan &lt;b&gt;.pdf</a> <small>application/pdf, 17\xa0bytes</small>' in page
        response = self.client.get(self.url)
        assert b"".join(response.streaming_content) == b"%PDF-1.4 <script>"
        assert response["Content-Disposition"].startswith("attachment")
        assert response["X-Content-Type-Options"] == "nosniff"

    def test_it_takes_the_permission_to_view_messages(self):
        for permission, status in ((None, 403), ("view_conversation", 403), ("view_message", 200)):
            self.sign_in(*filter(None, [permission]))
            assert self.client.get(self.url).status_code == status, permission
        self.client.logout()
        assert self.client.get(self.url).status_code == 302

    def test_one_that_is_missing_or_another_messages_is_not_found(self):
        other = self.conversation.create_user_message("Hello")
        for message, uuid in ((other.pk, self.attachment.uuid), (self.message.pk, uuid4()), (0, self.attachment.uuid)):
            url = reverse("admin:converse_message_attachment", args=[message, uuid])
            assert self.client.get(url).status_code == 404
        self.attachment.file.storage.delete(self.attachment.file.name)
        assert self.client.get(self.url).status_code == 404


# The runner sleeps: what is decided stays as it is.
@override_settings(CONVERSE_RUNNER="tests.runners.WaitingRunner")
class DecisionTests(AdminTestCase):
    def setUp(self):
        super().setUp()
        self.message = self.waiting(self.conversation)
        self.url = reverse("admin:converse_message_decide", args=[self.message.pk])
        self.pages = (transcript(self.conversation), message_page(self.message))

    def waiting(self, conversation: Conversation) -> Message:
        """Give a reply that waits for the approval of two calls."""
        message = conversation.start_streaming_assistant()
        message.stream.append(call("a")).append(call("b", 1))
        Message.all_objects.filter(pk=message.pk).update(status=Status.WAITING, lease_expires_at=None)
        message.refresh_from_db()
        return message

    def decide(self, call: str = "a", decision: str = "approve", **more: str) -> list[str]:
        """Send the form; give what the admin says about it."""
        response = self.client.post(self.url, {"call": call, "decision": decision, **more}, follow=True)
        assert response.status_code == 200
        return [str(message) for message in response.context["messages"]]

    def decisions(self) -> list[tuple[str, str, str, str]]:
        chunks = self.message.chunks.filter(kind="approval").order_by("sequence")
        return [(chunk.content, *(chunk.metadata[name] for name in ("id", "by", "reason"))) for chunk in chunks]

    def test_a_call_that_waits_is_shown_with_its_arguments_and_the_buttons(self):
        for url in self.pages:
            page = self.page(url)
            assert page.count('name="decision" value="approve"') == page.count('name="decision" value="deny"') == 2
            assert page.count(f'action="{self.url}"') == 2
            assert page.count('converse-badge-waiting">waits for approval<') == 2
            form = page[page.index('class="converse-decide"') :]
            assert '<input type="hidden" name="call" value="a">' in form
            assert "&quot;sum&quot;: 7" in form[: form.index("</form>")]
        assert "converse-badge-waiting" in self.page(MESSAGES)

    def test_no_form_is_inside_of_another(self):
        for url in self.pages:
            depth = 0
            for tag in re.findall(r"<(/?)form\b", self.page(url)):
                depth += -1 if tag else 1
                assert depth in (0, 1)

    def test_approving_and_denying_is_recorded_with_who_and_why_and_said(self):
        assert self.decide("a", "approve", reason=" Go on. ") == ["Approved a."]
        page = self.page(transcript(self.conversation))
        assert page.count('name="decision" value="approve"') == 1
        assert re.search(r"Approved by boss, [^<]+: <q>Go on.</q>", page)
        assert self.decide("b", "deny") == ["Denied b."]
        boss = str(self.boss.pk)
        assert self.decisions() == [("approved", "a", boss, "Go on."), ("denied", "b", boss, "")]
        self.message.refresh_from_db()
        assert self.message.status == Status.PENDING  # it goes on
        said = LogEntry.objects.order_by("pk").values_list("object_id", "change_message")
        assert list(said) == [(str(self.message.pk), "Approved a."), (str(self.message.pk), "Denied b.")]
        for url in self.pages:
            assert "converse-decide" not in self.page(url)

    def test_it_leads_back_to_where_it_came_from(self):
        data = {"call": "a", "decision": "approve"}
        assert self.client.post(self.url, data).url == message_page(self.message)
        response = self.client.post(self.url, {**data, "transcript": ""})
        place = f"{transcript(self.conversation)}?at={self.message.offset}#message-{self.message.uuid}"
        assert response.url == place

    def test_deciding_twice_or_about_nothing_or_too_late_changes_nothing(self):
        self.decide("a", "deny")
        for name in ("a", "c", "", HOSTILE):
            [said] = self.decide(name)
            assert said.startswith("Nothing was decided: ")
        assert len(self.decisions()) == 1
        self.message.stop()
        [said] = self.decide("b")
        assert said.startswith("Nothing was decided: ")
        assert len(self.decisions()) == 1
        assert LogEntry.objects.count() == 1

    def test_a_reason_too_long_is_cut_and_one_that_cannot_be_stored_is_refused(self):
        self.decide("a", reason="x" * 5000)
        assert self.decisions()[0][3] == "x" * 1000
        [said] = self.decide("b", reason="\x00")
        assert said.startswith("Nothing was decided: ")

    def test_nothing_but_a_form_of_ours_decides(self):
        assert self.client.get(self.url).status_code == 405
        assert self.client.post(self.url, {"call": "a"}).status_code == 400
        assert self.client.post(self.url, {"call": "a", "decision": "stop"}).status_code == 400
        forged = Client(enforce_csrf_checks=True)
        forged.force_login(self.boss)
        assert forged.post(self.url, {"call": "a", "decision": "approve"}).status_code == 403
        assert self.decisions() == []

    def test_it_takes_the_permission_to_change_messages(self):
        data = {"call": "a", "decision": "approve"}
        for permissions in ((), ("view_message", "view_conversation"), ("change_conversation", "view_message")):
            self.sign_in(*permissions)
            assert self.client.post(self.url, data).status_code == 403
            if permissions:
                for url in self.pages:
                    assert "converse-decide" not in self.page(url)
        self.client.logout()
        assert self.client.post(self.url, data).status_code == 302
        assert self.decisions() == []
        self.sign_in("change_message")
        assert self.decide() == ["Approved a."]

    def test_who_may_not_change_this_very_message_may_not_decide(self):
        def theirs(admin, request, obj=None):
            return obj is None or obj.pk != self.message.pk

        with patch.object(MessageAdmin, "has_operate_permission", theirs):
            assert self.client.post(self.url, {"call": "a", "decision": "approve"}).status_code == 403
            for url in self.pages:
                assert "converse-decide" not in self.page(url)

    def test_one_that_is_missing_is_not_found(self):
        url = reverse("admin:converse_message_decide", args=["0"])
        assert self.client.post(url, {"call": "a", "decision": "approve"}).status_code == 404

    def test_who_decided_is_named_also_when_gone_or_nobody_we_know(self):
        parts = [
            part
            for number, by in enumerate([str(self.boss.pk), "999", "not-a-key", None])
            for part in (
                {"type": "tool_call", "id": str(number), "name": "pay", "arguments": "{}"},
                {"type": "approval", "id": str(number), "name": "pay", "text": "approved", "by": by, "reason": ""},
            )
        ]
        message = self.conversation.create_assistant_message("x")
        Message.all_objects.filter(pk=message.pk).update(parts=parts)
        page = self.page(message_page(message))
        found = re.findall(r'<p class="converse-decision">(.*?)</p>', page)
        assert found == ["Approved by boss", "Approved by user 999", "Approved by user not-a-key", "Approved"]

    def test_conversations_with_something_that_waits_are_found(self):
        busy = Conversation.objects.start()
        busy.start_streaming_assistant()
        for query, expected in (("waiting", [self.conversation]), ("yes", [busy, self.conversation])):
            assert list(self.client.get(LIST, {"open": query}).context["cl"].result_list) == expected
        found = self.client.get(MESSAGES, {"status__exact": "waiting"}).context["cl"].result_list
        assert list(found) == [self.message]


class VersionTests(AdminTestCase):
    def setUp(self):
        super().setUp()
        self.asked = self.conversation.create_user_message("Why?")
        self.answers = [self.conversation.create_assistant_message(f"Because {number}.") for number in range(3)]
        rows = Message.all_objects.filter(pk__in=[answer.pk for answer in self.answers])
        rows.update(follows=self.asked.offset)
        rows.exclude(pk=self.answers[1].pk).update(current=False)

    def turn(self, page: str, message: Message) -> str:
        return page.split(f'id="message-{message.uuid}"')[1].split("</li>")[0]

    def test_the_one_that_is_shown_is_marked_and_the_others_are_folded_away(self):
        page = self.page(transcript(self.conversation))
        for number, answer in enumerate(self.answers, 1):
            turn = self.turn(page, answer)
            assert f"version {number} of 3" in turn
            assert f"Because {number - 1}." in turn
            folded = '<details class="converse-other"><summary>Not shown to people: version'
            assert (folded in turn) is (number != 2)
            assert (turn.count("<details") - turn.count("</details>")) == 0
        assert "version" not in self.turn(page, self.asked)
        assert "2 of 3" in self.page(message_page(self.answers[1]))

    def test_a_deleted_version_does_not_count(self):
        self.answers[0].delete()
        page = self.page(transcript(self.conversation))
        assert "version 1 of 2" in self.turn(page, self.answers[1])
        assert "version" not in self.turn(page, self.answers[0])

    def test_what_followed_another_version_is_folded_without_a_number(self):
        Message.all_objects.filter(pk=self.asked.pk).update(current=False)
        page = self.page(transcript(self.conversation))
        assert "<summary>Not shown to people</summary>" in self.turn(page, self.asked)


class MessageTests(AdminTestCase):
    def rows(self, **query: object) -> list[Message]:
        return list(self.client.get(MESSAGES, query).context["cl"].result_list)

    def test_the_list_takes_as_many_queries_for_3_rows_as_for_30(self):
        for count in (1, 9):
            for _ in range(count):
                conversation = Conversation.objects.start(self.team, title="A")
                conversation.create_user_message("x" * 200)
                streamed(conversation, "Hi", model="m")
                conversation.start_streaming_assistant()
            with self.assertNumQueries(4) as queries:  # session, user, count, rows
                page = self.page(MESSAGES)
            assert '"parts"' not in queries[-1]["sql"]
        assert len(self.rows()) == 30
        assert "x" * 80 in page
        assert "x" * 81 not in page

    def test_it_is_searched_by_text_and_uuid(self):
        hello = self.conversation.create_user_message("Hello there")
        other = Conversation.objects.start().create_message("user", "Good bye", external_id="mine")
        assert self.rows(q="there") == [hello]
        assert self.rows(q=str(hello.uuid)) == [hello]
        assert self.rows(q=str(self.conversation.uuid)) == [hello]
        assert self.rows(q="mine") == [other]

    def test_messages_of_a_deleted_conversation_count_as_deleted(self):
        kept = self.conversation.create_user_message("kept")
        gone = self.conversation.create_user_message("gone")
        gone.delete()
        other = Conversation.objects.start()
        hidden = other.create_user_message("hidden with its conversation")
        other.delete()
        assert self.rows() == [kept]
        assert self.rows(deleted="yes") == [hidden, gone]
        assert self.rows(deleted="all") == [hidden, gone, kept]

    def test_a_message_is_read_only(self):
        message = self.conversation.create_user_message("Hello")
        page = self.page(message_page(message))
        assert 'name="_save"' not in page
        assert f"{transcript(self.conversation)}?at={message.offset}#message-{message.uuid}" in page
        assert self.client.post(message_page(message), {"content": "Changed"}).status_code == 403
        message.refresh_from_db()
        assert message.content == "Hello"

    def test_it_takes_the_permission_to_view_messages(self):
        message = self.conversation.create_user_message("Hello")
        for permission, status in (("view_conversation", 403), ("view_message", 200), ("change_message", 200)):
            self.sign_in(permission)
            assert self.client.get(message_page(message)).status_code == status, permission

    def test_the_error_is_shown_where_there_is_one(self):
        message = self.conversation.start_streaming_assistant()
        message.fail_streaming("KeyError: 'private'")
        assert "KeyError: &#x27;private&#x27;" in self.page(message_page(message))
        assert "error_type" not in self.page(message_page(self.conversation.create_user_message("fine")))

    def test_facts_in_json_are_indented(self):
        message = self.conversation.start_streaming_assistant({"key": "value"})
        page = self.page(message_page(message))
        assert "&quot;key&quot;: &quot;value&quot;" in page

    def test_the_timeline_tells_when_each_chunk_came(self):
        message = streamed(self.conversation, "Once ", ReasoningDelta(text="hm"))
        for sequence in (1, 2):
            at = message.started_at + timedelta(milliseconds=1.25 * sequence)
            message.chunks.filter(sequence=sequence).update(created_at=at)
        page = self.page(message_page(message))
        first, second = message.chunks.order_by("sequence")
        text = '<span class="converse-text">{}</span>'
        cells = [
            ("1", str(first.offset), "text", "1.2", text.format("Once ")),
            ("2", str(second.offset), "reasoning", "2.5", text.format("hm")),
        ]
        for row in cells:
            assert "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" in page
        assert "not shown" not in page

    def test_of_a_long_timeline_the_middle_is_left_out(self):
        message = self.conversation.start_streaming_assistant()
        MessageChunk.objects.bulk_create(
            MessageChunk(
                message=message,
                sequence=number,
                conversation=self.conversation,
                offset=100 + number,
                content=f"word {number}.",
                created_at=message.started_at,
            )
            for number in range(1, 1001)
        )
        # Session, user, message, conversation, text, versions, first and last chunks, calls.
        with self.assertNumQueries(9):
            page = self.page(message_page(message))
        timeline = page[page.index("converse-timeline") :]
        assert "600 chunks in between are not shown." in timeline
        for number, shown in ((1, True), (200, True), (201, False), (800, False), (801, True), (1000, True)):
            assert (f">word {number}.<" in timeline) is shown, number

    def test_a_message_that_ends_with_the_first_page_leaves_nothing_out(self):
        message = self.conversation.start_streaming_assistant()
        with patch("converse.admin.shown.TIMELINE", 2):
            for number in range(2):
                message.append_chunk(f"{number}")
            assert "not shown" not in self.page(message_page(message))

    def test_a_message_written_at_once_has_no_timeline(self):
        message = self.conversation.create_user_message("Hello")
        assert "None: the message was written at once" in self.page(message_page(message))


class ShownTests(TestCase):
    def test_durations_are_short(self):
        start = datetime(2026, 1, 1)  # noqa: DTZ001 - as without USE_TZ
        assert duration(start, start + timedelta(milliseconds=12.4)) == "12 ms"
        assert duration(start, start + timedelta(seconds=90)) == "90.0 s"
        assert duration(None, start) == "-"
        assert moment(start) == "01/01/2026 midnight"

    def test_json_is_indented_and_other_text_left_alone(self):
        assert pretty('{"a": "ü"}') == '{\n  "a": "ü"\n}'
        assert pretty("{broken") == "{broken"
