"""Querysets that read as English, and the statements of the log that the ORM has no words for."""

from converse.managers.chunks import ChunkQuerySet, NewChunk
from converse.managers.conversations import ConversationQuerySet, Head, VisibleConversations, new_epoch
from converse.managers.messages import MessageQuerySet, VisibleMessages

__all__ = [
    "ChunkQuerySet",
    "ConversationQuerySet",
    "Head",
    "MessageQuerySet",
    "NewChunk",
    "VisibleConversations",
    "VisibleMessages",
    "new_epoch",
]
