"""What a call of a model cost, at the prices of its day."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from importlib import import_module
from typing import Any

from django.utils.module_loading import import_string

from converse.conf import settings
from converse.deltas import Usage

logger = logging.getLogger(__name__)

MILLION = 1_000_000
PLACES = Decimal("1e-9")  # of a dollar, as the column has them

# Whose list the prices of a provider of ours are in, by the module of its class.
LISTS = {
    "converse.providers.anthropic": "anthropic",
    "converse.providers.gemini": "google",
    "converse.providers.mistral": "mistral",
    "converse.providers.openai": "openai",
    "converse.providers.responses": "openai",
}


def cost(provider: str, model: str, usage: Usage, at: datetime, *, asked: str = "") -> Decimal | None:
    """Give what a call of a provider, an alias, cost in US dollars; None where a price or a count is not known.

    ``asked`` is the name the model was asked for by, where another one answered. Never raises: what fails is logged.
    """
    try:
        found = _cost(provider, [name for name in (model, asked) if name], usage, at)
        return None if found is None else found.quantize(PLACES)
    except Exception:
        logger.exception("The price of a call of %r, model %r, could not be worked out", provider, model)
        return None


def _cost(provider: str, models: list[str], usage: Usage, at: datetime) -> Decimal | None:
    own: Any = settings.CONVERSE_PRICES
    if isinstance(own, str):
        price: Decimal | None = import_string(own)(provider, models[0] if models else "", usage, at)
        return price
    entry = _entry(own, [*(f"{provider}/{model}" for model in models or [""]), *models])
    if isinstance(entry, Mapping):
        return _priced(entry, usage)
    where = {"provider_id": entry} if entry else _place_of(provider)
    prices = (_listed(where, model, usage, at) for model in models)
    return next((price for price in prices if price is not None), None)


def listed(provider: str, model: str, usage: Usage, at: datetime) -> Decimal | None:
    """Give what a call cost by the list of genai-prices, for a function of yours to build on."""
    return _listed(_place_of(provider), model, usage, at)


def _entry(prices: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Find the entry of a name itself, else that of the longest beginning that ends with a star."""
    for name in names:
        if name in prices:
            return prices[name]
    for key in sorted(prices, key=len, reverse=True):
        if key.endswith("*") and any(name.startswith(key[:-1]) for name in names):
            return prices[key]
    return None


def _priced(prices: Mapping[str, Any], usage: Usage) -> Decimal | None:
    """Price the counts by dollars a million; what a provider does not tell apart is in its input already."""
    prices = {"cached_input": prices["input"], "cache_write": prices["input"], **prices}
    counts = {
        "input": usage.input,
        "cached_input": usage.cached_input or 0,
        "cache_write": usage.cache_write or 0,
        "output": usage.output,
    }
    total = Decimal(0)
    for name, count in counts.items():
        price = Decimal(str(prices[name]))
        if price and count is None:
            return None
        total += price * (count or 0)
    return total / MILLION


def _listed(where: Mapping[str, str], model: str, usage: Usage, at: datetime) -> Decimal | None:
    if not where or usage.input is None or usage.output is None:
        return None
    try:
        # Not at the top: it takes a fifth of a second, which no management command should wait for.
        library: Any = import_module("genai_prices")
        found = library.calc_price(_counts(library, usage), model, genai_request_timestamp=at, **where)
    except (ImportError, LookupError):
        return None
    # To the library a price that is missing is 0; some models have one for the input only, or none at all.
    known = found.model_price.input_mtok is not None and found.model_price.output_mtok is not None
    price: Decimal | None = found.total_price if known else None
    return price


def _counts(library: Any, usage: Usage) -> Any:
    """Give usage as the library counts it: its input includes what was read from and written to a cache."""
    cached, written = usage.cached_input or 0, usage.cache_write or 0
    # Anthropic takes more for what it keeps for an hour, and says how much that is.
    kept = usage.raw.get("cache_creation")
    hour = kept.get("ephemeral_1h_input_tokens") if isinstance(kept, Mapping) else None
    return library.Usage(
        input_tokens=(usage.input or 0) + cached + written,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(hour or 0, written),
        output_tokens=usage.output,
    )


def _place_of(provider: str) -> dict[str, str]:
    """Say where a provider's prices are listed: by its address if it has one of its own, else by its class."""
    config = settings.CONVERSE_PROVIDERS.get(provider, {})
    if address := config.get("OPTIONS", {}).get("base_url"):
        return {"provider_api_url": str(address)}
    backend = import_string(config["BACKEND"]) if config else None
    lists = (LISTS.get(base.__module__) for base in getattr(backend, "__mro__", ()))
    return next(({"provider_id": name} for name in lists if name), {})
