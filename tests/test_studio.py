from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest

import lineas_core as lc
from lineas_core.grids import GridRecipe
from lineas_core.metrics import clip
from lineas_core.models.language import TextGrid
from lineas_core.studio import render
from lineas_core.studio.callbacks import Studio, loss_curve
from lineas_core.studio.jobs import Job
from lineas_core.studio.library import MapLibrary
from lineas_core.studio.page import build_page
from lineas_core.studio.pictures import Pictures
from lineas_core.studio.texts import Texts
from lineas_core.subjects import SUBJECTS
from tests.conftest import random_map
from tests.small_pipelines import small_sd
from tests.test_clip import save_small_clip


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    studio = Studio(tmp_path)
    yield studio
    studio.close()


def finished(studio: Studio, job_id: str) -> Job:
    for _ in range(600):
        job = studio.jobs.get(job_id)
        assert job is not None
        if job.finished:
            return job
        time.sleep(0.1)
    raise AssertionError("the job did not end within a minute")


def first_step(studio: Studio, job_id: str) -> None:
    while not (job := studio.jobs.get(job_id)) or not job.event:
        assert job is None or not job.finished, job.message
        time.sleep(0.05)


def test_a_job_trains_in_the_background_and_its_map_is_there(
    studio: Studio, small_models: dict[str, Path]
) -> None:
    model = str(small_models["llama"])
    job_id, timer, bar, *_ = studio.start_training(model, "night", 4, 0.01, 0)
    assert timer.active
    assert "Waiting" in bar or "Loading" in bar
    job = finished(studio, job_id)
    assert job.status == "done", job.message
    assert len(loss_curve(job)) == 4
    _, timer, bar, curve, health, train, cancel, maps = studio.poll(job_id, model)
    assert not timer.active
    assert "Trained" in bar
    assert curve["visible"]
    assert "ls-health" in health
    assert (train["interactive"], cancel["interactive"]) == (True, False)
    assert maps["value"] == job.map_id == studio.library.ids()[0]
    assert studio.library.get(job.map_id).info.name == "night"
    texts = Texts(studio)
    cards = texts.compare(model, job.map_id, "A", 1.0, 0, 8)
    assert cards.count("<article") == 2
    assert "Unsteered" in cards
    assert texts.sweep(model, job.map_id, "A", 0, 8).count("<article") == 5


def test_cancelling_keeps_what_was_learned(studio: Studio, small_models: dict[str, Path]) -> None:
    model = str(small_models["llama"])
    job_id, *_ = studio.start_training(model, "night", 100_000, 0.01, 0)
    first_step(studio, job_id)
    queued, *_ = studio.start_training(model, "day", 10, 0.01, 0)
    studio.cancel(queued, model)
    studio.cancel(job_id, model)
    assert finished(studio, job_id).status == "cancelled"
    assert studio.library.ids() == [finished(studio, job_id).map_id]
    assert finished(studio, queued).status == "cancelled"
    assert finished(studio, queued).map_id == ""


def test_a_job_that_fails_says_why_and_the_next_one_runs(
    studio: Studio, small_models: dict[str, Path], tmp_path: Path
) -> None:
    model = str(small_models["llama"])
    missing, *_ = studio.start_training(str(tmp_path / "none"), "night", 2, 0.01, 0)
    off, *_ = studio.start_training(model, "night", 10, 1e6, 0)
    fine, *_ = studio.start_training(model, "night", 2, 0.01, 0)
    assert "config.json" in finished(studio, missing).message
    assert finished(studio, off).status == "failed"
    assert "Lower the rate" in finished(studio, off).message
    assert finished(studio, fine).status == "done"


def test_a_page_that_opens_finds_the_running_job(
    studio: Studio, small_models: dict[str, Path]
) -> None:
    model = str(small_models["llama"])
    assert studio.arrive(model)[0] == ""
    job_id, *_ = studio.start_training(model, "night", 100_000, 0.01, 0)
    assert studio.arrive(model)[0] == job_id
    first_step(studio, job_id)
    studio.cancel(job_id, model)
    finished(studio, job_id)
    assert studio.arrive(model)[-1]["value"] == studio.library.ids()[0]


def test_mistakes_become_messages(studio: Studio, small_models: dict[str, Path]) -> None:
    model = str(small_models["llama"])
    for arguments, message in (
        ((model, None, "A", 1.0, 0, 8), "train one first"),
        ((model, "../../etc/passwd", "A", 1.0, 0, 8), "no map '../../etc/passwd'"),
        ((model, None, "  ", 1.0, 0, 8), "prompt is empty"),
    ):
        with pytest.raises(gr.Error, match=message):
            Texts(studio).compare(*arguments)
    with pytest.raises(gr.Error, match="no prompt set"):
        studio.start_training(model, "nothing", 0, 0, 0)


def test_the_library_lists_the_newest_first_and_skips_damaged_files(tmp_path: Path) -> None:
    library = MapLibrary(tmp_path)
    smap = random_map({"x": 2}, 0)
    info = lc.MapInfo(model="m", name="night", created="2026-01-02T03:04:05+00:00")
    first, second = (library.add(lc.SteeringMap(smap.sites, info)) for _ in range(2))
    assert (first, second) == ("night-20260102-030405", "night-20260102-030405-2")
    assert library.ids() == [second, first]
    (tmp_path / "damaged.safetensors").write_bytes(b"junk")
    assert [map_id for _, map_id in library.choices("m")] == [second, first]
    assert library.choices("other") == []


def test_texts_are_shown_as_text_with_the_concept_marked() -> None:
    grid = TextGrid(
        ["<b>A", "<b>A"],
        [0.0, 1.0],
        [["<script>x</script>", " soccer & <i>tea</i>"], ["a goalkeeper", "b"]],
    )
    shown = render.completions(grid, "football")
    assert "<script>" not in shown
    assert "<i>" not in shown
    assert "&lt;b&gt;A" in shown
    assert "<mark>soccer</mark> &amp; &lt;i&gt;" in shown
    assert shown.count("football in 1 of 2") == 2
    assert render.mark("a <b", "no such concept") == "a &lt;b"


def test_the_page_is_built_without_a_server(studio: Studio) -> None:
    page = build_page(studio)
    names = {d["api_name"] for d in page.get_config_file()["dependencies"]}
    assert {"start_training", "compare", "sweep", "cancel", "look", "grid", "surprise"} <= names


@pytest.fixture
def painter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small image model, and a small scorer in the place of the embedded one."""
    small_sd().save_pretrained(tmp_path / "sd")
    monkeypatch.setattr(clip, "_loaded", {})
    scorer = save_small_clip(tmp_path / "clip")
    monkeypatch.setitem(clip.SCORERS, "clip-emoji", scorer)
    return str(tmp_path / "sd")


@pytest.fixture
def ink(studio: Studio, painter: str) -> str:
    """A map of the small image model."""
    smap = random_map({"unet.mid_block.attentions.0.norm": 16}, 0, spread=3.0)
    info = lc.MapInfo(model=painter, name="ink", concept="ink", created="2026-01-02T03:04:05+00:00")
    return studio.library.add(lc.SteeringMap(smap.sites, info))


def test_pictures_change_with_strength_and_carry_their_scores(
    studio: Studio, painter: str, ink: str
) -> None:
    pictures = Pictures(studio)
    shown, (before, after) = pictures.look(painter, ink, "ab\n\n ba ", 1.0, 3)
    assert shown.count("<img") == 2
    assert shown.count("CLIPScore") == shown.count("IMGScore") == 2
    assert before != after
    _, (untouched, same) = pictures.look(painter, ink, "ab", 0.0, 3)
    assert untouched == same == before
    assert studio.model(painter) is studio.model(painter)


def test_a_grid_comes_with_curves_and_files_that_reproduce_it(
    studio: Studio, painter: str, ink: str
) -> None:
    table, _, curves, picture, sidecar, film = Pictures(studio).grid(painter, ink, "ab\nba", 3)
    assert table.count("<img") == 14
    assert [len(trace["error_y"]["array"]) for trace in curves.data] == [7, 7]
    assert curves.data[1]["y"][0] == pytest.approx(1)
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
    assert Path(film).read_bytes().startswith(b"GIF89a")
    recipe = GridRecipe.from_json(Path(sidecar).read_text())
    again = recipe.make(studio.model(painter), studio.library.get)
    shown = Pictures(studio).look(painter, ink, "ab\nba", 1.0, 3)[1][1]
    assert again.images[0][6].resize(shown.size) == shown
    assert json.loads(Path(sidecar).read_text())["scores"]["style"] == "ink"


def test_mistakes_about_pictures_become_messages(
    studio: Studio, painter: str, ink: str, small_models: dict[str, Path]
) -> None:
    pictures = Pictures(studio)
    for arguments, message in (
        ((painter, None, "ab", 1.0, 0), "train one first"),
        ((painter, ink, " \n", 1.0, 0), "There is no prompt"),
        ((painter, ink, "a\n" * 9, 1.0, 0), "9 prompts; a grid takes 8"),
        ((str(small_models["llama"]), ink, "a", 1.0, 0), "choose an image model"),
    ):
        with pytest.raises(gr.Error, match=message):
            pictures.look(*arguments)
    with pytest.raises(gr.Error, match="choose a language model"):
        Texts(studio).compare(painter, ink, "a", 1.0, 0, 8)


def test_surprises_go_through_all_subjects_before_they_repeat(studio: Studio) -> None:
    pictures, shown, seen = Pictures(studio), "", []
    for _ in range(len(SUBJECTS) // 4):
        shown = pictures.surprise(shown)
        seen += shown.splitlines()
    assert sorted(seen) == sorted(SUBJECTS)
