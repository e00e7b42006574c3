"""A message's parts as people read them: calls of tools with what became of them, sources, files, blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from django.contrib.admin import AdminSite
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.urls import reverse
from django.utils.translation import gettext as _

from converse.admin.shown import moment, pretty
from converse.choices import ChunkKind, Status
from converse.closing import assemble
from converse.log import database
from converse.models import Message, MessageChunk

DOWNLOAD = "converse_message_attachment"
LONGEST = 20_000  # characters of a block that means something to its provider only

SAID = (ChunkKind.TEXT, ChunkKind.REASONING, ChunkKind.REFUSAL)
Part = dict[str, Any]


class Decided(NamedTuple):
    """Who decided about calls of tools, and when."""

    names: Mapping[str, str]  # of users, by key
    times: Mapping[tuple[int, int], datetime]  # by message and part


def parts_of(site: AdminSite, messages: Iterable[Message]) -> dict[int, list[Part]]:
    """Give each message's parts for ``parts.html``, by its key; those of open ones are put together from chunks."""
    stored = {message: _stored(message) for message in messages}
    decided = _decided(stored)
    shown = {message.pk: _shown(message, parts, decided) for message, parts in stored.items()}
    for pk, parts in shown.items():
        for part in parts:
            if part["type"] == ChunkKind.FILE:
                part["link"] = reverse(f"admin:{DOWNLOAD}", args=[pk, part["attachment"]], current_app=site.name)
    return shown


def _stored(message: Message) -> list[Part]:
    if message.is_open:
        assemble(message, database())
    whole = [{"type": ChunkKind.TEXT, "text": message.content}] if message.content else []
    return message.parts or whole


def _decided(stored: Mapping[Message, list[Part]]) -> Decided:
    approvals = {
        message.pk: part for message, parts in stored.items() for part in parts if part["type"] == ChunkKind.APPROVAL
    }
    if not approvals:
        return Decided({}, {})
    chunks = MessageChunk.objects.filter(message_id__in=approvals, kind=ChunkKind.APPROVAL)
    times = {(message, part): at for message, part, at in chunks.values_list("message_id", "part", "created_at")}
    everybody = {part.get("by") for parts in stored.values() for part in parts if part["type"] == ChunkKind.APPROVAL}
    return Decided(_names(everybody), times)


def _names(keys: Iterable[Any]) -> dict[str, str]:
    """Name users; a key may be of somebody who is gone, or of no user of ours."""
    users = get_user_model()
    known = [key for key in keys if key and _is_key(users._meta.pk, key)]
    everybody = users._meta.base_manager  # whom the default one may hide
    return {str(user.pk): str(user) for user in everybody.filter(pk__in=known)}


def _is_key(field: Any, key: str) -> bool:
    try:
        field.to_python(key)
    except ValidationError:
        return False
    return True


def _shown(message: Message, parts: Iterable[Part], decided: Decided) -> list[Part]:
    """Put calls, approvals and results together, each where its call is."""
    shown: list[Part] = []
    for number, part in enumerate(parts):
        call = next((one for one in shown if _is_open_call(one, part)), None)
        if part["type"] == ChunkKind.TOOL_RESULT and call:
            call.update(output=pretty(part["output"]), is_error=part.get("is_error", False), answered=True)
        elif part["type"] == ChunkKind.APPROVAL and call:
            by = part.get("by")
            at = decided.times.get((message.pk, number))
            who = decided.names.get(str(by), _("user %s") % by) if by else ""
            call.update(decision=part["text"], reason=part.get("reason", ""), by=who, at=moment(at) if at else "")
        else:
            shown.append(SHOWN.get(part["type"], _other)(part))
    for part in shown:
        if part["type"] == ChunkKind.TOOL_CALL:
            part["state"] = _state_of(message, part)
    return shown


def _is_open_call(shown: Part, part: Part) -> bool:
    return shown["type"] == ChunkKind.TOOL_CALL and shown["id"] == part.get("id", "") and not shown["answered"]


def _state_of(message: Message, call: Part) -> tuple[str, str]:
    """Give a call's badge: its colour, of those that a message's status has, and its text."""
    if call["decision"] == "denied":
        return "cancelled", _("denied")
    if call["answered"]:
        return ("failed", _("failed")) if call["is_error"] else ("completed", _("done"))
    if not message.is_open:
        return "cancelled", _("never made")
    if message.status == Status.WAITING and not call["decision"]:
        return "waiting", _("waits for approval")
    return "streaming", _("in progress")


def undecided(parts: Iterable[Part]) -> list[Part]:
    """Keep the calls that wait for a person."""
    return [part for part in parts if part["type"] == ChunkKind.TOOL_CALL and part["state"][0] == "waiting"]


# One kind of part each.


def _call(part: Part) -> Part:
    given = {"id": part.get("id", ""), "name": part.get("name", ""), "arguments": pretty(part.get("arguments", ""))}
    return {"type": ChunkKind.TOOL_CALL, "decision": "", "answered": False, **given}


def _source(part: Part) -> Part:
    """Give a source; only an address of the web becomes a link."""
    url = part.get("url", "")
    return {**part, "url": url, "link": url if _is_of_the_web(url) else ""}


def _is_of_the_web(url: str) -> bool:
    try:
        return urlsplit(url).scheme in ("http", "https")
    except ValueError:
        return False


def _raw(part: Part) -> Part:
    return _folded(part, part.get("data"))


def _other(part: Part) -> Part:
    return _folded(part, {key: value for key, value in part.items() if key != "type"})


def _folded(part: Part, data: Any) -> Part:
    text = pretty(data)
    more = len(text) - LONGEST
    rest = text[:LONGEST] + _("\n… and %d characters more") % more if more > 0 else text
    return {"type": "other", "kind": part["type"], "rest": rest}


SHOWN: Mapping[str, Callable[[Part], Part]] = {
    **dict.fromkeys((*SAID, ChunkKind.FILE), dict),
    ChunkKind.TOOL_CALL: _call,
    ChunkKind.SOURCE: _source,
    ChunkKind.RAW: _raw,
}
