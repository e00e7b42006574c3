"""What watches a reply while it streams: named, independent, each with a result of its own."""

from converse.exceptions import Stopped, Vetoed
from converse.handlers.base import Ending, Handler
from converse.handlers.buffers import Buffered
from converse.handlers.counts import Analytics, CharacterCount, Progress, WordCount
from converse.handlers.html import SafeHTML, safe_html
from converse.handlers.judges import Limit, Moderation
from converse.handlers.pipeline import Handlers
from converse.handlers.plans import of, plan

__all__ = [
    "Analytics",
    "Buffered",
    "CharacterCount",
    "Ending",
    "Handler",
    "Handlers",
    "Limit",
    "Moderation",
    "Progress",
    "SafeHTML",
    "Stopped",
    "Vetoed",
    "WordCount",
    "of",
    "plan",
    "safe_html",
]
