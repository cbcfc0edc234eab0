from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL.Image import Image

import lineas_core as lc
from lineas_core.activations import pooled_activations
from lineas_core.diagnostics.report import Recommendation
from lineas_core.diagnostics.strength import FLUENT, STRENGTHS, recommend_strength
from lineas_core.metrics import clip
from lineas_core.models.image.model import DiffusionModel
from lineas_core.numerics.transport import delta
from lineas_core.prompts.prompt_set import Sides
from tests.helpers.clip import save_small_clip
from tests.helpers.models import random_map
from tests.helpers.pipelines import small_sd

HELD_OUT = Sides(["abc ab", "cab", "ba ba"], ["xyz xy", "zyx", "yx yx"])
PICTURES = Sides(["ab", "cd", "ef"], ["gh", "ij", "kl"])


def towards_the_target(
    model: lc.LanguageModel, times: float, site: str = "model.layers.2.post_attention_layernorm"
) -> lc.SteeringMap:
    """A map that shifts a site by `times` the difference of the target and source means."""
    source, target = (
        pooled_activations(model, model.prepare(side), [site])[site].mean(dim=0)
        for side in (HELD_OUT.source, HELD_OUT.target)
    )
    return lc.SteeringMap({site: lc.Affine(torch.ones(16), times * (target - source))})


def by_brute_force(
    model: lc.LanguageModel, smap: lc.SteeringMap
) -> tuple[list[float], list[float]]:
    """Share of the distance closed and the perplexity ratio, at strengths 0 to 1."""
    (site, (scale, shift)), *_ = smap.sites.items()
    source = pooled_activations(model, model.prepare(HELD_OUT.source), [site])[site]
    target = pooled_activations(model, model.prepare(HELD_OUT.target), [site])[site]
    closed, perplexities = [], []
    for strength in STRENGTHS:
        moved = source + strength * ((scale - 1) * source + shift)
        closed.append(float(1 - delta(moved, target).mean() / delta(source, target).mean()))
        with lc.steer(model, [(smap, strength)]):
            perplexities.append(model.perplexity(HELD_OUT.target))
    return closed, [value / perplexities[0] for value in perplexities]


@pytest.mark.parametrize("times", [1.0, 2.0, 4.0])
def test_as_little_as_closes_nearly_all_of_the_distance(
    tiny: lc.LanguageModel, times: float
) -> None:
    smap = towards_the_target(tiny, times)
    closed, ratios = by_brute_force(tiny, smap)
    assert max(ratios) < FLUENT
    found = recommend_strength(tiny, smap, HELD_OUT)
    assert [strength for strength, _ in found.curve] == list(STRENGTHS)
    assert [gain for _, gain in found.curve] == pytest.approx(closed, abs=1e-4)
    # A shift by a times the mean difference closes 1 - (1 - a)^2 of what a shift can close.
    wanted = next(s for s in STRENGTHS if 1 - (1 - s * times) ** 2 >= 0.95)
    assert found.strength == wanted
    assert "of the way to the target" in found.reason


@pytest.mark.parametrize("times", [1.0, 2.0])
def test_strengths_that_break_the_language_do_not_count(
    tiny: lc.LanguageModel, times: float
) -> None:
    # Only the head follows the last norm, so a shift there changes the language most.
    smap = towards_the_target(tiny, times, "model.norm")
    closed, ratios = by_brute_force(tiny, smap)
    gains = dict(zip(STRENGTHS, closed, strict=True))
    allowed = [s for s, ratio in zip(STRENGTHS, ratios, strict=True) if ratio <= FLUENT]
    wanted = next(s for s in allowed if gains[s] >= 0.95 * max(gains[a] for a in allowed))
    assert wanted < next(s for s in STRENGTHS if gains[s] >= 0.95 * max(closed))
    found = recommend_strength(tiny, smap, HELD_OUT)
    assert found.strength == wanted
    assert "at no more than 1.5 times the usual perplexity" in found.reason
    assert len(found.curve) == len(STRENGTHS)


def test_no_strength_that_reads_well_is_none(tiny: lc.LanguageModel) -> None:
    smap = towards_the_target(tiny, 1.0, "model.norm")
    found = recommend_strength(tiny, smap, HELD_OUT, strengths=[0.8, 0.9])
    assert found.strength is None
    assert "1.5 times the usual perplexity" in found.reason
    assert len(found.curve) == 2


def test_batches_give_the_same_as_one(tiny: lc.LanguageModel, painter: DiffusionModel) -> None:
    strengths = (0.25, 0.5, 1.0)
    random = random_map({"unet.conv_norm_out": 8}, 1)
    for model, smap, prompts in (
        (tiny, towards_the_target(tiny, 2.0), HELD_OUT),
        (painter, random, PICTURES),
    ):
        whole = recommend_strength(model, smap, prompts, strengths=strengths, batch_size=100)
        for size in (1, 2, 7):
            parts = recommend_strength(model, smap, prompts, strengths=strengths, batch_size=size)
            assert [gain for _, gain in parts.curve] == pytest.approx(
                [gain for _, gain in whole.curve], rel=1e-3, abs=1e-4
            )


def test_pooling_is_that_of_training(tiny: lc.LanguageModel) -> None:
    smap = towards_the_target(tiny, 1.0)
    by_mean, by_last = (
        recommend_strength(tiny, smap, HELD_OUT, pooling=pooling) for pooling in ("mean", "last")
    )
    assert by_mean.curve != by_last.curve


def test_nothing_to_go_by(tiny: lc.LanguageModel) -> None:
    smap = towards_the_target(tiny, 1.0)
    for nothing in (Sides([], []), Sides(["ab"], []), Sides([], ["ab"])):
        found = recommend_strength(tiny, smap, nothing)
        assert found == Recommendation(None, (), found.reason)
        assert "holdout above 0" in found.reason
    with pytest.raises(lc.ConfigError, match="strengths is empty"):
        recommend_strength(tiny, smap, HELD_OUT, strengths=[])


def test_nothing_gained(tiny: lc.LanguageModel) -> None:
    away = towards_the_target(tiny, -1.0)
    for smap in (away, lc.SteeringMap.identity(away.widths)):
        found = recommend_strength(tiny, smap, HELD_OUT)
        assert found.strength is None
        assert "No strength brings held-out prompts closer" in found.reason
        assert max(gain for _, gain in found.curve) <= 1e-6


def test_the_strengths_to_choose_from_may_be_any(tiny: lc.LanguageModel) -> None:
    smap = towards_the_target(tiny, 2.0)
    found = recommend_strength(tiny, smap, HELD_OUT, strengths=[1.5, 0.5, 0.25, 0.5])
    assert [strength for strength, _ in found.curve] == [0.25, 0.5, 1.5]
    assert found.strength == 0.5


@pytest.fixture(scope="module")
def painter() -> DiffusionModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DiffusionModel("small", small_sd())


@pytest.fixture
def small_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the embedded CLIP with a small one."""
    monkeypatch.setitem(clip.SCORERS, "clip-emoji", save_small_clip(tmp_path / "clip"))
    monkeypatch.setattr(clip, "_loaded", {})


def style_map(painter: DiffusionModel, concept: str) -> lc.SteeringMap:
    smap = random_map({"unet.conv_norm_out": 8}, 1)
    return replace(smap, info=replace(smap.info, concept=concept))


@pytest.mark.usefixtures("small_clip")
def test_styles_are_judged_by_clip(painter: DiffusionModel) -> None:
    smap = style_map(painter, "sketch")
    strengths = (0.25, 0.5, 1.0)
    found = recommend_strength(painter, smap, PICTURES, strengths=strengths, seed=5)
    lines = PICTURES.source * 4
    scorer = clip.load_scorer(device="cpu")

    def recognised(images: list[Image]) -> float:
        return sum(
            max(PICTURES.source, key=lambda text: scorer.clip_score([image], text)[0]) == line
            for image, line in zip(images, lines, strict=True)
        )

    means, kept, subjects, plain = [], [], [], []
    for strength in (0.0, *strengths):
        images = [
            painter.generate([prompt], [(smap, strength)], seed=5 + place)[0]
            for place, prompt in enumerate(lines)
        ]
        plain = plain or images
        means.append(sum(lc.clip_score(images, "sketch", device="cpu")) / len(images))
        kept.append(sum(lc.img_score(images, plain, device="cpu")) / len(images))
        subjects.append(recognised(images))
    gains = [mean - means[0] for mean in means[1:]]
    assert [gain for _, gain in found.curve] == pytest.approx(gains, abs=1e-3)
    allowed = [
        (strength, gain, image)
        for strength, gain, image, subject in zip(
            strengths, gains, kept[1:], subjects[1:], strict=True
        )
        if image >= 0.5 and subject >= 0.9 * subjects[0]
    ]
    best = max(gain for _, gain, _ in allowed)
    assert best > 0.01
    assert found.strength == max(allowed, key=lambda row: row[1] / best + row[2])[0]
    assert "“sketch”" in found.reason
    # Pictures can be evaluated without target prompts.
    alone = Sides(PICTURES.source, [])
    assert recommend_strength(painter, smap, alone, strengths=strengths, seed=5) == found


@pytest.mark.usefixtures("small_clip")
def test_a_style_that_does_not_show_has_no_strength(painter: DiffusionModel) -> None:
    still = lc.SteeringMap.identity({"unet.conv_norm_out": 8}, lc.MapInfo(concept="sketch"))
    found = recommend_strength(painter, still, PICTURES, strengths=[0.5, 1])
    assert found.strength is None
    assert "No strength makes held-out pictures look more like “sketch”" in found.reason
    assert [gain for _, gain in found.curve] == pytest.approx([0, 0], abs=1e-6)


def test_without_a_concept_or_a_clip_images_are_judged_by_distance(
    painter: DiffusionModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    by_distance = recommend_strength(painter, style_map(painter, ""), PICTURES)
    monkeypatch.setitem(clip.SCORERS, "clip-emoji", tmp_path / "none")
    monkeypatch.setattr(clip, "_loaded", {})
    found = recommend_strength(painter, style_map(painter, "ink"), PICTURES)
    assert found == by_distance
    assert "to the target" in found.reason


@pytest.mark.thorough
@pytest.mark.embedded
def test_a_style_of_the_embedded_model_is_shown_at_a_high_strength() -> None:
    model = lc.load_model("emoji-onestep", device="cpu")
    prompts = lc.PromptSet.load("emoji-pixel-art")
    known = replace(prompts, source=prompts.source[:12], target=prompts.target[:12])
    held_out = Sides(prompts.source[12:16], prompts.target[12:16])
    config = lc.TrainConfig.for_model(model)
    found = recommend_strength(model, lc.fit("lin-act", model, known, config), held_out)
    assert found.strength is not None
    assert 0.5 <= found.strength <= 1
    assert "by clip-emoji" in found.reason
    assert dict(found.curve)[1.0] > 0.02


def test_for_lineas_plus_as_little_as_makes_held_out_targets_likely(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    config = lc.TrainConfig.for_model(tiny, "lineas+", holdout=0)
    smap = lc.fit("lineas+", tiny, prompts, config)
    one = Sides(["abc ab"], ["xyz xy", "zyx", "yx yx"])

    def loss(strength: float) -> float:
        with lc.steer(tiny, [(smap, strength)]):
            losses = tiny.token_losses([f" {text}" for text in one.target], ["abc ab"] * 3)
        return float(torch.cat(losses).mean())

    gains = [loss(0.0) - loss(strength) for strength in STRENGTHS]
    found = recommend_strength(tiny, smap, one)
    assert [gain for _, gain in found.curve] == pytest.approx(gains, abs=1e-4)
    wanted = next(s for s, g in zip(STRENGTHS, gains, strict=True) if g >= 0.95 * max(gains))
    assert (found.strength, found.measure) == (wanted, "likelihood")
    assert f"{max(gains):.2f} at best" in found.reason
    away = lc.SteeringMap(smap.inverse().sites, smap.info)
    assert recommend_strength(tiny, away, one).strength is None
