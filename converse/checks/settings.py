"""Each setting with the id of its check and the rule of what it may be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning, register

from converse.checks.context import COUNTER, optional, window
from converse.checks.echo import echo_aliases, echo_key, echo_namespace, echo_secret
from converse.checks.files import attachment_storage, attachment_types
from converse.checks.handlers import handlers
from converse.checks.layers import channel_layer
from converse.checks.prices import prices
from converse.checks.providers import client_providers, default_provider, providers, title_provider
from converse.checks.rules import (
    COUNT,
    COUNT_OR_NONE,
    NOT_NEGATIVE,
    POSITIVE,
    TEXTS,
    Rule,
    importable,
    must_be,
    nearest,
)
from converse.choices import Policy
from converse.conf import Settings, settings

DEFAULTS = {name: default for name, default in vars(Settings).items() if name.startswith("CONVERSE_")}

SETTINGS: dict[str, tuple[str, Rule]] = {
    "CONVERSE_PROVIDERS": ("E001", providers),
    "CONVERSE_DEFAULT_PROVIDER": ("E002", default_provider),
    "CONVERSE_RUNNER": ("E003", importable("a class with start()", lambda found: hasattr(found, "start"))),
    "CONVERSE_POLICY": ("E004", must_be(f"one of {', '.join(Policy.values)}", lambda value: value in Policy.values)),
    "CONVERSE_RETRIES": ("E005", COUNT_OR_NONE),
    "CONVERSE_RETRY_DELAY": ("E006", NOT_NEGATIVE),
    "CONVERSE_IDLE_TIMEOUT": ("E007", POSITIVE),
    "CONVERSE_TOTAL_TIMEOUT": ("E008", POSITIVE),
    "CONVERSE_FLUSH_INTERVAL": ("E009", NOT_NEGATIVE),
    "CONVERSE_JOURNAL_LIMIT": ("E010", COUNT),
    "CONVERSE_LEASE": ("E011", POSITIVE),
    "CONVERSE_STALE_AFTER": ("E012", POSITIVE),
    "CONVERSE_CHANNEL_LAYER": ("E013", channel_layer),
    "CONVERSE_EVENT_LIMIT": ("E014", COUNT),
    "CONVERSE_SWEEP_INTERVAL": ("E015", POSITIVE),
    "CONVERSE_SNAPSHOT_LIMIT": ("E016", COUNT),
    "CONVERSE_PUBLIC_METADATA": ("E017", TEXTS),
    "CONVERSE_AUTHORIZE": ("E018", importable("a function (user, action, conversation)", callable)),
    "CONVERSE_REAUTHORIZE_INTERVAL": ("E019", NOT_NEGATIVE),
    "CONVERSE_MESSAGE_LIMIT": ("E020", COUNT),
    "CONVERSE_FRAME_LIMIT": ("E021", COUNT),
    "CONVERSE_FRAME_RATE": ("E022", POSITIVE),
    "CONVERSE_SUBSCRIPTION_LIMIT": ("E023", COUNT),
    "CONVERSE_ALLOWED_ORIGINS": ("E024", TEXTS),
    "CONVERSE_WINDOW": ("E025", COUNT),
    "CONVERSE_ACK_TIMEOUT": ("E026", POSITIVE),
    "CONVERSE_CLIENT_PROVIDERS": ("E027", client_providers),
    "CONVERSE_OPEN_LIMIT": ("E028", COUNT),
    "CONVERSE_ATTACHMENT_STORAGE": ("E029", attachment_storage),
    "CONVERSE_ATTACHMENT_LIMIT": ("E030", COUNT),
    "CONVERSE_ATTACHMENT_COUNT": ("E031", COUNT_OR_NONE),
    "CONVERSE_ATTACHMENT_TYPES": ("E032", attachment_types),
    "CONVERSE_MAX_STEPS": ("E033", COUNT),
    "CONVERSE_TOOL_TIMEOUT": ("E034", POSITIVE),
    "CONVERSE_TOOL_RESULT_LIMIT": ("E035", COUNT),
    "CONVERSE_RETRY_AFTER_LIMIT": ("E036", NOT_NEGATIVE),
    "CONVERSE_PRICES": ("E040", prices),
    "CONVERSE_CONTEXT_WINDOW": ("E045", window),
    "CONVERSE_TOKEN_COUNTER": ("E046", COUNTER),
    "CONVERSE_SUMMARIZER": ("E047", optional("a function (conversation, messages, summary)")),
    "CONVERSE_TITLER": ("E048", optional("a function (conversation, question, answer)")),
    "CONVERSE_TITLE_PROVIDER": ("E049", title_provider),
    "CONVERSE_HANDLERS": ("E050", handlers),
    "CONVERSE_CLIENT_REPLY": ("E055", optional("a function (user, conversation)")),
    "CONVERSE_SSE_HEARTBEAT": ("E070", POSITIVE),
    "CONVERSE_SSE_RETRY": ("E071", NOT_NEGATIVE),
    "CONVERSE_SSE_LIMIT": ("E072", COUNT),
    "CONVERSE_CHAT_SDK": ("E073", must_be("5, 6 or 7", lambda value: type(value) is int and value in (5, 6, 7))),
    "CONVERSE_CHAT_LIMIT": ("E074", COUNT),
    "CONVERSE_CHAT_REPLAY": ("E075", NOT_NEGATIVE),
    "CONVERSE_ECHO_KEY": ("E080", echo_key),
    "CONVERSE_ECHO_SECRET": ("E081", echo_secret),
    "CONVERSE_ECHO_NAMESPACE": ("E082", echo_namespace),
    "CONVERSE_ECHO_ALIASES": ("E083", echo_aliases),
    "CONVERSE_CLIENT_CONVERSATION": ("E060", optional("a function (user)")),
    "CONVERSE_CLIENT_LIST": ("E061", optional("a function (user)")),
    "CONVERSE_CLIENT_USER": ("E062", optional("a function (user, name)")),
}


@register("converse")
def check_settings(**kwargs: Any) -> Iterator[CheckMessage]:
    """Check each setting, and that there is none that Converse does not know."""
    for name, (number, rule) in SETTINGS.items():
        for problem, fix in rule(getattr(settings, name)):
            space = "" if problem.startswith("[") else " "
            yield Error(f"{name}{space}{problem}", hint=fix, id=f"converse.{number}")
    for name in dir(django_settings):
        if name.startswith("CONVERSE_") and name not in DEFAULTS:
            yield Warning(f"There is no setting {name}.", hint=nearest(name, DEFAULTS, "CONVERSE_"), id="converse.W001")
