"""Uploads: room reserved before a body is read, and nothing left of those that are cut off."""

from __future__ import annotations

import asyncio
import tempfile
from typing import IO

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lineas_core.studio.access.ledger import Ledger
from lineas_core.studio.access.limits import MIB, LimitError
from lineas_core.studio.access.visitors import address_in
from lineas_core.studio.storage.disk import TEMPORARY_FULL, is_full
from lineas_core.studio.storage.scratch import Scratch

CHUNK = 2**18
# For the body of an upload to arrive.
MAX_SECONDS = 600.0


class Uploads:
    """Hands uploads to Gradio when all of their body has arrived, one at a time.

    Gradio writes a body to its folder as it comes in, and keeps what it wrote when the client is
    gone or the form is not what it expects. Of a file without a name, which the body is put in
    first, nothing is left however the upload ends; and while one body is read at a time, whatever
    lies beside the finished uploads is left over.

    Args:
        ledger: reserves the room.
        scratch: has the folders.
    """

    def __init__(self, ledger: Ledger, scratch: Scratch) -> None:
        self._ledger, self._scratch = ledger, scratch
        self._reading = asyncio.Lock()

    async def take(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Read an upload's body and pass it to the app; nothing is passed if the client is gone.

        Args:
            app: what takes the upload.
            scope: of the request, whose header says the length of the body.
            receive: gives the body.
            send: takes the app's answer.

        Raises:
            LimitError: there is no room for it, or it did not arrive in time.
        """
        length = int(Headers(scope=scope)["content-length"])
        reservation = await asyncio.to_thread(self._ledger.upload, address_in(scope), length)
        try:
            with tempfile.TemporaryFile(dir=self._scratch.temporary) as body:
                async with asyncio.timeout(MAX_SECONDS):
                    arrived = await _arrived(receive, body)
                if not arrived:
                    return
                async with self._reading:
                    try:
                        await app(scope, _again(body, receive), send)
                    finally:
                        await asyncio.to_thread(self._scratch.remove_loose_uploads)
        except TimeoutError as error:
            raise LimitError(
                f"The upload of {length / MIB:.1f} MiB did not arrive within {MAX_SECONDS:.0f} s. "
                "Send a smaller file, or try again where the connection is faster."
            ) from error
        except OSError as error:
            if not is_full(error):
                raise
            raise LimitError(TEMPORARY_FULL) from error
        finally:
            reservation.release()


async def _arrived(receive: Receive, body: IO[bytes]) -> bool:
    """Write a body to a file; returns whether the client sent all of it."""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return False
        await asyncio.to_thread(body.write, message.get("body", b""))
        if not message.get("more_body"):
            await asyncio.to_thread(body.seek, 0)
            return True


def _again(body: IO[bytes], receive: Receive) -> Receive:
    """A `receive` that gives the body from its file, and then what comes after it."""
    ended = False

    async def replay() -> Message:
        nonlocal ended
        if ended:
            return await receive()
        chunk = await asyncio.to_thread(body.read, CHUNK)
        ended = len(chunk) < CHUNK
        return {"type": "http.request", "body": chunk, "more_body": not ended}

    return replay
