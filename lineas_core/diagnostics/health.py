"""The health report: whether a trained map does something, and whether it is any good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lineas_core.diagnostics.distance import TargetDistance
from lineas_core.diagnostics.strength import LEAST_GAIN, Recommendation
from lineas_core.diagnostics.style_knowledge import StyleKnowledge, named
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.prompts.prompt_set import Sides
from lineas_core.steerable import Pooling, Steerable
from lineas_core.steering import steer

Verdict = Literal["no effect", "healthy", "overfitted", "collapsed", "unknown style", "already so"]

# A map that leaves nine tenths of the distance has not moved the model anywhere a person sees.
LITTLE_CHANGE = 0.9
# Share of the training gain that must show on held-out prompts.
FAIR_TRANSFER = 0.3
# Gain in CLIPScore on held-out prompts that is seen at a glance.
CLEAR_GAIN = 0.05
# The steered model must not be this many times more surprised by real target prompts.
BROKEN_LANGUAGE = 3.0


@dataclass(frozen=True)
class SiteDeltas:
    """Mean Delta over coordinates at each site, with the map off and on."""

    before: Mapping[str, float]
    after: Mapping[str, float]

    @property
    def ratio(self) -> float:
        """Delta with the map over Delta without it, summed over sites; 0 is a perfect map."""
        before = sum(self.before.values())
        return sum(self.after.values()) / before if before else 1.0


@dataclass(frozen=True)
class HealthReport:
    """What a map does to the prompts it was trained on, and to others.

    Attributes:
        training: Delta on the training prompts.
        held_out: Delta on the held-out prompts; None where none were kept back.
        support: share of coordinates that the map changes.
        largest_gain: the largest |w - 1|.
        largest_shift: the largest |b|.
        surprise: perplexity of the held-out target prompts with the map off and on; None for
            images, or where none were kept back.
        verdict: in a word or two.
        advice: in a sentence.
        style_gain: the largest gain of held-out pictures in mean CLIPScore with the concept, over
            strengths; None where that was not measured.
    """

    training: SiteDeltas
    held_out: SiteDeltas | None
    support: float
    largest_gain: float
    largest_shift: float
    surprise: tuple[float, float] | None
    verdict: Verdict
    advice: str
    style_gain: float | None = None


def check_health(
    model: Steerable,
    smap: SteeringMap,
    training: Sides,
    held_out: Sides,
    *,
    pooling: Pooling = "mean",
    batch_size: int = 32,
) -> HealthReport:
    """Measure `smap` at full strength on `training` and `held_out` prompts, a batch at a time."""
    on_training = _site_deltas(model, smap, training, pooling, batch_size)
    on_held_out, surprise = None, None
    if held_out.source and held_out.target:
        on_held_out = _site_deltas(model, smap, held_out, pooling, batch_size)
        unsteered = model.surprise(held_out.target)
        with steer(model, [(smap, 1.0)]):
            steered = model.surprise(held_out.target)
        if unsteered is not None and steered is not None:
            surprise = (unsteered, steered)
    verdict, advice = judge(on_training.ratio, on_held_out.ratio if on_held_out else None, surprise)
    affines = smap.sites.values()
    return HealthReport(
        training=on_training,
        held_out=on_held_out,
        support=smap.support(),
        largest_gain=max(float((a.scale - 1).abs().max()) for a in affines),
        largest_shift=max(float(a.shift.abs().max()) for a in affines),
        surprise=surprise,
        verdict=verdict,
        advice=advice,
    )


def judge(
    training: float, held_out: float | None, surprise: tuple[float, float] | None
) -> tuple[Verdict, str]:
    """Verdict and advice from the ratios of Delta with the map to Delta without it.

    Args:
        training: ratio on the training prompts.
        held_out: ratio on held-out prompts.
        surprise: perplexity of real target prompts, unsteered and steered.
    """
    if surprise and not surprise[1] <= BROKEN_LANGUAGE * surprise[0]:
        return "collapsed", (
            "The steered model no longer reads real target prompts as language. "
            "Use a smaller strength, fewer Steps or a lower Learning rate."
        )
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


def with_style(
    report: HealthReport,
    concept: str,
    recommended: Recommendation,
    knowledge: StyleKnowledge,
    styles: Sequence[str] = (),
) -> HealthReport:
    """The report, with what the pictures say of the style beside what the distances say.

    A map is healthy only if both agree. A map that fits its own prompts better is healthy all the
    same where pictures of held-out prompts clearly gain: the distance of a few prompts is noisy.
    Other verdicts stay: they name what is to be mended first.

    Args:
        report: from `check_health`.
        concept: the style's name.
        recommended: on held-out prompts; only gains in CLIPScore say anything of a style.
        knowledge: what the untouched model makes of the style.
        styles: names of those that it draws, for the advice.
    """
    if recommended.measure != "CLIPScore":
        return report
    gain = max(gain for _, gain in recommended.curve)
    report = replace(report, style_gain=gain)
    kept = recommended.strength is not None
    if report.verdict == "overfitted" and kept and gain >= CLEAR_GAIN:
        report = replace(report, verdict="healthy", advice=(
            f"Pictures of held-out prompts look more like “{concept}”, by {gain:.2f} in CLIPScore, "
            "though their activations stay farther from the target than those of the training "
            "prompts. Try it on a prompt of your own."
        ))  # fmt: skip
    if report.verdict != "healthy":
        return report
    verdict: Verdict
    if knowledge.answer == "already so":
        verdict, advice = (
            "already so",
            (f"The model draws “{concept}” without any map, so that there is nothing to add. "),
        )
    elif knowledge.answer == "unknown":
        verdict, advice = (
            "unknown style",
            (
                "The map does what it was trained to do, but even what the model draws for the "
                f"target prompts does not look like “{concept}”. "
            ),
        )
    elif gain < LEAST_GAIN:
        return replace(report, verdict="no effect", advice=(
            "The activations come closer to the target, and no strength makes the pictures look "
            f"more like “{concept}”. Train for more Steps, raise the Learning rate, or put prompts "
            "into the table that show it more clearly."
        ))  # fmt: skip
    elif recommended.strength is None:
        return replace(report, verdict="collapsed", advice=(
            f"The pictures look like “{concept}” only where they lose what they show. Train with "
            "fewer Steps or a lower Learning rate."
        ))  # fmt: skip
    else:
        return report
    known = f"It knows {named(styles)}." if styles else "Choose another style, or another model."
    return replace(report, verdict=verdict, advice=advice + known)


def _site_deltas(
    model: Steerable, smap: SteeringMap, prompts: Sides, pooling: Pooling, batch_size: int
) -> SiteDeltas:
    distance = TargetDistance(
        model, prompts, list(smap.sites), pooling=pooling, batch_size=batch_size
    )
    return SiteDeltas(distance.plain, distance.at(smap)[0])
