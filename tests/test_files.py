from __future__ import annotations

import gzip
import io
import os
import tempfile
from hashlib import sha256
from pathlib import Path

import pytest
from django.core.files.base import ContentFile, File
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import SimpleTestCase, override_settings

from converse.conf import Settings
from converse.exceptions import InvalidMessage
from converse.files import CERTAIN, PLACE, clean, examine, examine_made, kind_of, opened, place
from tests import samples


def examined(file, name="", mime_type=""):
    with opened(file) as content:
        return examine(content, name, mime_type)


def type_of(data, name="", mime_type=""):
    return examined(data, name, mime_type).mime_type


def refused(file, name="", mime_type=""):
    """Give the field that is to blame, and why."""
    with pytest.raises(InvalidMessage) as caught:
        examined(file, name, mime_type)
    return f"{caught.value.field}: {caught.value.reason}"


ANY = override_settings(CONVERSE_ATTACHMENT_TYPES=[*Settings.CONVERSE_ATTACHMENT_TYPES, *sorted(CERTAIN)])


class TypeTests(SimpleTestCase):
    SAMPLES = (
        ("image/png", samples.PNG),
        ("image/jpeg", samples.JPEG),
        ("image/gif", samples.GIF),
        ("image/webp", samples.WEBP),
        ("application/pdf", samples.PDF),
        ("audio/mpeg", samples.MP3),
        ("audio/mpeg", samples.TAGGED_MP3),
        ("audio/wav", samples.WAV),
        ("audio/ogg", samples.OGG),
        ("audio/mp4", samples.M4A),
        ("video/mp4", samples.MP4),
        ("video/webm", samples.WEBM),
        ("audio/flac", samples.FLAC),
        ("image/avif", samples.AVIF),
        ("image/heic", samples.HEIC),
    )

    def test_the_content_says_what_a_file_is(self):
        with ANY:
            for mime_type, data in self.SAMPLES:
                assert type_of(data) == mime_type
                assert type_of(data, "notes.txt", "text/plain") == mime_type
                assert type_of(data, "page.html", "text/html") == mime_type

    def test_of_a_container_the_sender_says_what_is_in_it(self):
        with ANY:
            assert type_of(samples.MP4, "talk.m4a") == "audio/mp4"
            assert type_of(samples.MP4, mime_type="audio/x-m4a") == "audio/mp4"
            assert type_of(samples.OGG, "film.ogv") == "video/ogg"
            assert type_of(samples.WEBM, mime_type="audio/webm;codecs=opus") == "audio/webm"
            assert type_of(samples.WEBM, mime_type="text/html") == "video/webm"

    def test_every_type_that_is_allowed_by_default_can_be_sent(self):
        sent = {type_of(data) for kind, data in self.SAMPLES if kind in Settings.CONVERSE_ATTACHMENT_TYPES}
        sent |= {type_of(b"a,b\n", name) for name in ("a.txt", "a.md", "a.csv")}
        assert sent == set(Settings.CONVERSE_ATTACHMENT_TYPES)

    def test_text_has_the_type_that_its_sender_or_its_name_says_where_that_is_allowed(self):
        assert type_of(b"Plain") == "text/plain"
        assert type_of(b"# Plan", "plan.md") == "text/markdown"
        assert type_of(b"# Plan", "plan.md", "application/octet-stream") == "text/markdown"
        assert type_of(b"a,b", "table", "text/csv; charset=utf-8") == "text/csv"
        assert type_of("Größe".encode(), "größe.txt") == "text/plain"

    def test_text_of_any_other_type_is_plain(self):
        assert type_of(b"import os", "run.py", "text/x-python") == "text/plain"
        assert type_of(b"{}", "data.json", "application/json") == "text/plain"
        assert type_of(samples.HTML, "page.html", "text/html") == "text/plain"
        with override_settings(CONVERSE_ATTACHMENT_TYPES=["application/json"]):
            assert type_of(b"{}", "data.json") == "application/json"

    def test_text_that_only_looks_like_something_else_is_text(self):
        for text in (b"ID3 tags name songs.\n", b"RIFF raff", b"BMW", b"PNG\n", b"\xef\xbb\xbfwith a mark", b"%PDF"):
            assert type_of(text) == "text/plain", text

    def test_a_picture_that_can_hold_scripts_is_not_taken(self):
        assert refused(samples.SVG, "x.svg").startswith(
            "mime_type: image/svg+xml is not among the types that CONVERSE_ATTACHMENT_TYPES allows: image/"
        )
        assert refused(samples.SVG, "x.png", "image/svg+xml").startswith("mime_type: image/svg+xml is not")

    def test_content_that_is_not_what_its_sender_says_is_refused(self):
        assert (
            refused(samples.SVG, "x.png") == "mime_type: is said to be image/png, but the file does not begin like one"
        )
        assert "application/pdf" in refused(b"\n" + samples.PDF, "x.pdf")
        assert "image/jpeg" in refused(samples.ZIP, mime_type="image/jpg")
        assert (
            refused(b"\xe4\xf6\xfc", "x.txt") == "mime_type: is said to be text, but is not in UTF-8: save it as such"
        )
        assert "UTF-8" in refused("hello".encode("utf-16"), "x.csv")
        assert "UTF-8" in refused(b"a\0b", "x.txt")
        assert "UTF-8" in refused(b"cut off: \xc3", "x.txt")

    def test_what_nobody_knows_is_refused_unless_it_is_allowed(self):
        assert refused(samples.ZIP).startswith("mime_type: application/octet-stream is not")
        assert refused(samples.ZIP, "x.zip").startswith("mime_type: application/zip is not")
        assert refused(samples.ZIP, mime_type='a/b"\r\nX: y').startswith("mime_type: application/octet-stream is not")
        with override_settings(CONVERSE_ATTACHMENT_TYPES=["application/zip"]):
            assert type_of(samples.ZIP, "x.zip") == "application/zip"
            assert refused(samples.PNG).endswith("the types that CONVERSE_ATTACHMENT_TYPES allows: application/zip")
        with override_settings(CONVERSE_ATTACHMENT_TYPES=[]):
            assert refused(b"text").endswith("the types that CONVERSE_ATTACHMENT_TYPES allows: none")

    def test_a_file_of_two_types_has_the_one_it_begins_with(self):
        assert type_of(b"GIF89a/*" + samples.HTML + b"*/=1;", "x.html", "text/html") == "image/gif"
        assert type_of(samples.PDF + samples.HTML, "x.html") == "application/pdf"
        assert type_of(samples.JPEG + samples.ZIP, "x.jar", "application/java-archive") == "image/jpeg"

    def test_kinds(self):
        assert [kind_of(kind) for kind in ("image/png", "audio/wav", "video/mp4", "application/pdf", "text/csv")] == [
            "image",
            "audio",
            "video",
            "document",
            "document",
        ]


class ReadingTests(SimpleTestCase):
    def test_everything_that_holds_bytes_is_taken(self):
        text = b"Hello " * 20_000
        with tempfile.NamedTemporaryFile(suffix=".txt") as named:
            named.write(text)
            named.flush()
            reader, writer = os.pipe()
            with os.fdopen(reader, "rb") as pipe:
                os.write(writer, text[:60_000])
                os.close(writer)
                piped = examined(pipe)
            for file in (
                text,
                bytearray(text),
                memoryview(text),
                io.BytesIO(text),
                ContentFile(text, name="a.txt"),
                SimpleUploadedFile("a.txt", text),
                named,  # which stands at its end
                gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(text))),
            ):
                found = examined(file)
                assert found[1:] == ("text/plain", len(text), sha256(text).hexdigest())
            with Path(named.name).open("rb") as file:
                assert examined(File(file)).name == Path(named.name).name
        assert (piped.name, piped.size) == ("document.txt", 60_000)

    def test_what_is_read_once_only_is_not_read_far_beyond_the_limit(self):
        class Endless:
            given = 0

            def read(self, size):
                self.given += size
                return b"x" * size

        endless = Endless()
        with override_settings(CONVERSE_ATTACHMENT_LIMIT=100_000):
            assert refused(endless) == "size: a file may be 100000 bytes, and this one is larger"
        assert endless.given < 300_000

    def test_a_path_and_a_text_file_are_not_taken(self):
        for path in ("/etc/passwd", __file__, 5, None, ["a"]):
            assert refused(path).startswith("file: must be bytes or a file opened with open(path, 'rb'), not ")
        for text in (io.StringIO("text"), ContentFile("text")):
            assert refused(text) == "file: must be opened for reading bytes: open(path, 'rb')"

    def test_an_empty_file_is_refused(self):
        assert refused(b"") == "file: is empty"

    def test_the_limit_is_that_of_the_bytes_read_whatever_the_sender_says(self):
        upload = SimpleUploadedFile("a.txt", b"x" * 101)
        upload.size = 1
        with override_settings(CONVERSE_ATTACHMENT_LIMIT=100):
            assert examined(b"x" * 100).size == 100
            assert refused(upload) == "size: a file may be 100 bytes, and this one is larger"

    def test_text_cut_between_two_blocks_is_text(self):
        assert type_of(b"x" * 65_535 + "ß".encode() + b"x") == "text/plain"
        assert "UTF-8" in refused(b"x" * 65_536 + b"\xff", "x.txt")


class NameTests(SimpleTestCase):
    def test_a_name_has_no_path_and_nothing_that_deceives(self):
        for name, cleaned in (
            ("plan.pdf", "plan.pdf"),
            ("../../etc/passwd", "passwd"),
            ("..\\..\\boot.ini", "boot.ini"),
            ("C:\\plans\\my plan.pdf", "my plan.pdf"),
            ('a"; filename="b.exe', 'a"; filename="b.exe'),
            ("a\r\nSet-Cookie: x=y", "a Set-Cookie: x=y"),
            ("a\0b\x1b[31m.txt", "a b [31m.txt"),
            ("invoice\u202efdp.exe", "invoice fdp.exe"),
            ("a\u2028b\ud800.txt", "a b .txt"),
            (".htaccess", "htaccess"),
            ("a.txt. . ", "a.txt"),
            ("Gro\u0308\u00dfe.txt", "Gr\u00f6\u00dfe.txt"),
            ("..", ""),
            ("/", ""),
            ("", ""),
        ):
            assert clean(name) == cleaned, name

    def test_a_long_name_keeps_its_ending(self):
        assert clean("x" * 300 + ".pdf") == "x" * 251 + ".pdf"
        assert clean("x" * 300) == "x" * 255
        assert clean("x." + "y" * 300) == ("x." + "y" * 300)[:255]

    def test_a_file_without_a_name_is_called_by_its_kind(self):
        assert examined(samples.PNG).name == "image.png"
        assert examined(samples.PDF, "../..").name == "document.pdf"
        assert examined(SimpleUploadedFile("a.txt", b"text"), "b.txt").name == "b.txt"

    def test_no_place_can_be_guessed(self):
        places = {place() for _ in range(100)}
        assert len(places) == 100
        assert all(PLACE.fullmatch(name) for name in places)


class MadeTests(SimpleTestCase):
    def test_a_providers_file_is_what_it_is_or_what_the_provider_says(self):
        for data, said, found in (
            (samples.PNG, "image/png", "image/png"),
            (samples.PNG, "image/jpeg", "image/png"),
            (samples.MP4, "audio/mp4", "audio/mp4"),
            (samples.HTML, "text/html", "text/html"),
            (samples.SVG, "image/svg+xml", "image/svg+xml"),
            (samples.ZIP, "application/zip", "application/zip"),
            (samples.HTML, "image/png", "application/octet-stream"),
            (b"", "", "application/octet-stream"),
            (b"x", 'text/html"\r\n', "application/octet-stream"),
        ):
            assert examine_made(data, "", said).mime_type == found, said

    def test_it_is_kept_whatever_its_size_and_type(self):
        with override_settings(CONVERSE_ATTACHMENT_LIMIT=1, CONVERSE_ATTACHMENT_TYPES=[]):
            assert examine_made(samples.PNG, "../chart.png", "image/png") == (
                "chart.png",
                "image/png",
                len(samples.PNG),
                sha256(samples.PNG).hexdigest(),
            )
        assert examine_made(samples.PNG).name == "image.png"
