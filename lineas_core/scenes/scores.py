"""The scores of an image grid, cell by cell."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GridScores:
    """Scores of every cell of a grid. Scores of different scorers are not comparable.

    Attributes:
        scorer: the CLIP model that computed them.
        style: the text that CLIPScore compares with.
        clip: `clip[row][column]`, CLIPScore.
        image: `image[row][column]`, IMGScore against strength 0 of the same row.
    """

    scorer: str
    style: str
    clip: list[list[float]]
    image: list[list[float]]
