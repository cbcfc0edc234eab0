"""Which hosts a server answers for, so that pages of other sites cannot use it from a browser.

Two ways lead from somebody else's page to a server on this machine: a request across sites, which
has the page's address in `Origin`; and DNS rebinding, where the attacker's name is made to resolve
to this machine, so that the request has that name in `Host` and the browser takes it for same-site.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from lineas_core.errors import ConfigError

NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class Hosts:
    """The hosts that a server answers for: this machine, address literals, and `names`.

    An address such as 192.168.1.5 is always allowed in `Host`: no name was resolved, so none can
    have been rebound.

    Args:
        names: further names, such as that of a proxy; empty ones are left out.

    Raises:
        ConfigError: one of them is not a host's name.

    >>> Hosts(["studio.example.org"]).refusal("GET", Headers({"host": "studio.example.org"}))
    >>> Hosts().refusal("GET", Headers({"host": "evil.example"}))[:29]
    "The host is 'evil.example', w"
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = {name.strip().lower() for name in names} - {""}
        for name in self._names:
            if not _is_literal(name) and not NAME.fullmatch(name):
                raise ConfigError(
                    f"LINEAS_HOSTS has {name!r}, which is not the name of a host; give names such "
                    "as studio.example.org, without scheme and port, separated by commas."
                )

    def refusal(self, method: str, headers: Headers) -> str | None:
        """Why a request is refused; None if it is allowed.

        Args:
            method: GET or another HTTP method.
            headers: of the request.
        """
        asked, origin = headers.get("host", ""), headers.get("origin")
        host = _host_of(f"//{asked}")
        if not (host in self._names or _is_local(host) or _is_literal(host)):
            return (
                f"The host is {asked!r:.80}, which this server does not answer for. Who runs it "
                "can add the name to LINEAS_HOSTS."
            )
        if origin is None:
            # Browsers send an origin with every request that changes something; some older ones
            # leave it out of a form's, and say only this.
            if method not in SAFE_METHODS and headers.get("sec-fetch-site") == "cross-site":
                return "The request comes from a page of another site. Open this app's own page."
            return None
        page = _host_of(origin)
        same = urlsplit(origin).netloc.lower() == asked.lower() if page else False
        if same or page in self._names or (_is_local(page) and _is_local(host)):
            return None
        return (
            f"The request comes from a page of {origin!r:.80}, and this server is {asked!r:.80}. "
            "If that is its name at a proxy, who runs it can add it to LINEAS_HOSTS."
        )


class HostCheck:
    """Middleware that refuses requests for other hosts and from pages of other sites.

    Args:
        app: the wrapped application.
        hosts: those that it answers for.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with status 403, or pass the request on."""
        if scope["type"] == "http" and (
            why := self._hosts.refusal(scope["method"], Headers(scope=scope))
        ):
            await PlainTextResponse(why, 403)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _host_of(url: str) -> str:
    """The host of a URL in lower case; empty if there is none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_local(host: str) -> bool:
    """Whether the host is this machine by a name or address that no resolver is asked for."""
    if _is_literal(host):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")
