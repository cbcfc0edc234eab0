"""What the text tab does."""

from __future__ import annotations

from lineas_core.errors import PromptError
from lineas_core.models import as_language_model
from lineas_core.studio import render
from lineas_core.studio.callbacks import Studio, with_messages

SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0)
# One sample of a model says little of what it mostly writes.
SAMPLES = 3


class Texts:
    """Callbacks of the text tab.

    Args:
        studio: the models and maps.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    @with_messages
    def compare(
        self, model: str, map_id: str | None, prompt: str, strength: float, seed: float, tokens: int
    ) -> str:
        """Unsteered completions beside steered ones, on the same seeds."""
        return self._cards(model, map_id, prompt, (0.0, float(strength)), seed, tokens)

    @with_messages
    def sweep(self, model: str, map_id: str | None, prompt: str, seed: float, tokens: int) -> str:
        """Completions at five strengths, the unsteered ones first."""
        return self._cards(model, map_id, prompt, SWEEP, seed, tokens)

    def _cards(
        self,
        model: str,
        map_id: str | None,
        prompt: str,
        strengths: tuple[float, ...],
        seed: float,
        tokens: int,
    ) -> str:
        if not prompt.strip():
            raise PromptError("The prompt is empty; write at least one word.")
        smap = self._studio.map(map_id)
        loaded = as_language_model(self._studio.model(model))
        grid = loaded.sweep(
            [prompt] * SAMPLES,
            [(smap, None)],
            strengths,
            seed=range(int(seed), int(seed) + SAMPLES),
            max_new_tokens=int(tokens),
        )
        return render.completions(grid, smap.info.concept)
