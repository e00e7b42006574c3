"""The rules of the settings for Laravel Echo and pusher-js."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from converse.checks.rules import Finding, Rule, must_be

KEY = re.compile(r"[A-Za-z0-9_-]{1,100}")
ENOUGH = 16  # characters of a secret

echo_key: Rule = must_be(
    "a text of letters, digits, - and _", lambda value: isinstance(value, str) and KEY.fullmatch(value) is not None
)
echo_namespace: Rule = must_be("a text", lambda value: isinstance(value, str))
echo_aliases: Rule = must_be("True or False", lambda value: isinstance(value, bool))


def echo_secret(value: Any) -> Iterator[Finding]:
    """Never show the value, whatever it is."""
    if not isinstance(value, str) or 0 < len(value) < ENOUGH:
        yield (
            f"must be empty or a text of {ENOUGH} characters or more.",
            "Make one with secrets.token_hex(), or remove it to have one made of SECRET_KEY.",
        )
