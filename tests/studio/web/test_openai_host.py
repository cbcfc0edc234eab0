"""The app's /v1: the maps of a visitor's key, within the limits of visitors."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

import lineas_core as lc
from lineas_core.models.load import as_language_model
from lineas_core.serving.request_error import RequestError
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.app import Studio
from lineas_core.studio.web.openai_host import StudioHost
from lineas_core.studio.web.page import build_page, launch_options
from tests.helpers.models import random_map
from tests.helpers.studio import ANN, BOB, add_map

pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]

SITES = {"model.layers.1.post_attention_layernorm": 16}
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def talker(small_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = shutil.copytree(small_models["llama"], tmp_path_factory.mktemp("chat") / "talker")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return str(folder)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    settings = Settings(home=tmp_path_factory.mktemp("home"), max_requests=200)
    studio = Studio(settings, environment={})
    yield studio
    studio.close()


@pytest.fixture(scope="module")
def address(studio: Studio) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(studio.scratch.uploads))
        page = build_page(studio)
        page.launch(prevent_thread_lock=True, quiet=True, **launch_options(studio))
        yield f"{str(page.local_url).rstrip('/')}/v1"
        page.close()


@pytest.fixture(scope="module")
def anns(studio: Studio, talker: str) -> str:
    return add_map(studio, talker, SITES, 2, concept="football")


def client(address: str, key: str = ANN) -> OpenAI:
    return OpenAI(base_url=address, api_key=key, max_retries=0, timeout=60)


def on(map_id: str, strength: float) -> dict[str, Any]:
    return {"steering": [{"map": map_id, "strength": strength}]}


def test_a_visitors_map_steers_what_is_streamed(
    studio: Studio, address: str, anns: str, talker: str
) -> None:
    with client(address) as ann:
        chunks = list(
            ann.chat.completions.create(
                model=talker,
                messages=HELLO,
                seed=3,
                max_tokens=30,
                stream=True,
                stream_options={"include_usage": True},
                extra_body=on(anns, 0.8),
            )
        )
        plain = ann.chat.completions.create(model=talker, messages=HELLO, seed=3, max_tokens=30)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    model = as_language_model(studio.model_cache.get(talker))
    smap = lc.SteeringMap.load(studio.settings.home / "maps" / f"{anns}.safetensors")
    settings: dict[str, Any] = {"seed": 3, "max_new_tokens": 30}
    assert [text] == model.generate([HELLO], [(smap, 0.8)], **settings)
    assert [plain.choices[0].message.content] == model.generate([HELLO], **settings)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == len("<user>hello<assistant>")


def test_the_models_are_the_catalogues(address: str) -> None:
    with client(address) as ann:
        names = [model.id for model in ann.models.list()]
    assert "smollm2" in names
    assert "emoji-onestep" not in names


def test_answers_are_no_longer_than_the_apps(address: str, talker: str) -> None:
    with client(address) as ann:
        found = ann.completions.create(model=talker, prompt="a", max_tokens=2000, temperature=0)
    assert found.usage is not None
    assert found.usage.completion_tokens <= 160


def test_maps_of_others_are_told_as_maps_that_are_not(address: str, anns: str, talker: str) -> None:
    told = []
    with client(address, BOB) as bob:
        for map_id in (anns, "1" * 32):
            with pytest.raises(openai.BadRequestError) as refused:
                bob.completions.create(model=talker, prompt="a", extra_body=on(map_id, 1.0))
            assert refused.value.param == "steering"
            told.append(str(refused.value).replace(map_id, "ID"))
    assert told[0] == told[1]


def test_a_map_of_another_model_of_this_name_is_refused(
    studio: Studio, address: str, talker: str
) -> None:
    wide = add_map(studio, talker, {"model.norm": 7}, 4)
    with client(address) as ann, pytest.raises(openai.BadRequestError, match="width 16") as refused:
        ann.completions.create(model=talker, prompt="a", extra_body=on(wide, 1.0))
    assert refused.value.param == "steering"


def test_a_long_body_is_refused_as_any_other(address: str) -> None:
    headers = {"Authorization": f"Bearer {ANN}"}
    answer = httpx.post(f"{address}/completions", json={"prompt": "x" * 9_000_000}, headers=headers)
    assert answer.status_code == 413
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("key", ["short", "x" * 200, "../../../etc/passwd" + "a" * 20])
def test_what_is_no_visitors_key_is_refused(address: str, talker: str, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    body = {"model": talker, "prompt": "a"}
    for answer in (
        httpx.get(f"{address}/models", headers=headers),
        httpx.get(f"{address}/models/smollm2", headers=headers),
        httpx.post(f"{address}/completions", headers=headers, json=body),
        httpx.post(f"{address}/chat/completions", headers=headers, json=body),
        httpx.post(f"{address}/completions", json=body),
    ):
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("changes", "kind", "param"),
    [
        ({"model": "/no/such/folder"}, openai.NotFoundError, "model"),
        ({"model": "emoji-onestep"}, openai.NotFoundError, "model"),
        ({"n": 5}, openai.BadRequestError, "n"),
        ({"extra_body": on("football", 5.0)}, openai.BadRequestError, "steering"),
    ],
)
def test_errors_name_the_field_and_no_place(
    address: str, talker: str, changes: dict[str, Any], kind: type[openai.APIStatusError],
    param: str,
) -> None:  # fmt: skip
    asked: dict[str, Any] = {"model": talker, "prompt": "a", **changes}
    with client(address) as ann, pytest.raises(kind) as refused:
        ann.completions.create(**asked)
    assert refused.value.param == param
    assert "/no/such" not in refused.value.body["message"]


def test_other_parts_of_the_app_are_where_they_were(address: str) -> None:
    root = address.removesuffix("/v1")
    assert httpx.get(root).status_code == 200
    assert "/complete" in httpx.get(f"{root}/gradio_api/info").json()["named_endpoints"]
    assert httpx.get(f"{address}/nothing").json()["error"]["code"] == "unknown_url"


def test_each_answer_counts_towards_the_limit(tmp_path: Path, talker: str) -> None:
    studio = Studio(Settings(home=tmp_path, max_requests=5), environment={})
    try:
        host = StudioHost(studio)
        owner = host.caller(ANN)
        host.steering(owner, talker, None, 4)
        host.steering(owner, talker, None, 1)
        with pytest.raises(RequestError, match="5 answers") as refused:
            host.steering(owner, talker, None, 1)
        assert (refused.value.status, refused.value.code) == (429, "rate_limit_exceeded")
        host.steering(host.caller(BOB), talker, None, 1)
    finally:
        studio.close()


def test_a_public_space_has_the_catalogue_and_no_harm(tmp_path: Path, talker: str) -> None:
    studio = Studio(Settings(home=tmp_path, demo=True), environment={})
    try:
        host = StudioHost(studio)
        owner = host.caller(ANN)
        with pytest.raises(RequestError, match="model") as refused:
            host.steering(owner, talker, None, 1)
        assert (refused.value.status, refused.value.param) == (404, "model")
        info = lc.MapInfo(model="smollm2", prompt_hash=lc.PromptSet.load("toxicity").hash())
        smap = lc.SteeringMap(random_map(SITES, 0).sites, info)
        kept = studio.library.add_map(owner, smap, title="Kind").id
        [steered] = host.steering(owner, "smollm2", [(kept, 1.0)], 1)
        assert (steered.name, steered.strength) == (kept, 1.0)
        with pytest.raises(RequestError, match=r"strength is -1") as harm:
            host.steering(owner, "smollm2", [(kept, -1.0)], 1)
        assert harm.value.param == "steering"
    finally:
        studio.close()


def test_a_space_that_lends_its_gpu_says_where_to_ask(tmp_path: Path) -> None:
    studio = Studio(Settings(home=tmp_path), environment={})
    studio.environment = {"SPACES_ZERO_GPU": "true"}
    try:
        with pytest.raises(RequestError, match="/complete"):
            StudioHost(studio).steering("x", "smollm2", None, 1)
    finally:
        studio.close()


def test_training_waits_while_an_answer_is_written(studio: Studio, talker: str) -> None:
    training = threading.Thread(target=studio.inference.give_way)
    with StudioHost(studio).running(talker):
        training.start()
        training.join(0.2)
        assert training.is_alive()
    training.join(1)
    assert not training.is_alive()
