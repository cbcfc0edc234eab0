"""What the running server gives to strangers, asked for by plain HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from starlette.types import Receive, Scope, Send

from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.web.middleware import Guard
from lineas_core.studio.web.page import build_page, launch_options
from lineas_core.system.paths import checkout
from tests.helpers.models import random_map
from tests.helpers.server import client_of, launched
from tests.helpers.studio import ANN, BOB

pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    home = tmp_path_factory.mktemp("home")
    studio = Studio(Settings(home=home, max_upload=1, max_sessions=5), environment={})
    yield studio
    studio.close()


@pytest.fixture(scope="module")
def page(studio: Studio) -> Iterator[gr.Blocks]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(studio.scratch.uploads))
        page = build_page(studio)
        page.launch(prevent_thread_lock=True, quiet=True, **launch_options(studio))
        yield page
        page.close()


@pytest.fixture(scope="module")
def web(page: gr.Blocks) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=str(page.local_url).rstrip("/"), timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def anns_map(studio: Studio) -> str:
    smap = random_map({"layer": 4}, 0)
    return studio.library.add_map(owner_of(ANN), smap, title="Anns own title").id


def upload(web: httpx.Client, name: str, data: bytes) -> str:
    answer = web.post("/gradio_api/upload", files={"files": (name, data)})
    assert answer.status_code == 200, answer.text
    [path] = answer.json()
    return str(path)


def call(web: httpx.Client, page: gr.Blocks, name: str, data: list[Any]) -> str:
    """Call a function of the page as a browser does, by its number; the server's last word."""
    number = next(n for n, b in page.fns.items() if b.fn and b.fn.__qualname__ == name)
    session = hashlib.sha256(json.dumps(data).encode()).hexdigest()[:12]
    body = {"fn_index": number, "data": data, "session_hash": session}
    joined = web.post("/gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        return joined.text
    last = ""
    with web.stream("GET", f"/gradio_api/queue/data?session_hash={session}") as stream:
        for line in stream.iter_lines():
            if "process_completed" in line:
                last = line
            if "close_stream" in line:
                break
    return last


@pytest.mark.parametrize("route", ["file=", "file/"])
def test_no_file_of_the_server_is_served(
    web: httpx.Client, studio: Studio, anns_map: str, route: str, tmp_path: Path
) -> None:
    home = studio.settings.home
    download = studio.scratch.new_download() / "anns.txt"
    other_app = tmp_path / "gradio" / "hash"
    other_app.mkdir(parents=True)
    for path in (download, other_app / "upload.txt"):
        path.write_text("of somebody else")
    for path in (
        home / "studio.db",
        home / "studio.lock",
        studio.library.file(anns_map, owner_of(ANN)),
        download,
        other_app / "upload.txt",
        checkout() / "pyproject.toml",
        checkout() / "app.py",
        Path("/etc/passwd"),
        home,
        studio.scratch.uploads,
        studio.scratch.temporary,
    ):
        for asked in (str(path), f"{studio.scratch.uploads}/..{'/..' * 8}{path}"):
            answer = web.get(f"/gradio_api/{route}{asked}", follow_redirects=True)
            assert answer.status_code in (403, 404), asked
            assert "of somebody else" not in answer.text
    for asked in ("app.py", "pyproject.toml", "../app.py", "%2e%2e/app.py", ".git/config"):
        assert web.get(f"/gradio_api/{route}{asked}").status_code in (403, 404)


@pytest.mark.parametrize(
    "address", ["http://example.com/", "https://example.com/", "HTTPS://example.com/", "http:x"]
)
def test_the_server_fetches_no_address_for_strangers(
    web: httpx.Client, page: gr.Blocks, address: str
) -> None:
    assert web.get(f"/gradio_api/file={address}").status_code == 403
    file = {"path": address, "meta": {"_type": "gradio.FileData"}}
    said = call(web, page, "SharingCallbacks.take_in", [BOB, [file], None])
    assert "Addresses are not fetched" in said
    escaped = json.dumps(file).replace("gradio", "\\u0067radio").replace("http", "\\u0068ttp")
    answer = web.post(
        "/gradio_api/queue/join",
        content=f'{{"fn_index": 0, "session_hash": "x", "data": [{escaped}]}}',
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 400


def test_an_upload_is_found_by_whom_it_was_told_to_only(web: httpx.Client, studio: Studio) -> None:
    """Its address holds a hash, salted by the server, of contents that others do not know."""
    data = b"anns own prompts"
    path = Path(upload(web, "anns.txt", data))
    assert path.is_relative_to(studio.scratch.uploads)
    folder = path.parent.name
    assert len(folder) == 64
    assert folder != hashlib.sha256(data).hexdigest()
    served = web.get(f"/gradio_api/file={path}")
    assert (served.status_code, served.content) == (200, data)
    for asked in (path.parent, path.parent.parent, path.parent / "other.txt"):
        assert web.get(f"/gradio_api/file={asked}").status_code == 403
    # Whoever has the same contents finds out no name that somebody else gave them.
    again = Path(upload(web, "bobs.txt", data))
    assert again.name == "bobs.txt"


def test_a_page_uploaded_by_a_stranger_is_not_run(web: httpx.Client) -> None:
    for name in ("evil.html", "evil.svg", "evil.js"):
        path = upload(web, name, b"<script>alert(1)</script>")
        answer = web.get(f"/gradio_api/file={path}")
        assert answer.headers["content-disposition"].startswith("attachment"), name
        assert "html" not in answer.headers["content-type"]


def test_files_of_the_server_cannot_be_passed_for_uploads(
    web: httpx.Client, page: gr.Blocks, studio: Studio, anns_map: str
) -> None:
    own = studio.library.file(anns_map, owner_of(ANN))
    for path in (str(own), "/etc/passwd", f"{studio.scratch.uploads}/../{own.name}"):
        for name, data in (
            ("SharingCallbacks.take_in", [BOB, [file_of(path)], None]),
            ("UploadCallbacks.upload", [[file_of(path)], []]),
        ):
            said = call(web, page, name, data)
            assert "is no upload" in said, said
            assert str(studio.settings.home) not in said
            assert "root:" not in said
    assert studio.library.maps(owner_of(BOB), include_gallery=False) == []


def file_of(path: str) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def test_a_stranger_finds_no_session_figure_or_history(web: httpx.Client) -> None:
    for path in (
        "/gradio_api/deep_link?session_hash=x",
        "/monitoring",
        "/monitoring/summary",
        "/monitoring/x",
        "/gradio_api/runs",
        "/gradio_api/run-history/buckets",
        "/gradio_api/vibe-code",
    ):
        assert web.get(path).status_code == 404, path


def test_the_page_tells_nothing_of_the_server_or_of_visitors(
    web: httpx.Client, studio: Studio, anns_map: str
) -> None:
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/openapi.json"):
        answer = web.get(path)
        assert answer.status_code == 200
        for told in (str(studio.settings.home), str(checkout()), "Anns own title", anns_map):
            assert told not in answer.text, f"{path} tells {told}"


def test_calls_and_uploads_have_a_size(web: httpx.Client) -> None:
    long = web.post("/gradio_api/queue/join", content=b"[" + b"1," * (5 * 2**20) + b"1]")
    assert (long.status_code, "8 MiB at most" in long.text) == (413, True)
    large = web.post("/gradio_api/upload", files={"files": ("a.txt", b"0" * (2**20 + 1))})
    assert large.status_code == 413
    several = [("files", (f"{n}.txt", b"0" * 2**20)) for n in range(5)]
    assert "4 MiB at most" in web.post("/gradio_api/upload", files=several).text

    def endless() -> Iterator[bytes]:
        yield b"0"

    assert web.post("/gradio_api/upload", content=endless()).status_code == 413


def test_uploads_do_not_fill_the_disk(
    web: httpx.Client, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = studio.settings.mebibytes_in_all * 2**20
    monkeypatch.setattr(studio.ledger, "total_bytes", lambda: most + 1)
    answer = web.post("/gradio_api/upload", files={"files": ("a.txt", b"0")})
    assert answer.status_code == 507
    assert "20480 MiB is the limit" in answer.text
    assert "Try again" in answer.text


def test_sessions_that_nobody_uses_any_more_are_forgotten(
    web: httpx.Client, page: gr.Blocks, studio: Studio
) -> None:
    for turn in range(studio.settings.max_sessions + 3):
        call(web, page, "PromptCallbacks.choose", [ANN, f"no such set {turn}"])
    assert len(page.state_holder.session_data) == studio.settings.max_sessions


def test_a_page_that_is_slow_at_first_is_served_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradio ends an app whose page takes it more than three seconds right after the start."""
    admit = Guard.__call__

    async def slowly(self: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") == "/":
            await asyncio.sleep(4)
        await admit(self, scope, receive, send)

    monkeypatch.setattr(Guard, "__call__", slowly)
    studio = Studio(Settings(home=tmp_path), environment={})
    try:
        with launched(studio) as page, client_of(page) as web:
            assert web.get("/config").status_code == 200
    finally:
        studio.close()
