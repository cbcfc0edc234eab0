"""No address that a visitor gives is fetched: a server beside the app waits for a call in vain."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
import httpx
import pytest
from gradio.processing_utils import async_ssrf_protected_get
from gradio_client import Client
from gradio_client.exceptions import AppError

from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.tabs.library.hub import HubCallbacks
from lineas_core.studio.tabs.train.writing import WritingCallbacks
from lineas_core.studio.web.api import Api
from lineas_core.studio.web.page import build_page, launch_options
from tests.helpers.studio import ANN, answers_of, finished

pytestmark = [
    pytest.mark.thorough,
    # Of Gradio's queue, when it sums up its latest calls.
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]

# One machine, by many names.
HOSTS = ("127.0.0.1", "localhost", "127.1", "2130706433", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]")
LINES = ["one two", "two three", "three four", "four five"]


class Trap:
    """A server on this machine that nobody is to call, and the calls that it got."""

    def __init__(self) -> None:
        trap = self
        self.calls: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                # Whoever connects is counted, whatever they say.
                trap.calls.append(str(self.client_address))
                super().handle_one_request()

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def urls(self, path: str = "x.json") -> list[str]:
        return [f"http://{host}:{self.port}/{path}" for host in HOSTS]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def trap() -> Iterator[Trap]:
    trap = Trap()
    # It notices a call.
    assert httpx.get(trap.urls()[0]).status_code == 200
    assert trap.calls
    trap.calls.clear()
    yield trap
    trap.close()
    assert trap.calls == []


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    studio = Studio(Settings(home=tmp_path_factory.mktemp("home")), environment={})
    yield studio
    studio.close()


@pytest.fixture(scope="module")
def app(studio: Studio) -> Iterator[str]:
    page = build_page(studio)
    options = {**launch_options(studio), "quiet": True}
    _, url, _ = page.launch(prevent_thread_lock=True, **options)
    yield url.rstrip("/")
    page.close()


@pytest.mark.parametrize("route", ["proxy=", "file=", "file/", "stream/"])
def test_no_route_relays_to_this_machine(app: str, trap: Trap, route: str) -> None:
    with httpx.Client(follow_redirects=True) as client:
        for url in [*trap.urls(), f"//127.0.0.1:{trap.port}/x"]:
            for asked in (url, quote(url, safe="")):
                for method in ("GET", "HEAD"):
                    answer = client.request(method, f"{app}/gradio_api/{route}{asked}")
                    assert answer.status_code >= 400, (method, route, asked)


def test_gradio_itself_fetches_nothing_from_this_machine(trap: Trap) -> None:
    for url in trap.urls():
        with pytest.raises(ValueError, match=r"failed validation|Unable to resolve"):
            asyncio.run(async_ssrf_protected_get(url))


def shapes(url: str) -> list[Any]:
    """What an address may come as, where a file is asked for."""
    meta = {"_type": "gradio.FileData"}
    file = {"path": url, "url": url, "orig_name": "x.json", "meta": meta}
    return [url, {"path": url}, {**file, "path": ""}, file, [file], {"files": [file], "text": "a"}]


def test_no_function_fetches_a_file_from_this_machine(app: str, trap: Trap) -> None:
    dependencies = httpx.get(f"{app}/config").json()["dependencies"]
    called = [d for d in dependencies if d["backend_fn"] and d["targets"] != [[None, "load"]]]
    assert len(called) > 30
    url = trap.urls()[0]
    with httpx.Client(timeout=60) as client:
        for number, shape in enumerate(shapes(url)):
            session = {"session_hash": f"visitor{number}"}
            waiting = set()
            for dependency in called:
                data = [shape] * len(dependency["inputs"])
                body = {"fn_index": dependency["id"], "data": data, **session}
                answer = client.post(f"{app}/gradio_api/queue/join", json=body)
                if answer.status_code == 200:
                    waiting.add(answer.json()["event_id"])
            # Until every call has ended: what is fetched would be fetched by then.
            with client.stream("GET", f"{app}/gradio_api/queue/data", params=session) as news:
                for line in news.iter_lines():
                    message = json.loads(line.removeprefix("data:")) if line else {}
                    if message.get("msg") == "process_completed":
                        waiting.discard(message["event_id"])
                    if not waiting:
                        break
            assert waiting == set()


def test_no_name_of_a_model_or_a_repository_is_fetched(
    app: str, trap: Trap, studio: Studio
) -> None:
    client = Client(app, verbose=False, download_files=False, analytics_enabled=False)
    for name in (trap.urls()[0], f"127.0.0.1:{trap.port}/x", f"//127.0.0.1:{trap.port}/x"):
        with pytest.raises(AppError, match=r"not a folder|Cannot load"):
            client.predict(ANN, "ab", [], [], name, api_name="/complete")
        with pytest.raises(AppError, match=r"not a folder|Cannot load"):
            client.predict(ANN, ["ab"], [], [], name, api_name="/picture")
        with pytest.raises(gr.Error, match="no repository's name"):
            HubCallbacks(studio, answers_of(studio)).install(ANN, name, "")
    name = f"127.0.0.1:{trap.port}/x"
    job = client.predict(ANN, name, "", LINES, [*LINES, "five six"], "x", 2, api_name="/train")
    assert finished(studio, job["id"], owner_of(ANN)).status == "failed"


def test_a_public_space_asks_the_hub_for_no_model_that_a_visitor_names(tmp_path: Path) -> None:
    demo = Studio(Settings(home=tmp_path, demo=True), environment={})
    try:
        api, refused = Api(demo, answers_of(demo)), "this Space has smollm2"
        for name in ("somebody/model", "/etc", ".", "emoji-onestep/../smollm2"):
            with pytest.raises(gr.Error, match=refused):
                api.complete(ANN, "ab", [], [], name)
            with pytest.raises(gr.Error, match=refused):
                api.picture(ANN, ["ab"], [], [], name)
            with pytest.raises(gr.Error, match=refused):
                api.train(ANN, name, "", LINES, [*LINES, "five six"])
            with pytest.raises(gr.Error, match=refused):
                list(WritingCallbacks(demo, answers_of(demo)).write(ANN, "text", "rivers", 0, name))
        assert demo.jobs.recent(owner_of(ANN), 9) == []
    finally:
        demo.close()
