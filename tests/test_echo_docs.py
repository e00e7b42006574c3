from __future__ import annotations

from django.test import SimpleTestCase

from converse.transports.pusher import protocol
from converse.transports.pusher.names import ALIASES
from converse.transports.pusher.sockets import EVENTS
from tests.documents import DOCS, ROOT, blocks, names, rows, section

PAGE = DOCS / "reference" / "echo.md"
HOW_TO = DOCS / "how-to" / "echo.md"
SUITE = ROOT / "tests/clients/suites/echo.test.mjs"


class EchoDocsTests(SimpleTestCase):
    def test_every_code_is_listed(self):
        declared = {
            str(code)
            for name, code in vars(protocol).items()
            if name.isupper() and isinstance(code, int) and 4000 <= code < 5000
        }
        assert {row[0] for row in rows(section(PAGE, "Codes"))} == declared | {"`null`"}

    def test_every_frame_of_a_client_is_listed(self):
        listed = {names(row[0])[0] for row in rows(section(PAGE, "What a client sends"))}
        assert listed == {*EVENTS, "client-…"}

    def test_every_name_of_the_original_is_listed(self):
        listed = {
            names(row[0])[0]: names(row[1])[0]
            for row in rows(PAGE.read_text())
            if names(row[0])[:1] and names(row[0])[0] in ALIASES and len(row) == 3
        }
        assert {name: alias for name, alias in listed.items() if name != "StreamUpdate" or "." in alias} == ALIASES

    def test_what_resumes_in_the_docs_is_what_the_suite_runs(self):
        ran = {line.strip() for line in SUITE.read_text().splitlines()}
        [shown] = [block.code for block in blocks(HOW_TO, "js") if "paramsProvider" in block.code]
        ours = [line.strip() for line in shown.splitlines() if "resume" in line or "message" in line]
        assert len(ours) == 3
        assert set(ours) <= ran
