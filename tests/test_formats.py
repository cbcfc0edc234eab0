"""Files written by old versions of the library can still be read.

`first-map.safetensors` is from the library's first commit, `first-bundle.zip` from the first commit
with bundles. The grids, `swept-bundle.zip` and `first-link.txt` are from versions that had a class
for each. Never regenerate these files: the current readers must keep reading them.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file

import lineas_core as lc
from lineas_core.scenes.bundle import bundle_bytes, read_bundle, unpack_bundle
from lineas_core.scenes.grid import read_sidecar, write_sidecar
from lineas_core.scenes.scene import Scene, UsedMap
from lineas_core.scenes.scores import GridScores
from lineas_core.studio.rack.rack import RackState, Slot
from lineas_core.studio.rack.screen import Screen

DATA = Path(__file__).parent / "data"
MAP, BUNDLE = DATA / "first-map.safetensors", DATA / "first-bundle.zip"
SWEPT, LINK = DATA / "swept-bundle.zip", DATA / "first-link.txt"
WET = "02b0b63ab2b45625d7ed85ddbf3610d3b7c23ee431b044b6aa11265ed41e0f9c"
DRY = "488aa68d3b3f82ba19024804420493adfd4bd33e5a55d0ba6e80e7ca33c40ff1"
GRIDS = {
    "first-grid.json": Scene(
        model="emoji-onestep",
        modality="image",
        prompts=("a tiger", "ein Löwe"),
        maps=(UsedMap("a1b2", None, digest=WET), UsedMap("c3d4", 0.3, inverse=True, digest=DRY)),
        seed=7,
        strengths=(0.0, 0.17, 1.0),
    ),
    "seeds-grid.json": Scene(
        model="emoji-onestep",
        modality="image",
        prompts=("a tiger", "a tiger", "a tiger"),
        maps=(UsedMap("a1b2", None, digest=WET), UsedMap("c3d4", 0.3, inverse=True, digest=DRY)),
        seed=(3, 4, 5),
        strengths=(-0.5, 0.0, 1.5),
    ),
    "crossed-grid.json": Scene(
        model="emoji-onestep",
        modality="image",
        prompts=("a tiger",),
        maps=(UsedMap("a1b2", None, digest=WET), UsedMap("c3d4", None, digest=DRY)),
        seed=7,
        strengths=(0.0, 0.5, 1.0),
        down=(0.0, 1.0),
    ),
}


def tensors_of(smap: lc.SteeringMap) -> dict[str, torch.Tensor]:
    return {
        f"{site}.{part}": values
        for site, affine in smap.sites.items()
        for part, values in affine._asdict().items()
    }


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_map_of_the_first_format_loads_to_its_exact_tensors() -> None:
    smap = lc.SteeringMap.load(MAP)
    assert same(tensors_of(smap), load_file(MAP))
    assert list(smap.widths.items()) == [
        (f"model.layers.{i}.post_attention_layernorm", 16) for i in range(3)
    ]
    assert smap.info == lc.MapInfo(
        model="tiny",
        method="lineas",
        name="letters",
        concept="last letters é",
        prompt_hash="0123456789abcdef",
        config={"steps": 20, "rate": 0.1, "optimizer": "sgd", "sites": ""},
        library_version="0.1.0",
        created="2026-11-21T11:48:45+00:00",
    )


def test_a_map_of_the_first_format_steers(tiny: lc.LanguageModel) -> None:
    smap = lc.SteeringMap.load(MAP)
    plain, steered = (
        tiny.generate(["ab"], [(smap, s)], seed=0, max_new_tokens=5) for s in (0.0, 1.0)
    )
    assert plain != steered


def test_a_map_is_written_as_it_was(tmp_path: Path) -> None:
    again = lc.SteeringMap.load(MAP).save(tmp_path / MAP.name)
    assert again.read_bytes() == MAP.read_bytes()


def test_a_bundle_of_the_first_format_holds_what_its_files_say() -> None:
    bundle = read_bundle(BUNDLE)
    with zipfile.ZipFile(BUNDLE) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert set(bundle.maps) == {"letters (1).safetensors", "ö.safetensors"}
    for name, smap in bundle.maps.items():
        assert same(tensors_of(smap), load(files[f"maps/{name}"]))
    assert bundle.scene == Scene(
        model="tiny",
        modality="text",
        prompts=("ab", "cc ab"),
        maps=(UsedMap("letters (1).safetensors", None), UsedMap("ö.safetensors", -0.5)),
        seed=(1, 2**62),
        strengths=(0.0, 0.25, 1.0),
        max_new_tokens=5,
        temperature=0.5,
    )
    assert json.loads(json.dumps(bundle.prompts.__dict__)) == json.loads(files["prompts.json"])
    assert json.loads(json.dumps(bundle.texts)) == json.loads(files["texts.json"])
    assert bundle.grid == files["grid.png"]
    assert (bundle.revision, bundle.library_version) == ("hub:a/b@0123", "0.1.0")
    assert bundle.notes == ()


def test_a_bundle_of_the_first_format_makes_its_scene(
    small_models: dict[str, Path],
    tiny: lc.LanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = read_bundle(BUNDLE)
    unpack_bundle(bundle, tmp_path / "out")
    maps = [
        (lc.SteeringMap.load(tmp_path / "out" / "maps" / used.name), used.strength)
        for used in bundle.scene.maps
    ]
    scene = bundle.scene
    grid = tiny.sweep(
        list(scene.prompts),
        maps,
        list(scene.strengths),
        seed=list(scene.seed),
        max_new_tokens=scene.max_new_tokens,
        temperature=scene.temperature,
    )
    # The bundle's model is the test model, whose folder differs in each run.
    code = (tmp_path / "out" / "scene.py").read_text("utf-8")
    assert "lc.load_model('tiny')" in code
    folder = str(small_models["llama"])
    monkeypatch.chdir(tmp_path / "out")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code.replace("'tiny'", f"{folder!r}, device='cpu'"), {})
    shown = io.StringIO()
    for prompt, row in zip(scene.prompts, grid.texts, strict=True):
        for strength, text in zip(scene.strengths, row, strict=True):
            print(f"--- {prompt} | strength {strength:g}", text, sep="\n", file=shown)
    assert printed.getvalue().split() == shown.getvalue().split()


@pytest.mark.parametrize("file", [BUNDLE, SWEPT], ids=lambda file: file.stem)
def test_a_bundle_is_written_as_it_was(file: Path) -> None:
    assert bundle_bytes(read_bundle(file)) == file.read_bytes()


def test_a_swept_bundle_holds_what_its_files_say(tmp_path: Path) -> None:
    bundle = read_bundle(SWEPT)
    with zipfile.ZipFile(SWEPT) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert bundle.scene == Scene(
        model="emoji-onestep",
        modality="image",
        prompts=("ab", "ba"),
        maps=(UsedMap("wet-ink.safetensors", None), UsedMap("dry-ink-inverse.safetensors", -0.5)),
        seed=(3, 5),
        strengths=(0.0, 0.5, 1.0),
        max_new_tokens=80,
        temperature=1.0,
    )
    assert {name: smap.digest() for name, smap in bundle.maps.items()} == {
        "wet-ink.safetensors": WET,
        "dry-ink-inverse.safetensors": (
            "8209b0213a798d69d47df70f20b0cc5c4506a3cd1fcc6c043cf38f3f12f1802e"
        ),
    }
    assert (bundle.revision, bundle.library_version) == ("hub:a/b@0123", "0.1.0")
    assert (bundle.grid, bundle.prompts, bundle.texts) == (files["grid.png"], None, None)
    assert bundle.notes == ()

    folder = tmp_path / "out"
    unpacked = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in unpack_bundle(bundle, folder)
    }
    code = unpacked.pop("scene.py").decode()
    kept = {name: data for name, data in files.items() if name.startswith(("maps/", "grid"))}
    assert unpacked == kept
    assert code == (
        "import lineas_core as lc\n"
        "\n"
        "model = lc.load_model('emoji-onestep')\n"
        "prompts = ['ab', 'ba']\n"
        "maps = [\n"
        "    (lc.SteeringMap.load('maps/wet-ink.safetensors'), None),\n"
        "    (lc.SteeringMap.load('maps/dry-ink-inverse.safetensors'), -0.5),\n"
        "]\n"
        "\n"
        "strengths = [0.0, 0.5, 1.0]\n"
        "grid = model.sweep(prompts, maps, strengths, seed=[3, 5])\n"
        'lc.draw_grid(grid).save("grid.png")\n'
        "# One picture of it: grid.images[row][column].save(...)\n"
    )


@pytest.mark.parametrize("name", GRIDS)
def test_a_grids_file_is_read_and_written_as_it_was(name: str) -> None:
    text = (DATA / name).read_text("utf-8")
    assert read_sidecar(text) == GRIDS[name]
    scores = json.loads(text).get("scores")
    assert write_sidecar(GRIDS[name], GridScores(**scores) if scores else None) == text


def test_a_link_of_the_first_format_shows_its_screen() -> None:
    code = LINK.read_text()
    screen = Screen.from_link(code)
    assert screen == Screen(
        rack=RackState(
            slots=(Slot("a1", True, 0.3, False), Slot("b2", False, -1.0, True)),
            solo="a1",
            beyond=True,
            modality="text",
        ),
        image_model="emoji-onestep",
        image_prompts="a lion\nein Löwe ☀",
        image_seed=3,
        text_model="smollm2",
        text_prompt='Once & "upon"',
        text_seed=5,
        tokens=40,
    )
    again = screen.to_link()
    assert Screen.from_link(again) == screen
    first, second = (json.loads(base64.urlsafe_b64decode(text + "==")) for text in (code, again))
    # Fields that were added to links later.
    added = {"tab": "", "titles": {}, "digests": {}}
    assert second == {**first, "rack": {**first["rack"], "even": True}, **added}
