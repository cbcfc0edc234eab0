"""Check whether an image model knows a style before training a map towards it.

Training steers a model towards what it draws for the target prompts. If those pictures do not show
the style, training still closes the distance to them, but no picture looks like the style.

Measured on emoji-onestep by clip-emoji, mean CLIPScore with the style's name over 12 prompts:

    drawn looks                0.45 for target prompts, 0.29 to 0.38 for source prompts
    artists' looks             0.43 for target prompts and 0.37 to 0.44 for source prompts: the
                               model uses one of the four where no style is named
    styles that it was not     at most 0.38 (oil painting 0.28, low poly 0.35, cubism 0.37, pop
    trained on                 art 0.38), but 0.48 for origami, a false positive: the scorer does
                               not know that style either

A style name that contains an object the model can draw counts as known: "flower power" scores 0.53
because the pictures become flowers.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from lineas_core.errors import ModelError
from lineas_core.metrics.clip import EMBEDDED_SCORER, clip_for
from lineas_core.models.image.model import DiffusionModel
from lineas_core.models.shared.catalog import CatalogEntry
from lineas_core.prompts.prompt_set import Sides

Answer = Literal["known", "already so", "unknown", "cannot tell"]

# Scorer -> mean CLIPScore at which pictures count as showing a style: between 0.38, the highest of
# the styles that emoji-onestep does not know except origami, and 0.43, the lowest of one it draws.
LEVELS = {EMBEDDED_SCORER: 0.4}
# Number of prompts of each side to generate: six give the mean of twelve to within 0.01.
PICTURED = 6
# Words that are ignored when comparing style names.
_FILLING = frozenset(("a", "an", "and", "in", "like", "look", "of", "on", "style", "the"))


@dataclass(frozen=True)
class StyleKnowledge:
    """Whether a model knows a style, with the scores that show it.

    Attributes:
        answer: known: it draws the style for prompts that name it. already so: it draws the style
            for source prompts too. unknown: it does not draw it. cannot tell: no scorer is
            calibrated for this model, or the prompts remove the concept.
        source: mean CLIPScore with the concept for pictures of source prompts, if measured.
        target: the same for target prompts.
    """

    answer: Answer
    source: float | None = None
    target: float | None = None


def style_knowledge(
    model: DiffusionModel, concept: str, prompts: Sides[str], *, seed: int = 0
) -> StyleKnowledge:
    """Generate a few prompts of each side and score the pictures against the concept.

    A style listed in the catalogue is never reported as unknown, whatever its score.

    Args:
        model: the untouched model.
        concept: the style in words, such as "pixel art".
        prompts: source without the style, target with it. Uses the first six of each side that
            fit the model's token limit.
        seed: of the first picture's noise; each next picture uses the next seed.
    """
    listed = listed_answer(model.entry, concept)
    if not concept.strip() or takes_away(concept, prompts):
        return StyleKnowledge("cannot tell")
    sides = [
        [prompt for prompt in side if model.reads(prompt)][:PICTURED]
        for side in (prompts.source, prompts.target)
    ]
    try:
        judge = clip_for(model.size, str(model.device))
    except ModelError:
        return StyleKnowledge(listed)
    level = LEVELS.get(judge.name)
    if level is None or not all(sides):
        return StyleKnowledge(listed)
    seeds = [seed + n for side in sides for n in range(len(side))]
    scores = judge.clip_score(model.generate([*sides[0], *sides[1]], seed=seeds), concept)
    source, target = fmean(scores[: len(sides[0])]), fmean(scores[len(sides[0]) :])
    answer: Answer = "unknown"
    if source >= level:
        answer = "already so"
    elif listed != "cannot tell":
        answer = listed
    elif target >= level:
        answer = "known"
    return StyleKnowledge(answer, source, target)


def listed_answer(entry: CatalogEntry | None, concept: str) -> Answer:
    """The catalogue's answer: "known" if it lists the style, otherwise "cannot tell"."""
    return "cannot tell" if listed_style(entry, concept) is None else "known"


def listed_style(entry: CatalogEntry | None, concept: str) -> str | None:
    """The name of the catalogue's style that has the concept as one of its wordings.

    Wordings match if they contain the same words, in any order. Case, accents and words such as
    "style" or "the" are ignored, and "colour" equals "color".
    """
    asked = _words(concept)
    if entry is None or not asked:
        return None
    for name, wordings in entry.styles.items():
        if any(_words(wording) == asked for wording in wordings):
            return name
    return None


def takes_away(concept: str, prompts: Sides[str]) -> bool:
    """Whether the prompts remove the concept: most source, but few target prompts name it."""
    asked = _words(concept)
    if not asked or not prompts.source or not prompts.target:
        return False
    source, target = (
        fmean(asked <= _words(prompt) for prompt in side)
        for side in (prompts.source, prompts.target)
    )
    return source > 0.5 > target


def _words(text: str) -> frozenset[str]:
    plain = unicodedata.normalize("NFKD", text.casefold().replace("colour", "color"))
    letters = "".join(c for c in plain if not unicodedata.combining(c))
    return frozenset(re.findall(r"\w+", letters.replace("'", "").replace("\u2019", ""))) - _FILLING


def named(names: Sequence[str]) -> str:
    """Join names for use in a sentence.

    >>> named(["anime", "blueprint", "pixel art"])
    'anime, blueprint and pixel art'
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def drawn_styles(entry: CatalogEntry | None) -> list[str]:
    """The catalogue's styles for the model, by their first wording; [] if it lists none."""
    return [] if entry is None else [wordings[0] for wordings in entry.styles.values()]
