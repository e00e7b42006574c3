"""System checks: one for each setting (E0…), for what must be there (E1…), and for what works, but not well (W…)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from importlib import metadata
from math import isfinite
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.db import connections
from django.utils.module_loading import import_string
from django.utils.version import get_version_tuple

from converse.choices import Policy
from converse.conf import Settings, settings
from converse.log import database
from converse.providers import Provider

Finding = tuple[str, str]  # what is wrong with a setting, and the fix
Rule = Callable[[Any], Iterable[Finding]]

DEFAULTS = {name: default for name, default in vars(Settings).items() if name.startswith("CONVERSE_")}
SDKS = ("openai", "anthropic")
SAFE_DAPHNE = (4, 2, 2)
MEMORY = "channels.layers.InMemoryChannelLayer"
REDIS_CORE = "channels_redis.core.RedisChannelLayer"
REDIS_PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"


# What a setting may be. Of CONVERSE_PROVIDERS no option's value is ever shown: it may be a key.


def must_be(wanted: str, test: Callable[[Any], bool]) -> Rule:
    def rule(value: Any) -> Iterator[Finding]:
        if not test(value):
            yield f"must be {wanted}, not {value!r}.", f"Set it to {wanted}, or remove it to have the default."

    return rule


def importable(what: str, test: Callable[[Any], bool]) -> Rule:
    def rule(value: Any) -> Iterator[Finding]:
        fix = f"Name {what} by its dotted path, or remove the setting to have the default."
        try:
            found = import_string(value)
        except (ImportError, AttributeError, TypeError) as exc:
            yield f"is {value!r}, which cannot be imported: {exc}.", fix
            return
        if not test(found):
            yield f"is {value!r}, which is not {what}.", fix

    return rule


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple | set | frozenset) and all(isinstance(item, str) and item for item in value)


POSITIVE = must_be("a number above 0", lambda value: _is_number(value) and value > 0)
NOT_NEGATIVE = must_be("a number from 0", lambda value: _is_number(value) and value >= 0)
COUNT = must_be("a whole number from 1", _is_count)
COUNT_OR_NONE = must_be("a whole number from 0", lambda value: value == 0 or _is_count(value))
TEXTS = must_be("a list or tuple of texts", _are_texts)


def providers(value: Any) -> Iterator[Finding]:
    if not isinstance(value, Mapping):
        yield f"must be a dict, not a {type(value).__name__}.", "Map each alias to a dict of BACKEND and OPTIONS."
        return
    for alias, config in value.items():
        for problem, fix in _provider(config):
            yield f"[{alias!r}]: {problem}", fix


def _provider(config: Any) -> Iterator[Finding]:
    if not isinstance(config, Mapping) or not isinstance(config.get("BACKEND"), str):
        yield "it must be a dict with a BACKEND.", "BACKEND is the dotted path of a Provider, OPTIONS its arguments."
        return
    for key in config:
        if key not in ("BACKEND", "OPTIONS"):
            yield f"{key!r} is not known.", "A provider has a BACKEND and OPTIONS; its arguments go into OPTIONS."
    path, options = config["BACKEND"], config.get("OPTIONS", {})
    try:
        backend = import_string(path)
    except ImportError as exc:
        fix = (
            f"pip install 'django-converse[{exc.name}]'" if exc.name in SDKS else "Correct the dotted path in BACKEND."
        )
        yield f"{path} cannot be imported: {exc}.", fix
        return
    if not (issubclass(backend, Provider) if isinstance(backend, type) else callable(backend)):
        yield f"{path} is not a Provider.", "Derive it from converse.providers.Provider."
    elif not isinstance(options, Mapping):
        yield (
            f"OPTIONS must be a dict, not a {type(options).__name__}.",
            "OPTIONS are the keyword arguments of BACKEND.",
        )
    elif isinstance(backend, type):
        yield from _options(backend, options)


def _options(backend: type, options: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare OPTIONS with what the constructor takes; where it passes the rest on, with its base's too."""
    known: dict[str, inspect.Parameter] = {}
    open_ended = False
    for base in backend.__mro__[:-1]:
        if "__init__" in vars(base):
            _self, *parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
            open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
            known = {**{parameter.name: parameter for parameter in parameters}, **known}
            if not open_ended:
                break
    for name in options:
        if name not in known and not open_ended:
            yield f"{backend.__name__} takes no option {name!r}.", _nearest(str(name), known)
    for name, parameter in known.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and parameter.default is parameter.empty and name not in options:
            yield f"{backend.__name__} needs the option {name!r}.", "Add it to OPTIONS."


def _nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    near = get_close_matches(name.removeprefix(prefix), [other.removeprefix(prefix) for other in known], 1)
    return f"Did you mean {prefix}{near[0]}?" if near else "Remove it."


def default_provider(value: Any) -> Iterator[Finding]:
    if settings.CONVERSE_PROVIDERS:
        yield from _aliases([value])


def client_providers(value: Any) -> Iterator[Finding]:
    yield from TEXTS(value) if not _are_texts(value) else _aliases(value)


def _aliases(named: Iterable[Any]) -> Iterator[Finding]:
    known = settings.CONVERSE_PROVIDERS
    for alias in named:
        if isinstance(known, Mapping) and alias not in known:
            there = ", ".join(map(repr, known)) or "nothing"
            yield f"names {alias!r}, which is not in CONVERSE_PROVIDERS.", f"Add it there, which has {there}."


def _layer() -> str | None:
    """Give the dotted path of the channel layer in use, if any."""
    layers = getattr(django_settings, "CHANNEL_LAYERS", {})
    alias = settings.CONVERSE_CHANNEL_LAYER
    return layers[alias].get("BACKEND") if isinstance(alias, str) and alias in layers else None


def channel_layer(value: Any) -> Iterator[Finding]:
    if not isinstance(value, str):
        yield f"must be an alias of CHANNEL_LAYERS, not {value!r}.", "Remove it to have the default."
    elif path := _layer():
        for problem, _fix in importable("a channel layer", callable)(path):
            yield (
                f"leads to a BACKEND that {problem}",
                "Correct CHANNEL_LAYERS, or pip install 'django-converse[redis]'.",
            )


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
            yield Warning(
                f"There is no setting {name}.", hint=_nearest(name, DEFAULTS, "CONVERSE_"), id="converse.W001"
            )


@register("converse")
def check_installation(**kwargs: Any) -> Iterator[CheckMessage]:
    """Check what Converse stands on."""
    for app in ("django.contrib.auth", "django.contrib.contenttypes", "channels"):
        if not apps.is_installed(app):
            yield Error(f"{app} is not in INSTALLED_APPS.", hint="Add it: Converse needs it.", id="converse.E101")
    if isinstance(settings.CONVERSE_CHANNEL_LAYER, str) and _layer() is None:
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
    if _layer() == MEMORY and not django_settings.DEBUG:
        yield Warning(
            "The in-memory channel layer tells only the process that writes; readers in others wait for their sweep.",
            hint=f"Use {REDIS_PUBSUB}, or serve with one process and silence this.",
            id="converse.W101",
        )
    if _layer() == REDIS_CORE:
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
