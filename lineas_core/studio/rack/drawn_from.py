"""What a view on the page was drawn from: written into it with the answer, never before.

The page compares it with its scene (`scene.js`), and so knows which views are current.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any, Literal

from lineas_core.studio.rack.mix import Mix


def question_of(
    mix: Mix, model: str, prompts: str, seed: float, tokens: float = 0, *, swept: int = 0
) -> list[Any]:
    """What a view answers, as the page writes it too: its fields as they stand, and its maps.

    Args:
        mix: the maps that are on.
        model: that they are put on.
        prompts: the text of the field.
        seed: of the noise or the sampling.
        tokens: of a text; 0 of pictures.
        swept: maps, from the first on, whose strengths are no part of it.
    """
    maps = [
        [row.id, None if n < swept else strength, inverse]
        for n, (row, strength, inverse) in enumerate(
            zip(mix.rows, mix.strengths, mix.inverses, strict=True)
        )
    ]
    return [model, prompts, seed, tokens, maps]


def drawn(html: str, kind: Literal["image", "text"], question: list[Any], again: str = "") -> str:
    """A view that carries what it was drawn from.

    Args:
        html: what it shows.
        kind: of its model.
        question: what it answers.
        again: selector of the button that makes it anew, for a view that does not follow the scene
            by itself; it then says so when it is not current.
    """
    carried = escape(json.dumps(question), quote=True)
    if not again:
        return f'<div data-kind="{kind}" data-drawn="{carried}">{html}</div>'
    return (
        f'<div data-kind="{kind}" data-drawn="{carried}" data-again="{escape(again, quote=True)}">'
        '<p class="ls-stale" role="status" hidden><span></span> '
        f'<button type="button" class="ls-again">Make it anew</button></p>{html}</div>'
    )
