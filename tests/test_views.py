from __future__ import annotations

from unittest.mock import patch
from uuid import uuid4

import psutil
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.asgi import get_asgi_application
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import AsyncClient, Client, TestCase, TransactionTestCase, override_settings
from django.urls import reverse

from converse.cursors import write_cursor
from converse.models import Conversation, MessageAttachment
from tests import samples
from tests.readers import Assembled
from tests.samples import StorageTestCase

NOT_FOUND = {
    "title": "Not Found",
    "status": 404,
    "detail": "There is no such conversation.",
    "code": "not_found",
}
NO_FILE = {**NOT_FOUND, "detail": "There is no such file."}


class LogTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.user = get_user_model().objects.create_user("ada")
        cls.conversation = Conversation.objects.start(cls.user, title="Plans")
        cls.url = reverse("converse:log", args=[cls.conversation.uuid])

    async def test_a_client_that_polls_assembles_what_is_stored(self):
        await self.async_client.aforce_login(self.user)
        reader = Assembled()
        response = await self.async_client.get(self.url)
        reader.apply(response.json()["event"], response.json()["data"])
        async with self.conversation.astream_reply() as stream:
            for word in ("Once ", "upon ", "a time"):
                await stream.aappend(word)
                await stream.adrain()
                response = await self.async_client.get(self.url, {"after": reader.offset, "epoch": reader.epoch})
                reader.apply(response.json()["event"], response.json()["data"])
        assert reader.texts[str(stream.message.uuid)] == "Once upon a time"
        assert reader.snapshots == 1
        assert "no-store" in response.headers["Cache-Control"]

    async def test_a_cursor_is_taken_as_streams_write_it_too(self):
        await self.async_client.aforce_login(self.user)
        epoch, head = self.conversation.epoch, self.conversation.last_offset
        for after, name in ((write_cursor(head, epoch), "Replay"), (write_cursor(head, "0" * 8), "Snapshot")):
            told = (await self.async_client.get(self.url, {"after": after})).json()
            assert (told["event"], told["data"]["offset"]) == (name, head)

    async def test_a_cursor_of_another_epoch_gets_a_snapshot(self):
        await self.async_client.aforce_login(self.user)
        response = await self.async_client.get(self.url, {"after": 1, "epoch": "other"})
        assert response.json()["event"] == "Snapshot"

    async def test_a_foreign_and_a_missing_conversation_look_the_same(self):
        stranger = await get_user_model().objects.acreate_user("eve")
        foreign = await self.async_client.get(self.url)
        await self.async_client.aforce_login(stranger)
        refused = await self.async_client.get(self.url)
        missing = await self.async_client.get(reverse("converse:log", args=[uuid4()]))
        assert foreign.status_code == refused.status_code == missing.status_code == 404
        assert foreign.json() == refused.json() == missing.json() == NOT_FOUND

    async def test_a_cursor_that_is_none_is_named(self):
        await self.async_client.aforce_login(self.user)
        for after in ("x", "-1", "", "١", "9" * 5000):
            response = await self.async_client.get(self.url, {"after": after})
            assert (response.status_code, response.json()["field"]) == (400, "after")
        assert (await self.async_client.post(self.url)).status_code == 405

    async def test_requests_may_be_transactions(self):
        await self.async_client.aforce_login(self.user)
        with patch.dict(settings.DATABASES["default"], {"ATOMIC_REQUESTS": True}):
            assert (await self.async_client.get(self.url)).status_code == 200

    async def test_a_conversation_purged_between_the_check_and_the_reading_is_missing(self):
        await self.async_client.aforce_login(self.user)
        with self.settings(CONVERSE_AUTHORIZE="tests.test_views.purging_rule"):
            assert (await self.async_client.get(self.url)).status_code == 404


def purging_rule(user, action, conversation):
    """Purge the conversation in the moment between the permission and the reading."""
    conversation.purge()
    return True


def upload(name="cat.png", content=samples.PNG, mime_type="application/octet-stream"):
    return SimpleUploadedFile(name, content, mime_type)


class UploadTests(StorageTestCase, TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.user = get_user_model().objects.create_user("ada")
        cls.conversation = Conversation.objects.start(cls.user)
        cls.url = reverse("converse:attachments", args=[cls.conversation.uuid])

    def setUp(self):
        super().setUp()
        self.client.force_login(self.user)

    def problem(self, *files, **headers):
        response = self.client.post(self.url, {"file": list(files)}, headers=headers)
        assert not MessageAttachment.objects.exists()
        assert self.files() == []
        return response.status_code, response.json()["code"], response.json().get("field")

    def test_a_client_uploads_a_file_and_sends_it(self):
        response = self.client.post(self.url, {"file": upload()})
        assert response.status_code == 201
        attachment = MessageAttachment.objects.get()
        assert response.json() == {
            "attachment": str(attachment.uuid),
            "name": "cat.png",
            "mimeType": "image/png",
            "size": len(samples.PNG),
        }
        assert response.headers["Location"] == f"{self.url}{attachment.uuid}/"
        assert (attachment.conversation, attachment.message) == (self.conversation, None)
        reply = self.conversation.ask("Look", attachments=[response.json()["attachment"]])
        assert reply.reply_to.attachments.get() == attachment
        got = self.client.get(response.headers["Location"])
        assert got.getvalue() == samples.PNG

    async def test_it_can_be_uploaded_to_an_asynchronous_server(self):
        await self.async_client.aforce_login(self.user)
        response = await self.async_client.post(self.url, {"file": upload()})
        assert response.status_code == 201

    def test_what_is_wrong_is_named(self):
        assert self.problem() == (400, "invalid", "file")
        assert self.problem(upload(), upload()) == (400, "invalid", "file")
        assert self.problem(upload(content=b"")) == (400, "invalid", "file")
        assert self.problem(upload("x.svg", samples.SVG)) == (415, "type", "file")
        assert self.problem(upload("x.png", samples.HTML)) == (415, "type", "file")
        with override_settings(CONVERSE_ATTACHMENT_LIMIT=30):
            assert self.problem(upload()) == (413, "too_large", "file")
        with override_settings(CONVERSE_ATTACHMENT_COUNT=0):
            assert self.problem(upload()) == (400, "invalid", "file")
        assert self.client.post(self.url, b"{}", content_type="application/json").status_code == 400
        assert self.client.get(self.url).status_code == 405

    def test_a_name_cannot_leave_the_storage_or_the_header(self):
        for name in ("../../../tmp/x.png", "..\\x.png", "/etc/x.png"):
            response = self.client.post(self.url, {"file": upload(name)})
            assert response.json()["name"] == "x.png"
        assert all(name.startswith("converse-attachments/") for name in self.files())

    def test_a_huge_body_is_refused_before_it_is_read(self):
        with override_settings(CONVERSE_ATTACHMENT_LIMIT=1000), patch("django.http.HttpRequest.read") as read:
            response = self.client.post(self.url, {"file": upload(content=samples.PNG * 500)})
        assert (response.status_code, response.json()["field"]) == (413, "file")
        assert not read.called

    def test_a_stranger_cannot_make_the_server_read(self):
        for name, found in (("eve", self.conversation.uuid), ("ada", uuid4())):
            user, _ = get_user_model().objects.get_or_create(username=name)
            self.client.force_login(user)
            with patch("django.http.HttpRequest.read") as read:
                response = self.client.post(reverse("converse:attachments", args=[found]), {"file": upload()})
            assert (response.status_code, response.json()) == (404, NOT_FOUND)
            assert not read.called
        self.client.logout()
        assert self.problem(upload()) == (404, "not_found", None)

    def test_who_may_only_read_uploads_nothing(self):
        reader = get_user_model().objects.create_user("bob")
        self.conversation.share_with(reader, "read")
        self.client.force_login(reader)
        assert self.problem(upload()) == (404, "not_found", None)
        self.conversation.share_with(reader, "write")
        assert self.client.post(self.url, {"file": upload()}).status_code == 201

    def test_another_site_cannot_upload_in_a_users_name(self):
        client = Client(enforce_csrf_checks=True)
        client.force_login(self.user)
        assert client.post(self.url, {"file": upload()}).json()["code"] == "csrf"
        client.cookies["csrftoken"] = token = "a" * 32
        response = client.post(self.url, {"file": upload()}, headers={"X-CSRFToken": token})
        assert response.status_code == 201


class DownloadTests(StorageTestCase, TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.user = get_user_model().objects.create_user("ada")
        cls.conversation = Conversation.objects.start(cls.user)

    def setUp(self):
        super().setUp()
        self.client.force_login(self.user)

    def sent(self, content=samples.PNG, name="cat.png", **fields):
        attachment = self.conversation.attach(content, name)
        self.conversation.create_message("user", "Look", attachments=[attachment])
        for field, value in fields.items():
            setattr(attachment, field, value)
        attachment.save(update_fields=fields)
        return attachment

    def url(self, attachment, conversation=None):
        return reverse("converse:attachment", args=[(conversation or self.conversation).uuid, attachment.uuid])

    def get(self, attachment, query="", **headers):
        return self.client.get(self.url(attachment) + query, headers=headers)

    def missing(self, attachment, conversation=None, client=None):
        response = (client or self.client).get(self.url(attachment, conversation))
        return (response.status_code, response.json()) == (404, NO_FILE)

    def test_a_file_is_saved_and_not_shown(self):
        response = self.get(self.sent())
        assert response.getvalue() == samples.PNG
        assert response.status_code == 200
        headers = response.headers
        assert headers["Content-Type"] == "image/png"
        assert headers["Content-Length"] == str(len(samples.PNG))
        assert headers["Content-Disposition"] == 'attachment; filename="cat.png"'
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
        assert headers["Cache-Control"] == "private, no-cache"
        assert "Cookie" in headers["Vary"]

    def test_pictures_sound_and_pdfs_may_be_shown(self):
        for content in (samples.PNG, samples.MP3, samples.PDF):
            response = self.get(self.sent(content), "?inline")
            assert response.getvalue() == content
            assert response.headers["Content-Disposition"] == 'inline; filename="cat.png"'
            sandboxed = "sandbox" in response.headers.get("Content-Security-Policy", "")
            assert sandboxed == (content != samples.PDF)
            framed = response.headers.get("X-Frame-Options") == "SAMEORIGIN"
            assert framed == (content == samples.PDF)

    def test_what_could_be_a_page_is_never_shown(self):
        for mime_type in ("text/html", "image/svg+xml", "text/plain", "application/xhtml+xml", "text/xml"):
            response = self.get(self.sent(b"text", "page", mime_type=mime_type), "?inline=1")
            response.getvalue()
            assert response.headers["Content-Disposition"].startswith("attachment")
            assert response.headers["Content-Security-Policy"].startswith("sandbox")

    def test_text_is_in_utf_8(self):
        response = self.get(self.sent("Größe".encode(), "größe.txt"))
        assert response.getvalue().decode() == "Größe"
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert response.headers["Content-Disposition"] == "attachment; filename*=utf-8''gr%C3%B6%C3%9Fe.txt"

    def test_no_name_breaks_out_of_its_header(self):
        for name, told in (
            ('a"; filename="b.exe', 'attachment; filename="a\\"; filename=\\"b.exe"'),
            ("a\r\nX-Evil: 1", "attachment; filename*=utf-8''a%0D%0AX-Evil%3A%201"),
            ("", "attachment"),
        ):
            attachment = self.sent()
            MessageAttachment.objects.filter(pk=attachment.pk).update(name=name)
            response = self.get(attachment)
            response.getvalue()
            assert response.headers["Content-Disposition"] == told
            assert "X-Evil" not in response.headers

    async def test_it_is_streamed_by_an_asynchronous_server(self):
        content = b"x" * 200_000
        attachment = await self.conversation.aattach(content, "long.txt")
        await self.async_client.aforce_login(self.user)
        response = await self.async_client.get(self.url(attachment))
        assert response.is_async
        assert [len(block) async for block in response.streaming_content] == [65_536, 65_536, 65_536, 3_392]
        response = await self.async_client.get(self.url(attachment), headers={"Range": "bytes=199990-"})
        assert b"".join([block async for block in response.streaming_content]) == b"x" * 10

    def test_a_long_one_is_streamed_in_blocks(self):
        response = self.get(self.sent(b"x" * 200_000, "long.txt"))
        assert [len(block) for block in response.streaming_content] == [65_536, 65_536, 65_536, 3_392]

    def test_head_tells_all_but_the_bytes(self):
        attachment = self.sent()
        response = self.client.head(self.url(attachment))
        assert (response.status_code, response.content) == (200, b"")
        got = self.get(attachment)
        got.getvalue()
        assert dict(response.headers) == dict(got.headers)
        response = self.client.head(self.url(attachment), headers={"Range": "bytes=0-9"})
        assert (response.status_code, response.headers["Content-Length"]) == (206, "10")

    def test_who_has_it_already_gets_it_not_again(self):
        attachment = self.sent()
        etag = f'"{attachment.checksum}"'
        for tags in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            response = self.get(attachment, if_none_match=tags)
            assert (response.status_code, response.content) == (304, b"")
            assert response.headers["ETag"] == etag
            assert response.headers["Cache-Control"] == "private, no-cache"
        response = self.get(attachment, if_none_match='"other"')
        assert response.getvalue() == samples.PNG
        assert self.get(attachment, if_match='"other"').status_code == 412

    def test_a_part_of_it_can_be_had(self):
        attachment = self.sent(b"0123456789", "digits.txt")
        etag = f'"{attachment.checksum}"'
        for wanted, content, told in (
            ("bytes=0-0", b"0", "bytes 0-0/10"),
            ("bytes=3-5", b"345", "bytes 3-5/10"),
            ("bytes=7-", b"789", "bytes 7-9/10"),
            ("bytes=7-99", b"789", "bytes 7-9/10"),
            ("bytes=-3", b"789", "bytes 7-9/10"),
        ):
            for extra in ({}, {"if_range": etag}):
                response = self.get(attachment, range=wanted, **extra)
                assert (response.status_code, response.getvalue()) == (206, content), wanted
                assert response.headers["Content-Range"] == told
                assert response.headers["Content-Length"] == str(len(content))
        for wanted in ("bytes=0-9", "bytes=0-", "bytes=-99", "bytes=-", "bytes=0-1,3-4", "lines=0-1", "bytes=x-1"):
            response = self.get(attachment, range=wanted)
            assert (response.status_code, response.getvalue()) == (200, b"0123456789"), wanted
            assert "Content-Range" not in response.headers
        response = self.get(attachment, range="bytes=3-5", if_range='"other"')
        assert (response.status_code, response.getvalue()) == (200, b"0123456789")
        for wanted in ("bytes=10-", "bytes=5-3", "bytes=-0", "bytes=99999999999-"):
            response = self.get(attachment, range=wanted)
            assert (response.status_code, response.content) == (416, b""), wanted
            assert response.headers["Content-Range"] == "bytes */10"

    def test_an_empty_file_of_a_provider_is_empty(self):
        attachment = self.sent()
        attachment.file.save("", SimpleUploadedFile("x", b""), save=False)
        attachment.size = 0
        attachment.save()
        response = self.get(attachment)
        assert (response.status_code, response.getvalue(), response.headers["Content-Length"]) == (200, b"", "0")

    def test_foreign_and_missing_look_the_same(self):
        attachment = self.sent()
        other = Conversation.objects.start(self.user)
        assert self.missing(attachment, other)
        assert self.missing(MessageAttachment())
        assert self.missing(attachment, Conversation())
        eve = Client()
        assert self.missing(attachment, client=eve)
        eve.force_login(get_user_model().objects.create_user("eve"))
        assert self.missing(attachment, client=eve)
        assert eve.get(self.url(attachment), headers={"If-None-Match": "*"}).status_code == 404
        assert self.client.post(self.url(attachment)).status_code == 405

    def test_revoked_means_cut_off(self):
        attachment = self.sent()
        bob = get_user_model().objects.create_user("bob")
        client = Client()
        client.force_login(bob)
        self.conversation.share_with(bob, "read")
        response = client.get(self.url(attachment))
        assert response.getvalue() == samples.PNG
        self.conversation.unshare_with(bob)
        assert client.get(self.url(attachment), headers={"If-None-Match": response["ETag"]}).status_code == 404

    def test_what_is_not_sent_yet_is_for_those_who_write(self):
        attachment = self.conversation.attach(samples.PNG)
        bob = get_user_model().objects.create_user("bob")
        client = Client()
        client.force_login(bob)
        self.conversation.share_with(bob, "read")
        assert self.missing(attachment, client=client)
        self.conversation.share_with(bob, "write")
        assert client.get(self.url(attachment)).getvalue() == samples.PNG

    def test_what_is_deleted_is_missing(self):
        attachment = self.sent()
        message = self.conversation.last_message
        message.delete()
        assert self.missing(attachment)
        message.restore()
        assert self.get(attachment).getvalue() == samples.PNG
        self.conversation.delete()
        assert self.missing(attachment)
        self.conversation.restore()
        self.storage.delete(attachment.file.name)
        assert self.missing(attachment)

    async def test_the_address_of_a_remote_storage_is_not_told(self):
        remote = {"default": {"BACKEND": "tests.samples.RemoteStorage"}}
        client = AsyncClient()
        await client.aforce_login(self.user)
        with override_settings(STORAGES=remote, CONVERSE_ATTACHMENT_STORAGE="default"):
            attachment = await self.conversation.aattach(samples.PNG)
            response = await client.get(self.url(attachment))
            assert b"".join([block async for block in response.streaming_content]) == samples.PNG
            assert attachment.file.name not in str(response.headers)


class LeavingTests(StorageTestCase, TransactionTestCase):
    def open_files(self):
        return [file.path for file in psutil.Process().open_files() if "converse-attachments" in file.path]

    async def test_a_reader_that_leaves_in_the_middle_leaves_no_file_open(self):
        user = await get_user_model().objects.acreate_user("ada")
        conversation = await Conversation.objects.astart(user)
        attachment = await conversation.aattach(b"x" * 19_000_000, "long.txt")
        await self.async_client.aforce_login(user)
        scope = {
            "type": "http",
            "method": "GET",
            "path": reverse("converse:attachment", args=[conversation.uuid, attachment.uuid]),
            "headers": [(b"host", b"testserver"), (b"cookie", self.async_client.cookies.output(header="").encode())],
        }
        reader = ApplicationCommunicator(get_asgi_application(), scope)
        await reader.send_input({"type": "http.request"})
        assert (await reader.receive_output(20))["status"] == 200
        assert len((await reader.receive_output(20))["body"]) == 65_536
        assert self.open_files()
        await reader.send_input({"type": "http.disconnect"})
        await reader.wait(20)
        assert reader.output_queue.qsize() < 250  # of 290 blocks: it did not go on to the end
        assert self.open_files() == []
