"""The JSON API: conversations, their messages, and who takes part, for clients that speak plain HTTP."""
