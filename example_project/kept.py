from __future__ import annotations

import os
import secrets
from pathlib import Path


def kept(file: Path) -> str:
    """Give a random word that is made once and kept in a file that only its owner reads."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as new:
            new.write(secrets.token_urlsafe(24))
    except FileExistsError:
        pass
    return file.read_text()
