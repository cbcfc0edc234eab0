"""The routes of Gradio's server that are open; every other one is closed, also a new one.

The page and the API need these. Closed are, among others, `/run/NAME`, which skips the queue;
`/component_server`, as no part of the page has server methods; `/process_recording`, which runs
ffmpeg; and the routes of Gradio's development server.
"""

from __future__ import annotations

from starlette.routing import compile_path

from lineas_core.serving.hosts import SAFE_METHODS

# Gradio's prefix of what is no page.
API = "/gradio_api"
MCP = f"{API}/mcp"
JOIN = f"{API}/queue/join"
CALL = f"{API}/call/{{api_name}}"
CALL_BY_NAMES = f"{API}/call/v2/{{api_name}}"
UPLOAD = f"{API}/upload"
FILE = f"{API}/file={{path_or_url:path}}"
NEWS = f"{API}/queue/data"
ANSWER = f"{API}/call/{{api_name}}/{{event_id}}"
ANSWER_BY_NAMES = f"{API}/call/v2/{{api_name}}/{{event_id}}"

READ = (
    "/",
    "/config",
    "/theme.css",
    "/favicon.ico",
    "/manifest.json",
    "/robots.txt",
    "/assets/{path:path}",
    "/static/{path:path}",
    "/svelte/{path:path}",
    # OAuth, on a Space.
    "/login/huggingface",
    "/login/callback",
    "/logout",
    f"{API}/info",
    f"{API}/openapi.json",
    f"{API}/app_id",
    f"{API}/startup-events",
    f"{API}/theme.css",
    f"{API}/heartbeat/{{session_hash}}",
    f"{API}/upload_progress",
    NEWS,
    ANSWER,
    ANSWER_BY_NAMES,
    FILE,
    MCP,
    f"{MCP}/",
    f"{MCP}/schema",
)
WRITE = (
    JOIN,
    CALL,
    CALL_BY_NAMES,
    UPLOAD,
    f"{API}/cancel",
    f"{API}/reset",
    MCP,
    f"{MCP}/",
)

_READ = [(path, compile_path(path)[0]) for path in READ]
_WRITE = [(path, compile_path(path)[0]) for path in WRITE]


def open_route(method: str, path: str) -> tuple[str, dict[str, str]] | None:
    """The open route that serves a request, and the values of its parameters; None if closed.

    Args:
        method: GET or another HTTP method.
        path: the request's path, decoded, as Starlette's router matches it.

    >>> open_route("POST", "/gradio_api/call/complete")
    ('/gradio_api/call/{api_name}', {'api_name': 'complete'})
    >>> open_route("POST", "/gradio_api/run/complete")
    """
    routes = _READ if method in SAFE_METHODS else _WRITE if method == "POST" else []
    for route, pattern in routes:
        if found := pattern.match(path):
            return route, found.groupdict()
    return None
