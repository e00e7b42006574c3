"""The records of Converse, and what can be done with them."""

from converse.models.conversations import Conversation, ConversationParticipant
from converse.models.messages import Message, MessageChunk
from converse.models.owners import HasConversations

__all__ = ["Conversation", "ConversationParticipant", "HasConversations", "Message", "MessageChunk"]
