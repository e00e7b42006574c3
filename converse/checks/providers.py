"""The rules of CONVERSE_PROVIDERS and of the settings that name its aliases.

No option's value is ever shown: it may be a key.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from django.utils.module_loading import import_string

from converse.checks.context import window
from converse.checks.rules import TEXTS, Finding, Rule, are_texts, nearest
from converse.conf import settings
from converse.providers import EXTRAS, Provider


def providers(value: Any) -> Iterator[Finding]:
    if not isinstance(value, Mapping):
        yield f"must be a dict, not a {type(value).__name__}.", "Map each alias to a dict of BACKEND and OPTIONS."
        return
    for alias, config in value.items():
        for problem, fix in _provider(config):
            yield f"[{alias!r}]: {problem}", fix
        if isinstance(config, Mapping) and are_texts(config.get("FALLBACKS")) and alias in config["FALLBACKS"]:
            yield f"[{alias!r}]: FALLBACKS names {alias!r} itself.", "List other aliases only."


def default_provider(value: Any) -> Iterator[Finding]:
    if settings.CONVERSE_PROVIDERS:
        yield from _aliases([value])


def title_provider(value: Any) -> Iterator[Finding]:
    if value != "" and settings.CONVERSE_PROVIDERS:
        yield from _aliases([value])


def client_providers(value: Any) -> Iterator[Finding]:
    yield from TEXTS(value) if not are_texts(value) else _aliases(value)


def _aliases(named: Iterable[Any]) -> Iterator[Finding]:
    known = settings.CONVERSE_PROVIDERS
    for alias in named:
        if isinstance(known, Mapping) and alias not in known:
            there = ", ".join(map(repr, known)) or "nothing"
            yield f"names {alias!r}, which is not in CONVERSE_PROVIDERS.", f"Add it there, which has {there}."


def _provider(config: Any) -> Iterator[Finding]:
    if not isinstance(config, Mapping) or not isinstance(config.get("BACKEND"), str):
        yield "it must be a dict with a BACKEND.", "BACKEND is the dotted path of a Provider, OPTIONS its arguments."
        return
    for key, value in config.items():
        if key not in ("BACKEND", "OPTIONS", *KEYS):
            yield f"{key!r} is not known.", "A provider has a BACKEND and OPTIONS; its arguments go into OPTIONS."
        elif key in KEYS:
            for problem, fix in KEYS[key](value):
                yield f"{key} {problem}", fix
    yield from _backend(config["BACKEND"], config.get("OPTIONS", {}))


def fallbacks(value: Any) -> Iterator[Finding]:
    if not are_texts(value) or isinstance(value, set | frozenset):  # their order counts
        yield "must be a list of aliases.", "List the aliases to ask, in this order, when this provider fails."
    else:
        yield from _aliases(value)


# What the config of a provider may have besides its BACKEND and OPTIONS.
KEYS: dict[str, Rule] = {
    "FALLBACKS": fallbacks,
    "WINDOW": window,
}


def _backend(path: str, options: Any) -> Iterator[Finding]:
    try:
        backend = import_string(path)
    except ImportError as exc:
        yield f"{path} cannot be imported: {exc}.", _way_to(exc.name)
        return
    package = getattr(backend, "package", "")
    if package and find_spec(package) is None:  # not imported here, which would take seconds
        yield f"{path} needs the package {package}.", _way_to(package)
    if not (issubclass(backend, Provider) if isinstance(backend, type) else callable(backend)):
        yield f"{path} is not a Provider.", "Derive it from converse.providers.Provider."
    elif not isinstance(options, Mapping):
        yield (
            f"OPTIONS must be a dict, not a {type(options).__name__}.",
            "OPTIONS are the keyword arguments of BACKEND.",
        )
    elif isinstance(backend, type):
        yield from _options(backend, options)


def _way_to(package: str | None) -> str:
    extra = EXTRAS.get(package or "")
    return f"pip install 'django-converse[{extra}]'" if extra else "Correct the dotted path in BACKEND."


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
            yield f"{backend.__name__} takes no option {name!r}.", nearest(str(name), known)
    for name, parameter in known.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and parameter.default is parameter.empty and name not in options:
            yield f"{backend.__name__} needs the option {name!r}.", "Add it to OPTIONS."
