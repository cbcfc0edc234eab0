"""What is reported of a map: its health, and the strength to start with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["no effect", "healthy", "overfitted", "collapsed", "unknown style", "already so"]


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


@dataclass(frozen=True)
class Recommendation:
    """A strength, and what it rests on.

    Attributes:
        strength: to start with; None where there is nothing to go by.
        curve: (strength, gain) pairs, from the lowest strength to the highest. The gain over
            strength 0 is that in mean CLIPScore, or the share of the distance to the target
            (Delta) that is closed, as `measure` says.
        reason: in a sentence.
        measure: what the gains are of; "" where there are none.
    """

    strength: float | None
    curve: tuple[tuple[float, float], ...]
    reason: str
    measure: Literal["", "CLIPScore", "distance"] = ""
