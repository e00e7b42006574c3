"""LLM services behind one call, configured as alias -> BACKEND and OPTIONS."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from converse.conf import settings
from converse.exceptions import UnknownProvider
from converse.providers.base import OutputSpec, Prompt, PromptMessage, Provider, ToolSpec

# The extra that brings the package which a provider is missing; Gemini's needs no SDK.
EXTRAS = {"openai": "openai", "anthropic": "anthropic", "httpx2": "gemini"}

__all__ = ["OutputSpec", "Prompt", "PromptMessage", "Provider", "ToolSpec", "config_of", "get_provider"]


def get_provider(alias: str) -> Provider:
    """Return a new provider, made as ``CONVERSE_PROVIDERS[alias]`` says."""
    config = config_of(alias)
    if "BACKEND" not in config:
        raise _misconfigured(alias, "BACKEND is missing.")
    try:
        provider = import_string(config["BACKEND"])(**config.get("OPTIONS", {}))
    except (ImportError, TypeError, ValueError) as exc:
        raise _misconfigured(alias, f"{exc}{_hint(exc)}") from exc
    if not isinstance(provider, Provider):
        raise _misconfigured(alias, f"{config['BACKEND']} is not a Provider.")
    return provider


def config_of(alias: str) -> dict[str, Any]:
    """Give what the settings say of a provider; raise UnknownProvider."""
    providers = settings.CONVERSE_PROVIDERS
    if alias not in providers:
        known = ", ".join(map(repr, providers)) or "nothing"
        raise UnknownProvider(f"There is no provider {alias!r} in the setting CONVERSE_PROVIDERS, which has {known}.")
    config: dict[str, Any] = providers[alias]
    return config


def _misconfigured(alias: str, reason: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"CONVERSE_PROVIDERS[{alias!r}]: {reason}")


def _hint(exc: Exception) -> str:
    extra = EXTRAS.get(getattr(exc, "name", None) or "")
    return f" (pip install 'django-converse[{extra}]')" if extra else ""
