from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from unittest import SkipTest

from django.test import SimpleTestCase

TESTS = Path(__file__).parent / "js"


class JavaScriptTests(SimpleTestCase):
    def test_the_client_passes_its_own_tests(self):
        node = shutil.which("node")
        if node is None:
            raise SkipTest("no node")
        files = sorted(TESTS.glob("*.test.mjs"))
        done = subprocess.run([node, "--test", *files], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
