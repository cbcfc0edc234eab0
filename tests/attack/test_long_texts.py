"""Texts that are too long for the limit, or whose answers would take too much memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from transformers import LlamaConfig

import lineas_core as lc
from lineas_core.models.load import as_language_model
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.text_limits import TextLimits, estimated_bytes
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.tabs.compare.callbacks import CompareCallbacks
from lineas_core.studio.tabs.library.sharing import SharingCallbacks
from lineas_core.studio.tabs.texts.callbacks import TextCallbacks
from lineas_core.studio.tabs.texts.chat import ChatCallbacks
from lineas_core.studio.web.api import Api
from tests.helpers.models import SIZES, save_checkpoint
from tests.helpers.server import client_of, launched
from tests.helpers.studio import ANN, add_map, answers_of, rack

pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]

LONG = "ab " * 1334
ENOUGH = "ab " * 1333


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model, with a token a byte, that reads texts of any length."""
    config = LlamaConfig(**{**SIZES, "max_position_embeddings": 2**16})
    return str(save_checkpoint(config, tmp_path_factory.mktemp("reader")))


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    studio = Studio(Settings(home=tmp_path / "home"), environment={})
    yield studio
    studio.close()


def completed(studio: Studio, model: str, on: Any, ids: list[str], text: str) -> Any:
    return Api(studio, answers_of(studio)).complete(ANN, text, [], [], model, 0, 1)


def compared(studio: Studio, model: str, on: Any, ids: list[str], text: str) -> Any:
    return list(TextCallbacks(studio, answers_of(studio)).compare(ANN, model, on, text, 0, 1))


def swept(studio: Studio, model: str, on: Any, ids: list[str], text: str) -> Any:
    return TextCallbacks(studio, answers_of(studio)).sweep(ANN, model, on, text, 0, 1, 1)


def chatted(studio: Studio, model: str, on: Any, ids: list[str], text: str) -> Any:
    return list(ChatCallbacks(studio, answers_of(studio)).ask(ANN, model, on, [], text, 0, 1))


def chatted_before(studio: Studio, model: str, on: Any, ids: list[str], text: str) -> Any:
    turns = [{"question": "a", "untouched": text, "steered": text, "maps": ""}]
    work = ChatCallbacks(studio, answers_of(studio))
    return list(work.ask(ANN, model, on, turns, "a", 0, 1))


def shown(studio: Studio, model: str, on: Any, ids: list[str], text: str) -> Any:
    work = CompareCallbacks(studio, answers_of(studio))
    return list(work.show(ANN, ids[0], ids[1], 1.0, "", text, 0))


def bundled(studio: Studio, model: str, on: Any, ids: list[str], text: str) -> Any:
    work = SharingCallbacks(studio, answers_of(studio))
    return work.bundle(ANN, on, "emoji-onestep", "a", 0, model, text, 0, 1)


def previewed(studio: Studio, model: str, on: Any, ids: list[str], text: str) -> Any:
    prompts = lc.PromptSet(name="n", source=list("abcd"), target=list("xyzw"))
    try:
        return studio.train(owner_of(ANN), model, prompts, {"steps": 1}, preview_prompt=text)
    except lc.LineasError as error:
        raise gr.Error(str(error)) from error


def trained(studio: Studio, model: str, on: Any, ids: list[str], text: str) -> Any:
    source = [*"abcd", text]
    return Api(studio, answers_of(studio)).train(ANN, model, "", source, list("xyzw"), "c", 1)


@pytest.mark.parametrize(
    "ask",
    [
        completed, compared, swept, chatted, chatted_before, shown, bundled, previewed, trained,
    ],
)  # fmt: skip
def test_no_function_takes_a_text_of_more_than_4000_characters(
    studio: Studio, reader: str, ask: Callable[..., Any]
) -> None:
    sites = {"model.layers.1.post_attention_layernorm": 16}
    ids = [add_map(studio, reader, sites, seed) for seed in range(2)]
    on = rack((ids[0], 1.0), modality="text")
    with pytest.raises(gr.Error, match="400[12] characters.*4000"):
        ask(studio, reader, on, ids, LONG)


@pytest.fixture
def web(studio: Studio) -> Iterator[httpx.Client]:
    with launched(studio) as page, client_of(page) as client:
        client.headers["authorization"] = f"Bearer {ANN}"
        yield client


def test_openais_api_takes_none_either(web: httpx.Client, reader: str) -> None:
    refusals = [
        ("/v1/completions", {"prompt": LONG}, "4002 characters; 4000"),
        ("/v1/completions", {"prompt": ["ab", LONG]}, "4002 characters; 4000"),
        ("/v1/completions", {"prompt": ["a" * 4000] * 26}, "26 answers, and 4 is the limit"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": LONG}]},
            "4002 characters; 4000",
        ),
    ]
    for path, body, said in refusals:
        answer = web.post(path, json={"model": reader, "max_tokens": 1, **body})
        assert answer.status_code == 400, answer.text
        assert said in answer.json()["error"]["message"]


def test_what_would_take_too_much_memory_is_refused_with_the_number(
    studio: Studio, reader: str, web: httpx.Client
) -> None:
    studio.inference.text_limits = TextLimits(1)
    model = as_language_model(studio.inference.model(reader))
    api, prompt = Api(studio, answers_of(studio)), "ab " * 100
    tokens = len(model.encode(prompt))
    most = estimated_bytes(model, tokens, 1, 160)
    assert most > 2**20
    with pytest.raises(
        gr.Error, match=rf"1 text of {tokens} tokens and 160 more .* 1 MiB is the limit"
    ):
        api.complete(ANN, prompt, [], [], reader, 0, 160)
    assert api.complete(ANN, "ab", [], [], reader, 0, 1) is not None
    body = {"model": reader, "prompt": prompt, "max_tokens": 160}
    answer = web.post("/v1/completions", json=body)
    assert answer.status_code == 400
    assert "1 MiB is the limit" in answer.json()["error"]["message"]


MEASURED = """
import json, re, sys
from pathlib import Path
import lineas_core as lc
from lineas_core.studio.access.text_limits import estimated_bytes
from lineas_core.studio.answers.readouts import read_out
from lineas_core.scenes.streaming import stream_sides

# Not `ru_maxrss`: Linux hands the peak of the process that starts another on to it.
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

model, rows = lc.load_model("smollm2", device="cpu"), int(sys.argv[2])
list(stream_sides(model, ["ab"] * rows, [[]] * rows, 0, 1))
prompt = "the " * int(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")
before = peak()
*_, texts = stream_sides(model, [prompt] * rows, [[]] * rows, 0, 8)
for text in texts:
    read_out(model, prompt, [text or "a"], [])
took = 1024 * (peak() - before)
print(json.dumps([took, estimated_bytes(model, len(model.encode(prompt)), rows, 8)]))
"""


@pytest.mark.thorough
@pytest.mark.embedded
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read as Linux tells it")
@pytest.mark.parametrize(("words", "rows"), [(900, 2), (500, 8)])
def test_the_estimate_is_near_what_an_answer_takes(words: int, rows: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(words), str(rows)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    took, estimate = json.loads(done.stdout.splitlines()[-1])
    print(f"{words} words, {rows} rows: {took / 2**20:.0f} MiB, estimated {estimate / 2**20:.0f}")
    # Too low an estimate lets answers through that do not fit; too high a one refuses others.
    assert 0.7 * took < estimate < 3 * took
