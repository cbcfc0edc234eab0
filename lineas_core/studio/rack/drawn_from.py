"""The question that a view on the page answers, embedded in the view's HTML.

It is written together with the answer, never before. The page compares it with its scene
(`scene.js`) to decide which views are current.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any, Literal

from lineas_core.studio.rack.mix import Mix


def question_of(
    mix: Mix, model: str, prompts: str, seed: float, tokens: float = 0, *, swept: int = 0
) -> list[Any]:
    """The question that a view answers: its fields, unparsed, and its maps.

    `question` in `scene.js` builds a list of the same form.

    Args:
        mix: the maps that are on.
        model: the model that they steer.
        prompts: the text of the field.
        seed: seed of the noise or the sampling.
        tokens: number of tokens of a text; 0 for pictures.
        swept: number of maps, counted from the first, whose strengths are swept and therefore left
            out of the question.
    """
    maps = [
        [row.id, None if n < swept else strength, inverse]
        for n, (row, strength, inverse) in enumerate(
            zip(mix.rows, mix.strengths, mix.inverses, strict=True)
        )
    ]
    return [model, prompts, seed, tokens, maps]


def drawn(html: str, kind: Literal["image", "text"], question: list[Any], again: str = "") -> str:
    """The HTML of a view, with the question that it answers as an attribute.

    Args:
        html: the contents of the view.
        kind: modality of its model.
        question: the question that it answers, from `question_of`.
        again: CSS selector of the button that regenerates the view, if it does not update by itself
            when the scene changes; such a view shows a notice while it is out of date.
    """
    carried = escape(json.dumps(question), quote=True)
    if not again:
        return f'<div data-kind="{kind}" data-drawn="{carried}">{html}</div>'
    return (
        f'<div data-kind="{kind}" data-drawn="{carried}" data-again="{escape(again, quote=True)}">'
        '<p class="ls-stale" role="status" hidden><span></span> '
        f'<button type="button" class="ls-again">Make it anew</button></p>{html}</div>'
    )
