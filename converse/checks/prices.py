"""The rule of CONVERSE_PRICES."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from importlib import import_module
from typing import Any

from converse.checks.rules import Finding, importable, nearest

PRICES = ("input", "cached_input", "cache_write", "output")
KEYS = f"The keys are {', '.join(PRICES)}."
MAPPING = (
    "Map a model, an alias/model, or a beginning and a star to a dict of prices or to a provider of genai-prices. "
    + KEYS
)

function = importable("a function (provider, model, usage, at)", callable)


def prices(value: Any) -> Iterator[Finding]:
    if isinstance(value, str):
        yield from function(value)
    elif not isinstance(value, Mapping):
        yield f"must be a dict or the path of a function, not a {type(value).__name__}.", MAPPING
    else:
        for name, entry in value.items():
            for problem, fix in _entry(name, entry):
                yield f"[{name!r}]: {problem}", fix


def _entry(name: Any, entry: Any) -> Iterator[Finding]:
    if not isinstance(name, str) or not name or "*" in name[:-1]:
        yield "a star may only be at the end of a name, which is a text.", MAPPING
    if isinstance(entry, str):
        yield from _listed(entry)
    elif not isinstance(entry, Mapping):
        yield f"must be a dict, not a {type(entry).__name__}.", KEYS
    else:
        for key in ("input", "output"):
            if key not in entry:
                yield f"{key!r} is missing.", "Give it in dollars a million tokens; 0 for a model that costs nothing."
        for key, price in entry.items():
            if key not in PRICES:
                yield f"{key!r} is not known.", f"{nearest(str(key), PRICES)} {KEYS}"
            elif not _is_price(price):
                yield f"{key!r} is {price!r}, which is no price.", "Give dollars a million tokens, such as '0.15'."


def _is_price(price: Any) -> bool:
    if isinstance(price, bool) or not isinstance(price, int | float | str | Decimal):
        return False
    try:
        number = Decimal(str(price))
    except InvalidOperation:
        return False
    return number.is_finite() and number >= 0


def _listed(provider: str) -> Iterator[Finding]:
    try:
        snapshot = import_module("genai_prices.data_snapshot").get_snapshot()
    except ImportError:
        yield f"{provider!r} is a provider of genai-prices, which is missing.", "pip install 'django-converse[prices]'"
        return
    known = [listed.id for listed in snapshot.providers]
    if provider not in known:
        yield f"genai-prices has no provider {provider!r}.", nearest(provider, known)
