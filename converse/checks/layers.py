"""The channel layer that the settings lead to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings as django_settings

from converse.checks.rules import Finding, importable
from converse.conf import settings

MEMORY = "channels.layers.InMemoryChannelLayer"
REDIS_CORE = "channels_redis.core.RedisChannelLayer"
REDIS_PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"


def layer() -> str | None:
    """Give the dotted path of the channel layer in use, if any."""
    layers = getattr(django_settings, "CHANNEL_LAYERS", {})
    alias = settings.CONVERSE_CHANNEL_LAYER
    return layers[alias].get("BACKEND") if isinstance(alias, str) and alias in layers else None


def channel_layer(value: Any) -> Iterator[Finding]:
    if not isinstance(value, str):
        yield f"must be an alias of CHANNEL_LAYERS, not {value!r}.", "Remove it to have the default."
    elif path := layer():
        for problem, _fix in importable("a channel layer", callable)(path):
            yield (
                f"leads to a BACKEND that {problem}",
                "Correct CHANNEL_LAYERS, or pip install 'django-converse[redis]'.",
            )
