from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

import lineas_core as lc
from lineas_core.diagnostics.report import HealthReport, SiteDeltas
from lineas_core.maps.steering_map import Affine
from lineas_core.studio.views.charts import (
    TEXT,
    compare_maps,
    deltas_by_layer,
    loss_curve,
    scale_and_shift,
    strongest_neurons,
    support_by_layer,
)
from lineas_core.studio.views.site_labels import site_labels
from tests.helpers.models import random_map

LAYER = "model.layers.{}.post_attention_layernorm"


def sparse_map(sites: int, width: int = 50, seed: int = 0) -> lc.SteeringMap:
    """At site i, i of its neurons are changed in scale, and the next one in shift."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for i in range(sites):
        scale, shift = torch.ones(width), torch.zeros(width)
        scale[:i] += torch.randn(len(scale[:i]), generator=generator)
        shift[i] = 1.0 + i
        found[LAYER.format(i)] = Affine(scale, shift)
    return lc.SteeringMap(found)


def report(before: Sequence[float], after: Sequence[float], held_out: bool) -> HealthReport:
    names = [LAYER.format(i) for i in range(len(before))]
    deltas = SiteDeltas(dict(zip(names, before, strict=True)), dict(zip(names, after, strict=True)))
    other = SiteDeltas(dict.fromkeys(names, 7.0), dict.fromkeys(names, 7.0))
    return HealthReport(
        training=other if held_out else deltas,
        held_out=deltas if held_out else None,
        support=1.0,
        largest_gain=0.0,
        largest_shift=0.0,
        surprise=None,
        verdict="healthy",
        advice="",
    )


def drawn(figure: go.Figure) -> list[dict]:
    """The traces as the browser gets them."""
    traces: list[dict] = json.loads(figure.to_json(engine="json"))["data"]
    for trace in traces:
        for key in ("x", "y", "base"):
            if isinstance(trace.get(key), dict):
                kind = np.dtype(trace[key]["dtype"])
                trace[key] = np.frombuffer(base64.b64decode(trace[key]["bdata"]), kind).tolist()
    return traces


def test_labels_tell_layers_and_kinds() -> None:
    layers = [f"model.layers.{i}.{kind}_layernorm" for i in (0, 1) for kind in ("input", "q")]
    assert site_labels([LAYER.format(i) for i in (3, 12)]) == ["layer 3", "layer 12"]
    assert site_labels(layers)[0] == "layer 0 in norm"
    assert site_labels([LAYER.format(0), "model.norm"]) == ["layer 0 post norm", "norm"]
    assert site_labels(["transformer.h.2.ln_1", "transformer.h.2.ln_2"]) == [
        "layer 2 norm 1",
        "layer 2 norm 2",
    ]
    assert site_labels(
        ["text_encoder.text_model.encoder.layers.3.layer_norm1", "unet.mid_block.resnets.0.norm1"]
    ) == ["text 3 norm", "mid res norm"]
    assert site_labels(["odd"]) == ["odd"]
    assert site_labels(["model"]) == ["model"]
    assert site_labels([]) == []


def test_every_label_is_of_one_site() -> None:
    inner = [
        f"{block}.{part}"
        for block in ("down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.0")
        for part in (
            *(f"attentions.{a}.norm" for a in range(2)),
            *(
                f"attentions.{a}.transformer_blocks.{t}.norm{k}"
                for a in range(2)
                for t in range(3)
                for k in (1, 2, 3)
            ),
            *(f"resnets.{r}.norm{k}" for r in range(2) for k in (1, 2)),
        )
    ]
    flux = [
        f"transformer.transformer_blocks.{b}.{kind}"
        for b in range(2)
        for kind in ("norm1", "norm1_context", "norm2", "norm2_context")
    ] + [f"transformer.single_transformer_blocks.{b}.norm" for b in range(2)]
    encoders = [
        f"text_encoder{which}.text_model.encoder.layers.{i}.layer_norm{k}"
        for which in ("", "_2")
        for i in range(3)
        for k in (1, 2)
    ]
    t5 = [f"text_encoder_2.encoder.block.{b}.layer.{i}.layer_norm" for b in (0, 1) for i in (0, 1)]
    # What the rules cannot tell apart goes by its whole name.
    alike = ["a.layer_norm", "a.group_norm", "a.norm"]
    for names in ([*(f"unet.{name}" for name in inner), *encoders], [*flux, *t5], alike):
        labels = site_labels(names)
        assert len(set(labels)) == len(names)
        assert max(map(len, labels)) <= 31
    assert site_labels(alike) == alike


def test_names_of_sites_are_text() -> None:
    [bars] = support_by_layer(random_map({"<b>odd</b>": 4}, 0)).data
    assert [html.unescape(label) for label in bars.x] == ["<b>odd</b>"]
    assert not any("<" in label for label in bars.x)


def test_support_is_the_share_of_changed_neurons() -> None:
    (bars,) = drawn(support_by_layer(sparse_map(4)))
    assert bars["x"] == ["layer 0", "layer 1", "layer 2", "layer 3"]
    assert bars["y"] == pytest.approx([1 / 50, 2 / 50, 3 / 50, 4 / 50])


def test_bands_are_quantiles_of_what_is_changed() -> None:
    smap = sparse_map(3, width=50)
    wide, narrow, median, *shifts = drawn(scale_and_shift(smap))
    for site in range(3):
        values = [float(z) for z in smap.sites[LAYER.format(site)].scale - 1 if z != 0]
        for bar, low, high in ((wide, 5, 95), (narrow, 25, 75)):
            if not values:
                assert bar["base"][site] is None
                assert bar["y"][site] is None
                continue
            bottom, top = np.percentile(values, [low, high])
            assert bar["base"][site] == pytest.approx(bottom, abs=1e-6)
            assert bar["base"][site] + bar["y"][site] == pytest.approx(top, abs=1e-6)
        assert median["y"][site] == (pytest.approx(np.median(values), abs=1e-6) if values else None)
    assert shifts[2]["y"] == [1.0, 2.0, 3.0]


def test_the_strongest_neurons_come_first() -> None:
    smap = random_map({"a": 30, "b": 20}, 0)
    table = strongest_neurons(smap, 7)
    everything = sorted(
        (
            (float(((w - 1) ** 2 + b**2) ** 0.5), name, i)
            for name, affine in smap.sites.items()
            for i, (w, b) in enumerate(zip(*affine, strict=True))
        ),
        reverse=True,
    )
    assert list(zip(table["site"], table["neuron"], strict=True)) == [
        (name, i) for _, name, i in everything[:7]
    ]
    assert table["effect"].tolist() == pytest.approx([e for e, _, _ in everything[:7]], rel=1e-5)
    row = table.iloc[0]
    assert row["scale"] == float(smap.sites[row["site"]].scale[row["neuron"]])
    assert row["shift"] == float(smap.sites[row["site"]].shift[row["neuron"]])


def test_neurons_that_are_not_changed_are_not_listed() -> None:
    assert len(strongest_neurons(sparse_map(2), 20)) == 1 + 2
    assert strongest_neurons(lc.SteeringMap.identity({"a": 4})).empty
    assert list(strongest_neurons(sparse_map(2), 0).columns) == [
        "site", "neuron", "scale", "shift", "effect",
    ]  # fmt: skip


@pytest.mark.parametrize(("held_out", "word"), [(True, "held-out"), (False, "training")])
def test_distances_are_of_held_out_prompts_where_there_are_some(held_out: bool, word: str) -> None:
    figure = deltas_by_layer(report([2.0, 0.0], [0.5, 0.25], held_out))
    off, on = drawn(figure)
    assert off["y"] == [2.0, None]
    assert on["y"] == [0.5, 0.25]
    assert word in figure.layout.title.text


@pytest.mark.parametrize(
    ("before", "after"), [(0.034, 0.025), (0.3, 0.3), (1e-9, 1.0), (0.0, 0.0), (150.0, 40.0)]
)
def test_a_distance_has_a_tick_near_it(before: float, after: float) -> None:
    axis = deltas_by_layer(report([before], [after], True)).layout.yaxis
    low, high = axis.range
    every = [1, 2, 5] if axis.dtick == "D2" else [1]
    ticks = [np.log10(d) + power for power in range(-12, 4) for d in every]
    assert sum(low <= tick <= high for tick in ticks) >= 1
    for value in (before, after):
        assert value == 0 or low < np.log10(value) < high


def test_loss_and_support_by_step() -> None:
    loss, support = drawn(loss_curve([3.0, 2.0, 1.5], [1.0, 0.5, 0.25]))
    assert loss["x"] == support["x"] == [1, 2, 3]
    assert loss["y"] == [3.0, 2.0, 1.5]
    assert support["y"] == [1.0, 0.5, 0.25]
    assert loss["yaxis"] != support["yaxis"]
    (alone,) = drawn(loss_curve([3.0]))
    assert alone["mode"] == "markers"
    assert drawn(loss_curve([])) == []


def test_a_map_is_like_itself_and_unlike_its_opposite() -> None:
    smap = random_map({LAYER.format(i): 8 for i in range(3)}, 0)
    same = compare_maps(smap, smap)
    assert same.cosine == pytest.approx(1)
    assert same.overlap == 1
    opposite = compare_maps(smap, smap.at(-1.0))
    assert opposite.cosine == pytest.approx(-1)
    assert "cosine of -1.00" in opposite.words
    assert "both change 100%" in opposite.words


def test_two_maps_are_compared_site_by_site() -> None:
    a, b = random_map({"a": 8, "b": 8, "c": 4}, 1), random_map({"b": 8, "a": 8}, 2)
    cosines, overlaps = drawn(compare_maps(a, b).figure)
    for site, cosine in zip(("a", "b"), cosines["y"], strict=True):
        expected = torch.cosine_similarity(a.sites[site].shift, b.sites[site].shift, dim=0)
        assert cosine == pytest.approx(float(expected), abs=1e-5)
    assert overlaps["y"] == [1.0, 1.0]
    assert "2 sites in common, of 3 in one and 2 in the other" in compare_maps(a, b).words
    # Support {0, 1} and {1, 2, 3} at one site: one neuron of four.
    ones = torch.ones(5)
    left = lc.SteeringMap({"n": Affine(ones, torch.tensor([1.0, 1, 0, 0, 0]))})
    right = lc.SteeringMap({"n": Affine(torch.tensor([1.0, 2, 2, 2, 1]), torch.zeros(5))})
    found = compare_maps(left, right)
    assert found.overlap == 0.25
    assert found.cosine is None
    assert found.words == (
        "One of the maps shifts nothing. Of the neurons that either changes, both change 25%."
    )
    nothing = compare_maps(lc.SteeringMap.identity({"n": 5}), lc.SteeringMap.identity({"n": 5}))
    assert nothing.overlap is None
    assert "Neither changes a neuron" in nothing.words


def test_maps_of_other_models_are_not_compared() -> None:
    with pytest.raises(lc.MapError, match="do not have a site in common"):
        compare_maps(random_map({"a": 3}, 0), random_map({"b": 3}, 0))
    with pytest.raises(lc.MapError, match="do not have site 'a' in one width"):
        compare_maps(random_map({"a": 3}, 0), random_map({"a": 4}, 0))


def of_a_map(sites: int) -> list[go.Figure]:
    smap, other = sparse_map(sites, 120), sparse_map(sites, 120, seed=1)
    deltas = [1.0 + i for i in range(sites)]
    return [
        support_by_layer(smap),
        scale_and_shift(smap),
        deltas_by_layer(report(deltas, deltas, True)),
        compare_maps(smap, other).figure,
        loss_curve(deltas, [0.5] * sites),
    ]


@pytest.mark.parametrize("sites", [1, 2, 100])
def test_figures_are_light_named_and_of_either_theme(sites: int) -> None:
    for figure in of_a_map(sites):
        layout = figure.layout
        assert layout.title.text
        assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0,0,0,0)"
        assert layout.font.color == TEXT
        assert len(figure.to_json()) < 60_000


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("background", ["#ffffff", "#0b0f19"])
def test_text_is_legible_on_light_and_on_dark(background: str) -> None:
    dark, light = sorted(map(luminance, (TEXT, background)))
    assert (light + 0.05) / (dark + 0.05) > 4
