"""The admin: who talks about what, what became of it, and a hand on the brake."""

from converse.admin.calls import ProviderCallAdmin
from converse.admin.conversations import ConversationAdmin
from converse.admin.messages import MessageAdmin

__all__ = ["ConversationAdmin", "MessageAdmin", "ProviderCallAdmin"]
