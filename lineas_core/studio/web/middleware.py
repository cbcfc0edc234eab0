"""Middleware that blocks features of Gradio's server that untrusted clients must not use."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lineas_core.studio.access.limits import MIB, LimitError
from lineas_core.studio.web.uploads import Uploads

API = "/gradio_api/"
# Routes that are not Gradio's, and limit the body of a call themselves.
OWN = "/v1/"
# About four times the size of a table with 256 prompts of maximum length per side.
MAX_BODY = 8 * MIB
MAX_UNREAD = 32 * MIB
# Maximum number of full-size files in one upload.
FILES_AT_ONCE = 4
ADDRESSES = ("http:", "https:")


class Guard:
    """Refuse, before Gradio handles them, requests that would

    - fetch a URL through this server, as a file to serve or as an upload;
    - save the page state of another session (deep links, which this app does not use);
    - fill the disk with uploads, or the memory with one large call.

    Args:
        app: the wrapped server.
        uploads: reads uploads.
        max_upload: maximum size of one uploaded file in MiB.
    """

    def __init__(self, app: ASGIApp, uploads: Uploads, max_upload: int) -> None:
        self._app, self._uploads = app, uploads
        self._max_upload = FILES_AT_ONCE * max_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond with an error to refused requests; pass all others to the app."""
        if scope["type"] != "http" or scope["path"].startswith(OWN):
            await self._app(scope, receive, send)
            return
        path = unquote(scope["path"])
        refusal: PlainTextResponse | None = None
        if API in path:
            refusal = self._refusal(path.partition(API)[2], Headers(scope=scope))
        upload = API in path and _takes_upload(path.partition(API)[2])
        if refusal is None and upload and scope["method"] == "POST":
            try:
                await self._uploads.take(self._app, scope, receive, send)
                return
            except LimitError as error:
                refusal = PlainTextResponse(str(error), 507)
        unread = refusal is not None
        if refusal is None and scope["method"] == "POST":
            body = await _body(receive)
            if body is None:
                unread = True
                refusal = PlainTextResponse(
                    f"A call takes {MAX_BODY // MIB} MiB at most; send less.", 413
                )
            elif _fetches(body):
                refusal = PlainTextResponse("Upload the file; addresses are not fetched.", 400)
            else:
                receive = _again(body, receive)
        if unread and "content-length" in Headers(scope=scope):
            await _read_on(receive)
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, name: str, headers: Headers) -> PlainTextResponse | None:
        for prefix in ("file=", "file/"):
            if name.startswith(prefix) and name.removeprefix(prefix).lower().startswith(ADDRESSES):
                return PlainTextResponse("Addresses are not fetched.", 403)
        if name.startswith("deep_link"):
            return PlainTextResponse("There are no deep links here; use Library, Link.", 404)
        if _takes_upload(name):
            length = headers.get("content-length", "")
            if not length.isdigit() or int(length) > self._max_upload * MIB:
                return PlainTextResponse(
                    f"An upload takes {self._max_upload} MiB at most, and has to say its length. "
                    "Send fewer or smaller files.",
                    413,
                )
        return None


def _takes_upload(name: str) -> bool:
    """Whether a route of Gradio's, without `API`, is that of uploads."""
    return name.startswith("upload") and not name.startswith("upload_progress")


async def _read_on(receive: Receive) -> None:
    """Read and discard the rest of the request, up to `MAX_UNREAD` bytes.

    A client whose upload is cut off would not see the error message.
    """
    length = 0
    while length < MAX_UNREAD:
        message = await receive()
        length += len(message.get("body", b""))
        if not message.get("more_body"):
            return


async def _body(receive: Receive) -> bytes | None:
    """The body of a request; None if it is longer than `MAX_BODY` bytes."""
    parts: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        length += len(parts[-1])
        if length > MAX_BODY:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns the body that was read already, then continues with `receive`."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay


def _fetches(body: bytes) -> bool:
    """Whether a file in the call is given as a URL, which Gradio would fetch."""
    if b"gradio.FileData" not in body and b"\\u" not in body:
        return False
    try:
        waiting: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError):
        return False
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and path.strip().lower().startswith(ADDRESSES):
                return True
        if isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
    return False
