from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from converse.models import Message


class Version(NamedTuple):
    """Which of several versions of a turn a message is."""

    number: int
    of: int


def versions_of(messages: Iterable[Message]) -> dict[int, Version]:
    """Number the versions of turns, by the messages' keys; one without another is none."""
    wanted = {(message.conversation_id, message.follows) for message in messages}
    rows = Message.all_objects.filter(
        conversation_id__in={conversation for conversation, _ in wanted},
        follows__in={follows for _, follows in wanted},
        deleted_at=None,
    )
    siblings: dict[Any, list[int]] = {}
    for pk, *place in rows.order_by("offset").values_list("pk", "conversation_id", "follows", "role"):
        siblings.setdefault(tuple(place), []).append(pk)
    return {
        pk: Version(number, len(keys))
        for keys in siblings.values()
        if len(keys) > 1
        for number, pk in enumerate(keys, 1)
    }
