"""What Converse stands on: what must be there, and what works, but not well."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.db import connections
from django.utils.version import get_version_tuple

from converse.checks.layers import MEMORY, REDIS_CORE, REDIS_PUBSUB, layer
from converse.conf import settings
from converse.log import database

SAFE_DAPHNE = (4, 2, 2)


@register("converse")
def check_installation(**kwargs: Any) -> Iterator[CheckMessage]:
    """Check what Converse stands on."""
    for app in ("django.contrib.auth", "django.contrib.contenttypes", "channels"):
        if not apps.is_installed(app):
            yield Error(f"{app} is not in INSTALLED_APPS.", hint="Add it: Converse needs it.", id="converse.E101")
    if isinstance(settings.CONVERSE_CHANNEL_LAYER, str) and layer() is None:
        yield Warning(
            f"CHANNEL_LAYERS has no {settings.CONVERSE_CHANNEL_LAYER!r}, so nothing tells readers of new text: they "
            "look for it every CONVERSE_SWEEP_INTERVAL.",
            hint=f"Add it: {MEMORY} for one process, {REDIS_PUBSUB} for several.",
            id="converse.W002",
        )
    if not getattr(django_settings, "ASGI_APPLICATION", None):
        yield Warning(
            "ASGI_APPLICATION is not set, so runserver has no websockets.",
            hint="Name your ProtocolTypeRouter, such as 'mysite.asgi.application'.",
            id="converse.W003",
        )
    if django_settings.DEBUG and not apps.is_installed("daphne"):
        yield Warning(
            "Without daphne in INSTALLED_APPS runserver speaks WSGI: no websockets, no server-sent events, no chat.",
            hint='Put "daphne" at the top of INSTALLED_APPS, or serve with another ASGI server and silence this.',
            id="converse.W006",
        )
    if (daphne := _version("daphne")) and get_version_tuple(daphne) < SAFE_DAPHNE:
        yield Warning(
            f"Daphne {daphne} takes frames of any size and smuggled headers (CVE-2026-44545, CVE-2026-44546).",
            hint="pip install 'daphne>=4.2.2'",
            id="converse.W004",
        )
    if _is_sqlite() and _transaction_mode() not in ("IMMEDIATE", "EXCLUSIVE"):
        yield Warning(
            "SQLite begins transactions as readers, so writers that meet fail with “database is locked”.",
            hint='Add "transaction_mode": "IMMEDIATE" and "timeout": 20 to the database\'s OPTIONS.',
            id="converse.W005",
        )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _is_sqlite() -> bool:
    return connections[database()].vendor == "sqlite"


def _transaction_mode() -> str:
    return str(connections[database()].settings_dict.get("OPTIONS", {}).get("transaction_mode")).upper()


@register("converse", deploy=True)
def check_deployment(**kwargs: Any) -> Iterator[CheckMessage]:
    """Check what is fine on a desk and not in production."""
    if layer() == MEMORY and not django_settings.DEBUG:
        yield Warning(
            "The in-memory channel layer tells only the process that writes; readers in others wait for their sweep.",
            hint=f"Use {REDIS_PUBSUB}, or serve with one process and silence this.",
            id="converse.W101",
        )
    if layer() == REDIS_CORE:
        yield Warning(
            f"{REDIS_CORE} holds 100 messages a process by default and drops the rest: readers stutter.",
            hint=f"Use {REDIS_PUBSUB}; it takes the same hosts.",
            id="converse.W102",
        )
    if _is_sqlite():
        yield Warning(
            "SQLite lets one process write at a time: replies that stream side by side wait for one another.",
            hint="Use PostgreSQL, or silence this for a site of few users.",
            id="converse.W103",
        )
    if "*" in (*django_settings.ALLOWED_HOSTS, *settings.CONVERSE_ALLOWED_ORIGINS):
        yield Warning(
            "ALLOWED_HOSTS or CONVERSE_ALLOWED_ORIGINS has '*': any website may open a websocket as its visitor.",
            hint="List the hosts that serve your pages.",
            id="converse.W104",
        )
