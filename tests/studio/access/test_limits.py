"""What one visitor may ask for, and all together; and memory that a model needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest
import torch

import lineas_core as lc
from lineas_core.errors import ModelError
from lineas_core.models.shared import loading
from lineas_core.models.shared.catalog import CatalogEntry
from lineas_core.models.shared.loading import check_memory, weight_bytes
from lineas_core.studio.access.limits import LimitError, Limits
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import new_key, owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.tabs.library.hub import HubCallbacks
from lineas_core.studio.web.api import Api
from tests.helpers.studio import ANN, BOB, answers_of

CPU = torch.device("cpu")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(tmp_path: Path, clock: Clock) -> Limits:
    return Limits(Settings(home=tmp_path, max_requests=6, requests_in_all=60), clock)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Studio]:
    """A Studio that answers next to nothing."""
    studio = Studio(
        Settings(
            home=tmp_path / "home",
            max_requests=2,
            max_prompts=5,
            max_images=4,
        ),
        environment={},
    )
    yield studio
    studio.close()


def test_a_visitor_who_asks_too_often_is_told_when_to_come_back(
    limits: Limits, clock: Clock
) -> None:
    for _ in range(6):
        limits.admit("ann")
    with pytest.raises(LimitError, match=r"more than 6 answers .* Try again in 10 s"):
        limits.admit("ann")
    limits.admit("bob")
    clock.now += 9.9
    with pytest.raises(LimitError, match="Try again in 1 s"):
        limits.admit("ann")
    clock.now += 0.1
    limits.admit("ann")
    clock.now += 1000
    for _ in range(6):
        limits.admit("ann")
    with pytest.raises(LimitError):
        limits.admit("ann")


def test_new_keys_do_not_get_around_the_limit_of_all(limits: Limits, clock: Clock) -> None:
    admitted, refusals = 0, set()
    for _ in range(5):
        for _ in range(300):
            try:
                limits.admit(owner_of(new_key()))
            except LimitError as error:
                refusals.add(str(error))
            else:
                admitted += 1
        clock.now += 60
    assert refusals == {
        "All visitors together asked for more than 60 answers within a minute, which is the "
        "limit. Try again in 1 s."
    }
    # A minute's worth at once, and one more for each minute that went by.
    assert admitted == 5 * 60


def test_a_dragged_slider_is_not_hindered(tmp_path: Path, clock: Clock) -> None:
    # An answer comes at the earliest when the one before it is there: 5 a second are quick.
    for demo, seconds in ((False, 60), (True, 30)):
        settings = Settings.from_environment({"DEMO_MODE": "1"} if demo else {}, tmp_path / "home")
        limits = Limits(settings, clock)
        for _ in range(5 * seconds):
            limits.admit("ann")
            clock.now += 0.2


def test_quiet_visitors_are_forgotten(limits: Limits, clock: Clock) -> None:
    for n in range(1000):
        limits.admit(f"visitor {n}")
        clock.now += 1.0
    assert limits.visitors <= 61


def test_every_door_counts(small: Studio, writer: str, prompts: lc.PromptSet) -> None:
    api = Api(small, answers_of(small))
    for _ in range(2):
        api.complete(ANN, "ab", [], [], writer, 0, 1)
    with pytest.raises(gr.Error, match="2 answers within a minute"):
        api.complete(ANN, "ab", [], [], writer, 0, 1)
    with pytest.raises(gr.Error, match="2 answers within a minute"):
        api.train(ANN, writer, "", prompts.source[:5], prompts.target[:5])
    with pytest.raises(gr.Error, match="2 answers within a minute"):
        HubCallbacks(small, answers_of(small)).install(ANN, "someone/map", "")
    assert api.complete(BOB, "ab", [], [], writer, 0, 1) is not None


def test_a_set_of_too_many_prompts_is_refused(
    small: Studio, writer: str, prompts: lc.PromptSet
) -> None:
    with pytest.raises(LimitError, match="source has 8 prompts, and 5 is the limit"):
        small.train(owner_of(ANN), writer, prompts, {})
    assert small.jobs.recent(owner_of(ANN)) == []


def test_too_many_or_too_large_images_are_refused(small: Studio, painter: str) -> None:
    with pytest.raises(gr.Error, match="That makes 6 images, and 4 is the limit"):
        Api(small, answers_of(small)).picture(ANN, ["a", "b", "c"], [], [], painter)
    with pytest.raises(LimitError, match=r"4 images of 8000 x 8000 are 256.0 million pixels"):
        small.limits.check_images(4, 8000)
    small.limits.check_images(4, 1024)


def test_a_language_model_that_cannot_fit_is_refused_before_it_loads(
    writer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = (Path(writer) / "model.safetensors").stat().st_size
    assert weight_bytes(writer) == weights
    monkeypatch.setattr(loading, "free_bytes", lambda device: weights - 1)
    with pytest.raises(ModelError, match=r"needs 0\.0 GiB of memory on cpu; 0\.0 are free\. Close"):
        lc.load_model(writer, device="cpu")
    monkeypatch.setattr(loading, "free_bytes", lambda device: weights)
    assert lc.load_model(writer, device="cpu").id == writer


def test_the_catalogues_word_goes_before_the_files(
    writer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = CatalogEntry("m", "M", "language", "bfloat16", "norm", 3.0, "MIT")
    monkeypatch.setattr(loading, "free_bytes", lambda device: 4 * 2**30)
    check_memory("m", writer, CPU, "auto", entry)
    with pytest.raises(ModelError, match=r"m needs 6\.0 GiB of memory on cpu; 4\.0 are free"):
        check_memory("m", writer, CPU, torch.float32, entry)


def test_weights_in_two_forms_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("a-1.safetensors", 3), ("a-2.safetensors", 4), ("a.bin", 7), ("x.txt", 9)):
        (tmp_path / name).write_bytes(b"0" * size)
    assert weight_bytes(str(tmp_path)) == 7
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert weight_bytes("nobody-here/no such model") == 0
