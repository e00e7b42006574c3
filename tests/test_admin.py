from __future__ import annotations

import re
from datetime import datetime, timedelta
from unittest.mock import patch

from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.test import TestCase
from django.urls import reverse

from converse.admin.shown import duration, moment, pretty
from converse.choices import ErrorType, Status
from converse.deltas import ReasoningDelta, RefusalDelta, ToolCallDelta, Usage
from converse.exceptions import ProviderError
from converse.models import Conversation, Message, MessageChunk
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
        message.parts.append({"type": "source", "url": HOSTILE})
        message.save(update_fields=["parts"])
        failed = self.conversation.start_streaming_assistant()
        failed.stream.fail(HOSTILE, public_error=HOSTILE)
        for url in (transcript(self.conversation), message_page(message), message_page(failed), MESSAGES):
            page = self.page(url)
            assert HOSTILE not in page
            assert ESCAPED in page

    def test_a_part_of_an_unknown_kind_is_shown_as_json(self):
        message = self.conversation.create_assistant_message("See there")
        Message.all_objects.filter(pk=message.pk).update(parts=[{"type": "source", "url": "there"}])
        assert "<code>source</code>" in self.page(transcript(self.conversation))

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
            with self.assertNumQueries(7):  # session, user, conversation, owner's type, owner, count, messages
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
        with self.assertNumQueries(7):  # session, user, message, conversation, text, first and last chunks
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
