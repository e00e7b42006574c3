"""The rules of the settings for attachments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from django.core.files.storage import storages

from converse.checks.rules import Finding, Rule, are_texts, must_be

MIME_TYPE = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+_-]*")


def attachment_storage(value: Any) -> Iterator[Finding]:
    if not isinstance(value, str) or value not in storages.backends:
        yield f"names {value!r}, which is not in STORAGES.", "Add it there, or remove the setting to have the default."


attachment_types: Rule = must_be(
    'a list or tuple of MIME types in small letters, such as ["image/png"]',
    lambda value: are_texts(value) and all(MIME_TYPE.fullmatch(item) for item in value),
)
