"""The secret that a client must know: a file that only its owner can read."""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from pathlib import Path

from ideal.errors import ConfigError

TOKEN_FILE = "serve.token"
"""Its name in the run directory."""


def make_token(path: Path) -> str:
    """The token in a file, which is made (mode 0600) where it is missing.

    Raises:
        ConfigError: others may read the file, or it holds no token.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read_token(path)
    token = secrets.token_hex(32)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)
        file.write(token + "\n")
        file.flush()
        os.fsync(descriptor)
    return token


def _read_token(path: Path) -> str:
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigError(f"{path}: others may read the token; `chmod 600 {path}`, or remove it to have a new one made")
    token = path.read_text(encoding="ascii", errors="replace").strip()
    if len(token) < 16:
        raise ConfigError(f"{path}: holds no token of at least 16 characters; remove it to have a new one made")
    return token


def same_token(given: str, token: str) -> bool:
    """Whether they are equal; takes as long where the first character differs as where the last does."""
    return hmac.compare_digest(given.encode(), token.encode())
