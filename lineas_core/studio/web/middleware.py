"""The one door to Gradio's server: what is not known to be harmless does not come in.

A request passes here in the order of `Guard.__call__`: host and origin, route, number, body. What
waits after that is in `waiting.py`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lineas_core.serving.hosts import Hosts
from lineas_core.studio.access.limits import MIB, LimitError
from lineas_core.studio.access.visitors import ADDRESS, address_in
from lineas_core.studio.web.allowed import (
    ANSWER,
    ANSWER_BY_NAMES,
    FILE,
    MCP,
    NEWS,
    UPLOAD,
    open_route,
)
from lineas_core.studio.web.calls import (
    MAX_BODY,
    CallError,
    check_call,
    functions_of,
    read_call,
    written,
)
from lineas_core.studio.web.uploads import Uploads
from lineas_core.studio.web.waiting import queue_of

log = logging.getLogger(__name__)

# Routes that are not Gradio's, and limit the body of a call themselves.
OWN = "/v1/"
MAX_UNREAD = 32 * MIB
# Seconds that the body of a call may take to arrive.
MAX_SECONDS = 30.0
# Requests of one address that may be open at once: a page has about five, streams included.
MAX_OPEN = 256
# Maximum number of full-size files in one upload.
FILES_AT_ONCE = 4
ADDRESSES = ("http:", "https:")
# MCP tools call this server over HTTP, with the headers of whoever asked; this one says who.
ON_BEHALF = "x-lineas-on-behalf-of"


class Guard:
    """Lets requests through to Gradio that

    - are for a host that this server answers for, and not from a page of another site;
    - go to an open route, and are not too many at once from one address;
    - have a body in JSON that names a function there is, and files that were uploaded;
    - or upload files within the host's limits.

    Args:
        app: the wrapped server.
        uploads: reads uploads.
        max_upload: maximum size of one uploaded file in MiB.
        hosts: the hosts that the server answers for.
    """

    def __init__(self, app: ASGIApp, uploads: Uploads, max_upload: int, hosts: Hosts) -> None:
        self._app, self._uploads, self._hosts = app, uploads, hosts
        self._max_upload = FILES_AT_ONCE * max_upload
        self._open: Counter[str] = Counter()
        self._secret = secrets.token_urlsafe(16)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond with an error to refused requests; pass all others to the app."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        address = scope[ADDRESS] = self._address(scope)
        incoming = _Incoming(receive)
        self._open[address] += 1
        try:
            await self._admit(scope, incoming, send)
        except CallError as error:
            if not incoming.ended and "content-length" in Headers(scope=scope):
                await _read_on(incoming)
            await JSONResponse({"detail": str(error)}, error.status)(scope, receive, send)
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    async def _admit(self, scope: Scope, incoming: _Incoming, send: Send) -> None:
        """Pass the request on.

        Raises:
            CallError: it is refused.
        """
        headers, path = Headers(scope=scope), _path_of(scope)
        if why := self._hosts.refusal(scope["method"], headers):
            raise CallError(why, 403)
        if self._open[scope[ADDRESS]] > MAX_OPEN:
            raise CallError(f"{MAX_OPEN} requests of your address are open; close some.", 429)
        if path.startswith(OWN):
            await self._app(scope, incoming, send)
            return
        if (found := open_route(scope["method"], path)) is None:
            raise CallError(f"There is no {scope['method']} {path!r:.80} here.", 404)
        route, parameters = found
        receive: Receive = incoming
        if route == FILE and parameters["path_or_url"].lower().startswith(ADDRESSES):
            raise CallError("Addresses are not fetched.", 403)
        if route == UPLOAD:
            self._check_upload(headers)
            await self._upload(scope, receive, send)
            return
        if scope["method"] == "POST":
            receive = await self._checked(route, parameters, scope, incoming)
        if route.startswith(MCP):
            MutableHeaders(scope=scope)[ON_BEHALF] = f"{self._secret} {scope[ADDRESS]}"
        if (session := _heard(route, parameters, scope)) is None:
            await self._app(scope, receive, send)
            return
        queue = queue_of(scope["app"].get_blocks())
        queue.opened(session)
        try:
            await self._app(scope, receive, send)
        finally:
            queue.closed(session)

    async def _checked(
        self, route: str, parameters: Mapping[str, str], scope: Scope, incoming: _Incoming
    ) -> Receive:
        """A `receive` that returns the body of a call as it was checked."""
        try:
            body = await asyncio.wait_for(_body(incoming), MAX_SECONDS)
        except TimeoutError as error:
            raise CallError(f"The body did not arrive within {MAX_SECONDS:.0f} s.", 408) from error
        call = read_call(Headers(scope=scope).get("content-type", ""), body)
        page = scope["app"].get_blocks()
        check_call(route, parameters, call, functions_of(page), page.upload_file_set)
        body = written(call)
        headers = MutableHeaders(scope=scope)
        headers["content-length"] = str(len(body))
        del headers["transfer-encoding"]
        return _again(body, incoming)

    def _check_upload(self, headers: Headers) -> None:
        length = headers.get("content-length", "")
        if not length.isdigit() or int(length) > self._max_upload * MIB:
            raise CallError(
                f"An upload takes {self._max_upload} MiB at most, and has to say its length. "
                "Send fewer or smaller files.",
                413,
            )

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._uploads.take(self._app, scope, receive, send)
        except LimitError as error:
            raise CallError(str(error), 507) from error
        except (TypeError, AttributeError, ValueError, KeyError) as error:
            # Gradio's parser fails so on parts that are no files, before there is any answer.
            log.info("an upload cannot be read: %r", error)
            raise CallError(
                "The upload cannot be read; send files as parts named `files`."
            ) from error

    def _address(self, scope: Scope) -> str:
        """Who asks; a tool of MCP asks for somebody else."""
        secret, _, asker = Headers(scope=scope).get(ON_BEHALF, "").partition(" ")
        if secrets.compare_digest(secret.encode(), self._secret.encode()):
            return asker
        return address_in(scope)


class _Incoming:
    """A `receive` that knows whether the whole body has come."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self.ended = receive, False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.ended = not message.get("more_body")
        return message


def _path_of(scope: Scope) -> str:
    """The path as the router matches it: without the prefix of a proxy."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    rest = path.removeprefix(root)
    return rest if rest.startswith("/") else path


def _heard(route: str, parameters: Mapping[str, str], scope: Scope) -> str | None:
    """The session whose news a request listens to; None if to none.

    Raises:
        CallError: it asks for the answer of a call that there is not.
    """
    if route == NEWS:
        return QueryParams(scope["query_string"]).get("session_hash")
    if route not in (ANSWER, ANSWER_BY_NAMES):
        return None
    session = queue_of(scope["app"].get_blocks()).session_of(parameters["event_id"])
    if session is None:
        raise CallError("There is no such call any more; its answer was fetched, or dropped.", 404)
    return session


async def _read_on(incoming: _Incoming) -> None:
    """Read and discard the rest of the request, up to `MAX_UNREAD` bytes.

    A client whose upload is cut off would not see the error message.
    """
    length = 0
    try:
        async with asyncio.timeout(MAX_SECONDS):
            while length < MAX_UNREAD and not incoming.ended:
                length += len((await incoming()).get("body", b""))
    except TimeoutError:
        return


async def _body(incoming: _Incoming) -> bytes:
    """The body of a request.

    Raises:
        CallError: it is longer than `MAX_BODY` bytes.
    """
    parts: list[bytes] = []
    length = 0
    while not incoming.ended:
        parts.append((await incoming()).get("body", b""))
        length += len(parts[-1])
        if length > MAX_BODY:
            raise CallError(f"A call takes {MAX_BODY // MIB} MiB at most; send less.", 413)
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns the body that was read already, then continues with `receive`."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay
