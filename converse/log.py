"""The conversation as a log: lock it, take the next offsets, write, and tell of it after the commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.db import router, transaction
from django.dispatch import Signal
from django.utils import timezone

from converse import broadcasting, records
from converse.events import Event
from converse.managers import Head


def database() -> str:
    """Name the database that conversations are written to."""
    return router.db_for_write(records.Conversation)


def walk(follows: Mapping[int, int], leaf: int) -> list[int]:
    """Give the offsets of the branch that ends at one, oldest first; ``follows`` has the offset before each."""
    path = []
    while leaf in follows:
        path.append(leaf)
        leaf = follows[leaf]
    return path[::-1]


class Log:
    """A locked conversation: who holds it decides what comes next."""

    def __init__(self, conversation_id: int, head: Head) -> None:
        self.conversation_id = conversation_id
        self.uuid = head.uuid
        self.epoch = head.epoch
        self.head = head.offset
        self.leaf = head.leaf  # the offset of the message that the next one follows
        self.events: list[Event] = []
        self.signals: list[Callable[[], Any]] = []

    def next(self) -> int:
        """Take the next offset."""
        self.head += 1
        return self.head

    def place(self) -> dict[str, int]:
        """Take the next offset for a new message, and give the columns that say where in the conversation it is."""
        follows, self.leaf = self.leaf, self.next()
        return {"offset": self.leaf, "changed_offset": self.leaf, "follows": follows}

    def tell(self, event: Event, signal: Signal, sender: type[Any], **arguments: Any) -> None:
        """Publish an event, and send a signal, once what was written is committed."""
        self.events.append(event)
        self.signals.append(partial(signal.send_robust, sender, **arguments))

    def announce(self) -> None:
        broadcasting.publish(self.epoch, self.events)
        for send in self.signals:
            send()


@contextmanager
def writing(conversation_id: int) -> Iterator[Log]:
    """Lock a conversation for one short transaction; raise DoesNotExist where there is none.

    Offsets are taken under the lock, hence dense, and become visible in order. Inside a transaction of the caller
    everything is told after that one's commit.
    """
    alias = database()
    conversations = records.Conversation.all_objects.using(alias)
    with transaction.atomic(using=alias):
        heads = conversations.lock([conversation_id])
        if conversation_id not in heads:
            raise records.Conversation.DoesNotExist("The conversation is gone.")
        log = Log(conversation_id, heads[conversation_id])
        before = log.head
        yield log
        if log.head > before:
            conversations.filter(pk=conversation_id).update(
                last_offset=log.head, leaf_offset=log.leaf, last_activity_at=timezone.now()
            )
        transaction.on_commit(log.announce, using=alias)
