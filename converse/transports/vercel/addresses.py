"""Addresses of attachments: given to clients, and read again when they send them."""

from __future__ import annotations

from urllib.parse import urlsplit
from uuid import UUID

from django.urls import NoReverseMatch, Resolver404, get_script_prefix, resolve, reverse

from converse.transports.vercel.values import Link


def link_to(conversation: str) -> Link:
    """Give what makes the addresses of a conversation's attachments."""

    def link(attachment: str) -> str:
        try:
            return reverse("converse:attachment", args=[conversation, attachment]) + "?inline"
        except NoReverseMatch:  # somebody streamed a part by hand
            return ""

    return link


def attachment_of(url: str, conversation: UUID, host: str) -> str | None:
    """Give the attachment that an address of ours leads to; None for any other address."""
    try:
        parts = urlsplit(url)
        if parts.netloc not in ("", host) or parts.scheme not in ("", "http", "https"):
            return None
        prefix = get_script_prefix()  # reverse() puts it there, resolve() does not take it away
        found = resolve("/" + parts.path.removeprefix(prefix)) if parts.path.startswith(prefix) else None
    except (ValueError, Resolver404):
        return None
    if found is None or found.view_name != "converse:attachment" or found.kwargs["uuid"] != conversation:
        return None
    return str(found.kwargs["attachment"])
