"""What a request may say, and what it is told when it says something else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lineas_core.serving.asked import read_request
from lineas_core.serving.request_error import RequestError

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
TEXT = {"model": "m", "prompt": "hello"}


def read(fields: dict[str, Any], **more: Any) -> Any:
    given = {**fields, **more}
    return read_request(json.dumps(given).encode(), chat="messages" in given)


def test_the_least_that_a_request_says() -> None:
    asked = read(CHAT)
    assert asked.prompts == ([{"role": "user", "content": "hello"}],)
    assert (asked.n, asked.temperature, asked.stops, asked.stream) == (1, 1.0, (), False)
    assert (asked.seed, asked.max_tokens, asked.steering) == (None, None, None)
    assert read(TEXT).prompts == ("hello",)
    # As at OpenAI.
    assert read(TEXT).max_tokens == 16


def test_fields_in_all_their_forms() -> None:
    assert read(TEXT, prompt=["a", "b"]).prompts == ("a", "b")
    assert read(TEXT, stop="x").stops == ("x",)
    assert read(TEXT, stop=["x", "yz"]).stops == ("x", "yz")
    assert read(TEXT, temperature=0).temperature == 0
    assert read(CHAT, max_tokens=5).max_tokens == 5
    assert read(CHAT, max_completion_tokens=6).max_tokens == 6
    assert read(CHAT, stream=True, stream_options={"include_usage": True}).include_usage
    steering = [{"map": "a", "strength": 0.5}, {"map": "b", "strength": -1}]
    assert read(CHAT, steering=steering).steering == (("a", 0.5), ("b", -1.0))
    assert read(CHAT, steering=[]).steering == ()
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two", "cache_control": {}}]
    asked = read(CHAT, messages=[{"role": "developer", "content": parts, "name": "x"}])
    assert asked.prompts == ([{"role": "system", "content": "one\ntwo"}],)


def test_what_changes_nothing_is_taken() -> None:
    plain = read(CHAT)
    assert plain == read(
        CHAT, user="me", metadata={"a": "b"}, store=False, top_p=1, presence_penalty=0.0,
        frequency_penalty=0, logit_bias={}, logprobs=False, tools=[],
        response_format={"type": "text"}, seed=None, stop=None, n=None, stream_options=None,
        temperature=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": "x"}, "model"),
        ({"model": "m", "messages": []}, "messages"),
        ({"model": 3, "prompt": "x"}, "model"),
        ({"model": "m", "prompt": [1, 2]}, "prompt.0"),
        ({"model": "m", "prompt": []}, "prompt"),
        ({**TEXT, "n": 0}, "n"),
        ({**TEXT, "n": "2"}, "n"),
        ({**TEXT, "seed": -1}, "seed"),
        ({**TEXT, "seed": 2**63}, "seed"),
        ({**TEXT, "temperature": 2.1}, "temperature"),
        ({**TEXT, "temperature": float("nan")}, "temperature"),
        ({**TEXT, "max_tokens": 0}, "max_tokens"),
        ({**TEXT, "max_completion_tokens": 5}, "max_completion_tokens"),
        ({**TEXT, "stop": ""}, "stop.0"),
        ({**TEXT, "stop": list("abcde")}, "stop"),
        ({**TEXT, "stream": "yes"}, "stream"),
        ({**TEXT, "steering": {"map": "a"}}, "steering"),
        ({**TEXT, "steering": [{"map": "a"}]}, "steering.0.strength"),
        ({**TEXT, "steering": [{"map": "a", "strength": float("inf")}]}, "steering.0.strength"),
        ({**TEXT, "steering": [{"map": "a", "strength": 1, "on": True}]}, "steering.0.on"),
        ({**TEXT, "wat": 1}, "wat"),
        ({**TEXT, "logprobs": 0}, "logprobs"),
        ({**TEXT, "best_of": 3}, "best_of"),
        ({**TEXT, "echo": True}, "echo"),
        ({**TEXT, "suffix": "x"}, "suffix"),
        ({**CHAT, "logprobs": True}, "logprobs"),
        ({**CHAT, "top_logprobs": 2}, "top_logprobs"),
        ({**CHAT, "top_p": 0.9}, "top_p"),
        ({**CHAT, "tools": [{"type": "function"}]}, "tools"),
        ({**CHAT, "response_format": {"type": "json_object"}}, "response_format"),
        ({**CHAT, "messages": [{"role": "user"}]}, "messages.0.content"),
        ({**CHAT, "messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({**CHAT, "messages": [{"role": "user", "content": []}]}, "messages.0.content"),
        (
            {**CHAT, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content.0",
        ),
    ],
)
def test_what_cannot_be_done_names_the_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError, match=param.rpartition(".")[2]) as refused:
        read(fields)
    assert (refused.value.param, refused.value.status) == (param, 400)
    error = refused.value.body["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"model": "\\ud800"}', b"[" * 100_000]
)
def test_what_is_no_object_in_utf_8_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError, match="body"):
        read_request(body, chat=True)
