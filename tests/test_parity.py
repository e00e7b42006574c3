"""The page on parity: every row is there once, and what it names exists."""

from __future__ import annotations

import re

from django.test import SimpleTestCase
from django.utils.module_loading import import_string

from converse.conf import Settings
from tests.documents import DOCS, names, rows

PAGE = (DOCS / "reference" / "parity.md").read_text()
ROWS = [
    f"{system}{number:02}"
    for system, last in zip("PRBM", (18, 18, 19, 17), strict=True)
    for number in range(1, last + 1)
]


def resolve(path: str) -> object:
    """Import what a dotted path names: a module, or something in one, or an attribute of a class in one."""
    module, _, name = path.rpartition(".")
    try:
        return __import__(path, fromlist=["_"])
    except ModuleNotFoundError:
        pass
    try:
        return import_string(path)
    except ImportError:
        return getattr(import_string(module), name)


class ParityTests(SimpleTestCase):
    def test_every_row_is_listed_once_and_in_order(self):
        assert [row[0] for row in rows(PAGE)] == ROWS

    def test_every_row_says_where_or_why(self):
        for number, feature, where in rows(PAGE):
            assert feature, number
            assert len(where) > 10, number

    def test_what_a_row_names_exists(self):
        for number, _, where in rows(PAGE):
            for name in names(where):
                if name.startswith("converse.") and name != "converse.js":
                    with self.subTest(number, name=name):
                        assert resolve(name)

    def test_the_settings_that_it_names_exist(self):
        assert set(re.findall(r"CONVERSE_\w+", PAGE)) <= set(Settings.__annotations__)
