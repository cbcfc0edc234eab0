from __future__ import annotations

import csv
import json
from html import unescape
from pathlib import Path

import gradio as gr
import pytest

from lineas_core.metrics import clip
from lineas_core.models.image.model import DiffusionModel
from lineas_core.prompts.subjects import SUBJECTS
from lineas_core.scenes.grid import make_grid, read_sidecar
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.tabs.images.callbacks import ImageCallbacks
from lineas_core.studio.tabs.pins import PinCallbacks
from tests.helpers.studio import ANN, BOB, answers_of, rack


def model_of(studio: Studio, name: str) -> DiffusionModel:
    model = studio.model_cache.get(name)
    assert isinstance(model, DiffusionModel)
    return model


def test_pictures_are_those_of_the_model_steered_by_the_rack(
    studio: Studio, painter: str, inks: list[str]
) -> None:
    first, second = (studio.library.map(map_id, owner_of(ANN)) for map_id in inks)
    pictures = ImageCallbacks(studio, answers_of(studio))
    both = rack((inks[1], 0.7), (inks[0], 0.4))
    shown, (before, after), _ = pictures.look(ANN, painter, both, "ab\n\n ba ", 3)
    model = model_of(studio, painter)
    wanted = model.generate(["ab", "ba"], [(second, 0.7), (first, 0.4)], seed=3)
    assert after == wanted[0].resize(after.size)
    assert before == model.generate(["ab"], seed=3)[0].resize(before.size)
    assert shown.count("<img") == 2
    assert shown.count("ink <b>") == shown.count("gold <b>") == shown.count("IMG <b>") == 2


@pytest.mark.parametrize(
    ("state", "steered_by"),
    [({}, 0), ({"solo": "second"}, 1)],
    ids=["a map that is off does nothing", "solo silences the others"],
)
def test_only_what_is_on_steers(
    studio: Studio, painter: str, inks: list[str], state: dict[str, str], steered_by: int
) -> None:
    mixed = rack((inks[0], 1.0), (inks[1], 1.0), **dict.fromkeys(state, inks[1]))
    mixed["state"]["rows"][1]["on"] = False
    _, (_, after), _ = ImageCallbacks(studio, answers_of(studio)).look(ANN, painter, mixed, "ab", 3)
    smap = studio.library.map(inks[steered_by], owner_of(ANN))
    wanted = model_of(studio, painter).generate(["ab"], [(smap, 1.0)], seed=3)[0]
    assert after == wanted.resize(after.size)


def test_the_inverse_undoes_its_map(studio: Studio, painter: str, inks: list[str]) -> None:
    there_and_back = rack((inks[0], 1.0), (inks[0], 1.0))
    there_and_back["state"]["rows"][1]["inverse"] = True
    _, (before, after), _ = ImageCallbacks(studio, answers_of(studio)).look(
        ANN, painter, there_and_back, "ab", 3
    )
    assert max(abs(a - b) for a, b in zip(before.tobytes(), after.tobytes(), strict=True)) <= 1


def test_with_no_map_the_pictures_are_untouched(studio: Studio, painter: str) -> None:
    shown, (before, after), news = ImageCallbacks(studio, answers_of(studio)).look(
        ANN, painter, rack(), "ab", 3
    )
    assert before == after
    assert "CLIP <b>not scored" in shown
    assert "IMG <b>1.00" in shown
    assert set(news) == {"from", "live"}


def test_a_grid_comes_with_curves_and_files_that_reproduce_it(
    studio: Studio, painter: str, inks: list[str]
) -> None:
    pictures, mixed = (
        ImageCallbacks(studio, answers_of(studio)),
        rack((inks[0], 0.3), (inks[1], 0.5)),
    )
    table, _, curves, picture, sidecar, film, scores = pictures.grid(
        ANN, painter, mixed, "ab\nba", 3
    )
    assert table.count("<img") == 14
    assert [len(trace["error_y"]["array"]) for trace in curves["value"].data] == [7, 7]
    assert curves["value"].data[1]["y"][0] == pytest.approx(1)
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
    assert Path(film).read_bytes().startswith(b"GIF89a")
    scene = read_sidecar(Path(sidecar).read_text())
    assert [used.strength for used in scene.maps] == [None, 0.5]
    again = make_grid(
        scene, model_of(studio, painter), lambda map_id: studio.library.map(map_id, owner_of(ANN))
    )
    full = rack((inks[0], 1.0), (inks[1], 0.5))
    after = pictures.look(ANN, painter, full, "ab\nba", 3)[1][1]
    assert again.images[0][6].resize(after.size) == after
    assert json.loads(Path(sidecar).read_text())["scores"]["style"] == "ink"

    with open(scores["value"], encoding="utf-8-sig", newline="") as opened:
        kept = list(csv.DictReader(opened))
    assert len(kept) == 2 * 7 + 7
    assert [float(row["IMGScore"]) for row in kept if row["strength"] == "0.0"] == (
        pytest.approx([1, 1, 1])
    )


def test_a_grid_goes_over_any_strengths_and_over_seeds(
    studio: Studio, painter: str, inks: list[str]
) -> None:
    pictures, mixed = (
        ImageCallbacks(studio, answers_of(studio)),
        rack((inks[0], 0.3), (inks[1], 0.5)),
    )
    options = ("1.5; -0.5", "seeds", 3, "")
    table, _, _, _, sidecar, *_ = pictures.grid(ANN, painter, mixed, "ab\nba", 3, *options)
    assert table.count("<img") == 9
    scene = read_sidecar(Path(sidecar).read_text())
    assert (scene.strengths, scene.seed) == ((-0.5, 0.0, 1.5), (3, 4, 5))
    maps = [studio.library.map(map_id, owner_of(ANN)) for map_id in inks]
    model = model_of(studio, painter)
    grid = make_grid(scene, model, dict(zip(inks, maps, strict=True)).__getitem__)
    assert grid.prompts == ["ab, seed 3", "ab, seed 4", "ab, seed 5"]
    alone = model.generate(["ab"], [(maps[0], 1.5), (maps[1], 0.5)], seed=5)[0]
    pair = zip(grid.images[2][2].tobytes(), alone.tobytes(), strict=True)
    assert max(abs(a - b) for a, b in pair) <= 1
    options = ("0, 1", "prompts", 1, "-1, 1")
    _, _, _, _, sidecar, *_ = pictures.crossed(ANN, painter, mixed, "ab", 3, *options)
    kept = json.loads(Path(sidecar).read_text())
    assert kept["down"] == [0, -1, 1]
    assert kept["scores"]["image"][0][0] == pytest.approx(1)
    for strengths, count, message in (
        ("0, half", 1, "'half' is no strength"),
        ("3", 1, "'3' is no strength"),
        ("nan", 1, "'nan' is no strength"),
        (" ".join(str(n / 20) for n in range(20)), 1, "20 strengths; 12 are the most"),
        ("", 9, "seeds is 9; choose 1 to 8"),
    ):
        with pytest.raises(gr.Error, match=message):
            pictures.grid(ANN, painter, mixed, "ab", 3, strengths, "seeds", count, "")


def test_a_grid_of_two_maps_has_one_across_and_one_down(
    studio: Studio, painter: str, inks: list[str]
) -> None:
    mixed = rack((inks[0], 0.1), (inks[1], 0.2))
    table, _, _, _, sidecar, *_ = ImageCallbacks(studio, answers_of(studio)).crossed(
        ANN, painter, mixed, "ab\nba", 3
    )
    assert table.count("<img") == 25
    scene = read_sidecar(Path(sidecar).read_text())
    maps = [studio.library.map(map_id, owner_of(ANN)) for map_id in inks]
    grid = make_grid(
        scene, model_of(studio, painter), dict(zip(inks, maps, strict=True)).__getitem__
    )
    for row, down in enumerate(scene.down):
        for column, across in enumerate(scene.strengths):
            steer = [(maps[0], across), (maps[1], down)]
            alone = model_of(studio, painter).generate(["ab"], steer, seed=3)[0]
            pair = zip(grid.images[row][column].tobytes(), alone.tobytes(), strict=True)
            assert max(abs(a - b) for a, b in pair) <= 1
    with pytest.raises(gr.Error, match="second one on"):
        ImageCallbacks(studio, answers_of(studio)).crossed(
            ANN, painter, rack((inks[0], 1.0)), "ab", 3
        )


def test_effects_are_told_of_maps_that_act_together(
    studio: Studio, painter: str, inks: list[str]
) -> None:
    pictures = ImageCallbacks(studio, answers_of(studio))
    assert pictures.effects(ANN, painter, rack((inks[0], 1.0)), "ab")["effects"] == {}
    twice = pictures.effects(ANN, painter, rack((inks[0], 0.5), (inks[1], 0.0)), "ab")
    assert twice["effects"][inks[0]] == pytest.approx(1)
    assert twice["effects"][inks[1]] is None


def test_pictures_that_cannot_be_scored_say_so(
    studio: Studio, painter: str, inks: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(clip, "_loaded", {})
    monkeypatch.setitem(clip.SCORERS, "clip-emoji", tmp_path / "nothing")
    mixed = rack((inks[0], 1.0))
    shown, _, _ = ImageCallbacks(studio, answers_of(studio)).look(ANN, painter, mixed, "ab", 3)
    assert shown.count("not scored") == 2
    table, _, curves, *_ = ImageCallbacks(studio, answers_of(studio)).grid(
        ANN, painter, mixed, "ab", 3
    )
    assert "no CLIP could be loaded" in table
    assert curves["value"] is None


def test_mistakes_about_pictures_become_messages(
    studio: Studio, painter: str, inks: list[str], writer: str
) -> None:
    pictures = ImageCallbacks(studio, answers_of(studio))
    on = rack((inks[0], 1.0))
    for arguments, message in (
        ((ANN, painter, on, " \n", 0), "There is no prompt"),
        ((ANN, painter, on, "a\n" * 9, 0), "9 prompts; a grid takes 8"),
        ((ANN, writer, on, "a", 0), "choose an image model"),
        ((ANN, painter, rack((inks[0], 9.0)), "a", 0), "strength is 9"),
        ((ANN, painter, {"state": {"rows": [1]}}, "a", 0), "reload the page"),
        (("short", painter, on, "a", 0), "visitor is not a key"),
    ):
        with pytest.raises(gr.Error, match=message):
            pictures.look(*arguments)
    with pytest.raises(gr.Error, match="No map is on"):
        pictures.grid(ANN, painter, rack(), "ab", 3)


def test_a_demo_loads_no_model_but_the_catalogues(painter: str, tmp_path: Path) -> None:
    demo = Studio(Settings(home=tmp_path / "demo", demo=True), environment={})
    try:
        with pytest.raises(gr.Error, match="this Space has smollm2"):
            ImageCallbacks(demo, answers_of(demo)).look(ANN, painter, rack(), "ab", 3)
    finally:
        demo.close()


def test_another_visitor_is_not_steered_by_ones_maps(
    studio: Studio, painter: str, inks: list[str]
) -> None:
    _, (before, after), _ = ImageCallbacks(studio, answers_of(studio)).look(
        BOB, painter, rack((inks[0], 1.0)), "ab", 3
    )
    assert before == after


def test_surprises_go_through_all_subjects_before_they_repeat(studio: Studio) -> None:
    pictures, shown, seen = ImageCallbacks(studio, answers_of(studio)), "", []
    for _ in range(len(SUBJECTS) // 4):
        shown = pictures.surprise(shown)
        seen += shown.splitlines()
    assert sorted(seen) == sorted(SUBJECTS)


def test_of_each_kind_one_model_stays_in_memory(
    studio: Studio, painter: str, writer: str, small_models: dict[str, Path]
) -> None:
    first = studio.model_cache.get(writer)
    studio.model_cache.get(painter)
    assert studio.model_cache.get(writer) is first
    other = str(small_models["gpt2"])
    studio.model_cache.get(other)
    assert [studio.model_cache.has(name) for name in (writer, painter, other)] == [
        False,
        True,
        True,
    ]


def test_seeds_out_of_range_are_messages(studio: Studio, painter: str) -> None:
    for seed in (-1, 2**63):
        with pytest.raises(gr.Error, match=f"seed is {seed}; choose 0 to"):
            ImageCallbacks(studio, answers_of(studio)).look(ANN, painter, rack(), "ab", seed)


def test_a_pin_shows_its_scene_again(studio: Studio, painter: str, inks: list[str]) -> None:
    mixed = rack((inks[0], 0.3), (inks[1], 0.5), modality="image")
    shown, *_ = ImageCallbacks(studio, answers_of(studio)).look(ANN, painter, mixed, "ab\nba", 3)
    scene = json.loads(unescape(shown.partition('data-made="')[2].partition('"')[0]))
    work = PinCallbacks(studio)
    news, *fields = work.again(ANN, {"scene": scene})
    assert fields == [painter, "ab\nba", 3]
    assert news["ask"]
    assert (
        ImageCallbacks(studio, answers_of(studio)).look(
            ANN, *fields[:1], {"state": news["state"]}, *fields[1:]
        )[0]
        == shown
    )
    for broken in (None, [], {}, {"scene": {"rack": 3}}, {"scene": {**scene, "seed": "x"}}):
        with pytest.raises(gr.Error, match=r"cannot be read|give a whole number"):
            work.again(ANN, broken)
