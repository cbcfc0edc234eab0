"""The line below the prompt set: whether the model can read the prompts and knows the style."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import gradio as gr

from lineas_core.diagnostics.style_knowledge import listed_answer, takes_away
from lineas_core.errors import LineasError, PromptError
from lineas_core.models.shared.catalog import catalog
from lineas_core.prompts.prompt_set import Sides
from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.answers.prompts import check_length
from lineas_core.studio.answers.styles import styles_to_choose

LOOKING = "Looking whether the model knows this style…"


class StyleCallbacks:
    """Callbacks that report, before training, what is known about the model and the style.

    Args:
        answers: gives access to the styles that models know.
    """

    def __init__(self, answers: Answers) -> None:
        self._styles = answers.styles

    @staticmethod
    def choose(name: str) -> str:
        """The name of the shipped set that steers towards the chosen style: the choice itself."""
        return name

    def show(
        self, modality: str, model: str, concept: str, table: Sequence[Sequence[Any]]
    ) -> Iterator[tuple[str, Any]]:
        """Yield the line, and an update of the list of styles that the model knows.

        The list is shown if the model does not know the style, or draws it without any map. An
        answer that takes time is yielded second. A model that is neither embedded nor in memory is
        not loaded for this.
        """
        rows = [[str(cell or "").strip() for cell in row[:2]] for row in table]
        source, target = ([row[n] for row in rows if len(row) > n and row[n]] for n in (0, 1))
        hide = gr.update(choices=[], visible=False)
        if modality != "image" or not concept.strip():
            yield "", hide
            return
        try:
            check_length(model, [*source, *target])
        except PromptError as error:
            yield _said("warn", str(error)), hide
            return
        sides = Sides(source, target)
        listed = listed_answer(catalog().get(model), concept)
        if takes_away(concept, sides):
            yield "", hide
            return
        answer = listed
        if listed == "cannot tell" and self._styles.at_hand(model):
            yield _said("", LOOKING), hide
            try:
                answer = self._styles.known(model, concept, sides).answer
            except LineasError:
                answer = "cannot tell"
        text, kind = {
            "known": (f"This model knows “{concept}”.", "good"),
            "already so": (
                f"This model draws “{concept}” without any map: a map adds little.",
                "warn",
            ),
            "unknown": (
                f"This model does not know “{concept}”: a map towards it will hardly show.",
                "warn",
            ),
            "cannot tell": ("", ""),
        }[answer]
        offered = styles_to_choose(model) if answer in ("already so", "unknown") else []
        yield (
            _said(kind, text) if text else "",
            gr.update(choices=offered, value=None, visible=bool(offered)),
        )


def _said(kind: str, text: str) -> str:
    return f'<div class="ls-health {kind}" role="status">{escape(text)}</div>'
