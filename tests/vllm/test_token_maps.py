"""Tokens of several requests in one row, each steered as if it were alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lineas_core as lc
from lineas_core.maps.bounds import Bounds
from lineas_core.vllm.token_maps import TokenMaps
from tests.helpers.models import random_map

WIDTH = 8
SITES = {"first_norm": WIDTH, "second_norm": WIDTH}


class FusedLayerNorm(nn.LayerNorm):
    """As vLLM's norms, it adds a residual first and puts out both."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Any:
        if residual is None:
            return super().forward(x)
        return super().forward(x + residual), x + residual


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first_norm, self.second_norm = FusedLayerNorm(WIDTH), FusedLayerNorm(WIDTH)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out, residual = self.second_norm(self.linear(self.first_norm(x)), x)
        return out + residual


def alone(layer: Layer, x: Tensor, smap: lc.SteeringMap) -> Tensor:
    """The layer's arithmetic for one map, written out."""
    (scale, shift), (scale2, shift2) = (smap.sites[name] for name in SITES)
    hidden = layer.linear(nn.functional.layer_norm(x, [WIDTH]) * scale + shift) + x
    return nn.functional.layer_norm(hidden, [WIDTH]) * scale2 + shift2 + hidden


@pytest.fixture
def layer() -> Layer:
    return Layer().requires_grad_(False)


def test_each_request_gets_its_own_maps_and_strengths(layer: Layer) -> None:
    one, two = random_map(SITES, 1), random_map(SITES, 2)
    x = torch.randn(12, WIDTH)
    untouched = layer(x)
    maps = TokenMaps(layer, {"one": one, "two": two})
    asked = [
        (("one", 0.5),),
        (),
        (("two", 1.0), ("one", -1.0)),
        (("one", 0.0),),
        (("one", 0.5),),
    ]
    with maps.steering(asked, [3, 2, 1, 1, 4]):
        steered = layer(x)
    half = one.at(0.5)
    both = lc.compose([(two, 1.0), (one, -1.0)])
    torch.testing.assert_close(steered[:3], alone(layer, x[:3], half))
    torch.testing.assert_close(steered[5:6], alone(layer, x[5:6], both))
    torch.testing.assert_close(steered[7:11], alone(layer, x[7:11], half))
    # Those that ask for nothing, strength 0, and the row behind that is padding.
    for rows in (slice(3, 5), slice(6, 7), slice(11, 12)):
        assert torch.equal(steered[rows], untouched[rows])
    assert torch.equal(layer(x), untouched)


def test_a_map_with_other_sites_stays_there(layer: Layer) -> None:
    one = random_map({"first_norm": WIDTH}, 1)
    two = random_map({"second_norm": WIDTH}, 2)
    both = lc.SteeringMap({**one.sites, **two.sites})
    x = torch.randn(4, WIDTH)
    maps = TokenMaps(layer, {"one": one, "two": two})
    with maps.steering([(("one", 1.0),), (("two", 1.0), ("one", 1.0))], [1, 3]):
        steered = layer(x)
    none = lc.SteeringMap.identity({"second_norm": WIDTH})
    only = lc.SteeringMap({**one.sites, **none.sites})
    torch.testing.assert_close(steered[:1], alone(layer, x[:1], only))
    torch.testing.assert_close(steered[1:], alone(layer, x[1:], both))


def test_heads_keep_their_tokens_first() -> None:
    norm = nn.ModuleDict({"q_norm": nn.LayerNorm(WIDTH)}).requires_grad_(False)
    smap = random_map({"q_norm": WIDTH}, 3)
    x = torch.randn(3, 2, WIDTH)
    untouched = norm["q_norm"](x)
    with TokenMaps(norm, {"a": smap}).steering([(), (("a", 1.0),)], [1, 2]):
        steered = norm["q_norm"](x)
    scale, shift = smap.sites["q_norm"]
    assert torch.equal(steered[:1], untouched[:1])
    torch.testing.assert_close(steered[1:], untouched[1:] * scale + shift)


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ({"third_norm": WIDTH}, "third_norm"),
        ({"linear": WIDTH}, "'linear' of the map 'ink' is a Linear"),
        ({"first_norm": 4}, "'first_norm' has width 8 .* and 4 in the map 'ink'"),
    ],
)
def test_maps_that_do_not_fit_are_refused(
    layer: Layer, sites: dict[str, int], message: str
) -> None:
    with pytest.raises(lc.SiteError, match=message):
        TokenMaps(layer, {"ink": random_map(sites, 0)})


def test_a_map_that_acts_within_bounds_is_refused(layer: Layer) -> None:
    bounds = {"first_norm": Bounds(torch.zeros(WIDTH), torch.ones(WIDTH))}
    with pytest.raises(lc.MapError, match=r"first_norm.*bounds='none'"):
        TokenMaps(layer, {"one": replace(random_map(SITES, 1), bounds=bounds)})
