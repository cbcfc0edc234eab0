"""Servers on a free port, in a thread: of an ASGI application, and of the app."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr
import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp

from lineas_core.studio.app import Studio
from lineas_core.studio.web.page import build_page, launch_options


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def served(application: ASGIApp) -> Iterator[str]:
    """Serve the application; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(application, log_level="warning", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def launched(studio: Studio) -> Iterator[gr.Blocks]:
    """The Studio's page, served as the app serves it, on a free port."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(studio.scratch.uploads))
        page = build_page(studio)
        page.launch(prevent_thread_lock=True, quiet=True, **launch_options(studio))
        try:
            yield page
        finally:
            page.close()


@contextmanager
def client_of(page: gr.Blocks, address: str = "127.0.0.1") -> Iterator[httpx.Client]:
    """A client of a page that calls from an address of this machine, 127.0.0.1 to 127.0.0.254."""
    transport = httpx.HTTPTransport(local_address=address)
    base = f"http://127.0.0.1:{page.server_port}"
    with httpx.Client(base_url=base, transport=transport, timeout=60) as client:
        yield client
