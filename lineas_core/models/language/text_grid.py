"""A grid of completions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextGrid:
    """Completions of every prompt at every strength, with the same seed along a row.

    Attributes:
        prompts: the rows.
        strengths: the columns.
        texts: `texts[row][column]`, without the prompt.
    """

    prompts: list[str]
    strengths: list[float]
    texts: list[list[str]]
