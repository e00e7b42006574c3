"""The records of Converse, and what can be done with them."""

from converse.models.attachments import MessageAttachment
from converse.models.calls import ProviderCall
from converse.models.chunks import MessageChunk
from converse.models.conversations import Conversation
from converse.models.messages import Message
from converse.models.owners import HasConversations
from converse.models.participants import ConversationParticipant

__all__ = [
    "Conversation",
    "ConversationParticipant",
    "HasConversations",
    "Message",
    "MessageAttachment",
    "MessageChunk",
    "ProviderCall",
]
