"""The app's functions as clients see them: through a real server, gradio_client and MCP."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent, Tool
from PIL import Image

import lineas_core as lc
from lineas_core.metrics import clip
from lineas_core.models.load import as_image_model, as_language_model
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.web.api import Api
from lineas_core.studio.web.page import build_page
from lineas_core.system.home import lineas_home
from lineas_core.system.paths import checkout
from tests.helpers.clip import save_small_clip
from tests.helpers.pipelines import small_sd
from tests.helpers.studio import ANN, BOB, SITE, add_map, answers_of, finished

pytestmark = [
    # Of Gradio's queue, when it sums up its latest calls.
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]

DOCS = checkout() / "docs"
WORDS = {"model.layers.1.post_attention_layernorm": 16}
# Name -> its parameters with their types.
FUNCTIONS = {
    "/new_visitor": {},
    "/list_maps": {"visitor": "str", "search": "str"},
    "/list_prompt_sets": {"visitor": "str", "modality": "str"},
    "/train": {
        "visitor": "str",
        "model": "str",
        "prompt_set": "str",
        "source": "None | list[str]",
        "target": "None | list[str]",
        "concept": "str",
        "steps": "int",
        "modality": "Literal['', 'text', 'image']",
        "method": "str",
        "sites": "str",
    },
    "/job": {"visitor": "str", "job_id": "str"},
    "/cancel": {"visitor": "str", "job_id": "str"},
    "/complete": {
        "visitor": "str",
        "prompt": "str",
        "maps": "list[str]",
        "strengths": "list[float]",
        "model": "str",
        "seed": "int",
        "tokens": "int",
    },
    "/picture": {
        "visitor": "str",
        "prompts": "list[str]",
        "maps": "list[str]",
        "strengths": "list[float]",
        "model": "str",
        "seed": "int",
    },
}


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("painter")
    small_sd().save_pretrained(folder / "sd")
    return str(folder / "sd")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    home = tmp_path_factory.mktemp("home")
    converted = lineas_home() / "models"
    if converted.is_dir():
        (home / "models").symlink_to(converted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip, "_loaded", {})
        patch.setitem(clip.SCORERS, "clip-emoji", save_small_clip(home / "clip"))
        studio = Studio(Settings(home=home), environment={})
        yield studio
        studio.close()


@pytest.fixture(scope="module")
def app(studio: Studio) -> Iterator[str]:
    page = build_page(studio)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, mcp_server=True)
    yield url.rstrip("/")
    page.close()


@pytest.fixture(scope="module")
def client(app: str) -> Client:
    return Client(app, verbose=False, download_files=False, analytics_enabled=False)


@pytest.fixture(scope="module")
def ink(studio: Studio, painter: str) -> str:
    """Ann's map of the small image model."""
    return add_map(studio, painter, {SITE: 16}, 0, concept="ink")


def ask(client: Client, name: str, *arguments: Any, **named: Any) -> Any:
    return client.predict(*arguments, api_name=name, **named)


def test_the_api_page_names_every_function_with_types_and_a_description(client: Client) -> None:
    shown = client.view_api(print_info=False, return_format="dict")["named_endpoints"]
    assert {
        name: {p["parameter_name"]: p["python_type"]["type"] for p in function["parameters"]}
        for name, function in shown.items()
    } == FUNCTIONS
    assert all(len(function["description"]) > 10 for function in shown.values())
    assert {
        name: [answer["python_type"]["type"] for answer in function["returns"]]
        for name, function in shown.items()
    } == {
        "/new_visitor": ["str"],
        "/list_maps": ["list[dict(str, Any)]"],
        "/list_prompt_sets": ["list[dict(str, str)]"],
        "/train": ["dict(str, Any)"],
        "/job": ["dict(str, Any)"],
        "/cancel": ["bool"],
        "/complete": ["str"],
        "/picture": ["dict(str, Any)"],
    }


def test_a_map_is_trained_found_and_steers(
    client: Client, studio: Studio, writer: str, prompts: lc.PromptSet
) -> None:
    me = ask(client, "/new_visitor")
    before = {row["id"] for row in ask(client, "/list_maps", me)}
    job = ask(client, "/train", me, writer, "", prompts.source, prompts.target, "letters", 3)
    assert (job["steps"], job["status"]) in [(3, "queued"), (3, "running")]
    finished(studio, job["id"], owner_of(me))
    job = ask(client, "/job", me, job["id"])
    assert (job["status"], job["step"], job["message"]) == ("done", 3, "")
    [row] = [r for r in ask(client, "/list_maps", me) if r["id"] not in before]
    assert row["id"] == job["map_id"]
    assert (row["concept"], row["model"], row["modality"]) == ("letters", writer, "text")
    text = ask(client, "/complete", me, "ab ab", [row["id"]], [0.7], writer, 3, 8)
    smap = studio.library.map(row["id"], owner_of(me))
    model = as_language_model(studio.model_cache.get(writer))
    assert [text] == model.generate(["ab ab"], [(smap, 0.7)], seed=3, max_new_tokens=8)
    assert ask(client, "/cancel", me, job["id"]) is False


def test_a_method_without_steps_is_trained(
    client: Client, studio: Studio, writer: str, prompts: lc.PromptSet
) -> None:
    me = ask(client, "/new_visitor")
    job = ask(
        client, "/train", me, writer, "", prompts.source, prompts.target, "ab", method="mean-act",
        sites=".*input_layernorm",
    )  # fmt: skip
    finished(studio, job["id"], owner_of(me))
    job = ask(client, "/job", me, job["id"])
    assert (job["status"], job["step"], job["steps"]) == ("done", 1, 1), job["message"]
    assert studio.library.row(job["map_id"], owner_of(me)).method == "mean-act"
    assert all("input" in s for s in studio.library.map(job["map_id"], owner_of(me)).sites)


def test_pictures_are_those_of_the_library(
    client: Client, studio: Studio, painter: str, ink: str
) -> None:
    found = ask(client, "/picture", ANN, ["ab", "ba"], [ink], [0.7], painter, 3)
    smap = studio.library.map(ink, owner_of(ANN))
    model = as_image_model(studio.model_cache.get(painter))
    wanted = model.generate(["ab", "ba"], [(smap, 0.7)], seed=3)
    untouched = model.generate(["ab", "ba"], seed=3)
    shown = [
        Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,"))))
        for address in found["images"]
    ]
    assert [image.tobytes() for image in shown] == [image.tobytes() for image in wanted]
    assert found["clip"] == {"ink": pytest.approx(list(lc.clip_score(wanted, "ink")))}
    assert found["kept"] == pytest.approx(list(lc.img_score(wanted, untouched)))
    assert found["scorer"] == "clip-emoji"


def test_nobody_sees_or_stops_anothers_job_or_map(
    client: Client, studio: Studio, writer: str, ink: str, painter: str, prompts: lc.PromptSet
) -> None:
    job = ask(client, "/train", ANN, writer, "", prompts.source, prompts.target, "x", 2000)
    assert ask(client, "/job", BOB, job["id"]) == {}
    assert ask(client, "/cancel", BOB, job["id"]) is False
    assert ask(client, "/job", ANN, job["id"])["status"] in ("queued", "running")
    assert ask(client, "/cancel", ANN, job["id"]) is True
    assert finished(studio, job["id"], owner_of(ANN)).status == "cancelled"
    assert ink in [row["id"] for row in ask(client, "/list_maps", ANN)]
    assert ink not in [row["id"] for row in ask(client, "/list_maps", BOB)]
    with pytest.raises(AppError, match="no map"):
        ask(client, "/picture", BOB, ["ab"], [ink], [1.0], painter)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("/list_maps", ["short"], "visitor is not a key"),
        ("/list_maps", [5], "visitor is 5"),
        ("/list_maps", [ANN, 5], "search is 5"),
        ("/job", ["short", "x"], "visitor is not a key"),
        ("/train", [ANN, "smollm2", "nothing"], "no prompt set 'nothing'"),
        ("/train", [ANN, "smollm2", "", ["a"], ["b"]], "give 4 or more"),
        ("/train", [ANN, "smollm2", "football", None, None, "", "many"], "steps is 'many'"),
        ("/train", [ANN, "smollm2", "football", None, None, "", 2001], "2000 at most"),
        ("/train", [ANN, "smollm2", "football", None, None, "", 0, "", "magic"], "choose one of"),
        (
            "/train",
            [ANN, "smollm2", "football", None, None, "", 5, "", "mean-act"],
            "steps is 5, but Mean-AcT is fitted in one go",
        ),
        ("/complete", [ANN, " ", [], []], "prompt is empty"),
        ("/complete", [ANN, "ab", [], [], "smollm2", 0, 1000], "tokens is 1000"),
        ("/complete", [ANN, "ab", [], [], "smollm2", 0, "x"], "tokens is 'x'"),
        ("/complete", [ANN, "ab", ["football"], []], "0 strengths for 1 map;"),
        ("/complete", [ANN, "ab", ["football"], [9]], "strength is 9"),
        ("/complete", [ANN, "ab", ["football"], ["x"]], "strengths.0 is 'x'"),
        ("/complete", [ANN, "ab", ["nothing"], [1]], "no map 'nothing'"),
        ("/picture", [ANN, "ab", [], []], "prompts is 'ab'"),
        ("/picture", [ANN, [], [], []], "There is no prompt"),
        ("/picture", [ANN, ["ab"] * 9, [], []], "9 prompts"),
        ("/picture", [ANN, ["ab"], ["football"], [1]], "no map 'football'"),
    ],
)
def test_a_mistake_gets_a_message_and_leaves_no_trace(
    client: Client,
    name: str,
    arguments: list[Any],
    message: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(AppError, match=re.escape(message)), caplog.at_level(logging.ERROR):
        ask(client, name, *arguments)
    assert caplog.records == []
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_public_space_loads_models_of_the_catalogue_only(
    tmp_path: Path, painter: str, writer: str
) -> None:
    demo = Studio(Settings(home=tmp_path, demo=True), environment={})
    try:
        with pytest.raises(gr.Error, match="this Space has smollm2"):
            Api(demo, answers_of(demo)).picture(ANN, ["ab"], [], [], painter)
        with pytest.raises(gr.Error, match="this Space has smollm2"):
            Api(demo, answers_of(demo)).complete(ANN, "ab", [], [], writer)
    finally:
        demo.close()


def test_the_functions_are_tools_of_an_mcp_server(app: str) -> None:
    tools, key, maps, refused = asyncio.run(converse(app))
    assert {f"/{tool.name}" for tool in tools} == set(FUNCTIONS)
    for tool in tools:
        described = tool.inputSchema["properties"]
        assert list(described) == list(FUNCTIONS[f"/{tool.name}"])
        assert all(len(parameter["description"]) > 3 for parameter in described.values())
        assert len(tool.description or "") > 10
    assert len(owner_of(said(key))) == 32
    assert "emoji-watercolor" in said(maps)
    assert (refused.isError, said(refused)[:20]) == (True, "visitor is not a key")


async def converse(
    app: str,
) -> tuple[list[Tool], CallToolResult, CallToolResult, CallToolResult]:
    """What an assistant does: list the tools, call one, use its answer, and make a mistake."""
    async with (
        streamable_http_client(f"{app}/gradio_api/mcp/") as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        tools = (await session.list_tools()).tools
        key = await session.call_tool("new_visitor", {})
        maps = await session.call_tool("list_maps", {"visitor": said(key), "search": "water"})
        refused = await session.call_tool("list_maps", {"visitor": "short"})
        return tools, key, maps, refused


def said(result: CallToolResult) -> str:
    [content] = result.content
    assert isinstance(content, TextContent)
    return content.text


def test_the_docs_name_every_function_and_the_tools_address() -> None:
    text = (DOCS / "api.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(/\w+)` \|", text, re.MULTILINE)) == set(FUNCTIONS)
    [configuration] = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    [server] = json.loads(configuration)["mcpServers"].values()
    assert server == {"url": "http://127.0.0.1:7860/gradio_api/mcp/"}


@pytest.mark.thorough
@pytest.mark.embedded
def test_the_example_of_the_docs_runs(
    app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (DOCS / "api.md").read_text("utf-8")
    # The second is of clients of OpenAI's API; see tests/serving.
    example, _ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert example.count("http://127.0.0.1:7860") == 1
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example.replace("http://127.0.0.1:7860", app), names)
    assert names["job"]["status"] == "done"
    for number in range(2):
        with Image.open(f"picture-{number}.png") as picture:
            assert picture.size == (128, 128)
    assert names["text"].strip()
    assert "done: step 20 of 20" in capsys.readouterr().out
