"""Assert that a wheel has every file of the package, and no others: python .ci/wheel.py dist/….whl"""

from __future__ import annotations

import sys
from pathlib import Path
from zipfile import ZipFile

built = {name for name in ZipFile(sys.argv[1]).namelist() if ".dist-info/" not in name}
meant = {str(path) for path in Path("converse").rglob("*") if path.is_file() and path.suffix != ".pyc"}
assert built == meant, f"missing: {meant - built}, not wanted: {built - meant}"
for needed in ("py.typed", "static/converse/converse.js", "migrations/0001_initial.py"):
    assert f"converse/{needed}" in built, needed
print(f"{len(built)} files")
