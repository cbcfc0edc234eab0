"""What is reported about a map: its health and a recommended strength."""

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
        """Delta with the map divided by Delta without it, summed over sites; 0 if perfect."""
        before = sum(self.before.values())
        return sum(self.after.values()) / before if before else 1.0


@dataclass(frozen=True)
class HealthReport:
    """The effect of a map on its training prompts and on held-out prompts.

    Attributes:
        training: Delta on the training prompts.
        held_out: Delta on the held-out prompts; None if there are none.
        support: share of coordinates that the map changes.
        largest_gain: the largest |w - 1|.
        largest_shift: the largest |b|.
        surprise: perplexity of the held-out target prompts with the map off and on; None for
            images, or without held-out prompts. Reports are stored under this name.
        verdict: in one or two words.
        advice: one or two sentences.
        style_gain: the largest gain of held-out pictures in mean CLIPScore with the concept, over
            strengths; None if not measured.
        copies: share of completions, at the recommended strength, that repeat five words in a row
            of a training prompt; None if not measured.
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
    copies: float | None = None


@dataclass(frozen=True)
class Recommendation:
    """A recommended strength, with the measurements it is based on.

    Attributes:
        strength: the strength to start with; None if none can be recommended.
        curve: (strength, gain) pairs, in increasing order of strength. The gain over strength 0
            is in mean CLIPScore, the share of the distance to the target (Delta) that is closed, or
            nats per token of target prompts, depending on `measure`.
        reason: one sentence.
        measure: what the gains measure; "" if there are none.
    """

    strength: float | None
    curve: tuple[tuple[float, float], ...]
    reason: str
    measure: Literal["", "CLIPScore", "distance", "likelihood"] = ""
