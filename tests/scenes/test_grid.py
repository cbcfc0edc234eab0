from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence
from typer.testing import CliRunner

import lineas_core as lc
from lineas_core.cli.app import app
from lineas_core.metrics import clip
from lineas_core.models.image.model import DiffusionModel
from lineas_core.scenes.drawing import draw_film, draw_grid
from lineas_core.scenes.grid import make_grid, read_sidecar, score_grid, write_sidecar
from lineas_core.scenes.scene import Scene, UsedMap
from tests.helpers.clip import save_small_clip
from tests.helpers.models import random_map
from tests.helpers.pipelines import small_sd


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    folder = tmp_path_factory.mktemp("pipelines") / "sd"
    small_sd().save_pretrained(folder)
    model = lc.load_model(str(folder), device="cpu")
    assert isinstance(model, DiffusionModel)
    return model


@pytest.fixture
def scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(clip, "_loaded", {})
    return str(save_small_clip(tmp_path / "small-clip"))


@pytest.fixture(scope="module")
def smap(painter: DiffusionModel) -> lc.SteeringMap:
    site = "unet.mid_block.attentions.0.norm"
    return random_map({site: 16}, 0, spread=3.0)


@pytest.fixture
def scene(painter: DiffusionModel, smap: lc.SteeringMap) -> Scene:
    digest = smap.digest()
    used = (UsedMap("a", None, digest=digest), UsedMap("b", 0.5, digest=digest))
    return Scene(painter.id, "image", ("ab", "ba"), used, 7, (0.0, 0.5, 1.0))


def test_a_scene_makes_the_same_grid_again(
    scene: Scene, painter: DiffusionModel, smap: lc.SteeringMap, tmp_path: Path
) -> None:
    smap.save(tmp_path / "x.safetensors")
    first = make_grid(scene, painter, lambda name: smap)
    again = read_sidecar(write_sidecar(scene))
    second = make_grid(again, painter, lambda name: lc.SteeringMap.load(tmp_path / "x.safetensors"))
    assert again == scene
    assert first.images == second.images
    plain = painter.generate(["ab"], [(smap, 0.0), (smap, 0.5)], seed=7)
    # A different batch size may round differently.
    pixels = [np.asarray(picture, int) for picture in (first.images[0][0], plain[0])]
    assert np.abs(pixels[0] - pixels[1]).max() <= 1
    assert first.images[0][2] != first.images[0][0]


def test_another_map_under_the_same_name_is_refused(
    scene: Scene, painter: DiffusionModel, smap: lc.SteeringMap
) -> None:
    with pytest.raises(lc.MapError, match="'a' is not the one this grid was made with"):
        make_grid(scene, painter, lambda name: smap.at(0.9))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "model": "m", "prompts": 3}']
)
def test_files_that_are_no_sidecar_are_refused(text: str) -> None:
    with pytest.raises(lc.ConfigError, match="not the JSON file of a grid"):
        read_sidecar(text)


def test_a_seed_without_end_is_refused(scene: Scene) -> None:
    endless = json.dumps({**json.loads(write_sidecar(scene)), "seed": math.inf})
    with pytest.raises(lc.ConfigError, match="not the JSON file of a grid"):
        read_sidecar(endless)


def test_a_newer_sidecar_asks_for_an_update(scene: Scene) -> None:
    newer = json.dumps({**json.loads(write_sidecar(scene)), "format": 3})
    with pytest.raises(lc.ConfigError, match="format 3; this version reads 2"):
        read_sidecar(newer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed is -1; choose 0"),
        ({"seeds": [1, 2, 3]}, "3 seeds for 2 prompts"),
        ({"down": [0, 1]}, "2 prompts and 1 swept map;"),
        ({"strengths": [math.nan]}, "nan is not a finite number"),
        ({"maps": [{"name": "a"}]}, "not the JSON file of a grid"),
        ({"maps": [{"name": "a", "digest": ""}]}, "the map 'a' has no digest"),
        ({"maps": [{"name": "a", "digest": "0", "strength": "x"}]}, "not the JSON file of a grid"),
    ],
)
def test_sidecars_of_scenes_that_cannot_be_are_refused(
    scene: Scene, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(lc.ConfigError, match=message):
        read_sidecar(json.dumps({**json.loads(write_sidecar(scene)), **changes}))


def test_a_sidecar_is_written_only_of_what_it_can_make_again(scene: Scene) -> None:
    with pytest.raises(lc.ConfigError, match="a grid's file is of images"):
        write_sidecar(replace(scene, modality="text"))
    with pytest.raises(lc.ConfigError, match="The map 'x' has no digest"):
        write_sidecar(replace(scene, maps=(UsedMap("x", None),)))


def test_scores_are_those_of_the_cells(
    scene: Scene, painter: DiffusionModel, smap: lc.SteeringMap, scorer: str
) -> None:
    grid = make_grid(scene, painter, lambda name: smap)
    scores = score_grid(grid, "ink", scorer=scorer, device="cpu")
    assert scores.scorer == scorer
    for row in range(2):
        wanted = lc.clip_score(grid.images[row], "ink", scorer=scorer, device="cpu")
        assert scores.clip[row] == pytest.approx(wanted, abs=1e-5)
        wanted = lc.img_score(
            grid.images[row], [grid.images[row][0]] * 3, scorer=scorer, device="cpu"
        )
        assert scores.image[row] == pytest.approx(wanted, abs=1e-5)
        assert scores.image[row][0] == pytest.approx(1)
    assert json.loads(write_sidecar(scene, scores))["scores"]["style"] == "ink"
    assert read_sidecar(write_sidecar(scene, scores)) == scene
    steered_only = painter.sweep(["ab"], [(smap, None)], [0.5, 1.0])
    with pytest.raises(lc.ConfigError, match="include it"):
        score_grid(steered_only, "ink", scorer=scorer)


def test_the_picture_and_the_film_show_every_cell() -> None:
    colours = [[(250, 0, 0), (0, 250, 0)], [(0, 0, 250), (250, 250, 0)], [(9, 9, 9), (90, 0, 90)]]
    cells = [[Image.new("RGB", (8, 8), colour) for colour in row] for row in colours]
    grid = lc.ImageGrid(["one", "a very long prompt " * 9, "three"], [0.0, 1.0], cells)
    sheet = np.asarray(draw_grid(grid, cell=40)).reshape(-1, 3)
    for colour in (c for row in colours for c in row):
        assert (sheet == colour).all(axis=1).sum() == 40 * 40
    film = Image.open(io.BytesIO(draw_film(grid, cell=40)))
    frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
    assert len(frames) == 2
    for column, frame in enumerate(frames):
        middles = [frame[20, 20 + 40 * row].astype(int) for row in range(3)]
        wanted = np.array([row[column] for row in colours])
        assert np.abs(np.stack(middles) - wanted).max() < 16


def test_a_grid_made_from_a_terminal_can_be_made_again(
    painter: DiffusionModel, smap: lc.SteeringMap, tmp_path: Path
) -> None:
    file = str(smap.save(tmp_path / "x.safetensors"))
    arguments = ["ab", "ba", "--map", file, "-m", painter.id, "--device", "cpu", "--json"]
    done = CliRunner().invoke(app, ["picture", *arguments, "-o", str(tmp_path / "one.png")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["files"][1] == str(tmp_path / "one.json")
    recipe = ["again", str(tmp_path / "one.json"), "-o", str(tmp_path / "two.png")]
    done = CliRunner().invoke(app, [*recipe, "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    for ending in ("png", "gif", "json"):
        one, two = ((tmp_path / f"{name}.{ending}").read_bytes() for name in ("one", "two"))
        assert one == two
