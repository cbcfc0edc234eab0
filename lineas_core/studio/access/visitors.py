"""Who is on the page: a secret key in their browser, and the owner that it stands for."""

from __future__ import annotations

import hashlib
import re
import secrets

from lineas_core.errors import ConfigError

KEY = re.compile(r"[A-Za-z0-9_-]{16,128}")


def new_key() -> str:
    """A secret for a visitor who has none yet."""
    return secrets.token_urlsafe(24)


def owner_of(key: str) -> str:
    """The owner of what a visitor makes; the key cannot be told from it.

    Raises:
        ConfigError: the key is not one.
    """
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise ConfigError(
            "visitor is not a key: give 16 to 128 letters, digits, - or _, such as "
            "secrets.token_urlsafe(24) makes, and keep it secret."
        )
    return hashlib.sha256(key.encode()).hexdigest()[:32]
