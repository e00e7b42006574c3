"""Which websites' pages may come in: ours, and those that the settings name."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlparse

from channels.security.websocket import OriginValidator
from django.conf import settings as django_settings

from converse.conf import settings


def allowed(origin: str) -> bool:
    """Say whether a page of this origin may come in; nobody who says none may."""
    local = ["localhost", "127.0.0.1", "[::1]"] if django_settings.DEBUG else []
    unused: Any = None
    hosts = [*(django_settings.ALLOWED_HOSTS or local), *settings.CONVERSE_ALLOWED_ORIGINS]
    try:
        return bool(OriginValidator(unused, hosts).valid_origin(urlparse(origin) if origin else None))
    except ValueError:  # "http://[", or a port that is none
        return False
