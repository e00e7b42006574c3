"""Files as small as their types allow, and storages that behave as remote ones do."""

from __future__ import annotations

import tempfile
from typing import Any

from django.core.files.storage import FileSystemStorage, InMemoryStorage, storages
from django.test import SimpleTestCase, override_settings

from converse.files import ROOT

PNG = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\6\0\0\0\x1f\x15\xc4\x89\0\0\0\rIDATx\x9cc\xf8\xcf\xc0\xf0\x1f"
    b"\0\5\0\1\xff\x89\x99=\x1d\0\0\0\0IEND\xaeB`\x82"
)
JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xd9"
GIF = b"GIF89a\1\0\1\0\0\0\0!\xf9\4\1\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"
WEBP = b"RIFF\x1a\0\0\0WEBPVP8L\r\0\0\0/\0\0\0\x10\x07\x10\x11\x11\x88\x88\xfe\x07\0"
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
MP3 = b"\xff\xfb\x90\x64" + bytes(413)
TAGGED_MP3 = b"ID3\4\0\0\0\0\0\0" + MP3
WAV = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x44\xac\0\0\x88\x58\1\0\2\0\x10\0data\0\0\0\0"
OGG = b"OggS\0\2" + bytes(22)
M4A = b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom"
MP4 = b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41"
WEBM = b"\x1aE\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1B\xf2\x81\4B\xf3\x81\x08B\x82\x84webmB\x87\x81\4"
FLAC = b"fLaC\0\0\0\x22" + bytes(34)
AVIF = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf"
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
ZIP = b"PK\3\4\x14\0\0\0\x08\0" + bytes(range(128, 160))
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'
HTML = b"<!doctype html><script>alert(1)</script>"


class RemoteStorage(InMemoryStorage):
    """Has no directories, and addresses that nobody may be told."""

    def url(self, name: str) -> str:
        raise AssertionError("The address of a file was asked for.")

    def listdir(self, path: str) -> Any:
        raise NotImplementedError("This backend doesn't support listing.")


class UnreliableStorage(FileSystemStorage):
    """Fails in what it is told to fail in."""

    failing: tuple[str, ...] = ()

    def _save(self, name: str, content: Any) -> str:
        if "save" in self.failing:
            raise ConnectionError("The storage is away.")
        return super()._save(name, content)

    def _open(self, name: str, mode: str = "rb") -> Any:
        if "open" in self.failing:
            raise ConnectionError("The storage is away.")
        return super()._open(name, mode)

    def delete(self, name: str) -> None:
        if "delete" in self.failing:
            raise ConnectionError("The storage is away.")
        super().delete(name)


class StorageTestCase(SimpleTestCase):
    """Keeps what is attached in a directory that goes with the test."""

    backend = "django.core.files.storage.FileSystemStorage"

    def setUp(self) -> None:
        super().setUp()
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        chosen = {"BACKEND": self.backend, "OPTIONS": {"location": directory.name}}
        settings = override_settings(STORAGES={"private": chosen}, CONVERSE_ATTACHMENT_STORAGE="private")
        settings.enable()
        self.addCleanup(settings.disable)
        self.storage: Any = storages["private"]

    def files(self) -> list[str]:
        """Give the names of all stored files."""
        if not self.storage.exists(ROOT):
            return []
        shards, _ = self.storage.listdir(ROOT)
        return [f"{ROOT}/{shard}/{name}" for shard in shards for name in self.storage.listdir(f"{ROOT}/{shard}")[1]]
