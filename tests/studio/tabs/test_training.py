from __future__ import annotations

import re
import time
from html import escape
from pathlib import Path

import gradio as gr
import pytest

import lineas_core as lc
from lineas_core.methods.names import STEPWISE, TITLES
from lineas_core.models.load import as_language_model
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.jobs.queue import shipped_settings
from lineas_core.studio.storage.store import StoreError
from lineas_core.studio.tabs.train.stage import StageCallbacks
from lineas_core.studio.tabs.train.training import (
    TrainingCallbacks,
    shipped_fields,
)
from lineas_core.studio.tabs.understand.callbacks import UnderstandCallbacks
from lineas_core.training.config import OF_METHOD
from tests.helpers.studio import ANN, BOB, answers_of, finished

NIGHT = PromptSet.load("night")
TABLE = [[a, b, ""] for a, b in zip(NIGHT.source[:8], NIGHT.target[:8], strict=True)]


def start(
    studio: Studio,
    model: str,
    steps: float,
    rate: float = 0.01,
    key: str = ANN,
    method: str = "lineas",
) -> dict:
    work = TrainingCallbacks(studio)
    shown = work.start(key, "text", model, "Night", "night", TABLE, "ab", steps, rate, None, method)
    return shown._asdict()


def poll(studio: Studio, seen: object, key: str = ANN) -> dict:
    work = TrainingCallbacks(studio)
    return work.poll(key, seen)._asdict()


def test_a_job_trains_in_the_background_and_its_map_comes_onto_the_rack(
    studio: Studio, writer: str
) -> None:
    shown = start(studio, writer, 4)
    assert shown["timer"].active
    assert shown["train"]["interactive"] is False
    assert shown["cancel"]["interactive"] is True
    job = finished(studio, shown["seen"]["job"], owner_of(ANN))
    assert job.status == "done", job.message
    end = poll(studio, {**shown["seen"], "running": True})
    assert not end["timer"].active
    assert "on the rack now" in end["progress"]
    assert end["rack"]["add"] == [job.map_id]
    assert job.map_id in [row["id"] for row in end["rack"]["catalog"]]
    assert end["live"].count("<figure") == 2
    assert "ls-health" in end["health"]
    assert "Night" in end["recent"]
    # What was shown is not sent again, nor the map put on the rack a second time.
    assert all(part == gr.skip() for part in poll(studio, end["seen"]).values())
    again = TrainingCallbacks(studio).open(ANN, job.id)._asdict()
    assert again["seen"]["job"] == job.id
    assert again["rack"] == gr.skip()


def test_a_map_of_a_method_without_steps_is_shown_with_the_same_readouts(
    studio: Studio, writer: str
) -> None:
    # Numbers of a training in steps may still be in their fields, which are hidden.
    shown = start(studio, writer, 900, method="mean-act")
    job = finished(studio, shown["seen"]["job"], owner_of(ANN))
    assert (job.status, job.method, job.changes) == ("done", "mean-act", {}), job.message
    end = poll(studio, {**shown["seen"], "running": True})
    assert "Trained by Mean-AcT in" in end["progress"]
    assert end["rack"]["add"] == [job.map_id]
    assert "Night · Mean-AcT" in [row["title"] for row in end["rack"]["catalog"]]
    assert end["live"] == ""
    assert "ls-health" in end["health"]
    assert end["film"]["visible"] is False
    understood = UnderstandCallbacks(studio).show(ANN, job.map_id)
    assert "mean-act" in understood[-1]
    assert "ls-health" in understood[0]


def test_settings_are_shown_to_methods_that_read_them() -> None:
    for method, title in TITLES.items():
        shown = TrainingCallbacks.settings_of(method, "smollm2")
        assert shown.numbers["visible"] is (method in STEPWISE)
        assert shown.weights["visible"] is (method == "lineas+")
        assert (title in shown.said) is (method != "lineas")
        assert ("suits the model" in shown.said) is (method in STEPWISE)
        # What was typed stays.
        assert "value" not in shown.steps
    plain = TrainingCallbacks.settings_of("lineas", "smollm2")
    plus = TrainingCallbacks.settings_of("lineas+", "smollm2")
    assert (plain.steps["placeholder"], plain.rate["placeholder"]) == ("60", "3")
    steps = str(OF_METHOD["lineas+"]["steps"])
    assert (plus.steps["placeholder"], plus.rate["placeholder"]) == (steps, "automatic")
    weights = lc.TrainConfig()
    assert plus.likelihood["placeholder"] == f"{weights.likelihood:g}"
    assert plus.distance["placeholder"] == f"{weights.distance:g}"


def test_a_job_is_cancelled_tried_again_and_filmed(studio: Studio, writer: str) -> None:
    shown, owner = start(studio, writer, 2000), owner_of(ANN)
    while not (job := studio.jobs.get(shown["seen"]["job"], owner)) or not job.frames:
        assert job is None or not job.finished, job.message
        time.sleep(0.05)
    work = TrainingCallbacks(studio)
    work.cancel(ANN, shown["seen"])
    job = finished(studio, job.id, owner)
    assert job.status == "cancelled"
    assert job.map_id
    end = poll(studio, shown["seen"])
    assert "Stopped at step" in end["progress"]
    assert "Unfinished" in end["health"]
    assert end["rack"] == gr.skip()
    assert work.keep(ANN, end["seen"])["add"] == [job.map_id]
    assert end["retry"]["visible"] is end["film"]["visible"] is True
    assert Path(work.film(ANN, end["seen"])).read_bytes().startswith(b"GIF89a")
    again = work.retry(ANN, end["seen"])._asdict()
    second = studio.jobs.get(again["seen"]["job"], owner)
    assert second is not None
    assert (second.parent, second.changes) == (job.id, job.changes)
    work.cancel(ANN, again["seen"])
    assert finished(studio, second.id, owner).status == "cancelled"


def test_nobody_sees_or_stops_anothers_job(studio: Studio, writer: str) -> None:
    shown = start(studio, writer, 2000)
    work = TrainingCallbacks(studio)
    for stranger in (
        poll(studio, shown["seen"], BOB),
        work.open(BOB, shown["seen"]["job"])._asdict(),
    ):
        assert stranger["seen"]["job"] == ""
        assert stranger["recent"] == ""
    work.cancel(BOB, shown["seen"])
    job = studio.jobs.get(shown["seen"]["job"], owner_of(ANN))
    assert job is not None
    assert not job.stopping
    work.cancel(ANN, shown["seen"])
    finished(studio, job.id, owner_of(ANN))


def test_the_stage_shows_the_map_alone_at_any_strength(studio: Studio, writer: str) -> None:
    stage, owner = StageCallbacks(studio, answers_of(studio)), owner_of(ANN)
    shown = start(studio, writer, 3)
    job = finished(studio, shown["seen"]["job"], owner)
    panel, strength, _, _, staged = stage.open(ANN, shown["seen"], "")
    assert panel["visible"] is True
    assert strength == 1.0
    assert staged == job.id
    assert stage.open(ANN, shown["seen"], staged) == (gr.skip(),) * 5
    assert stage.open(BOB, shown["seen"], "")[0]["visible"] is False
    assert stage.draw(BOB, staged, 0.5) == (gr.skip(),) * 2

    model, smap = (
        as_language_model(studio.model_cache.get(writer)),
        studio.library.map(job.map_id, owner),
    )
    for at in (0.0, 0.4, 1.0):
        picture, said = stage.draw(ANN, staged, at)
        assert picture is None
        assert f"Strength {at:.2f}" in said
        for steer in ([], [(smap, at)]):
            text = model.generate(["ab"], steer, seed=0, max_new_tokens=24)[0]
            assert escape(text) in said

    kind, _, _, table, _, name, concept, preview = stage.prompts(ANN, shown["seen"])
    assert [row[:2] for row in table] == [row[:2] for row in TABLE]
    assert (kind, name, concept, preview) == ("text", "Night", "night", "ab")

    studio.library.delete(job.map_id, owner)
    assert stage.open(ANN, shown["seen"], staged)[0]["visible"] is False
    again = TrainingCallbacks(studio).open(ANN, job.id)._asdict()
    assert again["live"].count("<figure") == 4


def test_limits_and_mistakes_become_messages(studio: Studio, writer: str, tmp_path: Path) -> None:
    with pytest.raises(gr.Error, match="2000 at most"):
        start(studio, writer, 2001)
    with pytest.raises(gr.Error, match="give 4 or more"):
        TrainingCallbacks(studio).start(
            ANN, "text", writer, "x", "x", TABLE[:2], "ab", 2, None, None
        )
    failed = finished(studio, start(studio, str(tmp_path / "no"), 2)["seen"]["job"], owner_of(ANN))
    assert "config.json" in failed.message
    demo = Studio(Settings(home=tmp_path / "demo", demo=True), environment={})
    try:
        with pytest.raises(gr.Error, match="this Space has smollm2"):
            start(demo, writer, 2)
    finally:
        demo.close()


@pytest.mark.parametrize(
    ("field", "written"),
    [("steps", "0"), ("steps", "2.5"), ("rate", "0"), ("rate", "fast"), ("gamma", "-1")],
)
def test_a_setting_that_is_no_setting_is_refused_by_its_name(
    studio: Studio, writer: str, field: str, written: str
) -> None:
    asked = {"steps": "2", "rate": "", "gamma": "", field: written}
    with pytest.raises(gr.Error, match=rf"{field} is '?{re.escape(written)}"):
        TrainingCallbacks(studio).start(
            ANN, "text", writer, "Night", "night", TABLE, "ab", *asked.values()
        )
    assert studio.jobs.recent(owner_of(ANN), 1) == []


def test_empty_fields_take_the_settings_of_the_model_that_is_trained(
    studio: Studio, writer: str
) -> None:
    job = finished(
        studio,
        TrainingCallbacks(studio)
        .start(ANN, "text", writer, "Night", "night", TABLE, "ab", "2", "", " ")
        .seen["job"],
        owner_of(ANN),
    )
    assert job.changes == {"steps": 2}
    shown = shipped_fields(writer)
    suits = lc.TrainConfig(**shipped_settings(writer, "lineas"))
    assert shown.steps["placeholder"] == str(suits.steps)
    assert (shown.rate["placeholder"], suits.rate) == ("measured", None)
    assert {field["value"] for field in shown} == {""}


def test_a_studio_that_cannot_be_built_leaves_its_folder_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lineas_core.studio.app.open_scratch", full)
        with pytest.raises(OSError, match="No space"):
            Studio(Settings(home=tmp_path), environment={})
    Studio(Settings(home=tmp_path), environment={}).close()


def test_a_folder_has_one_studio_at_a_time(studio: Studio) -> None:
    with pytest.raises(StoreError, match="Another LinEAS Studio"):
        Studio(studio.settings, environment={})
    studio.close()
    Studio(studio.settings, environment={}).close()
