"""The health report: whether a trained map has an effect, generalises and keeps the language."""

from __future__ import annotations

from typing import Any

from lineas_core.diagnostics.distance import TargetDistance
from lineas_core.diagnostics.report import HealthReport, SiteDeltas, Verdict
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.prompts.prompt_set import Sides
from lineas_core.steerable import Pooling, Steerable
from lineas_core.steering import steer
from lineas_core.training.contexts import METHOD as LIKELIHOOD_METHOD

# A map that leaves more than nine tenths of the distance, or of the perplexity of target prompts
# that it is trained to lower, has no visible effect.
LITTLE_CHANGE = 0.9
# Share of the gain on training prompts that held-out prompts must reach.
FAIR_TRANSFER = 0.3
# Largest acceptable ratio of steered to unsteered perplexity of real target prompts.
BROKEN_LANGUAGE = 3.0
COLLAPSED = (
    "The steered model no longer reads real target prompts as language. "
    "Use a smaller strength, fewer Steps or a lower Learning rate."
)


def check_health(
    model: Steerable,
    smap: SteeringMap,
    training: Sides[Any],
    held_out: Sides[Any],
    *,
    pooling: Pooling = "mean",
    batch_size: int = 32,
) -> HealthReport:
    """Measure `smap` at full strength on `training` and `held_out` prompts, a batch at a time."""
    on_training = _site_deltas(model, smap, training, pooling, batch_size)
    on_held_out, perplexity = None, None
    if held_out.source and held_out.target:
        on_held_out = _site_deltas(model, smap, held_out, pooling, batch_size)
        unsteered = model.perplexity(held_out.target)
        with steer(model, [(smap, 1.0)]):
            steered = model.perplexity(held_out.target)
        if unsteered is not None and steered is not None:
            perplexity = (unsteered, steered)
    held_out_ratio = on_held_out.ratio if on_held_out else None
    if smap.info.method == LIKELIHOOD_METHOD and perplexity:
        verdict, advice = judge_likelihood(perplexity)
    else:
        verdict, advice = judge(on_training.ratio, held_out_ratio, perplexity)
    affines = smap.sites.values()
    return HealthReport(
        training=on_training,
        held_out=on_held_out,
        support=smap.support(),
        largest_gain=max(float((a.scale - 1).abs().max()) for a in affines),
        largest_shift=max(float(a.shift.abs().max()) for a in affines),
        surprise=perplexity,
        verdict=verdict,
        advice=advice,
    )


def judge(
    training: float, held_out: float | None, perplexity: tuple[float, float] | None
) -> tuple[Verdict, str]:
    """Verdict and advice from the ratios of Delta with the map to Delta without it.

    Args:
        training: ratio on the training prompts.
        held_out: ratio on held-out prompts.
        perplexity: of real target prompts, unsteered and steered.
    """
    if perplexity and _is_broken(perplexity):
        return "collapsed", COLLAPSED
    if training > LITTLE_CHANGE:
        return "no effect", (
            "The activations hardly moved. Train for more Steps, raise the Learning rate, lower "
            "the Sparsity, or choose prompts that differ more."
        )
    if held_out is not None and 1 - held_out < FAIR_TRANSFER * (1 - training):
        return "overfitted", (
            "The map fits its own prompts and not the ones kept back. Put more and more diverse "
            "prompts into the table, or train with fewer Steps or more Sparsity."
        )
    return (
        "healthy",
        "The map moves held-out prompts to the target. Try it on a prompt of your own.",
    )


def judge_likelihood(perplexity: tuple[float, float]) -> tuple[Verdict, str]:
    """Verdict and advice on a map that is trained to make target prompts likely.

    It need not bring averages over them closer to the target, as `judge` asks.

    Args:
        perplexity: of held-out target prompts, unsteered and steered.
    """
    if _is_broken(perplexity):
        return "collapsed", COLLAPSED
    if perplexity[1] > LITTLE_CHANGE * perplexity[0]:
        return "no effect", (
            "Target prompts that were kept back are hardly likelier. Train for more Steps, lower "
            "the Sparsity, or put more and more diverse prompts into the table."
        )
    return (
        "healthy",
        "The map makes held-out target prompts likelier. Try it on a prompt of your own.",
    )


def _is_broken(perplexity: tuple[float, float]) -> bool:
    # Written with `not`, so that a perplexity of NaN counts as broken.
    return not perplexity[1] <= BROKEN_LANGUAGE * perplexity[0]


def _site_deltas(
    model: Steerable, smap: SteeringMap, prompts: Sides[Any], pooling: Pooling, batch_size: int
) -> SiteDeltas:
    distance = TargetDistance(
        model, prompts, list(smap.sites), pooling=pooling, batch_size=batch_size
    )
    return SiteDeltas(distance.plain, distance.at(smap)[0])
