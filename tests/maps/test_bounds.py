"""Maps that act only within bounds: their mathematics, their files, and where they are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lineas_core as lc
from lineas_core.maps.bounds import Bounds
from lineas_core.maps.file_format import digest_of
from lineas_core.maps.steering_map import BatchAffine, compose_for_batch
from tests.helpers.models import random_map

WIDTHS = {"0": 6}


def bounded(seed: int, widths: dict[str, int] = WIDTHS) -> lc.SteeringMap:
    """A random map that moves about half of the activations of a standard normal."""
    smap, generator = random_map(widths, seed), torch.Generator().manual_seed(100 + seed)
    bounds = {}
    for site, width in widths.items():
        middle = 0.3 * torch.randn(width, generator=generator)
        bounds[site] = Bounds(middle - 0.7, middle + 0.7)
    return lc.SteeringMap(smap.sites, smap.info, bounds)


def by_hand(maps: list[tuple[lc.SteeringMap, float]], z: Tensor, site: str = "0") -> Tensor:
    """Each number by itself, through one map after another."""
    moved = z.double().clone()
    for index in range(moved.numel()):
        column, value = index % z.shape[-1], float(moved.view(-1)[index])
        for smap, strength in maps:
            w, b = (float(part[column]) for part in smap.sites[site])
            lower, upper = (
                float(side[column])
                for side in smap.bounds.get(
                    site,
                    (torch.full((z.shape[-1],), -torch.inf), torch.full((z.shape[-1],), torch.inf)),
                )
            )
            if lower < value < upper:
                value += strength * ((w - 1) * value + b)
        moved.view(-1)[index] = value
    return moved.float()


def test_a_map_moves_what_is_within_its_bounds_and_no_other_bit() -> None:
    model, smap, z = nn.Sequential(nn.Identity()), bounded(0), torch.randn(5, 3, 6)
    with lc.steer(model, [(smap, 0.7)]):
        found = model(z)
    torch.testing.assert_close(found, by_hand([(smap, 0.7)], z))
    lower, upper = smap.bounds["0"]
    outside = (z <= lower) | (z >= upper)
    assert 0.2 < outside.float().mean() < 0.8
    assert torch.equal(found[outside], z[outside])
    assert bool((found != z)[~outside].all())


def test_values_on_the_bounds_stay() -> None:
    model, smap = nn.Sequential(nn.Identity()), bounded(0)
    for side in smap.bounds["0"]:
        with lc.steer(model, [(smap, 1.0)]):
            assert torch.equal(model(side[None]), side[None])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)])
def test_maps_with_bounds_are_composed_one_after_another(order: tuple[int, ...]) -> None:
    maps = [(bounded(0), 0.9), (random_map(WIDTHS, 1), 0.5), (bounded(2), -0.4)]
    maps = [maps[i] for i in order]
    model, z = nn.Sequential(nn.Identity()), torch.randn(7, 4, 6)
    with lc.steer(model, maps):
        together = model(z)
    torch.testing.assert_close(together, by_hand(maps, z))
    with lc.steer(model, maps[:1]), lc.steer(model, maps[1:]):
        torch.testing.assert_close(model(z), together)


def test_each_sample_has_its_own_strength() -> None:
    maps, z = [bounded(0), random_map(WIDTHS, 1), bounded(2)], torch.randn(4, 5, 6)
    strengths = [torch.tensor([0.0, 0.5, 1.0, -1.0]), 0.3, torch.tensor([0.0, 1.0, 0.0, 0.4])]
    model = nn.Sequential(nn.Identity())
    with lc.steer(model, list(zip(maps, strengths, strict=True))):
        found = model(z)
    for row in range(4):
        alone = [float(torch.as_tensor(s).expand(4)[row]) for s in strengths]
        torch.testing.assert_close(found[row], by_hand(list(zip(maps, alone, strict=True)), z[row]))
    with lc.steer(model, [(maps[0], strengths[0]), (maps[2], strengths[2])]):
        assert torch.equal(model(z)[0], z[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    maps, z = [(bounded(0), 1.0), (bounded(1), 1.0)], torch.randn(50, 6).to(dtype)
    model = nn.Sequential(nn.Identity())
    with lc.steer(model, maps):
        found = model(z)
    assert found.dtype == dtype
    assert (found == by_hand(maps, z.float()).to(dtype)).float().mean() > 0.99


def test_a_channel_of_an_image_moves_as_its_mean_does() -> None:
    smap, z = bounded(0), torch.randn(8, 6, 4, 4) * 0.5 + torch.randn(8, 6, 1, 1)
    model = nn.Sequential(nn.Identity())
    with lc.steer(model, [(smap, 0.8)]):
        found = model(z)
    means = z.mean((2, 3))
    by = by_hand([(smap, 0.8)], means) - means
    torch.testing.assert_close(found, z + by[:, :, None, None])
    assert 0.2 < (by == 0).float().mean() < 0.8


def test_maps_without_bounds_are_composed_as_ever() -> None:
    a, b = random_map(WIDTHS, 0), random_map(WIDTHS, 1)
    both = compose_for_batch([(a, 0.5), (b, 2.0)])["0"]
    assert isinstance(both, BatchAffine)
    first, second = (
        BatchAffine(s * (m.sites["0"].scale - 1), s * m.sites["0"].shift)
        for m, s in ((a, 0.5), (b, 2.0))
    )
    assert torch.equal(both.gain, second.gain + first.gain + second.gain * first.gain)
    assert torch.equal(both.shift, first.shift + second.gain * first.shift + second.shift)


def test_a_map_of_another_width_is_named() -> None:
    model = nn.Sequential(nn.Identity())
    with (
        lc.steer(model, [(bounded(0), 1.0)]),
        pytest.raises(lc.SiteError, match="'0' has width 5 on this model and 6 in the map"),
    ):
        model(torch.randn(2, 5))


def test_a_strength_keeps_the_bounds() -> None:
    smap, z, model = bounded(0), torch.randn(5, 6), nn.Sequential(nn.Identity())
    with lc.steer(model, [(smap.at(0.4), 1.0)]):
        found = model(z)
    torch.testing.assert_close(found, by_hand([(smap, 0.4)], z))


def test_what_only_affine_maps_have_is_refused_by_name() -> None:
    smap, plain = bounded(0, {"a": 3, "b": 3}), random_map({"b": 3, "c": 3}, 1)
    with pytest.raises(lc.MapError, match=r"inverted: .* a and 1 other site\..*bounds='none'"):
        smap.inverse()
    for maps in ([smap, plain], [plain, smap], [smap, smap]):
        with pytest.raises(lc.MapError, match=r"at [ab].*steer=\[.*bounds='none'"):
            lc.compose([(each, 1.0) for each in maps])
    apart = lc.compose([(smap, 0.5), (random_map({"c": 3}, 1), 1.0)])
    assert list(apart.sites) == ["a", "b", "c"]
    assert apart.bounds == smap.bounds


def test_training_does_not_go_on_from_a_map_with_bounds(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    config = lc.TrainConfig(holdout=0, steps=2)
    start = lc.fit("lin-act", tiny, prompts, config)
    assert start.bounds
    with pytest.raises(lc.MapError, match="trained further.*bounds='none'"):
        lc.Trainer(tiny, prompts, config, start=start)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"x": Bounds(torch.zeros(2), torch.ones(3))}, r"'x': lower .* \(2,\).* \(3,\)"),
        ({"x": Bounds(torch.zeros(3), torch.ones(3).double())}, "'x': upper is torch.float64"),
        ({"x": Bounds(torch.zeros(3), torch.tensor([1, torch.inf, 1]))}, "'x': upper .*finite"),
        ({"x": Bounds(torch.ones(3), torch.zeros(3))}, "'x': lower is above upper"),
        ({"y": Bounds(torch.zeros(3), torch.ones(3))}, "'y', which is no site"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_bounds_that_make_no_sense_are_refused(bounds: dict[str, Bounds], message: str) -> None:
    with pytest.raises(lc.MapError, match=message):
        lc.SteeringMap(random_map({"x": 3}, 0).sites, bounds=bounds)


def test_a_file_keeps_the_bounds(tmp_path: Path) -> None:
    some = bounded(0, {"a.norm": 4})
    smap = lc.SteeringMap(
        {**random_map({"b.norm": 3}, 1).sites, **some.sites}, some.info, some.bounds
    )
    path = smap.save(tmp_path / "x.safetensors")
    loaded = lc.SteeringMap.load(path)
    assert (loaded.digest(), loaded.info, list(loaded.sites)) == (
        smap.digest(), smap.info, ["b.norm", "a.norm"])  # fmt: skip
    assert loaded.digest() != lc.SteeringMap(smap.sites, smap.info).digest()
    assert list(loaded.bounds) == ["a.norm"]
    for found, wanted in zip(loaded.bounds["a.norm"], some.bounds["a.norm"], strict=True):
        assert torch.equal(found, wanted)
    assert {"a.norm.lower", "a.norm.upper"} < set(load_file(path))


def header_of(path: Path) -> dict[str, object]:
    with safe_open(path, framework="pt") as file:
        return dict(json.loads(file.metadata()["lineas"]))


def test_older_versions_read_maps_without_bounds_and_refuse_the_others(tmp_path: Path) -> None:
    """They read format 1 alone, and name the format that they refuse."""
    plain = header_of(random_map(WIDTHS, 0).save(tmp_path / "plain"))
    assert (plain["format"], "bounded" in plain) == (1, False)
    assert header_of(bounded(0).save(tmp_path / "bounded"))["format"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "1 sites have bounds in a map of format 1"),
        ({"bounded": []}, "0 sites have bounds in a map of format 2"),
        ({"bounded": ["n", "n"]}, "2 sites have bounds"),
        ({"bounded": ["m"]}, "no list of its sites"),
        ({"bounded": "n"}, "no list of its sites"),
        ({"bounded": [["n"]]}, "unhashable"),
    ],
)
def test_a_header_that_says_otherwise_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = bounded(0, {"n": 3}).save(tmp_path / "x")
    header = {k: v for k, v in header_of(path).items() if k != "digest"} | change
    tensors = load_file(path)
    header["digest"] = digest_of(header, tensors)
    save_file(tensors, path, metadata={"lineas": json.dumps(header)})
    with pytest.raises(lc.MapError, match=f"^x: .*{message}"):
        lc.SteeringMap.load(path)


def test_a_file_without_one_of_its_bounds_is_refused(tmp_path: Path) -> None:
    path = bounded(0, {"n": 3}).save(tmp_path / "x")
    tensors, header = load_file(path), header_of(path)
    del tensors["n.lower"]
    save_file(tensors, path, metadata={"lineas": json.dumps(header)})
    with pytest.raises(lc.MapError, match="^x: the tensor 'n.lower' is missing"):
        lc.SteeringMap.load(path)
