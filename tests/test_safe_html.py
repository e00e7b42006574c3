"""Markdown as safe HTML: whole, and block by block while it is coming."""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from unittest.mock import patch

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.template import Context, Template
from django.test import SimpleTestCase, TestCase
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from converse.handlers import Ending, Handlers, SafeHTML, html, safe_html
from converse.handlers.pipeline import arun, run
from converse.models import Conversation, Message


def streamed(*texts, **options):
    """Stream Markdown; give the pieces of HTML that were told, and the result."""
    told = []
    handlers = Handlers({"html": SafeHTML(told.append, **options)})
    message = Message(started_at=timezone.now())
    for text in texts:
        run(handlers.take(message, text))
    run(handlers.end(message, Ending(status="completed")))
    assert not handlers.errors, handlers.errors
    return told, handlers.results["html"]


def cut(text, places):
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(edges)]


# Lines of which documents are made that begin, go on and end blocks in every way.
LINES = [
    "",
    "words",
    "*more* words  ",
    "# Heading",
    "#",
    "---",
    "===",
    "- item",
    "  - inner",
    "    code",
    "1. one",
    "2) two",
    "> quote",
    ">",
    "```",
    "```python",
    "~~~~",
    "| a | b |",
    "|---|:-:|",
    "| `1` | 2 |",
    "<div onclick='x()'>",
    "</div>",
    "<!-- no",
    "[link](https://example.com)",
    "![picture](https://example.com/a.png)",
    "<https://example.com>",
    "**bold",
    "\ttab",
    "a\rb",
    "* * *",
    "\u2028line\x0bfeed",
]

ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](javascript&colon;alert(1))",
    "[x](<javascript:alert(1)>)",
    "[x]( javascript:alert(1))",
    "[x](vbscript:msgbox(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](file:///etc/passwd)",
    "<javascript:alert(1)>",
    "[x]\n\n[x]: javascript:alert(1)",
    "![x](javascript:alert(1))",
    '![x](https://example.com/a.png"onerror="alert(1))',
    '[x](https://example.com "\\"onmouseover=alert(1) x=\\"")',
    '[x](https://example.com"onmouseover="alert(1))',
    "```html\n<script>alert(1)</script>\n```",
    '```"><script>alert(1)</script>\nx\n```',
    '``` x" onclick="alert(1)\nx\n```',
    "`<script>alert(1)</script>`",
    "<iframe src='https://example.com'></iframe>",
    "<style>*{display:none}</style>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "<form action='https://example.com'><input name=password></form>",
    "<base href='https://example.com/'>",
    "<meta http-equiv=refresh content='0;url=https://example.com'>",
    "| a |\n|---|\n| <script>alert(1)</script> |",
    "> <object data='x'></object>",
    "- <embed src='x'>",
    "# <link rel=stylesheet href=x>",
    "\x00<script>alert(1)</script>",
    "<scr\u0000ipt>alert(1)</script>",
]

TAG = re.compile(r"<\s*/?\s*([a-z0-9]+)((?:\s+[a-z-]+(?:=\"[^\"]*\")?)*)\s*/?>")
ALLOWED = {"href", "title", "class", "start", "rel", "src", "alt"}


def assert_harmless(text):
    """Assert that HTML has nothing but tags we know, whose attributes we know, with links that lead into the web."""
    rest = TAG.sub("", text)
    assert "<" not in rest, text
    for tag, attributes in TAG.findall(text):
        assert tag in html.TAGS | {"img"}, text
        for name, value in re.findall(r"([a-z-]+)=\"([^\"]*)\"", attributes):
            assert name in ALLOWED, text
            if name in ("href", "src"):
                assert re.match(r"(https?:|mailto:|[^:]*$|[/?#])", value), text


class SafeTests(SimpleTestCase):
    def test_markdown_becomes_html(self):
        text = "# Soup\n\nCook *it* **well**, ~~fast~~ slowly:\n\n1. [Stir](https://example.com)\n2. `wait`\n"
        made = safe_html(f"{text}\n|a|\n|-|\n|b|\n")
        for piece in (
            "<h1>Soup</h1>",
            "<em>it</em>",
            "<strong>well</strong>",
            "<s>fast</s>",
            '<a href="https://example.com" rel="noopener noreferrer">Stir</a>',
            "<code>wait</code>",
            "<td>b</td>",
        ):
            assert piece in made, piece

    def test_a_template_shows_it_as_it_is(self):
        assert Template("{{ text }}").render(Context({"text": safe_html("*a* <b>")})) == (
            "<p><em>a</em> &lt;b&gt;</p>\n"
        )

    def test_the_language_of_code_is_kept_and_no_other_class(self):
        assert '<code class="language-c++">' in safe_html("```c++\nx\n```")
        assert "<code>" in safe_html('```a"b\nx\n```')

    def test_nothing_that_harms_gets_through_whole_or_in_pieces(self):
        for attack in ATTACKS:
            with self.subTest(attack):
                assert_harmless(safe_html(attack))
                assert_harmless(safe_html(attack, images=True))
                for pieces in (list(attack), attack.splitlines(keepends=True), [attack, "\n\nmore\n\n"]):
                    told, _ = streamed(*pieces)
                    for piece in told:
                        assert_harmless(piece)

    @given(st.lists(st.sampled_from([*LINES, *ATTACKS])), st.lists(st.integers(0)))
    def test_nor_does_any_mixture_of_them(self, lines, places):
        text = "\n".join(lines)
        assert_harmless(safe_html(text))
        for piece in streamed(*cut(text, places))[0]:
            assert_harmless(piece)

    def test_pictures_are_links_unless_they_are_wanted(self):
        picture = "![a cat](https://example.com/cat.png)"
        assert "<img" not in safe_html(picture)
        assert 'href="https://example.com/cat.png"' in safe_html(picture)
        assert '<img src="https://example.com/cat.png" alt="a cat">' in safe_html(picture, images=True)
        assert "<img" in streamed(picture, images=True)[1]

        class WithPictures(SafeHTML):
            images = True

        handlers = Handlers([WithPictures])
        run(handlers.take(Message(started_at=timezone.now()), picture))
        run(handlers.end(Message(), Ending(status="completed")))
        assert "<img" in handlers.results["WithPictures"]


class StreamedTests(SimpleTestCase):
    @given(st.lists(st.sampled_from(LINES)), st.lists(st.integers(0)), st.booleans())
    def test_what_is_told_in_pieces_is_what_the_whole_gives(self, lines, places, crlf):
        text = ("\r\n" if crlf else "\n").join(lines)
        told, result = streamed(*cut(text, places))
        assert "".join(told) == result == safe_html(text)

    def test_a_block_is_told_once_another_one_begins(self):
        handlers = Handlers({"html": SafeHTML()})
        message = Message(started_at=timezone.now())
        seen = []
        for text in ("# Soup\n", "\nCook", " it.\n", "\n- st", "ir\n", "- wait\n\n", "Done"):
            run(handlers.take(message, text))
            seen.append(str(handlers.results["html"]))
        assert seen == [
            "",
            "",
            "<h1>Soup</h1>\n",
            "<h1>Soup</h1>\n",
            "<h1>Soup</h1>\n<p>Cook it.</p>\n",
            "<h1>Soup</h1>\n<p>Cook it.</p>\n",
            "<h1>Soup</h1>\n<p>Cook it.</p>\n",
        ]
        run(handlers.end(message, Ending(status="completed")))
        assert handlers.results["html"].endswith("<li>wait</li>\n</ul>\n<p>Done</p>\n")

    def test_a_fence_that_is_never_closed_is_closed_at_the_end(self):
        told, _ = streamed("Look:\n\n", "```python\n", "print('<b>')\n", "\n", "# no heading\n")
        assert told == [
            "<p>Look:</p>\n",
            "<pre><code class=\"language-python\">print('&lt;b&gt;')\n\n# no heading\n</code></pre>\n",
        ]

    def test_a_link_whose_target_was_defined_before_is_one(self):
        told, _ = streamed("[home]: https://example.com\n\n", "a\n\n", "b\n\n", "go [home]\n\n", "c")
        assert 'href="https://example.com"' in "".join(told)

    def test_a_block_that_grows_and_grows_does_not_cost_its_square(self):
        parsed = []
        parser = html._parser(images=False)
        with patch.object(parser, "parse", side_effect=lambda text, env: parsed.append(len(text)) or []):
            blocks = html._Blocks(images=False)
            for _ in range(2000):
                blocks.take("- and one more item of a list\n")
        assert sum(parsed) <= html.EFFORT * 2000 * 30
        assert len(parsed) > 100

    async def test_an_asynchronous_callback_is_waited_for(self):
        told = []

        async def tell(piece):
            told.append(piece)

        handlers = Handlers({"html": SafeHTML(tell)})
        await arun(handlers.take(Message(started_at=timezone.now()), "a\n\nb"))
        await arun(handlers.end(Message(), Ending(status="completed")))
        assert told == ["<p>a</p>\n<p>b</p>\n"]

    def test_a_missing_library_is_named_with_the_command_that_installs_it(self):
        html._parser.cache_clear()
        with (
            patch.dict(sys.modules, {"nh3": None}),
            pytest.raises(ImproperlyConfigured, match=r"pip install 'django-converse\[markdown\]'"),
        ):
            SafeHTML()


class StoredTests(TestCase):
    def test_what_is_stored_is_the_text_itself(self):
        told = []
        with Conversation.objects.start().stream_reply(handlers={"html": SafeHTML(told.append)}) as stream:
            stream.append("*a*\n\n").append("<b>")
        assert stream.message.content == "*a*\n\n<b>"
        assert "".join(told) == stream.handlers.results["html"] == "<p><em>a</em></p>\n<p>&lt;b&gt;</p>\n"
        assert "handlers" not in stream.message.metadata
