"""Maps in other programs' formats, to and from the library tab."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest
import torch
from safetensors.torch import load_file

import lineas_core as lc
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.tabs.library.sharing import SharingCallbacks
from tests.export.test_checkpoint import only_shifts
from tests.helpers.models import random_map
from tests.helpers.studio import ANN, BOB, SITE, add_map, answers_of

LAYERS = {f"model.layers.{n}": 16 for n in (1, 2)}


@pytest.fixture
def sharing(studio: Studio) -> SharingCallbacks:
    return SharingCallbacks(studio, answers_of(studio))


def add(studio: Studio, smap: lc.SteeringMap, title: str = "Calm") -> str:
    return studio.library.add_map(owner_of(ANN), smap, title=title).id


def test_a_control_vector_goes_out_and_comes_in_for_the_chosen_model(
    studio: Studio, sharing: SharingCallbacks, writer: str
) -> None:
    smap = only_shifts(random_map(LAYERS, 3))
    ids = [add(studio, smap), add(studio, smap)]
    files = sharing.export(ANN, ids, "gguf")["value"]
    assert [Path(file).name for file in files] == ["Calm.gguf", "Calm-2.gguf"]
    said, news, *_ = sharing.take_in(BOB, files[:1], writer)
    assert "1 map is in" in said
    [row] = studio.library.maps(owner_of(BOB), include_gallery=False)
    assert (row.model, news["add"]) == (writer, [row.id])
    found = studio.library.map(row.id, owner_of(BOB))
    assert list(found.sites) == list(LAYERS)
    for site, affine in found.sites.items():
        assert torch.equal(affine.shift, smap.sites[site].shift)


def test_vectors_of_torch_save_come_in(
    studio: Studio, sharing: SharingCallbacks, writer: str, tmp_path: Path
) -> None:
    torch.save({1: torch.arange(16.0)}, tmp_path / "calm.pt")
    sharing.take_in(ANN, [str(tmp_path / "calm.pt")], writer)
    [row] = studio.library.maps(owner_of(ANN), include_gallery=False)
    assert row.title == "calm"
    [affine] = studio.library.map(row.id, owner_of(ANN)).sites.values()
    assert torch.equal(affine.shift, torch.arange(16.0))


def test_a_file_for_comfyui_depends_on_a_model_in_memory(
    studio: Studio, sharing: SharingCallbacks, painter: str, tmp_path: Path
) -> None:
    map_id = add_map(studio, painter, {SITE: 16}, 0)
    with pytest.raises(gr.Error, match=r"sd, which is not in memory"):
        sharing.export(ANN, [map_id], "comfyui")
    model = studio.model_cache.get(painter)
    [file] = sharing.export(ANN, [map_id], "comfyui")["value"]
    own = lc.to_comfyui(model, studio.library.map(map_id, owner_of(ANN)), to=tmp_path / "a")
    expected = load_file(own)
    assert {name for name in expected if name.endswith("_norm")}
    written = load_file(file)
    assert list(written) == list(expected)
    assert all(torch.equal(written[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("format", "message"), [("gguf", "model.layers.1"), ("pdf", "format is 'pdf'")]
)
def test_what_a_format_cannot_hold_is_said(
    studio: Studio, sharing: SharingCallbacks, format: str, message: str
) -> None:
    map_id = add(studio, random_map(LAYERS, 3))
    with pytest.raises(gr.Error, match=message):
        sharing.export(ANN, [map_id], format)


def test_a_damaged_vector_is_refused(
    studio: Studio, sharing: SharingCallbacks, writer: str, tmp_path: Path
) -> None:
    for name in ("a.gguf", "b.pt", "c.statedict"):
        (tmp_path / name).write_bytes(b"not a vector")
        with pytest.raises(gr.Error, match=name):
            sharing.take_in(ANN, [str(tmp_path / name)], writer)
    assert studio.library.maps(owner_of(ANN), include_gallery=False) == []
