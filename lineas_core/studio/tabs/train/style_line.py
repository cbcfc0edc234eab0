"""The line under the prompt set: whether the model reads the prompts, and knows the style."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lineas_core.diagnostics.style_knowledge import (
    StyleKnowledge,
    listed_answer,
    listed_style,
    style_knowledge,
    takes_away,
)
from lineas_core.errors import LineasError, PromptError
from lineas_core.models.image.folders import embedded_folder
from lineas_core.models.load import as_image_model
from lineas_core.models.shared.catalog import catalog
from lineas_core.prompts.prompt_set import PromptSet, Sides, shipped_prompt_sets
from lineas_core.studio.app import Studio
from lineas_core.system.lru import Recent

REMEMBERED = 256
LOOKING = "Looking whether the model knows this style…"


class StyleLine:
    """Tells, for what is to be trained, what can be told before.

    Args:
        studio: the models.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._known: Recent[StyleKnowledge] = Recent(REMEMBERED)
        self._measure = studio.on_gpu(self._measure_here)

    def show(
        self, modality: str, model: str, concept: str, table: Sequence[Sequence[Any]]
    ) -> Iterator[tuple[str, Any]]:
        """The line, and the styles that the model knows, as choices where they help.

        What takes time comes second. A model that is neither embedded nor in memory is not loaded
        for this.
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
        entry, sides = catalog().get(model), Sides(source, target)
        listed = listed_answer(entry, concept)
        if takes_away(concept, sides):
            yield "", hide
            return
        answer = listed
        at_hand = (entry is not None and entry.folder) or self._studio.shelf.has(model)
        if listed == "cannot tell" and at_hand:
            yield _said("", LOOKING), hide
            try:
                answer = self._found(model, concept, sides).answer
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

    def _found(self, model: str, concept: str, sides: Sides) -> StyleKnowledge:
        asked = (model, concept, *sides.source, "", *sides.target)
        found = self._known.get(asked)
        if found is None:
            with self._studio.turns.sliders():
                self._studio.load(model)
                found = self._measure(model, concept, sides)
            self._known.put(asked, found)
        return found

    def _measure_here(self, model: str, concept: str, sides: Sides) -> StyleKnowledge:
        return style_knowledge(as_image_model(self._studio.shelf.get(model)), concept, sides)


def check_length(model: str, prompts: Sequence[str]) -> None:
    """Refuse prompts that an embedded image model does not read whole, before it is loaded.

    Raises:
        PromptError: there are such prompts; the message says how many, and which is the first.
    """
    entry = catalog().get(model)
    if entry is None or not entry.folder:
        return
    tokenizer = _tokenizer(embedded_folder(entry))
    limit = tokenizer.model_max_length
    long = [p for p in prompts if len(tokenizer(p, verbose=False)["input_ids"]) > limit]
    if long:
        raise PromptError(
            f"{len(long)} of {len(prompts)} prompts are too long for {entry.title}, which reads "
            f"{limit} tokens. Shorten them, or choose a larger model. The first: {long[0]:.80}"
        )


@cache
def too_long_for(model: str) -> frozenset[str]:
    """Names of shipped sets with prompts that the model does not read whole."""
    found = set()
    for name in shipped_prompt_sets():
        prompts = PromptSet.load(name)
        try:
            if prompts.modality == "image":
                check_length(model, [*prompts.source, *prompts.target])
        except PromptError:
            found.add(name)
    return frozenset(found)


@cache
def styles_to_choose(model: str) -> list[tuple[str, str]]:
    """(style, shipped set) for each style the model knows and a set it reads leads to."""
    entry = catalog().get(model)
    found: dict[str, tuple[str, str]] = {}
    for name in shipped_prompt_sets():
        if name in too_long_for(model):
            continue
        prompts = PromptSet.load(name)
        style = listed_style(entry, prompts.concept) if prompts.modality == "image" else None
        if entry and style:
            found.setdefault(style, (entry.styles[style][0], name))
    return list(found.values())


@cache
def _tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(Path(folder) / "tokenizer")


def _said(kind: str, text: str) -> str:
    return f'<div class="ls-health {kind}" role="status">{escape(text)}</div>'
