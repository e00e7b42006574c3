"""What a file is, by its content and not by its sender's word; and where files are kept."""

from __future__ import annotations

import codecs
import mimetypes
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from secrets import token_hex
from tempfile import SpooledTemporaryFile
from typing import Any, NamedTuple

from django.core.files.base import ContentFile, File
from django.core.files.storage import Storage, storages

from converse.conf import settings
from converse.exceptions import InvalidMessage

ROOT = "converse-attachments"
PLACE = re.compile(rf"{ROOT}/[0-9a-f]{{2}}/[0-9a-f]{{30}}")
NAME_LIMIT = 255
SUFFIX_LIMIT = 20
BLOCK = 65_536
SPOOL = 1_000_000  # bytes in memory of what can be read once only
UNKNOWN = "application/octet-stream"

# How files begin whose type must be certain, for they may be shown in a page; several types where only one's sender
# knows which of them is in the container. By hand, for libraries take "ID3 tags are …" for a song.
SIGNATURES: tuple[tuple[re.Pattern[bytes], tuple[str, ...]], ...] = tuple(
    (re.compile(pattern, re.DOTALL), tuple(types.split()))
    for pattern, types in (
        (rb"\x89PNG\r\n\x1a\n", "image/png"),
        (rb"\xff\xd8\xff", "image/jpeg"),
        (rb"GIF8[79]a", "image/gif"),
        (rb"RIFF.{4}WEBP", "image/webp"),
        (rb".{4}ftypavi[fs]", "image/avif"),
        (rb".{4}ftyp(hei[cx]|mif1)", "image/heic"),
        (rb"%PDF-", "application/pdf"),
        (rb"ID3[\x02-\x04].{2}[\x00-\x7f]{4}|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]", "audio/mpeg"),
        (rb"RIFF.{4}WAVE", "audio/wav"),
        (rb"fLaC\x00", "audio/flac"),
        (rb"OggS\x00", "audio/ogg video/ogg"),
        (rb".{4}ftypM4[AB]", "audio/mp4"),
        (rb".{4}ftyp(iso|mp4|avc1|M4V|dash)", "video/mp4 audio/mp4"),
        (rb"\x1aE\xdf\xa3.{,60}?webm", "video/webm audio/webm"),
    )
)
CERTAIN = frozenset(kind for _, kinds in SIGNATURES for kind in kinds)

ALIASES = {
    "image/jpg": "image/jpeg",
    "audio/mp3": "audio/mpeg",
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/x-m4a": "audio/mp4",
    "application/x-pdf": "application/pdf",
}
MIME_TYPE = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+_-]{0,79}")


class Facts(NamedTuple):
    """What is known of a file once it was read."""

    name: str
    mime_type: str
    size: int
    checksum: str


class AttachmentStorage(Storage):
    """The storage of ``CONVERSE_ATTACHMENT_STORAGE``, looked up each time it is used."""

    def __getattribute__(self, name: str) -> Any:
        return getattr(storages[settings.CONVERSE_ATTACHMENT_STORAGE], name)


def place() -> str:
    """Give a new file its name in the storage: one that nobody can guess, whatever they know of the conversation."""
    secret = token_hex(16)
    return f"{ROOT}/{secret[:2]}/{secret[2:]}"


@contextmanager
def opened(file: Any) -> Iterator[File[bytes]]:
    """Give a file, bytes, or anything opened for reading as a Django file that can be read twice.

    Raise InvalidMessage for anything else. A path is something else: what a client sends must not open our files.
    """
    name = getattr(file, "name", None)
    if isinstance(file, bytes | bytearray | memoryview):
        yield ContentFile(bytes(file))
    elif isinstance(file, File):
        yield file
    elif not hasattr(file, "read"):
        kind = type(file).__name__
        raise InvalidMessage(f"must be bytes or a file opened with open(path, 'rb'), not {kind}", field="file")
    elif hasattr(file, "seekable") and file.seekable():
        yield File(file, name=name)
    else:
        with SpooledTemporaryFile(max_size=SPOOL) as spool:
            while (block := file.read(BLOCK)) and spool.tell() <= settings.CONVERSE_ATTACHMENT_LIMIT:
                spool.write(_bytes(block))
            yield File(spool, name=name)


def _bytes(block: Any) -> bytes:
    if isinstance(block, str):
        raise InvalidMessage("must be opened for reading bytes: open(path, 'rb')", field="file")
    return bytes(block)


def examine(file: File[bytes], name: str = "", mime_type: str = "") -> Facts:
    """Read a file of a person's from its beginning and say what it is.

    Raise InvalidMessage where it is empty, larger than ``CONVERSE_ATTACHMENT_LIMIT``, or of no type that is allowed.
    """
    head, size, checksum, is_text = _read(file)
    if not size:
        raise InvalidMessage("is empty", field="file")
    given = name or (file.name if isinstance(file.name, str) else "")
    claimed = _claimed(given, mime_type or getattr(file, "content_type", None) or "")
    found = _decided(head, claimed, is_text=is_text)
    if found not in settings.CONVERSE_ATTACHMENT_TYPES:
        allowed = ", ".join(settings.CONVERSE_ATTACHMENT_TYPES)
        reason = f"{found} is not among the types that CONVERSE_ATTACHMENT_TYPES allows: {allowed or 'none'}"
        raise InvalidMessage(reason, field="mime_type")
    return Facts(clean(given) or _named_by(found), found, size, checksum)


def examine_made(data: bytes, name: str = "", mime_type: str = "") -> Facts:
    """Say what a file of a provider's is. Whatever it is, it is kept: it was paid for."""
    claimed = _canonical(mime_type)
    types = types_of(data)
    found = claimed if claimed in types else types[0] if types else claimed
    if not types and (found in CERTAIN or not MIME_TYPE.fullmatch(found)):
        found = UNKNOWN
    return Facts(clean(name) or _named_by(found), found, len(data), sha256(data).hexdigest())


def _read(file: File[bytes]) -> tuple[bytes, int, str, bool]:
    """Read a file to its end: how it begins, its size, its checksum, and whether it is text in UTF-8."""
    limit = settings.CONVERSE_ATTACHMENT_LIMIT
    head, size, is_text = b"", 0, True
    digest, decoder = sha256(), codecs.getincrementaldecoder("utf-8")()
    file.seek(0)
    while block := _bytes(file.read(BLOCK)):
        head = head or block
        size += len(block)
        if size > limit:
            raise InvalidMessage(f"a file may be {limit} bytes, and this one is larger", field="size")
        digest.update(block)
        is_text = is_text and _is_text(decoder, block)
    file.seek(0)
    return head, size, digest.hexdigest(), is_text and _is_text(decoder, b"", final=True)


def _is_text(decoder: codecs.IncrementalDecoder, block: bytes, *, final: bool = False) -> bool:
    try:
        return "\x00" not in decoder.decode(block, final)
    except UnicodeDecodeError:
        return False


def types_of(head: bytes) -> tuple[str, ...]:
    """Say what a file's first bytes show: a type, or those of one container; nothing where they show none."""
    return next((types for signature, types in SIGNATURES if signature.match(head)), ())


def _canonical(mime_type: str) -> str:
    plain = mime_type.partition(";")[0].strip().lower()
    return ALIASES.get(plain, plain)


def _claimed(name: str, mime_type: str) -> str:
    """Give what the sender says that a file is: by its type, or where that says nothing by its name."""
    told = _canonical(mime_type)
    return _canonical(mimetypes.guess_type(name)[0] or "") if told in ("", UNKNOWN) else told


def _decided(head: bytes, claimed: str, *, is_text: bool) -> str:
    """Give a file's type. Raise InvalidMessage where the content is not what its sender says."""
    if types := types_of(head):
        return claimed if claimed in types else types[0]
    if claimed in CERTAIN:
        raise InvalidMessage(f"is said to be {claimed}, but the file does not begin like one", field="mime_type")
    if is_text:
        plain = claimed.partition("/")[0] in ("", "text", "application")
        return "text/plain" if plain and claimed not in settings.CONVERSE_ATTACHMENT_TYPES else claimed
    if claimed.startswith("text/"):
        raise InvalidMessage("is said to be text, but is not in UTF-8: save it as such", field="mime_type")
    return claimed if MIME_TYPE.fullmatch(claimed) else UNKNOWN


def clean(name: str) -> str:
    """Give a file's name without its path and whatever may deceive a person or a header; there may be nothing left."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    # Controls, formats (they turn the direction of writing), halves of surrogate pairs, ends of lines.
    shown = "".join(" " if unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp") else sign for sign in last)
    stem = " ".join(shown.split()).strip(" .")
    if len(stem) <= NAME_LIMIT:
        return stem
    dot = stem.rfind(".", -SUFFIX_LIMIT)
    suffix = stem[dot:] if dot > 0 else ""
    return stem[: NAME_LIMIT - len(suffix)] + suffix


def kind_of(mime_type: str) -> str:
    """Give the kind of a type: ``image``, ``audio``, ``video``, or ``document`` for everything else."""
    kind = mime_type.partition("/")[0]
    return kind if kind in ("image", "audio", "video") else "document"


def _named_by(mime_type: str) -> str:
    return kind_of(mime_type) + (mimetypes.guess_extension(mime_type) or "")
