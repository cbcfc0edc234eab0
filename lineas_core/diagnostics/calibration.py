"""Calibration: measure the share of a map's total effect on the output at each strength.

    m(s) = mean of 1 - IMGScore(x_s, x_0)      images, over held-out prompts and their noise
    m(s) = mean of JS(p_s, p_0)                texts, over the tokens of held-out prompts
    share(s) = (1 - EVEN) * V(s) / V(1) + EVEN * s

V(s) is the total variation of m from 0 to s, so the share increases even where m decreases. The
small linear term keeps the curve strictly increasing where the output does not change, so that
every strength can be reached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from math import isfinite, log

import torch
from jaxtyping import Float
from torch import Tensor

from lineas_core.diagnostics.strength_sweep import StrengthSweep, strength_sweep
from lineas_core.maps.calibration import Calibration
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.models.image.model import DiffusionModel
from lineas_core.models.language.model import LanguageModel
from lineas_core.steering import steer

# The strengths that are measured first.
FIRST = tuple(tenth / 10 for tenth in range(11))
# In each of up to ROUNDS rounds, halve every interval that holds more than COARSE of the total
# variation, unless its halves would be narrower than NARROW.
COARSE, NARROW, ROUNDS = 0.08, 1 / 160, 4
EVEN = 0.05
# Below this total variation a map has no effect that a slider could follow.
MIN_VARIATION = 1e-5
PROMPTS = 8


def calibrate(
    model: DiffusionModel | LanguageModel,
    smap: SteeringMap,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    sweep: StrengthSweep | None = None,
) -> Calibration | None:
    """Measure how much the output changes with the strength of a map.

    Args:
        model: the model that `smap` was made for.
        smap: a map.
        prompts: source prompts not used in training. Language models use the first `PROMPTS`.
        seed: of the first picture's noise; each next picture uses the next seed.
        sweep: existing pictures of these prompts, to be reused.

    Returns:
        None if there are no prompts, no CLIP model, or the map has no effect.

    Raises:
        SiteError: the map does not fit the model.
    """
    if not prompts:
        return None
    if isinstance(model, LanguageModel):
        return curve_of(_texts(model, smap, prompts[:PROMPTS]))
    sweep = sweep or strength_sweep(model, smap, prompts, seed=seed)
    if sweep is None:
        return None
    return curve_of(lambda levels: [1 - score for score in sweep.image_scores(levels)])


def with_calibration(smap: SteeringMap, found: Calibration | None) -> SteeringMap:
    """The map with the calibration in its info, and therefore in its file."""
    if found is None:
        return smap
    return replace(smap, info=replace(smap.info, calibration=found.points))


def curve_of(measure: Callable[[Sequence[float]], Sequence[float]]) -> Calibration | None:
    """The calibration of m(s), measured at more strengths where m is steep.

    Args:
        measure: strengths in [0, 1] -> m at each. Called with a batch of strengths at a time.
    """
    found = dict(zip(FIRST, measure(FIRST), strict=True))
    for _ in range(ROUNDS):
        levels = sorted(found)
        variation = sum(abs(found[b] - found[a]) for a, b in pairwise(levels))
        halves = [
            (a + b) / 2
            for a, b in pairwise(levels)
            if abs(found[b] - found[a]) > COARSE * variation and (b - a) / 2 >= NARROW
        ]
        if not halves:
            break
        found.update(zip(halves, measure(halves), strict=True))
    return from_measurements(sorted(found.items()))


def from_measurements(measured: Sequence[tuple[float, float]]) -> Calibration | None:
    """The calibration of (strength, m) pairs from strength 0 to 1; None if m hardly changes."""
    changes = [abs(b - a) for (_, a), (_, b) in pairwise(measured)]
    total = sum(changes)
    if not isfinite(total) or total < MIN_VARIATION:
        return None
    points, variation = [(0.0, 0.0)], 0.0
    for (strength, _), change in zip(measured[1:], changes, strict=True):
        variation += change
        points.append((strength, round((1 - EVEN) * variation / total + EVEN * strength, 6)))
    points[-1] = (1.0, 1.0)
    return Calibration(tuple(points))


def _texts(
    model: LanguageModel, smap: SteeringMap, prompts: Sequence[str]
) -> Callable[[Sequence[float]], list[float]]:
    plain = model.next_token_log_probs(prompts)

    def at(strength: float) -> float:
        with steer(model, [(smap, strength)]):
            return float(jensen_shannon(model.next_token_log_probs(prompts), plain).mean())

    return lambda strengths: [at(strength) for strength in strengths]


def jensen_shannon(
    a: Float[Tensor, "n outcomes"], b: Float[Tensor, "n outcomes"]
) -> Float[Tensor, " n"]:
    """Jensen-Shannon divergence in nats, 0 to log 2, between rows of log probabilities.

    JS(p, q) = KL(p | m) / 2 + KL(q | m) / 2 with m = (p + q) / 2 (Lin, 1991).
    """
    middle = torch.logaddexp(a, b) - log(2)
    parts = [(p.exp() * (p - middle)).nan_to_num(0.0).sum(dim=-1) for p in (a, b)]
    return (parts[0] + parts[1]) / 2
