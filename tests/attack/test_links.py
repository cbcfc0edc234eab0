"""A link makes the app load nothing that was not loaded here before."""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr
import httpx
import pytest

from lineas_core.studio.app import Studio
from lineas_core.studio.rack.rack import RackState
from lineas_core.studio.rack.screen import Screen
from tests.helpers.studio import ANN


def opened_by(web: httpx.Client, page: gr.Blocks, model: str) -> str:
    """All that a page is told which opens by a link to a screen with that model."""
    screen = Screen(RackState(), "emoji-onestep", "a cat", 0, model, "Once", 0, 8)
    number = next(n for n, f in page.fns.items() if f.fn and f.fn.__qualname__ == "Opening.arrive")
    call = {"fn_index": number, "data": [ANN, ""], "session_hash": "linked"}
    scene = {"scene": screen.to_link()}
    assert web.post("/gradio_api/queue/join", params=scene, json=call).status_code == 200
    said = ""
    with web.stream("GET", "/gradio_api/queue/data", params={"session_hash": "linked"}) as news:
        for line in news.iter_lines():
            said += line
            if "process_completed" in line:
                break
    return said


@pytest.mark.parametrize("model", ["somebody/model", "/srv/models/theirs", "C:\\models", "~", "."])
def test_a_link_brings_no_model_of_its_own(
    web: httpx.Client, page: gr.Blocks, studio: Studio, model: str
) -> None:
    said = opened_by(web, page, model)
    data = json.loads(said[said.rindex("data:") + 5 :])["output"]["data"]
    assert model not in map(str, data)
    assert "smollm2" in map(str, data)
    assert "no link loads a model" in said
    assert not studio.model_cache.has(model)


def test_a_link_brings_models_that_are_here(
    web: httpx.Client, page: gr.Blocks, studio: Studio, small_models: dict[str, Path]
) -> None:
    model = str(small_models["llama"])
    for known in ("smollm2", "qwen3-0.6b"):
        assert "no link loads a model" not in opened_by(web, page, known), known
    studio.model_cache.get(model)
    said = opened_by(web, page, model)
    assert "no link loads a model" not in said
    assert model in said
