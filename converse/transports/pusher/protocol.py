"""Version 7 of the Pusher Channels protocol without I/O: frames, codes, signatures."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from secrets import randbelow
from typing import Any

from django.utils.crypto import constant_time_compare, salted_hmac

from converse.conf import settings

VERSIONS = ("5", "6", "7")
ACTIVITY_TIMEOUT = 30  # seconds of silence after which a client asks whether we are there
FRAME_LIMIT = 10_000  # bytes of a frame that a client sends
EVENT_LIMIT = 200  # characters of an event's name
FAILURE = "The server had a failure."
WHISPER_RATE = 10.0  # client events a second and socket

# Clients take a close code from 4000 to 4099 as final, from 4100 as "in a second", from 4200 as "at once".
UNKNOWN_KEY, WRONG_VERSION, NO_VERSION, REFUSED = 4001, 4007, 4008, 4009
OVERLOADED, RESTARTING, TOO_SLOW = 4100, 4200, 4201
CLIENT_EVENT = 4301  # only ever in an error frame: closing with it would be final, too

SOCKET_ID = re.compile(r"[0-9]{1,20}\.[0-9]{1,20}")

OWN = ("pusher:", "pusher_internal:")


def new_socket_id() -> str:
    return f"{randbelow(10**18)}.{randbelow(10**18)}"


def is_socket_id(value: Any) -> bool:
    return isinstance(value, str) and SOCKET_ID.fullmatch(value) is not None


def encoded(data: Any) -> str:
    """Give data as the JSON text that the protocol wants inside of its JSON."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def frame(event: str, data: Any, channel: str = "", **more: str) -> str:
    """Write a frame; data that are text already are taken for JSON."""
    told: dict[str, Any] = {"event": event}
    if channel:
        told["channel"] = channel
    told["data"] = data if isinstance(data, str) else encoded(data)
    return json.dumps({**told, **more}, separators=(",", ":"))  # in ASCII: a client may name half a surrogate pair


def error(code: int | None, message: str) -> str:
    return frame("pusher:error", {"code": code, "message": message})


def secret() -> str:
    """Give the word that signs; where the settings have none, one that only this site can work out."""
    return settings.CONVERSE_ECHO_SECRET or _derived()


def _derived() -> str:
    return salted_hmac("converse.echo", settings.CONVERSE_ECHO_KEY, algorithm="sha256").hexdigest()


def digest(text: str) -> str:
    return hmac.new(secret().encode(), text.encode(), hashlib.sha256).hexdigest()


def channel_text(socket_id: str, channel: str, channel_data: str | None) -> str:
    """Give what is signed for a channel: it holds for this socket only."""
    signed = f"{socket_id}:{channel}"
    return signed if channel_data is None else f"{signed}:{channel_data}"


def user_text(socket_id: str, user_data: str) -> str:
    return f"{socket_id}::user::{user_data}"


def sign(text: str) -> str:
    return f"{settings.CONVERSE_ECHO_KEY}:{digest(text)}"


def signed(given: Any, text: str) -> bool:
    """Say whether a signature is ours, in a time that tells nothing."""
    try:
        return isinstance(given, str) and constant_time_compare(given, sign(text))
    except UnicodeEncodeError:  # half a surrogate pair
        return False


def is_text(value: str) -> bool:
    """Say whether a text can be written in UTF-8: half a character, which JSON can escape, cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
