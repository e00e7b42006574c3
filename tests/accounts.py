"""Calls of providers for tests: what they cost, and calls that ended as a test wants."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from converse import calls
from converse.choices import CallOutcome, ErrorType
from converse.deltas import Usage
from converse.exceptions import ProviderError
from converse.models import Conversation, Message, ProviderCall

VIENNA = ZoneInfo("Europe/Vienna")  # an hour ahead in November
PRICES = {"m-1": {"input": 1, "cached_input": "0.1", "output": 10}, "free": {"input": 0, "output": 0}}
TALK = Usage(input=1000, cached_input=100, output=50, reasoning=20, raw={"prompt_tokens": 1100})
COUNTS = {"input_tokens": 1000, "cached_input_tokens": 100, "cache_write_tokens": None, "output_tokens": 50}
BUSY = ProviderError("busy", type=ErrorType.OVERLOADED, retryable=True, retry_after=0)
SECRETIVE = {
    "default": {
        "BACKEND": "converse.providers.echo.EchoProvider",
        "OPTIONS": {"api_key": "sk-1234", "headers": {"X-Auth": "sk-12345678", "X-Team": "blue"}, "model": "m-1"},
    }
}


def reply_in(conversation: Conversation, **fields: object) -> Message:
    message = conversation.start_streaming_assistant()
    Message.all_objects.filter(pk=message.pk).update(provider="default", **fields)
    message.refresh_from_db()
    return message


def call_of(message: Message, outcome: str = "completed", **fields: object) -> ProviderCall:
    """Store a call that ended, with the columns it is to have."""
    call = calls.begin(message, "default", "m-1")
    calls.end(call, CallOutcome(outcome))
    ProviderCall.objects.filter(pk=call.pk).update(**fields)
    return call
