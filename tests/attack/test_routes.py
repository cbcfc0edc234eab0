"""Every door of the installed Gradio is known: open for a reason, or closed.

A new version of Gradio that has a route, a server method or a component with one that is not named
here fails these tests, and the app would answer it with 404 meanwhile.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
import httpx
import pytest
from starlette.routing import Mount

from lineas_core.studio.web.allowed import API, MCP, READ, WRITE

# Gradio's routes that nothing here needs. A route's other spelling, with a slash at its end, too.
CLOSED = {
    # Direct calls, which skip the queue and its limits.
    f"{API}/run/{{api_name}}",
    f"{API}/api/{{api_name}}",
    # Server methods of components; see below.
    f"{API}/component_server",
    # Runs ffmpeg, and keeps what comes out.
    f"{API}/process_recording",
    # Gradio's development server, profiler and monitoring.
    f"{API}/dev/reload",
    f"{API}/vibe-edit",
    f"{API}/undo-vibe-edit",
    f"{API}/vibe-code",
    f"{API}/vibe-starter-queries",
    "/monitoring",
    "/monitoring/summary",
    "/monitoring/{key}",
    # Pages, histories and links that this app does not have.
    f"{API}/runs",
    "/gradio_api/deep_link",
    "/pwa_icon",
    "/pwa_icon/{size}",
    f"{API}/custom_component/{{id}}/{{environment}}/{{type}}/{{file_name}}",
    # Logins by password, which there are none of; a Space's login is OAuth's.
    "/login",
    f"{API}/user",
    f"{API}/login_check",
    f"{API}/token",
    # Files of other servers, and the old spelling of a file's address.
    f"{API}/proxy={{url_path:path}}",
    f"{API}/file/{{path:path}}",
    # Audio and video in pieces.
    f"{API}/stream/{{event_id}}",
    f"{API}/stream/{{event_id}}/close",
    f"{API}/stream/{{session_hash}}/{{run}}/{{component_id}}/playlist.m3u8",
    f"{API}/stream/{{session_hash}}/{{run}}/{{component_id}}/{{segment_id}}.{{ext}}",
    f"{API}/stream/{{session_hash}}/{{run}}/{{component_id}}/playlist-file",
    # How many wait; the streams tell that.
    f"{API}/queue/status",
    # FastAPI's schema of Gradio's own routes.
    "/openapi.json",
    # The MCP transport that streamable HTTP replaced.
    f"{MCP}/sse",
    f"{MCP}/messages",
}
# Components on the page that have server methods, which no route calls.
WITH_METHODS: set[str] = set()


def routes_of(application: Any, prefix: str = "") -> set[tuple[str, str]]:
    """(method, path) of every route, those of mounted applications included."""
    found = set()
    for route in application.routes:
        if isinstance(route, Mount):
            below = route.app
            found |= (
                routes_of(below, prefix + route.path)
                if hasattr(below, "routes")
                else {("POST", prefix + route.path)}
            )
        elif hasattr(route, "path"):
            for method in route.methods or {"GET"}:
                found.add((method, prefix + route.path))
        else:
            # FastAPI keeps an included router's routes below one entry.
            found |= routes_of(route.original_router, prefix)
    return found


def test_every_route_is_open_for_a_reason_or_closed(page: gr.Blocks) -> None:
    found = routes_of(page.app)
    assert len(found) > 60
    opened = {("GET", path) for path in READ} | {("POST", path) for path in WRITE}
    for method, path in sorted(found):
        asked = "GET" if method in ("HEAD", "OPTIONS") else method
        own = path.startswith("/v1/")
        bare = path.rstrip("/") or "/"
        assert own or (asked, path) in opened or bare in CLOSED | {p for _, p in opened}, (
            f"Gradio has a new route, {method} {path}; open it in allowed.py, or close it here"
        )


def test_what_is_closed_answers_nobody(web: httpx.Client) -> None:
    for path in sorted(CLOSED):
        asked = path.replace(":path", "").replace("{", "").replace("}", "")
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
            answer = web.request(method, asked)
            assert answer.status_code == 404, (method, asked)
            assert method == "HEAD" or "is no such" in answer.text or "There is no" in answer.text


def test_no_component_of_the_page_has_server_methods(page: gr.Blocks) -> None:
    found = {
        type(block).__name__ for block in page.blocks.values() if getattr(block, "server_fns", None)
    }
    assert found == WITH_METHODS


def test_the_functions_that_strangers_call_by_name_are_those_of_the_docs(page: gr.Blocks) -> None:
    """All others are the page's, and closed to /call."""
    public = {f.api_name for f in page.fns.values() if f.api_visibility == "public" and f.fn}
    assert public == {
        "new_visitor", "list_maps", "list_prompt_sets", "train", "job", "cancel", "complete",
        "picture",
    }  # fmt: skip


def test_a_function_of_the_page_is_not_called_by_name(web: httpx.Client, page: gr.Blocks) -> None:
    private = [f for f in page.fns.values() if f.fn and f.api_visibility != "public"]
    assert len(private) > 50
    for function in private:
        answer = web.post(f"/gradio_api/call/{function.api_name}", json={"data": []})
        assert answer.status_code == 404, function.api_name


@pytest.mark.parametrize("name", ["complete", "list_maps", "job"])
def test_no_function_skips_the_queue(web: httpx.Client, name: str) -> None:
    for route in ("run", "api"):
        assert web.post(f"/gradio_api/{route}/{name}", json={"data": []}).status_code == 404
