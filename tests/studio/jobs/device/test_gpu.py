"""A stand-in for ZeroGPU: `spaces.GPU` runs its function in a forked process, all through a pipe.

Calls of torch run on one thread here: a forked process has none of its parent's, and sums of
several threads differ in their last bits from those of one.
"""

from __future__ import annotations

import dataclasses
import importlib
import multiprocessing
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gradio as gr
import pytest
import torch

import lineas_core as lc
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.jobs import run
from lineas_core.studio.jobs.device.gpu import SECONDS, lends_gpu, on_gpu
from lineas_core.studio.jobs.lent_slices import MIN_SECONDS
from lineas_core.studio.jobs.slices import expected_seconds
from lineas_core.studio.rack.rack import RackState
from lineas_core.studio.storage.store import JobRow
from lineas_core.studio.tabs.images.callbacks import ImageCallbacks
from lineas_core.studio.tabs.texts.callbacks import TextCallbacks
from lineas_core.studio.tabs.train.writing import WritingCallbacks
from lineas_core.training.state import TrainState
from tests.helpers.studio import ANN, SITE, add_map, answers_of, finished, rack

LENT = {"SPACES_ZERO_GPU": "1"}
WORDS = {"model.layers.1.post_attention_layernorm": 16}
STEPS = 5

SPACES = """
import inspect, multiprocessing, os, pickle

fork = multiprocessing.get_context("fork")
calls = []  # name of each function and the seconds that it asked for


def GPU(duration):
    def decorate(function):
        # Shapes are checked in tests, by wrappers that are no generator functions.
        streams = inspect.isgeneratorfunction(inspect.unwrap(function))

        def work(pipe, packed):
            def tell(kind, value):
                pipe.send_bytes(pickle.dumps((kind, value)))

            args, kwargs = pickle.loads(packed)
            try:
                found = function(*args, **kwargs)
                if streams:
                    for item in found:
                        tell("item", item)
                    found = None
                tell("end", found)
            except BaseException as error:
                tell("error", error)

        def news(args, kwargs):
            seconds = duration(*args, **kwargs) if callable(duration) else duration
            calls.append((function.__name__, seconds))
            near, far = fork.Pipe(duplex=False)
            process = fork.Process(target=work, args=(far, pickle.dumps((args, kwargs))))
            process.start()
            far.close()
            try:
                kind = "item"
                while kind == "item":
                    kind, value = pickle.loads(near.recv_bytes())
                    if kind == "error":
                        raise value
                    yield kind, value
            finally:
                process.kill()
                process.join()
                process.close()
                near.close()

        def streamed(*args, **kwargs):
            yield from (value for kind, value in news(args, kwargs) if kind == "item")

        def called(*args, **kwargs):
            [(_, value)] = news(args, kwargs)
            return value

        return streamed if streams else called

    return decorate
"""


@pytest.fixture
def spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    folder = tmp_path / "site" / "spaces"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(SPACES)
    monkeypatch.syspath_prepend(folder.parent)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield importlib.import_module("spaces")
    torch.set_num_threads(threads)
    sys.modules.pop("spaces")


@pytest.fixture
def studios(spaces: ModuleType, tmp_path: Path) -> Iterator[list[Studio]]:
    """One whose GPU is lent by the call, and one as everywhere else."""
    pair = [
        Studio(Settings(home=tmp_path / name), environment)
        for name, environment in (("lent", LENT), ("own", {}))
    ]
    yield pair
    for studio in pair:
        studio.close()


@pytest.mark.parametrize(
    ("value", "lent"), [("1", True), ("true", True), ("", False), ("0", False)]
)
def test_a_space_says_whether_it_lends_a_gpu(value: str, lent: bool) -> None:
    assert lends_gpu({"SPACES_ZERO_GPU": value}) is lent
    assert not lends_gpu({})


def test_elsewhere_a_function_stays_as_it_is() -> None:
    assert on_gpu(owner_of, {}) is owner_of


def without_ids(html: str) -> str:
    """What is shown, without the ids of the maps, of which each library makes its own."""
    return re.sub(r"\b[0-9a-f]{32}\b", "ID", html)


def test_pictures_are_the_same_where_a_gpu_is_lent(
    studios: list[Studio], painter: str, spaces: Any
) -> None:
    answers = []
    for studio in studios:
        maps = [
            add_map(studio, painter, {SITE: 16}, seed, concept=concept)
            for seed, concept in ((0, "ink"), (1, "gold"))
        ]
        on, pictures = (
            rack((maps[0], 0.7), (maps[1], 0.4)),
            ImageCallbacks(studio, answers_of(studio)),
        )
        shown, slider, _ = pictures.look(ANN, painter, on, "ab\nba", 3)
        effects = pictures.effects(ANN, painter, on, "ab\nba")["effects"].values()
        answers.append(
            (
                without_ids(shown),
                [image.tobytes() for image in slider],
                list(effects),
                without_ids(pictures.grid(ANN, painter, on, "ab", 3)[0]),
                without_ids(pictures.crossed(ANN, painter, on, "ab", 3)[0]),
            )
        )
    assert answers[0] == answers[1]
    assert [name for name, _ in spaces.calls] == [
        "_look_here", "_effects_here", "_grid_here", "_grid_here",
    ]  # fmt: skip


def test_texts_are_the_same_where_a_gpu_is_lent(
    studios: list[Studio], writer: str, spaces: Any
) -> None:
    answers = []
    for studio in studios:
        on = rack((add_map(studio, writer, WORDS, 2, concept="football"), 0.8))
        every = answers_of(studio)
        texts = TextCallbacks(studio, every)
        mix = studio.mix(owner_of(ANN), RackState.from_page(on), writer)
        answers.append(
            (
                without_ids(list(texts.compare(ANN, writer, on, "ab ab", 3, 8))[-1]),
                without_ids(texts.sweep(ANN, writer, on, "ab ab", 3, 8, 2)[0]),
                every.texts.whole_pair(mix, writer, "ab ab", 3, 8),
                every.texts.complete(mix, writer, "ab ab", 3, 8),
            )
        )
    assert answers[0] == answers[1]
    assert answers[0][2][1] == answers[0][3]
    assert {name for name, _ in spaces.calls} == {"_sides_here", "_sweep_here", "_complete_here"}


def test_a_text_streams_through_the_pipe_and_leaving_it_ends_the_call(
    studios: list[Studio], writer: str
) -> None:
    looks = TextCallbacks(studios[0], answers_of(studios[0])).compare(
        ANN, writer, rack(), "ab ab", 3, 100
    )
    next(looks)
    looks.close()
    assert multiprocessing.active_children() == []


def test_prompts_are_written_where_a_gpu_is_lent(
    studios: list[Studio], writer: str, spaces: Any
) -> None:
    messages = []
    for studio in studios:
        with pytest.raises(gr.Error) as caught:
            list(
                WritingCallbacks(studio, answers_of(studio)).write(
                    ANN, "text", "volcanoes", 0, writer
                )
            )
        messages.append(caught.value.message)
    # The small model cannot write any; that it says so has come through the pipe.
    assert messages[0] == messages[1]
    assert "reads 128 tokens" in messages[0]
    assert [name for name, _ in spaces.calls] == ["_drafts_here"]


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_map_is_the_same_in_slices_where_a_gpu_is_lent(
    studios: list[Studio],
    modality: str,
    painter: str,
    writer: str,
    prompts: lc.PromptSet,
    spaces: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As if every step took a slice's seconds.
    monkeypatch.setattr(run, "SECONDS_PER_SLICE", 0.0)
    model = writer if modality == "text" else painter
    chosen = dataclasses.replace(prompts, modality=modality)
    changes = {"steps": STEPS, "rate": 0.005, "batch_size": 4, "holdout": 0.25}
    jobs: list[JobRow] = []
    for studio in studios:
        started = studio.jobs.start(owner_of(ANN), model, chosen, changes, preview_prompt="ab")
        jobs.append(finished(studio, started.id, owner_of(ANN)))
    assert [job.status for job in jobs] == ["done", "done"], [job.message for job in jobs]
    sliced, whole = jobs
    first, second = (
        studio.library.map(job.map_id, owner_of(ANN))
        for studio, job in zip(studios, jobs, strict=True)
    )
    assert sorted(first.sites) == sorted(second.sites)
    for site, affine in first.sites.items():
        assert torch.equal(affine.scale, second.sites[site].scale)
        assert torch.equal(affine.shift, second.sites[site].shift)
    # A file also says when it was made.
    undated = [
        lc.SteeringMap(smap.sites, dataclasses.replace(smap.info, created="")).digest()
        for smap in (first, second)
    ]
    assert undated[0] == undated[1]
    assert (sliced.losses, sliced.supports) == (whole.losses, whole.supports)
    assert sliced.health == whole.health
    assert sliced.frames == STEPS
    assert len(spaces.calls) == STEPS + 1
    asked = [seconds for _, seconds in spaces.calls]
    # Nothing is known before the first slice and the first check; then slices are short.
    assert (asked[0], asked[-1]) == (SECONDS, SECONDS)
    assert all(MIN_SECONDS <= seconds < SECONDS for seconds in asked[1:-1])


def test_a_slice_asks_for_what_its_steps_will_take(prompts: lc.PromptSet) -> None:
    config = lc.TrainConfig(steps=100)
    assert expected_seconds(prompts, config, None, budget=20.0) == 20.0
    late = TrainState(run={}, tensors={}, losses=(1.0,) * 90, seconds=45.0)
    assert expected_seconds(prompts, config, late, budget=20.0) == 5.0
    assert expected_seconds(prompts, config, late, budget=2.0) == 2.5


def test_a_mistake_in_a_lent_call_is_told_as_anywhere(
    studios: list[Studio], writer: str, tmp_path: Path
) -> None:
    messages = []
    for studio in studios:
        with pytest.raises(gr.Error) as caught:
            ImageCallbacks(studio, answers_of(studio)).look(ANN, writer, rack(), "ab", 3)
        messages.append(caught.value.message)
    assert messages[0] == messages[1]
    assert "choose an image model" in messages[0]


def test_a_model_is_loaded_before_a_gpu_is_asked_for(
    studios: list[Studio], painter: str, writer: str
) -> None:
    # What a lent process loads is gone with it, and would be loaded at every call.
    lent = studios[0]
    ImageCallbacks(lent, answers_of(lent)).look(ANN, painter, rack(), "ab", 3)
    list(TextCallbacks(lent, answers_of(lent)).compare(ANN, writer, rack(), "ab", 3, 2))
    assert lent.model_cache.has(painter)
    assert lent.model_cache.has(writer)
