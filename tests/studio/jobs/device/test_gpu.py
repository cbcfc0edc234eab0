"""A lent GPU, with the real `spaces` package and a fake of its scheduler's HTTP."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import lineas_core as lc
from lineas_core.metrics import clip
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.jobs import run
from lineas_core.studio.jobs.device.gpu import SECONDS, lends_gpu, on_gpu
from lineas_core.studio.jobs.lent_slices import MIN_SECONDS
from lineas_core.studio.jobs.slices import expected_seconds
from lineas_core.training.state import TrainState
from tests.helpers.lent_answers import STEPS, everything
from tests.helpers.zero_gpu import WITHOUT_A_CARD, Scheduler, start

ANSWER = f"{WITHOUT_A_CARD}\nrunpy.run_module('tests.helpers.lent_answers', run_name='__main__')"


@pytest.mark.parametrize(
    ("value", "lent"), [("1", True), ("true", True), ("", False), ("0", False)]
)
def test_a_space_says_whether_it_lends_a_gpu(value: str, lent: bool) -> None:
    assert lends_gpu({"SPACES_ZERO_GPU": value}) is lent
    assert not lends_gpu({})


def test_elsewhere_a_function_stays_as_it_is() -> None:
    assert on_gpu(owner_of, {}) is owner_of


def test_answers_and_maps_are_the_same_where_a_gpu_is_lent(
    painter: str, writer: str, prompts: lc.PromptSet, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # As if every step took a slice's seconds.
    monkeypatch.setattr(run, "SECONDS_PER_SLICE", 0.0)
    scheduler, to, log = Scheduler(), tmp_path / "answers.json", tmp_path / "log"
    with log.open("wb") as output:
        lent = start(
            ANSWER, scheduler, tmp_path / "lent", str(tmp_path / "lent"), painter,
            str(clip.SCORERS["clip-emoji"]), writer, json.dumps(dataclasses.asdict(prompts)),
            str(to), output=output,
        )  # fmt: skip
        studio = Studio(Settings(home=tmp_path / "own"), {})
        own: dict[str, Any] = json.loads(json.dumps(everything(studio, painter, writer, prompts)))
        studio.close()
        assert lent.wait(300) == 0, log.read_text()
    assert to.exists(), log.read_text()
    assert json.loads(to.read_text()) == own
    pair, text = own["texts"][2:]
    assert pair[1] == text
    assert own["streamed"]
    # What a lent process loads is gone with it, and would be loaded at every call.
    assert own["in_memory"] == [True, True]
    # The small models cannot do these; that they say so has come out of the other process.
    assert "reads 128 tokens" in own["drafts"]
    assert "choose an image model" in own["mistake"]

    calls = scheduler.count()
    assert calls["/schedule"] == calls["/release"] > 2 * (STEPS + 1)
    seconds = [int(asked or 0) for asked in scheduler.asked("durationSeconds")]
    assert all(MIN_SECONDS <= asked <= SECONDS for asked in seconds)
    # Nothing is known before the first slice and the check; then slices are short.
    slices = seconds[-2 * (STEPS + 1) :]
    for at in (0, STEPS + 1):
        first, *short, check = slices[at : at + STEPS + 1]
        assert (first, check) == (SECONDS, SECONDS)
        assert max(short) < SECONDS


def test_a_slice_asks_for_what_its_steps_will_take(prompts: lc.PromptSet) -> None:
    config = lc.TrainConfig(steps=100)
    assert expected_seconds(prompts, config, None, budget=20.0) == 20.0
    late = TrainState(run={}, tensors={}, losses=(1.0,) * 90, seconds=45.0)
    assert expected_seconds(prompts, config, late, budget=20.0) == 5.0
    assert expected_seconds(prompts, config, late, budget=2.0) == 2.5
