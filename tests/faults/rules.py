"""How the replies that clients ask for are asked for."""

from __future__ import annotations

from typing import Any

from converse.models import Conversation


def paying(user: Any, conversation: Conversation) -> dict[str, Any]:
    return {"tools": ["tests.faults.tools.pay", "tests.faults.tools.say", "tests.faults.tools.doze"]}
