"""Whether an image model knows a style, told before anything is trained towards it.

Training turns a model towards what it draws for the target prompts. Where it does not draw the
style for them, the distance to them closes all the same and no picture looks like the style.

Measured on emoji-onestep by clip-emoji, mean CLIPScore with the style's name over 12 prompts:

    drawn looks                0.45 for target prompts, 0.29 to 0.38 for source prompts
    artists' looks             0.43 for target prompts and 0.37 to 0.44 for source prompts: one of
                               the four draws where nothing is named
    styles that it was not     at most 0.38 (oil painting 0.28, low poly 0.35, cubism 0.37, pop
    trained on                 art 0.38), but 0.48 for origami, whose pictures the scorer, which
                               does not know it either, likes by chance

A name that holds a thing which the model draws counts as known, as "flower power" does with 0.53:
the pictures become flowers.
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

# Mean CLIPScore from which pictures look like a style's name: between 0.38, the highest but one of
# the styles that emoji-onestep does not know, and 0.43, the lowest of one that it draws.
LEVELS = {EMBEDDED_SCORER: 0.4}
# Prompts of either side that are pictured: six give the mean of twelve to within 0.01.
PICTURED = 6
# They tell nothing of the style itself.
_FILLING = frozenset(("a", "an", "and", "in", "like", "look", "of", "on", "style", "the"))


@dataclass(frozen=True)
class StyleKnowledge:
    """What a model makes of a style.

    Attributes:
        answer: known: it draws the style when asked to. already so: it draws so without being
            asked. unknown: it does not draw it. cannot tell: there is no measure for this model,
            or the prompts take the concept away.
        source: mean CLIPScore with the concept of its pictures of source prompts, if measured.
        target: the same of target prompts.
    """

    answer: Answer
    source: float | None = None
    target: float | None = None


def style_knowledge(
    model: DiffusionModel, concept: str, prompts: Sides, *, seed: int = 0
) -> StyleKnowledge:
    """Picture a few prompts of either side, and see whether they look like the concept.

    A style that the catalogue lists is known whatever is measured.

    Args:
        model: untouched.
        concept: the style in words, as "pixel art".
        prompts: without the style, and with it; the first six of either that the model reads whole.
        seed: of the first picture's noise; the next ones count on.
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
    """What the catalogue says of a style: known, or nothing."""
    return "cannot tell" if listed_style(entry, concept) is None else "known"


def listed_style(entry: CatalogEntry | None, concept: str) -> str | None:
    """The name of the catalogue's style that has the concept as one of its wordings.

    Wordings are compared by their words, in any order, without case, accents and words such as
    "style" or "the", and with "colour" and "color" as one.
    """
    asked = _words(concept)
    if entry is None or not asked:
        return None
    for name, wordings in entry.styles.items():
        if any(_words(wording) == asked for wording in wordings):
            return name
    return None


def takes_away(concept: str, prompts: Sides) -> bool:
    """Whether most source prompts, and few target prompts, name the concept: a removal."""
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
    """Names in a sentence.

    >>> named(["anime", "blueprint", "pixel art"])
    'anime, blueprint and pixel art'
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def drawn_styles(entry: CatalogEntry | None) -> list[str]:
    """The styles that a map can turn the model to, by their first wording; [] if none are known."""
    return [] if entry is None else [wordings[0] for wordings in entry.styles.values()]
