"""LLM services behind one call, configured as alias -> BACKEND and OPTIONS."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from converse.conf import settings
from converse.exceptions import UnknownProvider
from converse.providers.base import Prompt, PromptMessage, Provider

__all__ = ["Prompt", "PromptMessage", "Provider", "get_provider"]


def get_provider(alias: str) -> Provider:
    """Return a new provider, made as ``CONVERSE_PROVIDERS[alias]`` says."""
    config = _config(alias)
    if "BACKEND" not in config:
        raise _misconfigured(alias, "BACKEND is missing.")
    try:
        provider = import_string(config["BACKEND"])(**config.get("OPTIONS", {}))
    except (ImportError, TypeError, ValueError) as exc:
        raise _misconfigured(alias, f"{exc}{_hint(exc)}") from exc
    if not isinstance(provider, Provider):
        raise _misconfigured(alias, f"{config['BACKEND']} is not a Provider.")
    return provider


def _config(alias: str) -> dict[str, Any]:
    providers = settings.CONVERSE_PROVIDERS
    if alias not in providers:
        known = ", ".join(map(repr, providers)) or "nothing"
        raise UnknownProvider(f"There is no provider {alias!r} in the setting CONVERSE_PROVIDERS, which has {known}.")
    config: dict[str, Any] = providers[alias]
    return config


def _misconfigured(alias: str, reason: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"CONVERSE_PROVIDERS[{alias!r}]: {reason}")


def _hint(exc: Exception) -> str:
    package = getattr(exc, "name", None)
    return f" (pip install 'django-converse[{package}]')" if package in {"openai", "anthropic"} else ""
