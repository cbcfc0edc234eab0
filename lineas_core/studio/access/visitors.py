"""Visitor identity: a secret key in the browser, the owner id derived from it, and the address."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets

from gradio.context import LocalContext
from starlette.datastructures import Headers
from starlette.types import Scope

from lineas_core.errors import ConfigError

KEY = re.compile(r"[A-Za-z0-9_-]{16,128}")
# Where the middleware notes the address that a request comes from.
ADDRESS = "lineas.address"


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


def client_address() -> str:
    """The network address that the current call of the page or the API comes from.

    Empty outside of one, and where it is not known.
    """
    request = LocalContext.request.get(None)
    scope = getattr(getattr(request, "request", None), "scope", None)
    if scope is None:
        return ""
    noted: str | None = scope.get(ADDRESS)
    return address_in(scope) if noted is None else noted


def address_in(scope: Scope) -> str:
    """The network address that an HTTP request comes from; see `address_of`."""
    client = scope.get("client")
    forwarded = Headers(scope=scope).get("x-forwarded-for", "")
    return address_of(client[0], forwarded) if client else ""


def address_of(peer: str, forwarded: str) -> str:
    """The network address of a client; "" where a proxy hides it.

    The server replaces a proxy that it trusts (`FORWARDED_ALLOW_IPS`) by the client that the proxy
    names. Behind another proxy all visitors have its address, which is nobody's in particular.

    Args:
        peer: who connected, or whom a trusted proxy names.
        forwarded: the header X-Forwarded-For, or "".

    Returns:
        An IPv4 address; or of an IPv6 address the first half, as one client has all of the rest.

    >>> address_of("8.8.8.8", ""), address_of("10.0.0.2", "8.8.8.8")
    ('8.8.8.8', '')
    """
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return ""
    named = peer in (part.strip() for part in forwarded.split(","))
    if forwarded and address.is_private and not named:
        return ""
    if address.version == 4:
        return peer
    return str(ipaddress.ip_network((int(address), 64), strict=False).network_address)
