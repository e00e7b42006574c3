"""Markdown in the element: in whatever pieces it streams it ends up the same, and nothing in it comes to life."""

from __future__ import annotations

from typing import ClassVar

from tests.browsers import BrowserTestCase

SAMPLES = [
    "# One\n\ntwo *three*\nfour  \nfive\n\n- a\n- b\n\n  more of b\n- c\n\nend",
    "1. x\n   - y\n     1. z\n\n```py\na = 1\n\n\nb\n```\ntail",
    "| a | b |\n|:-|-:|\n| 1 | 2 |\n| `3` | **4** |\n\nafter",
    "para\n===\n\n> quote\n> > deeper\nlazy\n\n---\n\n    indented\n    code\n\n~~gone~~ &amp; &#65; &nope; \\*",
    'see [one][1] and [two]\n\n[1]: https://a.example/\n\nmiddle\n\n[two]: https://b.example/ "T"\n',
    "open\n\n```html\n<script>x</script>\n\n# not a title",
    "* a\n\n* b\n\n\n* c\r\nd\r\n\r\n- [x] done\n- [ ] not\n\n<div>\nraw\n</div>\n\nend",
    "\u05e9\u05dc\u05d5\u05dd **\u05e2\u05d5\u05dc\u05dd** \U0001f600 https://example.com/a?b=c&d=e.",
]
HOSTILE = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "a <svg/onload=window.hacked=1> <iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
    "[x](javascript:window.hacked=1) [y](JaVaScRiPt:window.hacked=1) [z](\u0001javascript:window.hacked=1)",
    "[x](data:text/html,<script>window.hacked=1</script>) [y](vbscript:x) [z](file:///etc/passwd) [w](//evil.example)",
    "[x](java\nscript:window.hacked=1) [y](&#106;avascript:window.hacked=1) [z](  javascript&colon;window.hacked=1)",
    '<javascript:window.hacked=1> <https://x.example/"onmouseover=window.hacked=1>',
    '![x](https://evil.example/?secret) ![x](javascript:window.hacked=1 "t\\" onerror=window.hacked=1")',
    "[a]: javascript:window.hacked=1\n\n[a] [b][a]",
    "```<script>window.hacked=1</script>\n</code></pre><img src=x onerror=window.hacked=1>",
    "| <img src=x onerror=window.hacked=1> |\n|---|\n| <b onclick=window.hacked=1>x</b> |",
    "<style>* { display: none }</style><link rel=stylesheet href=//evil.example><base href=//evil.example>",
    "<form action=//evil.example><input autofocus onfocus=window.hacked=1></form>",
    "&lt;script&gt;window.hacked=1&lt;/script&gt; &#60;img src=x onerror=window.hacked=1&#62;",
    "A word without an end: " + "a" * 2500 + "@",
    "[constructor](x) &constructor; &__proto__; <constructor>\n\n```constructor\nx",
]
PROBE = """
async ({ samples, size, fresh }) => {
  const { load, Markdown } = await import("/static/converse/chat/markdown.js");
  await load();
  const { speaker } = await import("/static/converse/chat/labels.js");
  const outcomes = [];
  const compare = (text, isDone, { node }) => {
    const whole = new Markdown(speaker());
    whole.show(text, isDone);
    if (whole.node.innerHTML !== node.innerHTML) outcomes.push([text, whole.node.innerHTML, node.innerHTML]);
  };
  for (const text of samples) {
    const streamed = new Markdown(speaker());
    document.body.append(streamed.node);
    for (let end = 1; end < text.length; end += size) {
      streamed.show(text.slice(0, end), false);
      if (fresh) compare(text.slice(0, end), false, streamed);
    }
    streamed.show(text, true);
    compare(text, true, streamed);
    const bad = "script, style, img, iframe, link, base, form, input, object, embed, svg:not(.icon-copy)";
    for (const node of streamed.node.querySelectorAll(bad)) outcomes.push([text, "element", node.outerHTML]);
    for (const node of streamed.node.querySelectorAll("*")) {
      const names = [...node.attributes].map(({ name }) => name);
      const isBad = names.some((name) => name.startsWith("on") || name === "style");
      if (isBad) outcomes.push([text, "attribute", node.outerHTML]);
      if (node.href === undefined) continue;
      if (!/^(https?|mailto):$/.test(node.protocol)) outcomes.push([text, "href", node.outerHTML]);
      if (node.rel !== "noopener noreferrer nofollow") outcomes.push([text, "rel", node.outerHTML]);
    }
    streamed.node.remove();
  }
  if (window.hacked) outcomes.push(["", "hacked", ""]);
  return outcomes;
}
"""


class MarkdownTests(BrowserTestCase):
    environment: ClassVar = {"ECHO_DELAY": "0.002"}

    def setUp(self) -> None:
        super().setUp()
        self.page = self.open(self.demo.url)
        self.page.locator("nav").get_by_role("button", name="New conversation").click()
        self.live(self.page)

    def test_streamed_in_any_pieces_it_is_the_same_as_at_once(self):
        for size in (1, 2, 3, 7, 20):
            assert self.page.evaluate(PROBE, {"samples": SAMPLES, "size": size, "fresh": False}) == []

    def test_it_is_right_at_every_moment(self):
        given = [sample for sample in SAMPLES if "]: " not in sample]  # an address at the end is known at the end
        assert self.page.evaluate(PROBE, {"samples": given, "size": 1, "fresh": True}) == []

    def test_nothing_hostile_comes_to_life_in_any_pieces(self):
        for size in (1, 3, 1000):
            assert self.page.evaluate(PROBE, {"samples": HOSTILE, "size": size, "fresh": False}) == []

    def test_nothing_hostile_comes_to_life_in_a_conversation(self):
        self.ask(self.page, "\n\n".join(HOSTILE))
        self.ended(self.page)
        assert self.page.evaluate("window.hacked") is None
        assert "onerror" in (self.page.locator(".message.assistant").text_content() or "")

    def test_what_is_complete_is_left_alone_and_a_selection_stays(self):
        told = self.page.evaluate("""async () => {
            const { load, Markdown } = await import("/static/converse/chat/markdown.js");
  await load();
            const { speaker } = await import("/static/converse/chat/labels.js");
            const markdown = new Markdown(speaker());
            document.body.append(markdown.node);
            markdown.show("one\\n\\n```\\ncode", false);
            const [first, code] = markdown.node.children;
            const words = code.querySelector("code").firstChild;
            getSelection().selectAllChildren(first);
            for (const more of [" and", " more\\n", "```\\n\\nlast", " words"]) {
              markdown.show((markdown.said = (markdown.said ?? "one\\n\\n```\\ncode") + more), false);
            }
            markdown.show(markdown.said, true);
            const now = markdown.node.children;
            return [now[0] === first, now[1] === code, code.querySelector("code").firstChild === words,
              getSelection().toString(), now.length, code.querySelector("code").textContent];
        }""")
        assert told == [True, True, True, "one", 3, "code and more"]

    def test_what_is_nested_without_end_is_shown_as_it_is_written_and_soon(self):
        took = self.page.evaluate("""async () => {
            const { load, Markdown } = await import("/static/converse/chat/markdown.js");
  await load();
            const { speaker } = await import("/static/converse/chat/labels.js");
            const began = performance.now();
            const bombs = [">".repeat(3000), "[".repeat(20000), "*a ".repeat(5000), "- ".repeat(3000),
              "`".repeat(20001), "<".repeat(20000)];
            for (const bomb of bombs) {
              const markdown = new Markdown(speaker());
              document.body.append(markdown.node);
              markdown.show(bomb + "x", true);
              markdown.node.remove();
            }
            return performance.now() - began;
        }""")
        assert took < 20_000, took
