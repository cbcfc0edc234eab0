"""The server as clients see it: OpenAI's own client, and the calls of others, over HTTP."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

import lineas_core as lc
from lineas_core.errors import SiteError
from lineas_core.serving.host import OneModel
from lineas_core.serving.routes import application
from lineas_core.system.paths import checkout
from tests.helpers.models import random_map
from tests.helpers.server import served
from tests.serving.conftest import TEMPLATE, GatedHost

Maps = dict[str, tuple[lc.SteeringMap, float]]
HELLO = [{"role": "user", "content": "hello"}]


def steering(strength: float, name: str = "ink") -> dict[str, Any]:
    return {"steering": [{"map": name, "strength": strength}]}


def joined(stream: Any) -> tuple[str, list[str]]:
    """The text of a streamed chat answer, and its reasons to end."""
    chunks = [choice for chunk in stream for choice in chunk.choices]
    text = "".join(choice.delta.content or "" for choice in chunks)
    return text, [choice.finish_reason for choice in chunks if choice.finish_reason]


def test_a_streamed_answer_is_what_the_model_writes(
    client: OpenAI, talker: lc.LanguageModel, maps: Maps
) -> None:
    for seed, strength in ((3, 0.9), (4, -1.0), (5, 0.0)):
        stream = client.chat.completions.create(
            model="llama", messages=HELLO, seed=seed, max_tokens=40, stream=True,
            extra_body=steering(strength),
        )  # fmt: skip
        text, finish = joined(stream)
        steer = [(maps["ink"][0], strength)]
        assert [text] == talker.generate([HELLO], steer, seed=seed, max_new_tokens=40)
        assert finish in (["stop"], ["length"])


def test_maps_of_the_command_line_are_on_where_a_request_says_nothing(
    client: OpenAI, talker: lc.LanguageModel, maps: Maps
) -> None:
    asked: dict[str, Any] = {"model": "llama", "prompt": "ab", "seed": 1, "max_tokens": 20}
    plain, all_on = (
        client.completions.create(**asked, extra_body=body).choices[0].text
        for body in ({"steering": []}, {})
    )
    settings: dict[str, Any] = {"seed": 1, "max_new_tokens": 20}
    assert [plain] == talker.generate(["ab"], **settings)
    assert [all_on] == talker.generate(["ab"], [*maps.values()], **settings)
    assert plain != all_on


def test_clients_at_several_strengths_at_once_get_their_own(
    client: OpenAI, host: GatedHost, talker: lc.LanguageModel, maps: Maps
) -> None:
    def ask(strength: float) -> str:
        stream = client.chat.completions.create(
            model="llama", messages=HELLO, seed=3, max_tokens=30, stream=True,
            extra_body=steering(strength),
        )  # fmt: skip
        return joined(stream)[0]

    host.gate.clear()
    strengths = [0.0, 0.4, 0.8, 1.2]
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(ask, 0.6)
        assert host.begun.wait(60)
        others = [pool.submit(ask, strength) for strength in strengths]
        time.sleep(1)
        host.gate.set()
        texts = [first.result(), *(other.result() for other in others)]
    # Those that waited for the first one were written together.
    assert host.batches == 2
    for strength, text in zip([0.6, *strengths], texts, strict=True):
        steer = [(maps["ink"][0], strength)]
        assert [text] == talker.generate([HELLO], steer, seed=3, max_new_tokens=30)
    assert len(set(texts)) == 5


def test_n_answers_have_seeds_of_their_own(client: OpenAI, talker: lc.LanguageModel) -> None:
    asked: dict[str, Any] = {
        "model": "llama", "prompt": ["ab", "ba"], "n": 2, "seed": 7, "max_tokens": 10,
        "extra_body": {"steering": []},
    }  # fmt: skip
    found = client.completions.create(**asked)
    wanted = talker.complete(["ab", "ab", "ba", "ba"], (), seed=[7, 8, 7, 8], sampling=None)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    for choice, whole in zip(found.choices, wanted, strict=True):
        assert choice.text == talker.text_of(whole.tokens[:10])
    assert found.usage is not None
    # One token per byte.
    assert found.usage.prompt_tokens == 4
    assert found.usage.completion_tokens == sum(min(len(each.tokens), 10) for each in wanted)
    assert found.usage.total_tokens == 4 + found.usage.completion_tokens


def test_without_a_seed_answers_differ(client: OpenAI) -> None:
    texts = {
        client.completions.create(model="llama", prompt="ab", max_tokens=20).choices[0].text
        for _ in range(3)
    }
    assert len(texts) == 3


def test_temperature_0_is_greedy(client: OpenAI, talker: lc.LanguageModel) -> None:
    found = client.completions.create(
        model="llama", prompt="ab", temperature=0, max_tokens=12, extra_body={"steering": []}
    )
    assert [found.choices[0].text] == talker.generate(["ab"], temperature=0, max_new_tokens=12)


def test_stop_texts_cut_streams_and_whole_answers_alike(
    client: OpenAI, talker: lc.LanguageModel
) -> None:
    [text] = talker.generate([HELLO], seed=2, max_new_tokens=60)
    # Two letters are two tokens, which may be in two pieces of the stream.
    stop = next(text[n : n + 2] for n in range(12, len(text)) if "\ufffd" not in text[n : n + 2])
    asked: dict[str, Any] = {
        "model": "llama", "messages": HELLO, "seed": 2, "max_tokens": 60, "stop": [stop, "never"],
        "extra_body": {"steering": []},
    }  # fmt: skip
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.content == text[: text.index(stop)]
    assert whole.choices[0].finish_reason == "stop"
    assert joined(client.chat.completions.create(**asked, stream=True)) == (
        text[: text.index(stop)],
        ["stop"],
    )


def test_the_reason_to_end_is_true(client: OpenAI, talker: lc.LanguageModel) -> None:
    settings: dict[str, Any] = {"seed": range(12), "sampling": None}
    natural = talker.complete(["ab"] * 12, (), **settings)
    ended = next(n for n, each in enumerate(natural) if each.ended)
    tokens = len(natural[ended].tokens)
    for most, finish in ((tokens + 1, "stop"), (tokens, "length"), (1, "length")):
        found = client.completions.create(
            model="llama", prompt="ab", seed=ended, max_tokens=most, extra_body={"steering": []}
        )
        assert found.choices[0].finish_reason == finish
        assert found.usage is not None
        assert found.usage.completion_tokens == min(tokens, most)


def test_an_answer_has_no_more_tokens_than_the_model_reads(client: OpenAI) -> None:
    found = client.completions.create(
        model="llama", prompt="a" * 120, max_tokens=500, temperature=0, stop="\x00"
    )
    assert found.usage is not None
    assert found.usage.total_tokens <= 128


def test_the_list_of_models(client: OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.object) == ("llama", "model")
    assert client.models.retrieve("llama") == model
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("other")
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("changes", "kind", "param", "code"),
    [
        ({"model": "other"}, openai.NotFoundError, "model", "model_not_found"),
        ({"prompt": "a" * 200}, openai.BadRequestError, "prompt", None),
        ({"prompt": "a" * 128}, openai.BadRequestError, "prompt", "context_length_exceeded"),
        ({"prompt": ""}, openai.BadRequestError, "prompt", None),
        ({"n": 129}, openai.BadRequestError, "n", None),
        ({"logprobs": 2}, openai.BadRequestError, "logprobs", "unsupported_parameter"),
        ({"seed": 2**63 - 1, "n": 2}, openai.BadRequestError, "seed", None),
        (
            {"extra_body": steering(1.0, "silver")},
            openai.BadRequestError, "steering.0.map", None,
        ),
    ],
)  # fmt: skip
def test_errors_name_the_field(
    client: OpenAI,
    changes: dict[str, Any],
    kind: type[openai.APIStatusError],
    param: str,
    code: str | None,
) -> None:
    for stream in (False, True):
        asked: dict[str, Any] = {"model": "llama", "prompt": "ab", "stream": stream, **changes}
        with pytest.raises(kind) as refused:
            client.completions.create(**asked)
        assert (refused.value.param, refused.value.code) == (param, code)
        assert refused.value.type == "invalid_request_error"
        # A folder is nobody's business.
        assert "/llama" not in str(refused.value)


def test_a_map_that_does_not_fit_the_model_is_not_served(talker: lc.LanguageModel) -> None:
    smap = random_map({"no.such.site": 16}, 0)
    with pytest.raises(SiteError, match=r"no\.such\.site"):
        OneModel(talker, {"bad": (smap, 1.0)})


def test_a_model_without_a_template_does_not_chat(small_models: dict[str, Any], maps: Maps) -> None:
    model = lc.load_model(str(small_models["llama"]), device="cpu")
    assert isinstance(model, lc.LanguageModel)
    with served(application(OneModel(model, maps))) as address:
        answer = post(address, "chat/completions", {"model": "llama", "messages": HELLO})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages"
    assert "chat template" in answer.json()["error"]["message"]


def test_the_key_is_asked_for(talker: lc.LanguageModel, maps: Maps) -> None:
    with served(application(OneModel(talker, maps, key="sesame"))) as address:
        for key in ("sesam", "none"):
            with (
                OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0) as client,
                pytest.raises(openai.AuthenticationError) as refused,
            ):
                client.models.list()
            assert refused.value.code == "invalid_api_key"
        assert httpx.get(f"{address}/v1/models").status_code == 401
        assert post(address, "completions", {"model": "llama", "prompt": "a"}).status_code == 401
        with OpenAI(base_url=f"{address}/v1", api_key="sesame") as client:
            assert client.models.list().data
            assert client.completions.create(model="llama", prompt="a", max_tokens=1).choices


def post(address: str, path: str, body: Any, **settings: Any) -> httpx.Response:
    root = address.removesuffix("/v1")
    return httpx.post(f"{root}/v1/{path}", json=body, timeout=60, **settings)


def test_what_is_no_request_is_answered_in_json(address: str) -> None:
    text = {"content-type": "text/plain"}
    for answer, status in (
        (httpx.get(f"{address}/nothing"), 404),
        (httpx.get(f"{address}/chat/completions"), 404),
        (httpx.get(address.removesuffix("v1")), 404),
        (httpx.post(f"{address}/completions", content=b"{", headers=text), 400),
        (httpx.post(f"{address}/completions", json=["x"]), 400),
        (httpx.post(f"{address}/completions", json={"prompt": "x" * 9_000_000}), 413),
    ):
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def events(response: httpx.Response) -> Iterator[Any]:
    for line in response.iter_lines():
        if line:
            assert line.startswith("data: ")
            yield line.removeprefix("data: ")


# What Open WebUI 0.6 sends, by its backend/open_webui/routers/openai.py and utils/payload.py.
OPEN_WEBUI = {
    "stream": True,
    "model": "llama",
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "go on"},
    ],
    "temperature": 0.8,
    "max_tokens": 20,
    "seed": 3,
    "stop": ["<none>"],
    "stream_options": {"include_usage": True},
    # Its custom parameters may hold any JSON.
    "steering": [{"map": "ink", "strength": 0.5}],
}


def test_the_calls_of_open_webui(address: str, talker: lc.LanguageModel, maps: Maps) -> None:
    listed = httpx.get(f"{address}/models", headers={"Authorization": "Bearer"}).json()
    assert [model["id"] for model in listed["data"]] == ["llama"]
    with httpx.stream(
        "POST", f"{address}/chat/completions", json=OPEN_WEBUI, timeout=60
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        *chunks, done = events(response)
    assert done == "[DONE]"
    *parts, usage = [json.loads(chunk) for chunk in chunks]
    assert all(part["usage"] is None for part in parts)
    assert usage["choices"] == []
    text = "".join(part["choices"][0]["delta"].get("content", "") for part in parts)
    messages = [dict(message) for message in OPEN_WEBUI["messages"]]
    messages[1]["content"] = "hello"
    steer = [(maps["ink"][0], 0.5)]
    [whole] = talker.generate([messages], steer, seed=3, temperature=0.8, max_new_tokens=20)
    assert text == whole
    prompt = talker.tokenizer.apply_chat_template(messages, tokenize=False)
    assert usage["usage"]["prompt_tokens"] == len(prompt.encode())
    # It asks for titles and tags without a stream.
    task = {"model": "llama", "messages": HELLO, "stream": False, "max_completion_tokens": 1000}
    answer = post(address, "chat/completions", task).json()
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["total_tokens"] <= 128


def test_the_calls_of_langchain(client: OpenAI) -> None:
    # ChatOpenAI gives its messages as dicts, sends stream_options with each stream, and reads
    # whole answers raw.
    asked: dict[str, Any] = {
        "model": "llama", "messages": HELLO, "temperature": 0.7, "max_completion_tokens": 10,
        "n": 1, "seed": 1, "stop": ["Observation:"],
    }  # fmt: skip
    raw = client.chat.completions.with_raw_response.create(**asked).parse()
    dumped = raw.model_dump()
    assert dumped["choices"][0]["message"]["content"] == raw.choices[0].message.content
    assert dumped["usage"]["completion_tokens"] <= 10
    stream = client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage == raw.usage
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == raw.choices[0].message.content


def test_streams_hold_whole_characters_only(address: str, talker: lc.LanguageModel) -> None:
    asked = {"model": "llama", "messages": HELLO, "stream": True, "max_tokens": 100, "n": 3,
             "seed": 11, "steering": []}  # fmt: skip
    texts = ["", "", ""]
    with httpx.stream("POST", f"{address}/chat/completions", json=asked, timeout=60) as response:
        body = b"".join(response.iter_raw()).decode()
    for line in body.split("\n\n")[:-2]:
        [choice] = json.loads(line.removeprefix("data: "))["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == talker.generate([HELLO] * 3, seed=[11, 12, 13], max_new_tokens=100)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_left_the_queue_is_not_answered(
    address: str, host: GatedHost, stream: bool
) -> None:
    body = {"model": "llama", "messages": HELLO, "max_tokens": 5, "seed": 1}
    host.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(post, address, "chat/completions", body)
        assert host.begun.wait(60)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/chat/completions", json={**body, "stream": stream}, timeout=0.5)
        time.sleep(0.5)
        host.gate.set()
        assert first.result().status_code == 200
    time.sleep(0.2)
    assert host.batches == 1


def test_a_stream_that_is_closed_ends_its_answer(
    address: str, host: GatedHost, talker: lc.LanguageModel
) -> None:
    asked = {"model": "llama", "messages": HELLO, "stream": True, "max_tokens": 100, "seed": 11}
    steps: list[float] = []

    def slow(*_: Any) -> None:
        steps.append(time.monotonic())
        time.sleep(0.02)

    handle = talker.module.register_forward_pre_hook(slow)
    try:
        with httpx.stream(
            "POST", f"{address}/chat/completions", json=asked, timeout=60
        ) as response:
            next(events(response))
        closed = time.monotonic()
        # Waits for the batch of the closed one, if it goes on.
        post(address, "chat/completions", {**asked, "stream": False, "max_tokens": 1})
    finally:
        handle.remove()
    assert host.batches == 2
    after = [step for step in steps if step > closed]
    assert len(after) < 60


def test_the_example_of_the_docs_runs(
    small_models: dict[str, Any], maps: Maps, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (checkout() / "docs" / "api.md").read_text("utf-8")
    example = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[1]
    model = lc.load_model(str(small_models["llama"]), device="cpu")
    assert isinstance(model, lc.LanguageModel)
    model.id, model.tokenizer.chat_template = "smollm2", TEMPLATE
    with served(application(OneModel(model, {"football": maps["ink"]}))) as address:
        assert example.count("http://127.0.0.1:8000") == 1
        names: dict[str, Any] = {}
        exec(example.replace("http://127.0.0.1:8000", address), names)
        names["client"].close()
    messages = [{"role": "user", "content": "What did you do on Saturday?"}]
    written = [
        model.generate([messages], [(maps["ink"][0], strength)], seed=1, max_new_tokens=60)[0]
        for strength in (0.0, 0.7)
    ]
    assert capsys.readouterr().out == "".join(f"{text}\n" for text in written)
