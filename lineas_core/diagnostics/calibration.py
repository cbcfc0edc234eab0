"""Calibration: which share of its whole way the output has gone at each strength of a map.

    m(s) = mean of 1 - IMGScore(x_s, x_0)      images, over held-out prompts and their noise
    m(s) = mean of JS(p_s, p_0)                texts, over the tokens of held-out prompts
    share(s) = (1 - EVEN) * V(s) / V(1) + EVEN * s

where V(s) is the total variation of m from 0 to s, so that a curve which falls again is still
followed, and the small linear part keeps every strength within reach where the output rests.
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

FIRST = tuple(tenth / 10 for tenth in range(11))
# An interval that holds more of the whole way is halved, as long as it is not narrower than that.
COARSE, NARROW, ROUNDS = 0.08, 1 / 160, 4
EVEN = 0.05
# A map that moves the output less than that does nothing that a handle could follow.
LEAST_WAY = 1e-5
PROMPTS = 8


def calibrate(
    model: DiffusionModel | LanguageModel,
    smap: SteeringMap,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    sweep: StrengthSweep | None = None,
) -> Calibration | None:
    """Measure how far the output moves over the strength of a map.

    Args:
        model: the one that `smap` was made for.
        smap: a map.
        prompts: source prompts that no training has seen; some of them are read.
        seed: of the first picture's noise; the next ones count on.
        sweep: pictures of these prompts that there are already.

    Returns:
        None where there is nothing to measure by: no prompts, no CLIP, or a map without effect.

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
    """The map with that calibration in its info, and so in its file."""
    if found is None:
        return smap
    return replace(smap, info=replace(smap.info, calibration=found.points))


def curve_of(measure: Callable[[Sequence[float]], Sequence[float]]) -> Calibration | None:
    """The calibration of m(s), measured where it is steep a batch of strengths at a time.

    Args:
        measure: strengths in [0, 1] -> how far the output is from the untouched one at each.
    """
    found = dict(zip(FIRST, measure(FIRST), strict=True))
    for _ in range(ROUNDS):
        levels = sorted(found)
        way = sum(abs(found[b] - found[a]) for a, b in pairwise(levels))
        halves = [
            (a + b) / 2
            for a, b in pairwise(levels)
            if abs(found[b] - found[a]) > COARSE * way and (b - a) / 2 >= NARROW
        ]
        if not halves:
            break
        found.update(zip(halves, measure(halves), strict=True))
    return from_way(sorted(found.items()))


def from_way(way: Sequence[tuple[float, float]]) -> Calibration | None:
    """The calibration of (strength, m) pairs from strength 0 to 1; None where m hardly moves."""
    steps = [abs(b - a) for (_, a), (_, b) in pairwise(way)]
    whole = sum(steps)
    if not isfinite(whole) or whole < LEAST_WAY:
        return None
    points, gone = [(0.0, 0.0)], 0.0
    for (strength, _), step in zip(way[1:], steps, strict=True):
        gone += step
        points.append((strength, round((1 - EVEN) * gone / whole + EVEN * strength, 6)))
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
    """Jensen-Shannon divergence in nats, 0 to log 2, of distributions given as log probabilities.

    JS(p, q) = KL(p | m) / 2 + KL(q | m) / 2 with m = (p + q) / 2 (Lin, 1991).
    """
    middle = torch.logaddexp(a, b) - log(2)
    parts = [(p.exp() * (p - middle)).nan_to_num(0.0).sum(dim=-1) for p in (a, b)]
    return (parts[0] + parts[1]) / 2
