"""``{% converse_chat conversation %}``: the chat element in a template, with all that it has to know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from django import template
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.middleware.csrf import get_token
from django.urls import NoReverseMatch, get_script_prefix, reverse
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from converse.choices import Action
from converse.conf import settings
from converse.labels import labels
from converse.models import Conversation
from converse.permissions import may

SOCKET = "converse/ws/"  # where converse.routing has it
MISSING = (
    "{% converse_chat %} needs the routes of Converse: "
    'add path("converse/", include("converse.urls")) to the URLconf, with no other namespace.'
)

register = template.Library()


@register.inclusion_tag("converse/chat.html", takes_context=True)
def converse_chat(
    context: template.Context,
    conversation: Conversation,
    *,
    url: str = "",
    nonce: str = "",
    words: Mapping[str, str] | None = None,
    **attributes: Any,
) -> dict[str, Any]:
    """Show a conversation to the request's user, who may write in it or else only reads.

    ``url`` is the websocket's address where it is another; ``nonce`` the page's, where its policy asks for one and
    neither Django nor django-csp says it; ``words`` are labels to be used instead of the usual ones. Further
    arguments are attributes of the element, as ``smooth=True`` or ``max_files=3``. Raise ImproperlyConfigured when
    the routes are missing.
    """
    request: HttpRequest | None = context.get("request")
    given = {
        "conversation": conversation.uuid,
        "url": url or get_script_prefix() + SOCKET,
        "base": _base(conversation),
        "labels": json.dumps({**labels(), **(words or {})}, ensure_ascii=False, default=str),
        "maxlength": settings.CONVERSE_MESSAGE_LIMIT,
        "max-files": settings.CONVERSE_ATTACHMENT_COUNT,
        "accept": ",".join(settings.CONVERSE_ATTACHMENT_TYPES),
        "readonly": request is not None and not may(_user(request), Action.WRITE, conversation),
        "csrf-token": get_token(request) if request is not None else False,
        **{name.replace("_", "-"): value for name, value in attributes.items()},
    }
    return {"attributes": _written(given), "nonce": nonce or _nonce(context, request)}


def _base(conversation: Conversation) -> str:
    """Give the address under which all routes of HTTP are."""
    try:
        address = reverse("converse:attachments", args=[conversation.uuid])
    except NoReverseMatch as exc:
        raise ImproperlyConfigured(MISSING) from exc
    return address.removesuffix(f"conversations/{conversation.uuid}/attachments/")


def _user(request: HttpRequest) -> Any:
    return getattr(request, "user", None)


def _nonce(context: template.Context, request: HttpRequest | None) -> str:
    """Give the nonce of Django's own policy, or of django-csp's. Both are false until they are asked for."""
    found = (context.get("csp_nonce"), getattr(request, "csp_nonce", None), getattr(request, "_csp_nonce", None))
    return next((str(nonce) for nonce in found if nonce is not None), "")


def _written(attributes: Mapping[str, Any]) -> SafeString:
    """Write attributes, all escaped; one that is True stands alone, one that is False or None does not stand at all."""
    present = {name: value for name, value in attributes.items() if value is not False and value is not None}
    return format_html_join("", ' {}="{}"', ((name, "" if value is True else value) for name, value in present.items()))
