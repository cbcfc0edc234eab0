from __future__ import annotations

import ast
from pathlib import Path

import pytest
from PIL import Image

import lineas_core as lc
from lineas_core.models.image.model import DiffusionModel
from lineas_core.scenes.drawing import draw_grid
from lineas_core.scenes.grid import make_grid
from lineas_core.scenes.scene import Scene, UsedMap
from lineas_core.scenes.snippet import image_snippet, snippet, text_snippet
from tests.helpers.models import random_map
from tests.helpers.pipelines import small_sd
from tests.helpers.snippets import run, run_here

SITE = "model.layers.1.post_attention_layernorm"


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    folder = tmp_path_factory.mktemp("pipelines") / "sd"
    small_sd().save_pretrained(folder)
    model = lc.load_model(str(folder), device="cpu")
    assert isinstance(model, DiffusionModel)
    return model


def test_the_texts_on_the_screen_are_printed(tiny: lc.LanguageModel, tmp_path: Path) -> None:
    smap = random_map({SITE: 16}, 0)
    file = str(smap.save(tmp_path / 'it\'s a "map".safetensors'))
    prompts = ("ab\ncd", 'it\'s "so" ✓ {x}')
    maps = (UsedMap(file, 0.7), UsedMap(file, -0.25))
    scene = Scene(tiny.id, "text", prompts, maps, seed=(3, 5), max_new_tokens=6)
    settings = {"seed": [3, 5], "max_new_tokens": 6}
    before = tiny.generate(prompts, **settings)
    after = tiny.generate(prompts, [(smap, 0.7), (smap, -0.25)], **settings)
    assert before != after
    wanted = "".join(
        f"--- {p} | untouched\n{b}\n--- {p} | steered\n{a}\n"
        for p, b, a in zip(prompts, before, after, strict=True)
    )
    assert _lines(run(text_snippet(scene), tmp_path)) == _lines(wanted)


def test_a_sweep_on_the_screen_is_printed(tiny: lc.LanguageModel, tmp_path: Path) -> None:
    smap = random_map({SITE: 16}, 0)
    smap.save(tmp_path / "swept.safetensors")
    scene = Scene(
        tiny.id,
        "text",
        ("ab", "ba"),
        (UsedMap("swept.safetensors", None), UsedMap("swept.safetensors", 0.5)),
        seed=9,
        strengths=(0.0, 0.25, 1.0),
        max_new_tokens=5,
        temperature=0.5,
    )
    grid = tiny.sweep(
        ["ab", "ba"],
        [(smap, None), (smap, 0.5)],
        [0, 0.25, 1],
        seed=9,
        max_new_tokens=5,
        temperature=0.5,
    )
    wanted = "".join(
        f"--- {p} | strength {s:g}\n{text}\n"
        for p, row in zip(grid.prompts, grid.texts, strict=True)
        for s, text in zip(grid.strengths, row, strict=True)
    )
    assert _lines(run_here(snippet(scene), tmp_path)) == _lines(wanted)


def test_the_pictures_on_the_screen_are_saved(painter: DiffusionModel, tmp_path: Path) -> None:
    smap = random_map({"unet.mid_block.attentions.0.norm": 16}, 0, spread=3.0)
    smap.save(tmp_path / "x.safetensors")
    plain = Scene(painter.id, "image", ("ab", "ba"), (UsedMap("x.safetensors", 0.5),), seed=4)
    swept = Scene(
        painter.id, "image", ("ab",), (UsedMap("x.safetensors", None),), seed=4, strengths=(0, 1)
    )
    run(image_snippet(plain) + snippet(swept), tmp_path)
    kinds = {"untouched": [], "steered": [(smap, 0.5)]}
    for kind, steer in kinds.items():
        for number, image in enumerate(painter.generate(["ab", "ba"], steer, seed=4), start=1):
            saved = Image.open(tmp_path / f"{number}-{kind}.png")
            assert saved.tobytes() == image.tobytes()
    grid = painter.sweep(["ab"], [(smap, None)], [0, 1], seed=4)
    assert Image.open(tmp_path / "grid.png").tobytes() == draw_grid(grid).tobytes()


def test_a_grid_of_two_maps_on_the_screen_is_saved(painter: DiffusionModel, tmp_path: Path) -> None:
    site = "unet.mid_block.attentions.0.norm"
    maps = {f"{n}.safetensors": random_map({site: 16}, n, spread=3.0) for n in range(3)}
    for name, smap in maps.items():
        smap.save(tmp_path / name)
    zero, one, two = maps
    used = (UsedMap(zero, 0.5), UsedMap(one, None), UsedMap(two, None, inverse=True))
    scene = Scene(painter.id, "image", ("ab",), used, (4,), (0.0, 1.0), (0.0, 0.5, 1.0))
    run_here(snippet(scene), tmp_path)
    saved = Image.open(tmp_path / "grid.png")
    wanted = draw_grid(make_grid(scene, painter, maps.__getitem__))
    assert saved.size == wanted.size
    # Each row of the grid is a separate batch, which may round differently.
    pairs = zip(saved.tobytes(), wanted.tobytes(), strict=True)
    assert max(abs(a - b) for a, b in pairs) <= 2


def test_the_inverse_of_a_map_is_loaded(tiny: lc.LanguageModel, tmp_path: Path) -> None:
    smap = random_map({SITE: 16}, 0)
    smap.save(tmp_path / "x.safetensors")
    used = (UsedMap("x.safetensors", 1.0, inverse=True),)
    scene = Scene(tiny.id, "text", ("ab",), used, seed=3, max_new_tokens=6)
    steered = tiny.generate(["ab"], [(smap.inverse(), 1.0)], seed=3, max_new_tokens=6)
    assert steered != tiny.generate(["ab"], [(smap, 1.0)], seed=3, max_new_tokens=6)
    printed = _lines(run_here(snippet(scene), tmp_path))
    assert printed[printed.index("--- ab | steered") + 1 :] == _lines(steered[0])


def test_no_text_of_a_scene_becomes_code() -> None:
    nasty = '\'); import os #\n"""\\\x00\u2028{1/0}'
    for modality in ("text", "image"):
        for strengths in ((), (0.0, 1.0)):
            scene = Scene(nasty, modality, (nasty,), (UsedMap(nasty, 1.0),), strengths=strengths)
            tree = ast.parse(snippet(scene))
            imported = [n for n in ast.walk(tree) if isinstance(n, ast.Import)]
            assert [a.name for n in imported for a in n.names] == ["lineas_core"]
            texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
            assert texts.count(nasty) == 3


def _lines(text: str) -> list[str]:
    # A random model generates every kind of line ending, which the pipe may change.
    return text.replace("\r\n", "\n").replace("\r", "\n").splitlines()
