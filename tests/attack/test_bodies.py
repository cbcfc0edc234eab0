"""Calls in other encodings, of other shapes, without end: refused before Gradio parses them."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import gradio as gr
import httpx
import pytest

from lineas_core.studio.access.redaction import without_paths
from lineas_core.studio.app import Studio
from lineas_core.studio.web import middleware
from lineas_core.studio.web.calls import MAX_VALUES
from tests.helpers.studio import ANN, BOB

JOIN = "/gradio_api/queue/join"
JSON = {"content-type": "application/json"}


def number_of(page: gr.Blocks, name: str) -> int:
    return next(n for n, f in page.fns.items() if f.fn and f.fn.__qualname__ == name)


def take_in(page: gr.Blocks, path: Any, **more: Any) -> dict[str, Any]:
    """A call that imports a file, as the page makes it."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}, **more}
    number = number_of(page, "SharingCallbacks.take_in")
    return {"fn_index": number, "data": [BOB, [file], None], "session_hash": "intruder"}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_other_encodings_than_utf_8_are_refused(
    web: httpx.Client, page: gr.Blocks, encoding: str
) -> None:
    body = json.dumps(take_in(page, "http://127.0.0.1:9/x")).encode(encoding)
    answer = web.post(JOIN, content=body, headers=JSON)
    assert answer.status_code == 400
    assert "UTF-8" in answer.json()["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "http://127.0.0.1:9/x", "HTTPS://example.com/x", " http://127.0.0.1:9/x", "file:///etc/hosts",
        "ftp://127.0.0.1/x", "//127.0.0.1/x", "/etc/passwd", "", None, 7, ["http://127.0.0.1:9/x"],
    ],
)  # fmt: skip
def test_a_file_is_an_upload_or_nothing(web: httpx.Client, page: gr.Blocks, path: Any) -> None:
    answer = web.post(JOIN, json=take_in(page, path))
    assert answer.status_code == 400
    assert f"path is {without_paths(repr(path))}" in answer.json()["detail"]


def test_a_file_that_the_app_made_for_somebody_else_is_no_upload(
    web: httpx.Client, page: gr.Blocks, studio: Studio
) -> None:
    """Downloads lie in the same folder as uploads, and Gradio would take them for one."""
    others = studio.scratch.uploads / "made" / "anns.csv"
    others.parent.mkdir()
    others.write_text("of somebody else")
    assert web.post(JOIN, json=take_in(page, str(others))).status_code == 400
    own = web.post("/gradio_api/upload", files={"files": ("a.csv", b"a,b")}).json()[0]
    assert web.post(JOIN, json=take_in(page, own)).status_code == 200


def test_what_was_judged_is_what_gradio_reads(web: httpx.Client, page: gr.Blocks) -> None:
    """Of a name that comes twice, parsers take the first or the last: here it comes once."""
    call = json.dumps(take_in(page, "PATH"))
    twice = call.replace('"path": "PATH"', '"path": "http://127.0.0.1:9/x", "path": "/etc/passwd"')
    answer = web.post(JOIN, content=twice, headers=JSON)
    assert (answer.status_code, "…/passwd" in answer.json()["detail"]) == (400, True)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"nul", 400), (b"{", 400), (b'"text"', 400), (b"[1]", 400), (b"7", 400),
        (b'{"data": NaN}', 400), (b'{"data": 1e', 400), (b"\xff{}", 400), (b'{"data": "x"}', 422),
        (b"[" * 2**20, 400), (b"[" + b"1," * MAX_VALUES + b"1]", 413),
    ],
)  # fmt: skip
def test_what_is_no_call_is_refused(web: httpx.Client, body: bytes, status: int) -> None:
    for path in (JOIN, "/gradio_api/call/list_maps"):
        answer = web.post(path, content=body, headers=JSON)
        assert answer.status_code == status, answer.text
    assert web.get("/gradio_api/info").status_code == 200


def test_a_body_of_another_type_is_refused(web: httpx.Client, page: gr.Blocks) -> None:
    """A form of another site can send these types, and not JSON."""
    body = json.dumps(take_in(page, "x"))
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = web.post(JOIN, content=body, headers={"content-type": kind})
        assert answer.status_code == 415, kind


@pytest.mark.parametrize("number", [-1, 99999, "0", None, True, 1.5, [0]])
def test_a_function_that_there_is_not_is_named(web: httpx.Client, number: Any) -> None:
    answer = web.post(JOIN, json={"fn_index": number, "data": [], "session_hash": "intruder"})
    assert (answer.status_code, f"fn_index is {number!r}" in answer.text) == (404, True)


@pytest.mark.parametrize("data", [[], [ANN], [ANN, "", ""], [ANN] * 1000])
def test_arguments_are_as_many_as_the_function_has(web: httpx.Client, data: list[str]) -> None:
    answer = web.post("/gradio_api/call/list_maps", json={"data": data})
    assert (answer.status_code, f"data has {len(data)}" in answer.text) == (422, True)


@pytest.mark.parametrize("session", ["", "a" * 65, "a b", 7, None, "../x"])
def test_a_session_has_a_short_name(web: httpx.Client, session: Any) -> None:
    answer = web.post(JOIN, json={"fn_index": 0, "data": [], "session_hash": session})
    assert (answer.status_code, "session_hash" in answer.text) == (422, True)


def test_an_upload_of_no_files_is_refused(web: httpx.Client) -> None:
    """Each fails in another place of Gradio's parser."""
    for part in (b'form-data; name="files"', b"form-data", b"x", b'form-data; name="x"; filename'):
        body = b"--b\r\nContent-Disposition: " + part + b"\r\n\r\nx\r\n--b--\r\n"
        headers = {"content-type": "multipart/form-data; boundary=b"}
        answer = web.post("/gradio_api/upload", content=body, headers=headers)
        assert answer.status_code in (200, 400), part
        assert answer.status_code == 400 or answer.json() == []


def test_arguments_by_name_are_those_of_the_function(web: httpx.Client) -> None:
    path = "/gradio_api/call/v2/list_maps"
    for body, told in (
        ({}, "visitor is missing"),
        ({"visitor": ANN, "x": 1}, "'x' is no argument"),
    ):
        answer = web.post(path, json=body)
        assert (answer.status_code, told in answer.json()["detail"]) == (422, True)
    assert web.post(f"{path}x", json={"visitor": ANN}).status_code == 404
    assert web.post(path, json={"visitor": ANN}).status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for(
    page: gr.Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "MAX_SECONDS", 0.5)
    with socket.create_connection(("127.0.0.1", page.server_port), timeout=20) as sent:
        begun = time.monotonic()
        sent.sendall(
            b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        assert b" 408 " in sent.recv(100)
        assert time.monotonic() - begun < 15


ARGUMENTS = [
    ("list_maps", [ANN, "word " * 200], "search", 200),
    ("list_maps", ["a" * 5000, ""], "visitor", 4000),
    ("complete", [ANN, "x" * 4001, [], [], "smollm2", 0, 1], "prompt", 4000),
    ("complete", [ANN, "x", ["m" * 4001], [1.0], "smollm2", 0, 1], "maps.0", 4000),
    ("complete", [ANN, "x", ["m"] * 4097, [1.0], "smollm2", 0, 1], "maps", 4096),
    ("picture", [ANN, ["a", "x" * 4001], [], [], "emoji-onestep", 0], "prompts.1", 4000),
    ("train", [ANN, "smollm2", "", ["x" * 4001], ["y"], "", 1, "", "lineas", ""], "source.0", 4000),
    ("train", [ANN, "smollm2", "", [], [], "c" * 4001, 1, "", "lineas", ""], "concept", 4000),
    ("job", [ANN, "j" * 4001], "job_id", 4000),
]


@pytest.mark.parametrize(("name", "data", "field", "limit"), ARGUMENTS)
def test_every_argument_has_a_length(
    web: httpx.Client, name: str, data: list[Any], field: str, limit: int
) -> None:
    joined = web.post(f"/gradio_api/call/{name}", json={"data": data})
    begun = time.monotonic()
    said = web.get(f"/gradio_api/call/{name}/{joined.json()['event_id']}").text
    assert said.startswith("event: error")
    assert f"{field} has" in said
    assert f"{limit} is the limit" in said.replace("\\n", " ")
    assert time.monotonic() - begun < 10
