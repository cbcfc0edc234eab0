"""What the image tab does."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from lineas_core.errors import ConfigError, PromptError
from lineas_core.grids import GridRecipe, UsedMap, draw_film, draw_grid, score_grid
from lineas_core.models import as_image_model
from lineas_core.models.diffusion import ImageGrid
from lineas_core.studio import render
from lineas_core.studio.callbacks import Studio, with_messages
from lineas_core.subjects import SUBJECTS

STRENGTHS = (0.0, 0.17, 0.33, 0.5, 0.67, 0.83, 1.0)
MOST_PROMPTS = 8
SURPRISES = 4
ORDER = random.Random(0).sample(SUBJECTS, len(SUBJECTS))


class Pictures:
    """Callbacks of the image tab.

    Args:
        studio: the models and maps.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    @with_messages
    def surprise(self, shown: str) -> str:
        """Other prompts than those shown, a line each; all have come up before one comes again."""
        last = shown.strip().splitlines()[-1:]
        start = ORDER.index(last[0]) + 1 if last and last[0] in ORDER else 0
        return "\n".join(ORDER[(start + i) % len(ORDER)] for i in range(SURPRISES))

    @with_messages
    def look(
        self, model: str, map_id: str | None, prompts: str, strength: float, seed: float
    ) -> tuple[str, Any]:
        """Every prompt at one strength with its scores, and the first one before and after."""
        _, grid = self._make(model, map_id, prompts, (0.0, float(strength)), seed)
        scores = score_grid(grid, self._style(map_id))
        before, after = grid.images[0]
        return render.pictures(grid, scores), (_enlarged(before), _enlarged(after))

    @with_messages
    def grid(self, model: str, map_id: str | None, prompts: str, seed: float) -> tuple[Any, ...]:
        """Every prompt at seven strengths, the curves of its scores, and files to download."""
        recipe, grid = self._make(model, map_id, prompts, STRENGTHS, seed)
        scores = score_grid(grid, self._style(map_id))
        folder = Path(tempfile.mkdtemp(dir=self._studio.downloads.name))
        picture, sidecar, film = (folder / f"grid.{kind}" for kind in ("png", "json", "gif"))
        draw_grid(grid, scores).save(picture)
        sidecar.write_text(recipe.to_json(scores), encoding="utf-8")
        film.write_bytes(draw_film(grid))
        return (
            render.picture_grid(grid, scores),
            gr.update(visible=True),
            render.score_curves(grid, scores),
            str(picture),
            str(sidecar),
            str(film),
        )

    def _make(
        self,
        model: str,
        map_id: str | None,
        prompts: str,
        strengths: tuple[float, ...],
        seed: float,
    ) -> tuple[GridRecipe, ImageGrid]:
        lines = [line.strip() for line in prompts.splitlines() if line.strip()]
        if not lines:
            raise PromptError("There is no prompt; write one on a line, or press Surprise me.")
        if len(lines) > MOST_PROMPTS:
            raise PromptError(f"{len(lines)} prompts; a grid takes {MOST_PROMPTS} at most.")
        smap = self._studio.map(map_id)
        loaded = as_image_model(self._studio.model(model))
        recipe = GridRecipe(
            model=model,
            prompts=tuple(lines),
            strengths=strengths,
            seed=int(seed),
            maps=(UsedMap(str(map_id), smap.digest()),),
        )
        return recipe, recipe.make(loaded, self._studio.map)

    def _style(self, map_id: str | None) -> str:
        concept = self._studio.map(map_id).info.concept
        if not concept:
            raise ConfigError(f"The map {map_id} does not say what it is about; train it again.")
        return concept


def _enlarged(image: Any) -> Any:
    """Small images as large as the slider shows them, so that they are not blurred twice."""
    factor = max(1, 384 // image.width)
    return image.resize((image.width * factor, image.height * factor))
