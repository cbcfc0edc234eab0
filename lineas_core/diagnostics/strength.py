"""Recommend a strength that gains much of a map's effect at little cost in quality."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lineas_core.diagnostics.distance import TargetDistance
from lineas_core.diagnostics.likelihood import TargetLikelihood
from lineas_core.diagnostics.report import Recommendation
from lineas_core.diagnostics.strength_sweep import StrengthSweep, strength_sweep
from lineas_core.errors import ConfigError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.metrics.clip import ClipScorer
from lineas_core.models.image.model import DiffusionModel
from lineas_core.prompts.prompt_set import Sides
from lineas_core.steerable import Pooling, Steerable
from lineas_core.steering import steer
from lineas_core.training.contexts import METHOD as LIKELIHOOD_METHOD

STRENGTHS = tuple(tenth / 10 for tenth in range(11))
# A strength must reach this share of the best gain in distance closed, or in likelihood.
NEARLY_ALL = 0.95
# A best gain below this, in CLIPScore, distance closed or nats per token, is within chance.
MIN_GAIN = 0.01
# Lower limits for pictures: the mean IMGScore, and the ratio of subjects that CLIP recognises with
# the map to those it recognises without.
MIN_IMAGE_SCORE, MIN_RECOGNISED = 0.5, 0.9
# Largest acceptable ratio of steered to unsteered perplexity of real target prompts.
FLUENT = 1.5


def recommend_strength(
    model: Steerable,
    smap: SteeringMap,
    prompts: Sides[Any],
    *,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    pooling: Pooling = "mean",
    batch_size: int = 32,
    sweep: StrengthSweep | None = None,
) -> Recommendation:
    """Recommend a strength for a map, measured on held-out prompts.

    If a map for images names a concept, `prompts` are texts and a CLIP model can be loaded, style
    is traded against image content. Pictures of the source prompts are generated at every strength;
    G is the gain in mean CLIPScore with the concept, I the mean IMGScore. A strength is eligible if
    I >= 0.5 and the CLIP matches pictures to their own prompts at least 0.9 times as often as
    without the map, that is, if the subject is still recognisable. The eligible strength with the
    highest

        G / (the highest G) - (1 - I)

    is chosen, so that a small gain in style does not cost much of the image.

    In all other cases, the smallest strength that gains 95 % of the best gain is chosen. For a map
    of LinEAS+ the gain is the decrease of the mean next-token loss of target prompts. For others it
    is the share of Delta, summed over sites, that the map closes between source and target,
    `1 - Delta_s / Delta_0`. For a language model, a strength is then eligible if the perplexity of
    the target prompts is at most 1.5 times that of the untouched model.

    Args:
        model: the model that `smap` was made for.
        smap: a trained map.
        prompts: prompts, or pictures of an `ImageSet`, not used in training.
        strengths: to choose from.
        seed: of the first picture's noise; each next picture uses the next seed.
        pooling: the same as in training; see `pool`.
        batch_size: prompts per forward pass.
        sweep: existing pictures of the source prompts, to be reused.

    Raises:
        ConfigError: there are no strengths.
        SiteError: the map does not fit the model.
    """
    if not strengths:
        raise ConfigError("strengths is empty; give one or more to choose from.")
    levels = sorted({float(strength) for strength in strengths})
    texts = all(isinstance(sample, str) for sample in prompts.source)
    if isinstance(model, DiffusionModel) and texts and (concept := smap.info.concept):
        sweep = sweep or strength_sweep(model, smap, prompts.source, seed=seed)
        if sweep:
            return _by_clip(sweep, levels, concept)
    if prompts.source and prompts.target and smap.info.method == LIKELIHOOD_METHOD:
        return _by_likelihood(model, smap, prompts, levels, batch_size)
    if prompts.source and prompts.target:
        return _by_distance(model, smap, prompts, levels, pooling, batch_size)
    return Recommendation(
        None, (), "No prompts were held out to judge by. Train with a holdout above 0."
    )


def _by_clip(sweep: StrengthSweep, levels: Sequence[float], concept: str) -> Recommendation:
    judge = sweep.judge
    style = judge.text_embeddings([concept])[0]
    plain, *columns = sweep.embeddings([0.0, *levels])
    before = float((plain @ style).mean())
    curve = tuple(
        (level, float((z @ style).mean()) - before)
        for level, z in zip(levels, columns, strict=True)
    )
    images = dict(zip(levels, sweep.image_scores(levels), strict=True))
    usual = _recognised(judge, plain, sweep.lines)
    recognised = {
        level: _recognised(judge, z, sweep.lines) for level, z in zip(levels, columns, strict=True)
    }
    eligible = [
        (level, gain)
        for level, gain in curve
        if images[level] >= MIN_IMAGE_SCORE and recognised[level] >= MIN_RECOGNISED * usual
    ]
    best = max((gain for _, gain in eligible), default=0.0)
    if best < MIN_GAIN:
        lost = max(gain for _, gain in curve) >= MIN_GAIN
        return Recommendation(
            None,
            curve,
            f"No strength makes held-out pictures look more like “{concept}”"
            + (" and keeps what they show." if lost else "."),
            "CLIPScore",
        )
    strength, gain = max(eligible, key=lambda point: point[1] / best + images[point[0]])
    return Recommendation(
        strength,
        curve,
        f"Held-out pictures gain {gain:.2f} in CLIPScore with “{concept}” and keep an IMGScore of "
        f"{images[strength]:.2f}; what they show is told {recognised[strength]:.0%} of the time, "
        f"{usual:.0%} without the map (by {judge.name}).",
        "CLIPScore",
    )


def _recognised(judge: ClipScorer, images: Float[Tensor, "n d"], lines: Sequence[str]) -> float:
    """Share of pictures that are closer to their own prompt than to every other one."""
    texts = list(dict.fromkeys(lines))
    nearest = (images @ judge.text_embeddings(texts).T).argmax(dim=1).tolist()
    return fmean(texts[near] == line for near, line in zip(nearest, lines, strict=True))


def _by_likelihood(
    model: Steerable,
    smap: SteeringMap,
    prompts: Sides[Any],
    levels: Sequence[float],
    batch_size: int,
) -> Recommendation:
    target = TargetLikelihood(model, prompts, batch_size=batch_size)
    before = target.loss(smap, 0.0)
    curve = tuple((level, before - target.loss(smap, level)) for level in levels)
    best = max(gain for _, gain in curve)
    # Written with `not`, so that a gain of NaN is none.
    if not best >= MIN_GAIN:
        return Recommendation(
            None, curve, "No strength makes held-out target prompts likelier.", "likelihood"
        )
    strength, gain = next(point for point in curve if point[1] >= NEARLY_ALL * best)
    return Recommendation(
        strength,
        curve,
        f"Held-out target prompts gain {gain:.2f} nats a token, of {best:.2f} at best.",
        "likelihood",
    )


def _by_distance(
    model: Steerable,
    smap: SteeringMap,
    prompts: Sides[Any],
    levels: Sequence[float],
    pooling: Pooling,
    batch_size: int,
) -> Recommendation:
    distance = TargetDistance(
        model, prompts, list(smap.sites), pooling=pooling, batch_size=batch_size
    )
    gains = [1 - left for left in distance.left(smap, levels)]
    curve = tuple(zip(levels, gains, strict=True))
    unsteered = model.perplexity(prompts.target)
    refused: set[float] = set()

    def is_fluent(point: tuple[float, float]) -> bool:
        if unsteered is None:
            return True
        with steer(model, [(smap, point[0])]):
            perplexity = model.perplexity(prompts.target)
        # The perplexity of a broken model may be NaN, which compares false.
        fluent = perplexity is not None and perplexity <= FLUENT * unsteered
        if not fluent:
            refused.add(point[0])
        return fluent

    def proviso() -> str:
        return f" at no more than {FLUENT:g} times the usual perplexity" if refused else ""

    # Check from the best down, so that perplexity is measured at few strengths.
    ranked = sorted(curve, key=lambda point: point[1], reverse=True)
    gaining = [point for point in ranked if point[1] >= MIN_GAIN]
    best = next((point for point in gaining if is_fluent(point)), None)
    if best is None:
        return Recommendation(
            None,
            curve,
            f"No strength brings held-out prompts closer to the target{proviso()}.",
            "distance",
        )
    found = next(
        point
        for point in curve
        if point[1] >= NEARLY_ALL * best[1]
        and (point == best or (point[0] not in refused and is_fluent(point)))
    )
    return Recommendation(
        found[0],
        curve,
        f"Held-out prompts come {found[1]:.0%} of the way to the target, of {best[1]:.0%} at "
        f"best{proviso()}.",
        "distance",
    )
