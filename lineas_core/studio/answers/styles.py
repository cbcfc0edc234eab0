"""Style knowledge of image models: whether a model knows a style, and which styles it knows."""

from __future__ import annotations

from functools import cache

from lineas_core.diagnostics.style_knowledge import StyleKnowledge, listed_style, style_knowledge
from lineas_core.models.load import as_image_model
from lineas_core.models.shared.catalog import catalog
from lineas_core.prompts.prompt_set import PromptSet, Sides, shipped_prompt_sets
from lineas_core.studio.answers.prompts import too_long_for
from lineas_core.studio.jobs.device.inference import Inference
from lineas_core.system.lru import Recent

REMEMBERED = 256


class Styles:
    """Measure whether image models know a style, caching the most recent results.

    Args:
        inference: loads and runs the models.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._known: Recent[StyleKnowledge] = Recent(REMEMBERED)
        self._measure = inference.on_gpu(self._measure_here)

    def at_hand(self, model: str) -> bool:
        """Whether the model is embedded or in memory, so that measuring it loads nothing large."""
        entry = catalog().get(model)
        return bool(entry is not None and entry.folder) or self._inference.has(model)

    def known(self, model: str, concept: str, sides: Sides[str]) -> StyleKnowledge:
        """Measure how well the model knows the style; repeated calls are cached.

        Args:
            model: an image model's name.
            concept: the name of the style.
            sides: source prompts without the style, target prompts with it.

        Raises:
            ModelError: the model, or the CLIP that measures it, cannot be loaded.
        """
        asked = (model, concept, *sides.source, "", *sides.target)
        found = self._known.get(asked)
        if found is None:
            with self._inference.serving(model):
                found = self._measure(model, concept, sides)
            self._known.put(asked, found)
        return found

    def _measure_here(self, model: str, concept: str, sides: Sides[str]) -> StyleKnowledge:
        return style_knowledge(as_image_model(self._inference.model(model)), concept, sides)


@cache
def styles_to_choose(model: str) -> list[tuple[str, str]]:
    """(style, shipped prompt set) for each style that the model knows and a shipped set targets.

    Sets with prompts too long for the model are skipped.
    """
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
