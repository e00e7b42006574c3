"""For tests of your own: a provider that follows a script, what readers get, assertions, and rows to begin with."""

from converse.testing.asserts import aassert_reply, assert_reply
from converse.testing.capture import captured_events
from converse.testing.factories import ChunkFactory, ConversationFactory, MessageFactory
from converse.testing.scripts import Script, ScriptedProvider, scripted
from converse.testing.steps import (
    Step,
    answers,
    breaks_off,
    call,
    cites,
    ends,
    fails,
    gives,
    raw,
    refuses,
    spends,
    thinks,
)

__all__ = [
    "ChunkFactory",
    "ConversationFactory",
    "MessageFactory",
    "Script",
    "ScriptedProvider",
    "Step",
    "aassert_reply",
    "answers",
    "assert_reply",
    "breaks_off",
    "call",
    "captured_events",
    "cites",
    "ends",
    "fails",
    "gives",
    "raw",
    "refuses",
    "scripted",
    "spends",
    "thinks",
]
