"""Vercel's AI SDK: ``useChat`` against a conversation, for its versions 5, 6 and 7. See docs/reference/chat.md."""
