"""Files of the first versions of the formats, made by the code of that time, still open.

`first-map.safetensors` is from the library's first commit, `first-bundle.zip` from the first that
had bundles. They are never made again: what reads them must go on reading them.
"""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file

import lineas_core as lc
from lineas_core.bundles import read_bundle, unpack_bundle
from lineas_core.scene import Scene, UsedMap

DATA = Path(__file__).parent / "data"
MAP, BUNDLE = DATA / "first-map.safetensors", DATA / "first-bundle.zip"


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
    # The bundle's model is that of the tests, which is in another folder each time.
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
