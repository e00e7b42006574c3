"""Sphinx builds the documentation with this: ``sphinx-build -W docs docs/_build``."""

from __future__ import annotations

import re
from pathlib import Path

project = "Converse"
author = "The Converse contributors"
version = release = re.search(
    r'__version__ = "(.+?)"', Path(__file__).parent.parent.joinpath("converse/__init__.py").read_text()
)[1]

extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"Converse {version}"
html_copy_source = False
