"""A small model that chats, with two maps, served on a free port."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from openai import OpenAI

import lineas_core as lc
from lineas_core.serving.host import OneModel
from lineas_core.serving.routes import application
from tests.helpers.models import random_map
from tests.helpers.server import served

SITES = {"model.layers.1.post_attention_layernorm": 16}
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


class GatedHost(OneModel):
    """Counts batches, and starts none while its gate is shut."""

    def open(self) -> None:
        self.batches = 0
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()

    @contextmanager
    def running(self, model: str) -> Iterator[None]:
        self.batches += 1
        self.begun.set()
        assert self.gate.wait(60)
        yield


@pytest.fixture(scope="module")
def talker(small_models: dict[str, Path]) -> lc.LanguageModel:
    """Writes single bytes, most of which are no whole character."""
    model = lc.load_model(str(small_models["llama"]), device="cpu")
    assert isinstance(model, lc.LanguageModel)
    model.tokenizer.chat_template = TEMPLATE
    return model


@pytest.fixture(scope="module")
def maps() -> dict[str, tuple[lc.SteeringMap, float]]:
    return {"ink": (random_map(SITES, 2, 3.0), 0.7), "gold": (random_map(SITES, 3, 3.0), -0.5)}


@pytest.fixture
def host(talker: lc.LanguageModel, maps: dict[str, tuple[lc.SteeringMap, float]]) -> GatedHost:
    host = GatedHost(talker, maps)
    host.open()
    return host


@pytest.fixture
def address(host: GatedHost) -> Iterator[str]:
    with served(application(host)) as address:
        yield f"{address}/v1"


@pytest.fixture
def client(address: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60) as client:
        yield client
