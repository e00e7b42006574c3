"""Signals for code in the process, each sent after the commit of what it tells."""

from __future__ import annotations

from django.dispatch import Signal

# A conversation was started, changed (title, metadata, restored) or soft-deleted.
# Sender: Conversation. Arguments: conversation.
conversation_created = Signal()
conversation_updated = Signal()
conversation_deleted = Signal()

# A message was added; an open one will still change. Sender: Message. Arguments: message.
message_created = Signal()

# A message closed: without error, with one, by a stop. Its text is stored. Sender: Message. Arguments: message.
message_completed = Signal()
message_failed = Signal()
message_cancelled = Signal()

# A message's particulars changed, or it was restored. Sender: Message. Arguments: message.
message_updated = Signal()

# A message was soft-deleted. Sender: Message. Arguments: message.
message_deleted = Signal()
