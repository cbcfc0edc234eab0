"""Pages of other sites, and names that were made to resolve to this machine (DNS rebinding)."""

from __future__ import annotations

import gradio as gr
import httpx
import pytest
from starlette.datastructures import Headers

from lineas_core.errors import ConfigError
from lineas_core.serving.host import OneModel
from lineas_core.serving.hosts import Hosts
from lineas_core.serving.routes import application
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.app import Studio
from lineas_core.studio.web.page import launch_options
from tests.helpers.server import served
from tests.helpers.studio import ANN

EVIL = "evil.example"
ASKED = {"data": [ANN, "no such map"]}
INITIALIZE = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
MCP = {"accept": "application/json, text/event-stream"}


@pytest.mark.parametrize("host", [EVIL, f"{EVIL}:7860", "127.0.0.1.evil.example", "localhost.evil"])
def test_a_rebound_name_gets_nothing(web: httpx.Client, host: str) -> None:
    headers = {"host": host}
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/mcp/schema", "/v1/models"):
        assert web.get(path, headers=headers).status_code == 403, path
    for path, body in (("/gradio_api/call/list_maps", ASKED), ("/gradio_api/mcp/", INITIALIZE)):
        assert web.post(path, json=body, headers={**headers, **MCP}).status_code == 403, path
    sent = web.post("/gradio_api/upload", files={"files": ("a.txt", b"a")}, headers=headers)
    assert sent.status_code == 403
    assert EVIL[:4] in web.get("/", headers=headers).text


@pytest.mark.parametrize(
    "origin", [f"https://{EVIL}", "null", "http://127.0.0.1.evil.example", "x"]
)
def test_a_page_of_another_site_gets_nothing(web: httpx.Client, origin: str) -> None:
    headers = {"origin": origin, **MCP}
    for path, body in (("/gradio_api/call/list_maps", ASKED), ("/gradio_api/mcp/", INITIALIZE)):
        assert web.post(path, json=body, headers=headers).status_code == 403, path
    sent = web.post("/gradio_api/upload", files={"files": ("a.txt", b"a")}, headers=headers)
    assert sent.status_code == 403
    assert web.get("/config", headers=headers).status_code == 403


def test_a_form_of_another_site_uploads_nothing(web: httpx.Client) -> None:
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        sent = web.post("/gradio_api/upload", files={"files": ("a", b"a")}, headers=headers)
        assert sent.status_code == 403
    sent = web.post("/gradio_api/upload", files={"files": ("a", b"a")})
    assert sent.status_code == 200


def test_a_link_on_another_site_opens_the_page(web: httpx.Client) -> None:
    assert web.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200


def test_own_pages_and_programs_are_served(web: httpx.Client, page: gr.Blocks) -> None:
    port = page.server_port
    for host, origin in (
        (f"127.0.0.1:{port}", f"http://127.0.0.1:{port}"),
        (f"localhost:{port}", f"http://localhost:{port}"),
        # The MCP Inspector, and other programs with a page of their own on this machine.
        (f"localhost:{port}", "http://localhost:6274"),
        (f"[::1]:{port}", f"http://[::1]:{port}"),
        (f"studio.localhost:{port}", f"http://studio.localhost:{port}"),
        # Another machine of the network, by its address.
        (f"192.168.1.5:{port}", f"http://192.168.1.5:{port}"),
    ):
        headers = {"host": host, "origin": origin, **MCP}
        assert web.post("/gradio_api/call/list_maps", json=ASKED, headers=headers).is_success, host
        assert web.post("/gradio_api/mcp/", json=INITIALIZE, headers=headers).is_success, host


def test_names_of_a_proxy_and_of_a_space_are_settings(studio: Studio) -> None:
    set_up = Settings.from_environment({"LINEAS_HOSTS": "studio.example.org, other.example"})
    hosts = Hosts([*set_up.hosts, ""])
    for host in ("studio.example.org", "STUDIO.example.org:443", "other.example"):
        asked = Headers({"host": host, "origin": "https://studio.example.org"})
        assert hosts.refusal("POST", asked) is None
    # Where the proxy passes its own name for this machine on.
    behind = Headers({"host": "127.0.0.1:7860", "origin": "https://studio.example.org"})
    assert hosts.refusal("POST", behind) is None
    assert Hosts().refusal("POST", behind) is not None
    for wrong in ("https://studio.example.org", "a b", "studio.example.org:443", "*"):
        with pytest.raises(ConfigError, match="LINEAS_HOSTS"):
            Hosts([wrong])


def test_a_space_answers_for_its_own_name(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studio, "environment", {"SPACE_HOST": "ann-studio.hf.space"})
    [guard] = launch_options(studio)["app_kwargs"]["middleware"]
    asked = Headers({"host": "ann-studio.hf.space", "origin": "https://ann-studio.hf.space"})
    assert guard.kwargs["hosts"].refusal("POST", asked) is None
    others = Headers({"host": "bob-studio.hf.space"})
    assert guard.kwargs["hosts"].refusal("GET", others) is not None


def test_the_server_for_one_model_checks_hosts_too(small_models: dict[str, object]) -> None:
    import lineas_core as lc

    model = lc.load_model(str(small_models["llama"]), device="cpu")
    assert isinstance(model, lc.LanguageModel)
    with served(application(OneModel(model, {}))) as address:
        for headers in ({"host": EVIL}, {"origin": f"https://{EVIL}"}):
            assert httpx.get(f"{address}/v1/models", headers=headers).status_code == 403
        assert httpx.get(f"{address}/v1/models").status_code == 200
    with served(application(OneModel(model, {}), Hosts([EVIL]))) as address:
        assert httpx.get(f"{address}/v1/models", headers={"host": EVIL}).status_code == 200
