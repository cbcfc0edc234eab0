"""Visitor identity: a secret key in the browser, and the owner id derived from it."""

from __future__ import annotations

import hashlib
import re
import secrets

from lineas_core.errors import ConfigError

KEY = re.compile(r"[A-Za-z0-9_-]{16,128}")


def new_key() -> str:
    """A new secret key for a visitor who has none yet."""
    return secrets.token_urlsafe(24)


def owner_of(key: str) -> str:
    """The owner id of a visitor's data, a hash of the key that does not reveal it.

    Raises:
        ConfigError: the key is malformed.
    """
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise ConfigError(
            "visitor is not a key: give 16 to 128 letters, digits, - or _, such as "
            "secrets.token_urlsafe(24) makes, and keep it secret."
        )
    return hashlib.sha256(key.encode()).hexdigest()[:32]
