"""Calibration: the share of a map's total effect that is reached at each strength."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

from lineas_core.errors import ConfigError

MAX_POINTS = 256

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Calibration:
    """An increasing piecewise linear curve from (0, 0) to (1, 1).

    Outside [0, 1], share and strength are equal.

    Args:
        points: (strength, share) pairs, both strictly increasing.

    Raises:
        ConfigError: the points do not form such a curve.

    >>> curve = Calibration(((0.0, 0.0), (0.5, 0.2), (1.0, 1.0)))
    >>> curve.share(0.25), curve.strength(0.6), curve.strength(1.5)
    (0.1, 0.75, 1.5)
    """

    points: Points

    def __post_init__(self) -> None:
        ends = self.points[:1] + self.points[-1:]
        rising = all(a < c and b < d for (a, b), (c, d) in pairwise(self.points))
        if ends != ((0.0, 0.0), (1.0, 1.0)) or not rising or len(self.points) > MAX_POINTS:
            raise ConfigError(
                f"calibration is {self.points!r:.80}; it must be 2 to {MAX_POINTS} pairs of "
                "strength and share, both rising from 0 to 1. Measure it again."
            )

    def share(self, strength: float) -> float:
        """The share of the total change in the output that is reached at `strength`."""
        return _interpolate(self.points, strength)

    def strength(self, share: float) -> float:
        """The strength at which the output reaches `share` of its total change."""
        return _interpolate(tuple((b, a) for a, b in self.points), share)


def _interpolate(points: Points, x: float) -> float:
    if not 0 < x < 1:
        return x
    at = bisect_right(points, x, key=lambda point: point[0])
    (x0, y0), (x1, y1) = points[at - 1], points[at]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
