from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

import lineas_core as lc
from lineas_core.cli.exchange import register
from tests.export.rivals import repeng
from tests.export.test_checkpoint import RANGE, only_shifts
from tests.helpers.models import random_map

LAYERS = {f"model.layers.{n}": 16 for n in (1, 2)}


@pytest.fixture
def smap() -> lc.SteeringMap:
    return only_shifts(random_map(LAYERS, 3))


def buffer_of(path: Path, width: int) -> np.ndarray:
    """The buffer that llama.cpp's loader fills (`common_control_vector_load_one`), as rows."""
    rows: dict[int, np.ndarray] = {}
    for tensor in gguf.GGUFReader(path).tensors:
        word, number = tensor.name.split(".")
        assert (word, tensor.tensor_type.name, list(tensor.shape)) == ("direction", "F32", [width])
        assert int(number) > 0
        rows[int(number) - 1] = np.array(tensor.data)
    return np.stack([rows.get(row, np.zeros(width)) for row in range(max(rows) + 1)])


def test_the_loader_of_llama_cpp_finds_the_shift_of_each_layer(
    smap: lc.SteeringMap, tmp_path: Path
) -> None:
    buffer = buffer_of(lc.to_gguf(smap, to=tmp_path / "a.gguf"), 16)
    # `llama_adapter_cvec::apply`: layer il reads row il - 1.
    assert len(buffer) == 2
    for layer in (1, 2):
        shift = smap.sites[f"model.layers.{layer}"].shift
        np.testing.assert_array_equal(buffer[layer - 1], shift.numpy())


def test_the_file_says_what_it_is(smap: lc.SteeringMap, tmp_path: Path) -> None:
    reader = gguf.GGUFReader(lc.to_gguf(smap, to=tmp_path / "a.gguf"))
    own = [key for key in reader.fields if not key.startswith("GGUF.")]
    assert {key: reader.fields[key].contents() for key in own} == {
        "general.architecture": "controlvector",
        "controlvector.model_hint": "tiny",
        "controlvector.layer_count": 2,
        "general.name": "random 3",
    }


def test_a_map_comes_back_as_it_was(smap: lc.SteeringMap, tmp_path: Path) -> None:
    still = lc.SteeringMap.identity({"model.layers.0": 16, "model.norm": 16})
    whole = lc.SteeringMap({**smap.sites, **still.sites}, smap.info)
    back = lc.import_map(lc.to_gguf(whole, to=tmp_path / "a.gguf"))
    assert list(back.sites) == list(LAYERS)
    assert all(torch.equal(back.sites[name].shift, smap.sites[name].shift) for name in LAYERS)
    assert bool(all((affine.scale == 1).all() for affine in back.sites.values()))
    assert (back.info.model, back.info.name) == ("tiny", "random 3")
    assert back.info.config == {"format": "control vector", "notes": []}
    back.save(tmp_path / "back.safetensors")


def test_repeng_reads_what_is_written_and_the_other_way(
    smap: lc.SteeringMap, tmp_path: Path
) -> None:
    library = repeng()
    vector = library.ControlVector.import_gguf(lc.to_gguf(smap, to=tmp_path / "a.gguf"))
    assert vector.model_type == "tiny"
    assert list(vector.directions) == [1, 2]
    for layer, direction in vector.directions.items():
        np.testing.assert_array_equal(direction, smap.sites[f"model.layers.{layer}"].shift.numpy())
    # repeng writes layer 0 and half precision too, which llama.cpp refuses.
    mine = library.ControlVector("gpt2", {0: np.ones(4, np.float16), 2: np.arange(4.0, dtype="f")})
    mine.export_gguf(tmp_path / "b.gguf")
    back = lc.import_map(tmp_path / "b.gguf", layers="transformer.h.{num}")
    assert {name: affine.shift.tolist() for name, affine in back.sites.items()} == {
        "transformer.h.0": [1, 1, 1, 1],
        "transformer.h.2": [0, 1, 2, 3],
    }
    assert back.info.model == "gpt2"


def test_a_local_folder_is_not_published(smap: lc.SteeringMap, tmp_path: Path) -> None:
    private = lc.SteeringMap(smap.sites, lc.MapInfo(model=str(tmp_path)))
    file = lc.to_gguf(private, to=tmp_path / "a.gguf")
    assert lc.import_map(file).info.model == tmp_path.name
    assert str(tmp_path.parent).encode() not in file.read_bytes()


def test_what_a_control_vector_cannot_hold_is_named(smap: lc.SteeringMap, tmp_path: Path) -> None:
    to = tmp_path / "a.gguf"
    scaled = random_map({"model.layers.2": 16}, 0)
    with pytest.raises(
        lc.SiteError, match=r"^1 site .*model\.layers\.2: .*scales.*`lineas_core.fold`"
    ):
        lc.to_gguf(lc.SteeringMap({**smap.sites, **scaled.sites}), to=to)
    elsewhere = ("model.layers.1.mlp", "model.norm", "unet.down_blocks.0", "vision.layers.1")
    other = only_shifts(random_map(dict.fromkeys(elsewhere, 16), 0))
    with pytest.raises(
        lc.SiteError, match=r"^4 sites .*layers\.1\.mlp, model\.norm, unet.*, vision"
    ):
        lc.to_gguf(other, to=to)
    first = only_shifts(random_map({"model.layers.0": 16}, 0))
    with pytest.raises(lc.SiteError, match=r"^1 site .*model\.layers\.0: .*first layer"):
        lc.to_gguf(lc.SteeringMap({**first.sites, **smap.sites}), to=to)
    ranged = replace(smap, bounds={"model.layers.2": RANGE})
    with pytest.raises(lc.SiteError, match=r"^1 site .*model\.layers\.2: .*bounds='none'"):
        lc.to_gguf(ranged, to=to)
    with pytest.raises(lc.MapError, match="changes nothing"):
        lc.to_gguf(lc.SteeringMap.identity(LAYERS), to=to)
    assert not to.exists()
    (tmp_path / "file").touch()
    with pytest.raises(lc.MapError, match="Cannot write a.gguf"):
        lc.to_gguf(smap, to=tmp_path / "file" / "a.gguf")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "There is no file 'none.gguf'"),
        ("text", "text.gguf is not a readable GGUF file"),
        ("cut", "cut.gguf is not a readable GGUF file"),
        ("model", r"model.gguf holds a tensor 'blk.0.attn_q.weight'"),
        ("square", r"square.gguf: direction.1 is F32 with 2 dimensions"),
        ("whole", r"whole.gguf: direction.1 is I32 with 1 dim"),
        ("infinite", r"model.layers.1.*not finite"),
        ("empty", "no sites"),
    ],
)
def test_other_files_are_refused(
    smap: lc.SteeringMap, tmp_path: Path, name: str, message: str
) -> None:
    path = tmp_path / f"{name}.gguf"
    tensors = {
        "model": ("blk.0.attn_q.weight", np.ones(4, "f")),
        "square": ("direction.1", np.ones((4, 4), "f")),
        "whole": ("direction.1", np.ones(4, np.int32)),
        "infinite": ("direction.1", np.full(4, np.inf, "f")),
    }
    if name in ("text", "cut"):
        whole = lc.to_gguf(smap, to=path).read_bytes()
        path.write_bytes(b"not a vector" if name == "text" else whole[: len(whole) // 2])
    elif name != "none":
        writer = gguf.GGUFWriter(path, "controlvector")
        if name in tensors:
            writer.add_tensor(*tensors[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    with pytest.raises(lc.MapError, match=message):
        lc.import_map(path)


@pytest.mark.parametrize("kind", [gguf.GGUFValueType.UINT8, gguf.GGUFValueType.ARRAY])
def test_a_file_that_claims_an_endless_list_is_refused_at_once(
    tmp_path: Path, kind: gguf.GGUFValueType
) -> None:
    key = struct.pack("<Q3s", 3, b"a.b")
    array = struct.pack("<IIQ", gguf.GGUFValueType.ARRAY, kind, 2**40)
    path = tmp_path / "long.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key + array + bytes(64))
    with pytest.raises(lc.MapError, match=r"long\.gguf is not a readable .*1,099,511,627,776"):
        lc.import_map(path)


def test_vectors_go_out_and_in_from_a_terminal(smap: lc.SteeringMap, tmp_path: Path) -> None:
    app = typer.Typer()
    register(app)
    file, out, back = (tmp_path / name for name in ("map.safetensors", "a.gguf", "b.safetensors"))
    smap.save(file)
    command = ["export", "gguf", "--map", f"{file}@0.5", "--to", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["import", str(out), "-o", str(back)])
    assert done.exit_code == 0, done.output
    half = lc.SteeringMap.load(back).sites
    assert all(torch.equal(half[name].shift, smap.at(0.5).sites[name].shift) for name in LAYERS)
