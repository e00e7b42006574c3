from __future__ import annotations

import asyncio
import io
import threading
from datetime import timedelta
from io import StringIO
from unittest.mock import patch
from uuid import UUID, uuid4

import pytest
from asgiref.sync import sync_to_async
from django.core.files.storage import storages
from django.core.files.uploadedfile import SimpleUploadedFile, TemporaryUploadedFile
from django.core.management import CommandError, call_command
from django.db import connection, connections, transaction
from django.test import TestCase, TransactionTestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from converse import attachments, journal
from converse.deltas import FileDelta
from converse.drafts import UserMessage
from converse.exceptions import ConversationBusy, InvalidMessage, MessageClosed
from converse.log import writing
from converse.models import Conversation, Message, MessageAttachment
from converse.parts import File, StoredFile, Text
from converse.replays import read
from converse.testing import scripted
from converse.upkeep import stray_files
from tests import samples
from tests.samples import StorageTestCase

REMOTE = {"default": {"BACKEND": "tests.samples.RemoteStorage"}}


def bytes_of(attachment):
    with attachment.file.open("rb") as file:
        return file.read()


def part_of(attachment):
    return {
        "type": "file",
        "text": "",
        "attachment": str(attachment.uuid),
        "name": attachment.name,
        "mime_type": attachment.mime_type,
        "size": attachment.size,
    }


class AttachTests(StorageTestCase, TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()

    def test_a_file_is_stored_with_what_it_is(self):
        attachment = self.conversation.attach(samples.PNG, "cat.png")
        attachment.refresh_from_db()
        assert (attachment.conversation, attachment.message) == (self.conversation, None)
        assert (attachment.name, attachment.mime_type, attachment.size) == ("cat.png", "image/png", len(samples.PNG))
        assert len(attachment.checksum) == 64
        assert (str(attachment), attachment.kind) == ("cat.png", "image")
        assert bytes_of(attachment) == samples.PNG
        assert self.files() == [attachment.file.name]

    def test_its_place_tells_nothing_that_a_reader_knows(self):
        attachment = self.conversation.attach(samples.PNG, "../../cat.png")
        for known in ("cat", ".", str(attachment.uuid), attachment.uuid.hex, str(self.conversation.uuid)):
            assert known not in attachment.file.name

    async def test_it_has_an_asynchronous_twin(self):
        attachment = await self.conversation.aattach(io.BytesIO(samples.PDF), mime_type="application/pdf")
        assert (attachment.name, attachment.kind) == ("document.pdf", "document")

    def test_uploads_of_both_sizes_are_taken(self):
        for upload in (
            SimpleUploadedFile("notes.md", b"# Plan", "text/markdown"),
            TemporaryUploadedFile("notes.md", "text/markdown", 6, "utf-8"),
        ):
            if isinstance(upload, TemporaryUploadedFile):
                upload.write(b"# Plan")
            with upload:
                attachment = self.conversation.attach(upload)
            assert (attachment.name, attachment.mime_type) == ("notes.md", "text/markdown")
            assert bytes_of(attachment) == b"# Plan"

    def test_what_may_not_be_attached_leaves_nothing(self):
        for file, field in ((b"", "file"), ("/etc/passwd", "file"), (samples.ZIP, "mime_type")):
            with pytest.raises(InvalidMessage) as caught:
                self.conversation.attach(file)
            assert caught.value.field == field
        with override_settings(CONVERSE_ATTACHMENT_COUNT=0), pytest.raises(InvalidMessage, match="nothing may be"):
            self.conversation.attach(samples.PNG)
        assert self.files() == []
        assert not MessageAttachment.objects.exists()

    def test_a_file_without_its_row_goes_again(self):
        gone = Conversation.objects.start()
        gone.purge()
        gone.pk = 0
        with pytest.raises(Conversation.DoesNotExist):
            gone.attach(samples.PNG)
        assert self.files() == []

    def test_the_storage_is_the_one_that_the_setting_names_now(self):
        other = {"OPTIONS": {"location": "/nowhere"}, "BACKEND": "django.core.files.storage.InMemoryStorage"}
        with override_settings(STORAGES={"other": other}, CONVERSE_ATTACHMENT_STORAGE="other"):
            attachment = self.conversation.attach(samples.PNG)
            assert storages["other"].exists(attachment.file.name)
            assert bytes_of(attachment) == samples.PNG
        assert self.files() == []

    def test_a_file_saved_through_the_field_is_named_like_the_others(self):
        attachment = self.conversation.attach(samples.PNG)
        attachment.file.save("../../cat.png", io.BytesIO(samples.GIF))
        assert "cat" not in attachment.file.name
        assert attachment.file.name in self.files()

    async def test_a_storage_with_addresses_is_never_asked_for_one(self):
        with override_settings(STORAGES=REMOTE, CONVERSE_ATTACHMENT_STORAGE="default"):
            reply = await self.conversation.aask("Look", attachments=[samples.PNG])
            snapshot = await sync_to_async(read)(self.conversation.pk, None, None)
            attachment = await reply.reply_to.attachments.aget()
        assert attachment.file.name not in str(snapshot.wire())


class SendingTests(StorageTestCase, TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()

    def nothing_was_sent(self):
        return not Message.objects.exists() and not MessageAttachment.objects.exists() and self.files() == []

    def test_a_message_has_its_files_after_its_text(self):
        first = self.conversation.attach(samples.PNG, "cat.png")
        message = self.conversation.create_message("user", "Look", attachments=[first, samples.PDF])
        message.refresh_from_db()
        first.refresh_from_db()
        second = message.attachments.last()
        assert message.content == "Look"
        assert message.parts == [{"type": "text", "text": "Look"}, part_of(first), part_of(second)]
        assert list(message.attachments.all()) == [first, second]

    def test_readers_are_told_of_a_file_and_not_where_it_is(self):
        message = self.conversation.create_message("user", "Look", attachments=[samples.PNG])
        attachment = message.attachments.get()
        [told] = read(self.conversation.pk, None, None).messages
        assert told["parts"] == [
            {"type": "text", "text": "Look"},
            {
                "type": "file",
                "text": "",
                "attachment": str(attachment.uuid),
                "name": "image.png",
                "mimeType": "image/png",
                "size": len(samples.PNG),
            },
        ]
        assert attachment.file.name not in str(told)

    def test_a_message_may_be_files_alone(self):
        message = self.conversation.create_message("user", attachments=[samples.PNG])
        assert (message.content, [part["type"] for part in message.parts]) == ("", ["file"])
        reply = self.conversation.ask(attachments=[samples.GIF])
        assert [part["name"] for part in reply.reply_to.parts] == ["image.gif"]
        for empty in ("", "  "):
            with pytest.raises(InvalidMessage, match="content: must not be empty"):
                self.conversation.reply(empty)

    def test_many_messages_at_once_have_their_own(self):
        before = self.conversation.attach(samples.PDF)
        one, two, three = self.conversation.add_messages(
            {"role": "user", "content": "One", "attachments": [samples.PNG, str(before.uuid)]},
            {"role": "user", "attachments": [samples.GIF]},
            UserMessage("Three", attachments=()),
        )
        assert [attachment.name for attachment in one.attachments.all()] == ["document.pdf", "image.png"]
        assert [part.get("name") for part in one.parts] == [None, "image.png", "document.pdf"]
        assert two.attachments.get().name == "image.gif"
        assert not three.attachments.exists()

    async def test_a_reply_is_asked_for_with_files(self):
        attachment = await self.conversation.aattach(samples.PNG)
        for item in (attachment, attachment.uuid, str(attachment.uuid)):
            reply = await self.conversation.aask("What is this?", attachments=[item])
            assert reply.is_completed
            assert [part["type"] for part in reply.reply_to.parts] == ["text", "file"]
            assert await reply.reply_to.attachments.acount() == 1

    def test_a_file_sent_before_is_shared(self):
        attachment = self.conversation.attach(samples.PNG, "cat.png")
        first = self.conversation.create_message("user", "Look", attachments=[attachment])
        second = self.conversation.create_message("user", "Look again", attachments=[attachment.uuid])
        again = second.attachments.get()
        assert again != attachment
        assert second.parts[1] == {**part_of(attachment), "attachment": str(again.uuid)}
        assert (again.file.name, again.checksum) == (attachment.file.name, attachment.checksum)
        assert first.attachments.get() == attachment
        assert len(self.files()) == 1

    def test_a_foreign_attachment_looks_like_a_missing_one(self):
        other = Conversation.objects.start()
        foreign = other.attach(samples.PNG)
        errors = []
        for item in (foreign, foreign.uuid, str(foreign.uuid), uuid4(), MessageAttachment()):
            with pytest.raises(InvalidMessage) as caught:
                self.conversation.reply("Look", attachments=[samples.GIF, item])
            errors.append(str(caught.value))
        assert set(errors) == {"attachments[1]: there is no such attachment in this conversation"}
        assert not self.conversation.messages.exists()
        assert self.files() == [foreign.file.name]

    def test_what_is_wrong_is_named(self):
        known = self.conversation.attach(samples.PNG)
        for given, error in (
            ([samples.PNG, b""], r"attachments\[1\]\.file: is empty"),
            (["cat.png"], r"attachments\[0\]: must be an attachment, its uuid, or a file"),
            ([None], r"attachments\[0\]\.file: must be bytes or a file opened"),
            ([samples.ZIP], r"attachments\[0\]\.mime_type: application/octet-stream is not among"),
            ([known, known.uuid], r"attachments\[1\]: is named twice"),
            ("cat.png", "attachments: must be a list, not str"),
            (samples.PNG, "attachments: must be a list, not bytes"),
            ({"a": 1}, "attachments: must be a list, not dict"),
            ([samples.PNG] * 11, "attachments: may be 10, not 11"),
        ):
            with pytest.raises(InvalidMessage, match=error):
                self.conversation.create_message("user", "Look", attachments=given)
        with pytest.raises(InvalidMessage, match=r"messages\[1\]\.attachments\[0\]\.file: is empty"):
            self.conversation.add_messages("One", {"role": "user", "attachments": [b""]})
        with pytest.raises(InvalidMessage, match=r"messages\[0\]\.attachments\[0\]: there is no such"):
            self.conversation.add_messages({"role": "user", "attachments": [uuid4()]}, "Two")
        with pytest.raises(InvalidMessage, match=r"messages\[0\]\.content: is missing"):
            self.conversation.add_messages({"role": "user", "attachments": []})
        known.delete()
        assert not Message.objects.exists()
        assert not MessageAttachment.objects.exists()

    def test_no_attachments_may_be_none(self):
        message = self.conversation.create_message("user", "Hello", attachments=None)
        assert message.parts == [{"type": "text", "text": "Hello"}]

    def test_asked_for_twice_a_file_is_stored_once(self):
        first = self.conversation.reply("Look", external_id="7", attachments=[samples.PNG])
        assert self.conversation.reply("Look", external_id="7", attachments=[samples.PNG]) == first
        message = self.conversation.create_message("user", "Look", external_id="7", attachments=[samples.PNG])
        assert message == first.reply_to
        assert MessageAttachment.objects.get().message == message

    def test_messages_without_files_cost_no_statement_more(self):
        with CaptureQueriesContext(connection) as plain:
            self.conversation.add_messages("One", "Two")
        assert not any("attachment" in query["sql"] for query in plain)
        attachment = self.conversation.attach(samples.PNG)
        with self.assertNumQueries(len(plain) + 2):
            self.conversation.create_message("user", "Look", attachments=[attachment])


class FailureTests(StorageTestCase, TransactionTestCase):
    backend = "tests.samples.UnreliableStorage"

    def setUp(self):
        super().setUp()
        self.conversation = Conversation.objects.start()

    def failing(self, *moves):
        return patch.object(self.storage, "failing", moves)

    def test_a_turn_that_is_refused_takes_its_files_along(self):
        kept = self.conversation.attach(samples.PDF)
        self.conversation.start_streaming_assistant()
        with pytest.raises(ConversationBusy):
            self.conversation.reply("Look", attachments=[samples.PNG, kept])
        assert self.files() == [kept.file.name]
        assert MessageAttachment.objects.get().message is None

    def test_so_it_does_in_a_transaction_that_is_rolled_back(self):
        with pytest.raises(InvalidMessage), transaction.atomic():
            self.conversation.reply("Look", attachments=[samples.PNG, b""])
        assert self.files() == []

    def test_a_storage_that_fails_in_the_middle_leaves_nothing(self):
        def giving():
            yield samples.PNG
            self.storage.failing = ("save",)
            yield samples.GIF

        files = iter(giving())

        class Late:
            """Becomes the next file when it is read."""

            def __init__(self):
                self.file = None

            def seekable(self):
                return True

            def seek(self, place):
                self.file = self.file or io.BytesIO(next(files))
                return self.file.seek(place)

            def read(self, size=-1):
                return self.file.read(size)

        self.addCleanup(setattr, self.storage, "failing", ())
        with pytest.raises(ConnectionError):
            self.conversation.reply("Look", attachments=[Late(), Late()])
        assert self.files() == []
        assert not MessageAttachment.objects.exists()
        assert not Message.objects.exists()

    def test_what_went_wrong_first_is_what_is_told(self):
        with (
            self.failing("delete"),
            self.assertLogs("converse.attachments", "ERROR") as logs,
            pytest.raises(InvalidMessage, match="is empty"),
        ):
            self.conversation.reply("Look", attachments=[samples.PNG, b""])
        assert "could not be removed" in logs.output[0]
        with (
            patch.object(MessageAttachment, "delete", side_effect=AssertionError),
            patch.object(Message.objects.none().__class__, "delete", side_effect=AssertionError),
            patch("django.db.models.deletion.Collector.collect", side_effect=ConnectionError("gone")),
            self.assertLogs("converse.attachments", "ERROR") as logs,
            pytest.raises(InvalidMessage, match="is empty"),
        ):
            self.conversation.reply("Look", attachments=[samples.PNG, b""])
        assert "Attachments that were not sent could not be removed" in logs.output[0]

    def test_two_that_send_the_same_file_at_once_both_have_it(self):
        attachment = self.conversation.attach(samples.PNG)
        barrier = threading.Barrier(2)
        found = []

        def send():
            try:
                barrier.wait()
                found.append(self.conversation.create_message("user", "Look", attachments=[attachment.uuid]))
            finally:
                connection.close()

        threads = [threading.Thread(target=send) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rows = list(MessageAttachment.objects.all())
        assert {row.message for row in rows} == set(found)
        assert len({row.message for row in rows}) == 2
        assert self.files() == [attachment.file.name]


class ReadingTests(StorageTestCase, TestCase):
    backend = "tests.samples.UnreliableStorage"

    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()

    def test_prompts_get_the_bytes_in_one_query(self):
        files = [self.conversation.attach(data) for data in (samples.PNG, samples.PDF)]
        foreign = Conversation.objects.start().attach(samples.GIF)
        uuids = [str(attachment.uuid) for attachment in (*files, foreign)]
        with self.assertNumQueries(1):
            found = attachments.read(uuids, self.conversation.pk)
        assert found == {
            uuids[0]: File(name="image.png", mime_type="image/png", data=samples.PNG),
            uuids[1]: File(name="document.pdf", mime_type="application/pdf", data=samples.PDF),
        }

    def test_a_file_that_is_gone_is_left_out(self):
        attachment = self.conversation.attach(samples.PNG)
        self.storage.delete(attachment.file.name)
        with self.assertLogs("converse.attachments", "WARNING") as logs:
            assert attachments.read([str(attachment.uuid)], self.conversation.pk) == {}
        assert str(attachment.uuid) in logs.output[0]

    def test_a_storage_that_is_away_is_not_a_file_that_is_gone(self):
        attachment = self.conversation.attach(samples.PNG)
        with patch.object(self.storage, "failing", ("open",)), pytest.raises(ConnectionError):
            attachments.read([str(attachment.uuid)], self.conversation.pk)


class KeepingTests(StorageTestCase, TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()

    def test_a_providers_file_is_kept_whatever_it_is(self):
        message = self.conversation.start_streaming_assistant()
        with override_settings(CONVERSE_ATTACHMENT_LIMIT=1, CONVERSE_ATTACHMENT_TYPES=[], CONVERSE_ATTACHMENT_COUNT=0):
            kept = attachments.keep(message, FileDelta(data=samples.SVG, mime_type="image/svg+xml", name="a/b.svg"))
        attachment = message.attachments.get()
        assert kept == StoredFile(
            attachment=str(attachment.uuid), name="b.svg", mime_type="image/svg+xml", size=len(samples.SVG)
        )
        assert bytes_of(attachment) == samples.SVG
        assert attachment.conversation == self.conversation

    async def test_it_becomes_a_part_of_the_reply(self):
        async with self.conversation.astream_reply() as stream:
            await stream.aappend("Here:")
            kept = await attachments.akeep(stream.message, FileDelta(data=samples.PNG, mime_type="image/png"))
            await stream.aappend(kept)
        attachment = await stream.message.attachments.aget()
        assert stream.message.parts == [{"type": "text", "text": "Here:"}, attachments.part_of(attachment)]
        assert stream.message.content == "Here:"

    def test_a_message_closed_meanwhile_gets_none(self):
        message = self.conversation.start_streaming_assistant()
        message.stop()
        with pytest.raises(MessageClosed):
            attachments.keep(message, FileDelta(data=samples.PNG, mime_type="image/png"))
        message.purge()
        with pytest.raises(MessageClosed):
            attachments.keep(message, FileDelta(data=samples.PNG, mime_type="image/png"))
        assert self.files() == []


class ProviderTests(StorageTestCase, TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()

    async def test_a_provider_gets_the_bytes_of_what_was_sent_and_of_what_it_made(self):
        sent = File(name="notes.txt", mime_type="text/plain", data=b"Draw a cat")
        made = File(name="cat.png", mime_type="image/png", data=samples.PNG)
        with scripted(
            ["Here: ", FileDelta(data=samples.PNG, mime_type="image/png", name="cat.png")], ["Yes."]
        ) as script:
            notes = await self.conversation.aattach(b"Draw a cat", "notes.txt")
            reply = await self.conversation.aask("Read this", attachments=[notes])
            await self.conversation.aask("Is it a cat?")
        assert [part["type"] for part in reply.parts] == ["text", "file"]
        assert reply.content == "Here: "
        assert await reply.attachments.aget() == await MessageAttachment.objects.exclude(pk=notes.pk).aget()
        asked, answered, _ = script.prompts[1].messages
        assert list(asked.parts) == [Text("Read this"), sent]
        assert list(answered.parts) == [Text("Here: "), made]

    async def test_a_file_that_is_gone_does_not_end_the_conversation(self):
        with scripted(["A cat."], ["Still a cat."]) as script:
            reply = await self.conversation.aask("What is it?", attachments=[samples.PNG])
            attachment = await reply.reply_to.attachments.aget()
            await sync_to_async(self.storage.delete)(attachment.file.name)
            with self.assertLogs("converse.attachments", "WARNING"):
                again = await self.conversation.aask("Really?")
        assert again.is_completed
        assert not any(isinstance(part, File) for message in script.prompts[1].messages for part in message.parts)

    async def test_a_storage_that_is_away_fails_the_reply_and_keeps_its_words(self):
        with (
            scripted(["Here: ", FileDelta(data=samples.PNG, mime_type="image/png")]),
            patch.object(self.storage, "save", side_effect=ConnectionError("The storage is away.")),
            self.assertLogs("converse", "WARNING"),
        ):
            reply = await self.conversation.aask("Draw")
        assert (reply.status, reply.content) == ("failed", "Here: ")
        assert "The storage is away." in reply.error_detail


class SlowStorageTests(StorageTestCase, TransactionTestCase):
    def test_a_slow_storage_holds_up_no_stream(self):
        message = Conversation.objects.start().start_streaming_assistant()
        saving, go_on = threading.Event(), threading.Event()
        save = self.storage.save

        def slow(name, content):
            saving.set()
            assert go_on.wait(20)
            return save(name, content)

        async def main():
            delta = FileDelta(data=samples.PNG, mime_type="image/png")
            keeping = asyncio.ensure_future(attachments.akeep(message, delta))
            await sync_to_async(saving.wait, thread_sensitive=False)(20)
            thread = journal.current().thread
            await thread.run(message.append_chunk, "Meanwhile")
            await thread.run(connections.close_all)
            go_on.set()
            return await keeping

        with patch.object(self.storage, "save", slow):
            kept = asyncio.run(main())
        assert message.text == "Meanwhile"
        assert str(message.attachments.get().uuid) == kept.attachment


class RemovingTests(StorageTestCase, TransactionTestCase):
    backend = "tests.samples.UnreliableStorage"

    def setUp(self):
        super().setUp()
        self.conversation = Conversation.objects.start()

    def sent(self, *files):
        return self.conversation.create_message("user", "Look", attachments=list(files) or [samples.PNG])

    def test_what_is_removed_for_good_takes_its_files_along(self):
        kept = self.conversation.attach(samples.GIF)
        self.sent().purge()
        assert self.files() == [kept.file.name]
        self.sent()
        Message.objects.filter(conversation=self.conversation).purge()
        assert self.files() == [kept.file.name]
        self.sent()
        self.conversation.purge()
        assert self.files() == []
        self.conversation = Conversation.objects.start()
        self.sent(samples.PNG, samples.GIF)
        Conversation.objects.all().purge()
        assert self.files() == []

    def test_what_is_hidden_keeps_them(self):
        message = self.sent()
        message.delete()
        self.conversation.delete()
        assert len(self.files()) == 1
        self.conversation.restore()
        message.restore()
        assert bytes_of(message.attachments.get()) == samples.PNG

    def test_they_stay_when_the_removal_is_rolled_back(self):
        message = self.sent()
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            message.purge()
            raise ZeroDivisionError
        assert len(self.files()) == 1
        assert bytes_of(message.attachments.get()) == samples.PNG

    def test_a_shared_file_goes_with_the_last_that_has_it(self):
        first = self.sent()
        second = self.sent(first.attachments.get())
        first.purge()
        assert bytes_of(second.attachments.get()) == samples.PNG
        second.purge()
        assert self.files() == []

    def test_copies_share_the_files_of_their_originals(self):
        original = self.sent(samples.PNG, samples.GIF)
        other = self.conversation.create_message("user", "Look", attachments=[samples.PDF])
        fork = Conversation.objects.start()
        with writing(fork.pk) as log:
            copy = Message(conversation=fork, role="user", parts=original.parts, **log.place())
            rows = attachments.share([original], [copy])
            copy.save()
            attachments.settle(rows)
        assert [UUID(part["attachment"]) for part in copy.parts[1:]] == [row.uuid for row in copy.attachments.all()]
        assert [part["name"] for part in copy.parts[1:]] == ["image.png", "image.gif"]
        assert {row.conversation for row in copy.attachments.all()} == {fork}
        assert not set(copy.attachments.all()) & set(original.attachments.all())
        self.conversation.purge()
        assert [bytes_of(row) for row in copy.attachments.all()] == [samples.PNG, samples.GIF]
        assert not MessageAttachment.objects.filter(message=other).exists()
        fork.purge()
        assert self.files() == []

    def test_a_row_that_has_no_file_can_be_removed(self):
        self.conversation.attachments.create(name="lost", mime_type="text/plain", size=0)
        self.conversation.purge()
        assert not MessageAttachment.objects.exists()

    def test_a_storage_that_is_away_does_not_keep_the_row(self):
        message = self.sent()
        with (
            patch.object(self.storage, "failing", ("delete",)),
            self.assertLogs("converse.attachments", "ERROR") as logs,
        ):
            message.purge()
        assert self.files()[0] in logs.output[0]
        assert not MessageAttachment.objects.exists()


class PruningTests(StorageTestCase, TransactionTestCase):
    def setUp(self):
        super().setUp()
        self.conversation = Conversation.objects.start()

    def prune(self, **options):
        said = StringIO()
        call_command("converse_prune", days=30, stdout=said, **options)
        return said.getvalue()

    def aged(self, days, **fields):
        attachment = self.conversation.attach(samples.PNG)
        created = timezone.now() - timedelta(days=days)
        MessageAttachment.objects.filter(pk=attachment.pk).update(created_at=created, **fields)
        return attachment

    def test_what_nobody_sent_within_a_day_goes(self):
        young = self.aged(0.9)
        sent = self.aged(9, message=self.conversation.create_message("user", "Look"))
        self.aged(1.1)
        self.aged(9)
        dry = self.prune(dry_run=True)
        assert dry == "Would remove 0 conversations and 2 attachments that were never sent.\n"
        assert len(self.files()) == 4
        said = self.prune(chunks=True)
        assert said == "Removed 0 conversations, 2 attachments that were never sent and 0 chunks of others.\n"
        assert set(MessageAttachment.objects.all()) == {young, sent}
        assert set(self.files()) == {young.file.name, sent.file.name}
        assert self.prune() == "Removed 0 conversations.\n"

    def test_stray_files_go_when_asked_and_nothing_else(self):
        kept = self.aged(0)
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            stray = self.conversation.attach(samples.GIF).file.name
            raise ZeroDivisionError
        alien = "converse-attachments/ab/notes.txt"
        self.storage.save(alien, io.BytesIO(b"mine"))
        assert self.prune(files=True) == "Removed 0 conversations and 0 stray files.\n"  # young ones may get their row
        assert list(stray_files(timezone.now() + timedelta(1))) == [stray]
        with patch("django.utils.timezone.now", return_value=timezone.now() + timedelta(days=1.1)):
            assert "Would remove 0 conversations, 1 attachments that were never sent and 1 stray files." in self.prune(
                files=True, dry_run=True
            )
        sent = self.conversation.create_message("user", "Look", attachments=[kept])
        with patch("django.utils.timezone.now", return_value=timezone.now() + timedelta(days=1.1)):
            assert self.prune(files=True) == "Removed 0 conversations and 1 stray files.\n"
        assert set(self.files()) == {sent.attachments.get().file.name, alien}

    def test_an_empty_storage_has_no_stray_files(self):
        assert self.prune(files=True) == "Removed 0 conversations and 0 stray files.\n"

    def test_a_storage_that_lists_nothing_says_so(self):
        with (
            override_settings(STORAGES=REMOTE, CONVERSE_ATTACHMENT_STORAGE="default"),
            pytest.raises(CommandError, match="CONVERSE_ATTACHMENT_STORAGE cannot list its files"),
        ):
            self.prune(files=True)
