from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lineas_core import Affine, MapError, MapInfo, SteeringMap, compose
from lineas_core.maps.file_format import MAX_BYTES, MAX_HEADER, digest_of
from lineas_core.maps.steering_map import BatchAffine, compose_for_batch
from tests.helpers.models import random_map

WIDTHS = {"a.norm": 5, "b.norm": 3}


def apply(smap: SteeringMap, site: str, z: torch.Tensor) -> torch.Tensor:
    return smap.sites[site].scale * z + smap.sites[site].shift


def test_strength_moves_along_the_line_from_input_to_output() -> None:
    smap, z = random_map(WIDTHS, 0), torch.randn(7, 5)
    for s in (-0.5, 0.0, 0.3, 1.0, 2.0):
        wanted = z + s * (apply(smap, "a.norm", z) - z)
        torch.testing.assert_close(apply(smap.at(s), "a.norm", z), wanted)


def test_compose_applies_maps_in_order_each_at_its_strength() -> None:
    a, b, c, z = *(random_map(WIDTHS, i) for i in range(3)), torch.randn(7, 5)
    composed = compose([(a, 1.0), (b, 0.5), (c, -0.2)])
    wanted = apply(c.at(-0.2), "a.norm", apply(b.at(0.5), "a.norm", apply(a, "a.norm", z)))
    torch.testing.assert_close(apply(composed, "a.norm", z), wanted)


def test_compose_takes_the_identity_where_a_map_has_no_site() -> None:
    a, b = random_map({"x": 2}, 0), random_map({"y": 2}, 1)
    composed = compose([(a, 1.0), (b, 1.0)])
    assert list(composed.sites) == ["x", "y"]
    assert torch.equal(composed.sites["y"].shift, b.sites["y"].shift)


def test_compose_refuses_nothing_and_other_widths() -> None:
    with pytest.raises(MapError, match="at least one"):
        compose([])
    with pytest.raises(MapError, match="'x' has width 2 in one map and 3"):
        compose([(random_map({"x": 2}, 0), 1.0), (random_map({"x": 3}, 0), 1.0)])


def test_batch_composition_equals_composition_row_by_row() -> None:
    a, b = random_map(WIDTHS, 0), random_map(WIDTHS, 1)
    strengths = torch.tensor([0.0, 0.4, 1.0, -1.0])
    batch = compose_for_batch([(a, strengths), (b, 0.7)])
    for row, s in enumerate(strengths.tolist()):
        single = compose([(a, s), (b, 0.7)])
        for site, affine in single.sites.items():
            found = batch[site]
            assert isinstance(found, BatchAffine)
            torch.testing.assert_close(1 + found.gain[row], affine.scale)
            torch.testing.assert_close(found.shift[row], affine.shift)


def test_batch_composition_at_zero_leaves_no_site() -> None:
    smap = random_map(WIDTHS, 0)
    assert compose_for_batch([]) == {}
    assert compose_for_batch([(smap, 0.0), (smap, torch.zeros(4))]) == {}


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), torch.tensor([torch.nan])])
def test_unusable_strengths_are_refused(strength: float | torch.Tensor) -> None:
    with pytest.raises(MapError, match="one finite number"):
        compose_for_batch([(random_map(WIDTHS, 0), strength)])


def test_inverse_undoes_the_map() -> None:
    smap, z = random_map(WIDTHS, 3), torch.randn(7, 5)
    torch.testing.assert_close(apply(smap.inverse(), "a.norm", apply(smap, "a.norm", z)), z)


def test_inverse_names_the_sites_that_have_none() -> None:
    good = Affine(torch.ones(2), torch.zeros(2))
    bad = Affine(torch.tensor([1.0, -9e-5]), torch.zeros(2))
    with pytest.raises(MapError, match=r"at bad \(smallest \|scale\| 9.0e-05\)"):
        SteeringMap({"good": good, "bad": bad}).inverse()


def test_support_counts_coordinates_with_another_scale_or_shift() -> None:
    scale, shift = torch.tensor([1.0, 2.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 1.0, 0.0])
    smap = SteeringMap({"x": Affine(scale, shift), "y": Affine(torch.ones(4), torch.zeros(4))})
    assert smap.support() == 2 / 8
    assert smap.support_by_site() == {"x": 0.5, "y": 0.0}
    assert SteeringMap.identity(WIDTHS).support() == 0


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (Affine(torch.ones(2), torch.ones(3)), "same length"),
        (Affine(torch.ones(2, 2), torch.ones(2, 2)), "one vector"),
        (Affine(torch.tensor([1.0, torch.nan]), torch.ones(2)), "not finite"),
        (Affine(torch.ones(2).double(), torch.ones(2).double()), "float32"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_map_that_makes_no_sense_does_not_come_to_be(affine: Affine, message: str) -> None:
    with pytest.raises(MapError, match=f"'x'.*{message}"):
        SteeringMap({"x": affine})
    with pytest.raises(MapError, match="no sites"):
        SteeringMap({})


def test_save_and_load_give_the_same_map(tmp_path: Path) -> None:
    info = MapInfo("m", "lineas", "n", "c", "h", {"steps": 3, "rate": 0.1}, "0.1", "2026-01-01")
    smap = SteeringMap(random_map(WIDTHS, 0).sites, info)
    loaded = SteeringMap.load(smap.save(tmp_path / "new" / "x.safetensors"))
    assert loaded.info == info
    assert list(loaded.sites) == list(smap.sites)
    for site in WIDTHS:
        assert torch.equal(loaded.sites[site].scale, smap.sites[site].scale)
        assert torch.equal(loaded.sites[site].shift, smap.sites[site].shift)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.safetensors"]


def test_file_is_plain_safetensors_with_the_documented_names(tmp_path: Path) -> None:
    path = random_map(WIDTHS, 0).save(tmp_path / "x.safetensors")
    names = {f"{site}.{part}" for site in WIDTHS for part in ("scale", "shift")}
    assert set(load_file(path)) == names


def test_a_thousand_corruptions_each_give_a_clear_error(tmp_path: Path) -> None:
    whole = (
        random_map({f"layers.{i}.norm": 8 for i in range(4)}, 0).save(tmp_path / "x").read_bytes()
    )
    draw, path = random.Random(0), tmp_path / "broken"
    for _ in range(1000):
        data = bytearray(whole)
        kind, at = draw.randrange(5), draw.randrange(len(data))
        if kind == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at] ^= draw.randrange(1, 256)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data[at:at] = draw.randbytes(draw.randrange(1, 20))
        else:
            piece = slice(at, at + draw.randrange(8, 64))
            data[piece] = draw.randbytes(len(data[piece]))
        path.write_bytes(data)
        with pytest.raises(MapError, match="broken") as caught:
            SteeringMap.load(path)
        assert len(str(caught.value)) < 1000


def test_other_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(MapError, match="There is no map file"):
        SteeringMap.load(tmp_path / "none")
    with pytest.raises(MapError, match="not a readable"):
        SteeringMap.load(tmp_path)
    save_file({"x": torch.ones(2)}, tmp_path / "other")
    with pytest.raises(MapError, match="not a steering map"):
        SteeringMap.load(tmp_path / "other")
    header = json.dumps({"format": 99, "digest": "", "sites": [], **MapInfo().__dict__})
    save_file({"x": torch.ones(2)}, tmp_path / "newer", metadata={"lineas": header})
    with pytest.raises(MapError, match="format 99"):
        SteeringMap.load(tmp_path / "newer")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MapError, match=r"Cannot write the map to x.safetensors \(File exists"):
        random_map(WIDTHS, 0).save(tmp_path / "file" / "x.safetensors")


def crafted(
    path: Path, header: dict[str, Any], tensors: dict[str, torch.Tensor], more: dict[str, Any]
) -> Path:
    """A file with an invalid header but a correct checksum."""
    header = {**header, **more}
    header["digest"] = digest_of(header, tensors)
    save_file(tensors, path, metadata={"lineas": json.dumps(header)})
    return path


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"sites": [["n", 3], ["n", 3]]}, "a site is there twice"),
        ({"sites": [["n", 4]]}, r"n.scale is F32 of shape \(3,\); it must be F32 of shape \(4,\)"),
        ({"sites": [["n", 3], ["m", 3]]}, "the tensor 'm.scale' is missing"),
        ({"sites": []}, "there must be 1 to 16,384 sites"),
        ({"sites": [["n", 2**40]]}, "the width of n is 1099511627776"),
        ({"sites": [["a\nb", 3]]}, "is no site's name"),
        ({"sites": [["x" * 257, 3]]}, "is no site's name"),
        ({"name": 3}, "name is 3; it must be a text"),
        ({"concept": "x" * 10_001}, "it must be a text, not too long"),
        ({"title": "\ud800"}, "half a character"),
        ({"config": []}, "config is no object"),
        ({"config": {"a": json.loads("[" * 20 + "]" * 20)}}, "nested deeper than 16 levels"),
    ],
)
def test_a_header_that_is_wrong_is_refused_though_its_checksum_is_right(
    tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    tensors = {"n.scale": torch.ones(3), "n.shift": torch.zeros(3)}
    header = {"format": 1, "fingerprint": "", "sites": [["n", 3]], **MapInfo().__dict__}
    assert SteeringMap.load(crafted(tmp_path / "x", header, tensors, {})).widths == {"n": 3}
    with pytest.raises(MapError, match=message):
        SteeringMap.load(crafted(tmp_path / "x", header, tensors, more))


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        (
            "n.scale",
            torch.tensor([1.0, torch.nan, 1.0]),
            "n.scale holds values that are not finite",
        ),
        ("n.shift", torch.zeros(3).half(), r"n.shift is F16 of shape \(3,\); it must be F32"),
        ("n.shift", torch.zeros(3, 1), "it must be F32 of shape"),
        ("more", torch.zeros(3), "the tensor 'more' is missing, or not in the header"),
    ],
)
def test_tensors_that_are_wrong_are_refused(
    tmp_path: Path, key: str, values: torch.Tensor, message: str
) -> None:
    tensors = {"n.scale": torch.ones(3), "n.shift": torch.zeros(3), key: values}
    header = {"format": 1, "fingerprint": "", "sites": [["n", 3]], **MapInfo().__dict__}
    with pytest.raises(MapError, match=message):
        SteeringMap.load(crafted(tmp_path / "x", header, tensors, {}))


def test_files_over_the_limits_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for length, size, message in (
        (
            MAX_HEADER + 1,
            2 * MAX_HEADER,
            "its header has 8,388,609 bytes; 8,388,608 are the most",
        ),
        (100, MAX_BYTES + 1, "it has 536,870,913 bytes; 536,870,912 are the most"),
    ):
        with path.open("wb") as file:
            file.write(length.to_bytes(8, "little"))
            # A sparse file, which takes no disk space.
            file.truncate(size)
        with pytest.raises(MapError, match=f"x.safetensors: {message}"):
            SteeringMap.load(path)
    # Values that could not be read back are refused when writing.
    with pytest.raises(MapError, match="cannot be kept as a file: concept is 'xxx"):
        SteeringMap(random_map(WIDTHS, 0).sites, MapInfo(concept="x" * 10_001)).save(path)


def test_a_map_of_every_layer_of_a_model_of_70b_parameters_loads(tmp_path: Path) -> None:
    # Llama 3 70B: 80 layers, width 8,192, eight key/value heads, MLP width 28,672.
    outputs = {
        "input_layernorm": 8192, "self_attn.q_proj": 8192, "self_attn.k_proj": 1024,
        "self_attn.v_proj": 1024, "self_attn.o_proj": 8192, "post_attention_layernorm": 8192,
        "mlp.gate_proj": 28672, "mlp.up_proj": 28672, "mlp.down_proj": 8192,
    }  # fmt: skip
    widths = {f"model.layers.{i}.{name}": d for i in range(80) for name, d in outputs.items()}
    saved = SteeringMap.identity(widths)
    loaded = SteeringMap.load(saved.save(tmp_path / "x.safetensors"))
    assert loaded.widths == widths


def test_messages_do_not_tell_where_files_are(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * 99)
    for path in (tmp_path, tmp_path / "x", tmp_path / "none", tmp_path / ("n" * 5000)):
        with pytest.raises(MapError) as caught:
            SteeringMap.load(path)
        assert str(tmp_path) not in str(caught.value)
