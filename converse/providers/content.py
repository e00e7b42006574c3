"""What several services need when the parts of a prompt become a request."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from converse.choices import ErrorType
from converse.exceptions import ProviderError
from converse.parts import File, ToolCall

# Said for the user where a service insists that the user speaks first, or that somebody speaks at all.
OPENING = "Hello."

TEXTUAL = re.compile(r"text/.*|.*[+/](json|ndjson|xml|yaml|x-yaml|toml|javascript|x-sh|sql)")


def arguments_of(call: ToolCall) -> dict[str, Any]:
    """Return a call's arguments as an object that can be sent; a model may have written anything else."""
    try:
        arguments = json.loads(call.arguments or "{}")
        # Halves of surrogate pairs, NaN and the infinities can be read, but no service takes them.
        sendable = json.dumps(arguments, ensure_ascii=False).encode(errors="replace")
        arguments = json.loads(sendable, parse_constant=str)
    except (ValueError, RecursionError):
        arguments = call.arguments
    if isinstance(arguments, dict):
        return arguments
    return {"arguments": arguments} if arguments else {}


def media_type(file: File) -> str:
    """Return a file's type without parameters such as the character set."""
    return file.mime_type.partition(";")[0].strip().lower()


def is_text(file: File) -> bool:
    """Tell whether a file can be read as it is."""
    return TEXTUAL.fullmatch(media_type(file)) is not None


def text_of(file: File) -> str:
    return file.data.decode("utf-8-sig", errors="replace")


def encoded(file: File) -> str:
    """Return a file's bytes as services want them inside JSON."""
    return base64.b64encode(file.data).decode()


def unsupported(file: File, takes: str) -> ProviderError:
    """Return the error for a file of a type that a service does not take."""
    kind = file.mime_type or "unknown"
    detail = f"The file {file.name!r} is of type {kind}; the provider takes {takes}."
    return ProviderError(detail, type=ErrorType.INVALID)
