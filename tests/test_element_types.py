"""The client's types for TypeScript, and the sizes that the docs state."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path
from unittest import SkipTest

from django.test import SimpleTestCase

ROOT = Path(__file__).resolve().parent.parent
STATIC = ROOT / "converse" / "static" / "converse"
COMPILER = ROOT / "tests" / "clients" / "node_modules" / ".bin" / "tsc"
LIFE_CYCLE = {"constructor", "connectedCallback", "disconnectedCallback", "attributeChangedCallback", "focus"}


class TypesTests(SimpleTestCase):
    def test_a_page_in_typescript_compiles(self):
        if not COMPILER.exists():
            raise SkipTest("no typescript")
        options = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2024,dom"]
        done = subprocess.run(
            [COMPILER, *options, ROOT / "tests/js/types.ts"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout

    def test_each_public_name_has_its_type(self):
        node = shutil.which("node")
        if node is None:
            raise SkipTest("no node")
        for name in ("converse", "smooth", "shared", "chat"):
            command = [node, ROOT / "tests/js/names.mjs", STATIC / f"{name}.js"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            types = (STATIC / f"{name}.d.ts").read_text()
            for exported, members in json.loads(done.stdout).items():
                assert re.search(rf"export (declare )?(class|function|const) {exported}\b", types), exported
                undeclared = {member for member in members if not re.search(rf"\b{member}\b", types)}
                assert undeclared <= LIFE_CYCLE | self.internal(name), (exported, undeclared)

    def internal(self, name: str) -> set[str]:
        """Give the methods that their own docs call internal."""
        source = (STATIC / f"{name}.js").read_text()
        return set(re.findall(r"/\*\* @internal[^/]*\*/\s+(\w+)\(", source))


class DocsTests(SimpleTestCase):
    stated = ROOT / "docs" / "reference" / "element.md"

    def source(self) -> str:
        return "".join(file.read_text() for file in sorted((STATIC / "chat").glob("*.js")))

    def test_the_docs_name_each_attribute(self):
        read = set(
            re.findall(r'this\.(?:get|has)Attribute\("([\w-]+)"\)', (STATIC / "chat" / "element.js").read_text())
        )
        table = self.stated.read_text().split("## Attributes")[1].split("##")[0]
        assert set(re.findall(r"^\| `([\w-]+)`", table, re.MULTILINE)) == read | {"theme"}

    def test_the_docs_name_each_part_and_property(self):
        source = self.source()
        parts = set(re.findall(r'piece\("\w+", "([\w-]+)"', source)) | {"input", "user", "assistant"}
        style = self.stated.read_text().split("## Style")[1].split("##")[0]
        properties, rest = style.split("Parts:")
        assert set(re.findall(r"`([\w-]+)`", rest.split(".")[0])) == parts
        named = {
            f"--converse-{name.removeprefix('--converse-').removeprefix('-')}"
            for name in re.findall("`([^`]+)`", properties)
        }
        assert named == set(re.findall(r"var\((--converse-[\w-]+)", source))

    def test_the_docs_name_each_event(self):
        told = set(re.findall(r'#tell\("([\w-]+)"', self.source()))
        assert told <= set(re.findall("`([^`]+)`", self.stated.read_text()))


class SizeTests(SimpleTestCase):
    def test_the_docs_state_what_a_page_loads(self):
        parts = {
            "The client": [STATIC / "converse.js"],
            "The element": [STATIC / "chat.js", STATIC / "converse.js", STATIC / "shared.js", STATIC / "smooth.js"],
            "Markdown": [STATIC / "chat" / "vendor" / "marked.js"],
            "React": [STATIC / "react.js", STATIC / "shared.js", STATIC / "converse.js"],
        }
        parts["The element"] += (STATIC / "chat").glob("*.js")
        stated = (ROOT / "docs" / "reference" / "element.md").read_text()
        for name, files in parts.items():
            row = re.search(rf"^\| {name}[^|]*\| (\d+) \| ([\d.]+) kB \| ([\d.]+) kB \|$", stated, re.MULTILINE)
            assert row, name
            whole = sum(file.stat().st_size for file in files) / 1000
            packed = sum(len(gzip.compress(file.read_bytes(), 9, mtime=0)) for file in files) / 1000
            assert int(row[1]) == len(files), name
            for number, size in ((row[2], whole), (row[3], packed)):
                assert abs(float(number) - size) <= size * 0.05, (
                    f"{name}: {len(files)} files, {whole:.1f} kB, {packed:.1f} kB"
                )
