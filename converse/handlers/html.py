"""Markdown as HTML that is safe in a page, block by block while it is still coming."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.safestring import SafeString

from converse.handlers.base import Ending, Handler, after

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

    from converse.models import Message

NEWLINE = re.compile(r"\r\n?")
EXTRA = "HTML is made with markdown-it-py and nh3: pip install 'django-converse[markdown]'"

TAGS = {
    *("a", "blockquote", "br", "code", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s"),
    *("strong", "table", "tbody", "td", "th", "thead", "tr", "ul"),
}
ATTRIBUTES = {"a": {"href", "title"}, "code": {"class"}, "img": {"src", "alt", "title"}, "ol": {"start"}}
LANGUAGE = re.compile(r"language-[\w+#.-]{1,40}")
SCHEMES = {"http", "https", "mailto"}

EFFORT = 20  # characters parsed for each that came, at most: what a block grows to does not cost its square


def safe_html(markdown: str, *, images: bool = False) -> SafeString:
    """Give Markdown as HTML without anything that could harm a page: scripts, styles, other schemes.

    Images are links, unless ``images`` is on: a picture that a page loads by itself tells somebody that it was seen.
    """
    return _Blocks(images=images).close(markdown)


class SafeHTML(Handler):
    """Makes safe HTML of Markdown as it comes, a block at a time; what is stored is the text itself.

    Its result is the HTML so far; the callback is given each further piece, whole elements always. A link whose target
    is defined further on only is not one in what was told before.
    """

    stored = False
    images = False

    def __init__(self, callback: Callable[[SafeString], Any] | None = None, *, images: bool | None = None) -> None:
        self._callback = callback
        self.images = self.images if images is None else images
        _parser(images=self.images)

    def block(self, html: SafeString) -> Any:
        """Hand on a piece of HTML, by default to the callback."""
        return self._callback(html) if self._callback else None

    def start(self, result: str | None, message: Message) -> SafeString:
        self._blocks = _Blocks(images=self.images)
        return SafeString("")

    def take(self, result: SafeString, text: str) -> Any:
        return self._told(result, self._blocks.take(text))

    def end(self, result: SafeString, ending: Ending) -> Any:
        return self._told(result, self._blocks.close())

    def _told(self, result: SafeString, html: SafeString) -> Any:
        return after(self.block(html), result + html) if html else result


class _Blocks:
    """Markdown that is coming: what another block follows is made HTML, the last block waits for its end."""

    def __init__(self, *, images: bool) -> None:
        self._images = images
        self._definitions: dict[str, Any] = {}  # of links, which later blocks refer to
        self._lines = ""  # whole lines of which no HTML was made
        self._line: list[str] = []  # of the line that is still coming
        self._effort = 0

    def take(self, text: str) -> SafeString:
        """Take text; give the HTML of the blocks that are whole by it."""
        self._effort += EFFORT * len(text)
        head, newline, tail = text.rpartition("\n")
        if newline:
            self._lines += NEWLINE.sub("\n", "".join([*self._line, head, newline]))
            self._line = []
        self._line.append(tail)
        if not newline or self._effort < len(self._lines):
            return SafeString("")
        self._effort -= len(self._lines)
        tokens = _parser(images=self._images).parse(self._lines, self._definitions)
        blocks = [index for index, token in enumerate(tokens) if token.level == 0 and token.nesting >= 0]
        if len(blocks) < 2:
            return SafeString("")
        last = tokens[blocks[-1]]
        self._lines = "\n".join(self._lines.split("\n")[(last.map or [0])[0] :])
        return self._made(tokens[: blocks[-1]])

    def close(self, text: str = "") -> SafeString:
        """Take the last text; give the HTML of all that is left."""
        rest = self._lines + "".join([*self._line, text])
        self._lines, self._line = "", []
        return self._made(_parser(images=self._images).parse(rest, self._definitions))

    def _made(self, tokens: Sequence[Token]) -> SafeString:
        parser = _parser(images=self._images)
        html = parser.renderer.render(tokens, parser.options, self._definitions)
        tags = TAGS | {"img"} if self._images else TAGS
        clean = _library("nh3").clean(
            html, tags=tags, attributes=ATTRIBUTES, attribute_filter=_attribute, url_schemes=SCHEMES
        )
        return SafeString(clean)


def _attribute(tag: str, name: str, value: str) -> str | None:
    """Keep the one class that says in which language code is."""
    return value if name != "class" or LANGUAGE.fullmatch(value) else None


@cache
def _parser(*, images: bool) -> MarkdownIt:
    _library("nh3")
    parser: MarkdownIt = _library("markdown_it").MarkdownIt("commonmark", {"html": False})
    parser.enable(["table", "strikethrough"])
    return parser if images else parser.disable("image")


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as exc:
        raise ImproperlyConfigured(EXTRA) from exc
