"""Callbacks of the image tab."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import gradio as gr

from lineas_core.errors import ConfigError, LineasError
from lineas_core.models.image.safety import withheld_note
from lineas_core.prompts.subjects import SUBJECTS
from lineas_core.scenes.drawing import draw_film, draw_grid
from lineas_core.scenes.grid import write_sidecar
from lineas_core.scenes.scene import Scene, UsedMap
from lineas_core.studio.access.error_messages import with_messages
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.answers.fields import lines_of, whole
from lineas_core.studio.app import Studio
from lineas_core.studio.rack.drawn_from import drawn, question_of
from lineas_core.studio.rack.mix import Mix
from lineas_core.studio.rack.rack import RackState, patch
from lineas_core.studio.rack.scene_tag import with_scene
from lineas_core.studio.tabs.images.grid_options import CROSSED, STRENGTHS, GridOptions
from lineas_core.studio.views import charts, render
from lineas_core.studio.views.csv_tables import score_rows, write_csv
from lineas_core.system.files import replacing, write_whole

SURPRISES = 4
# If an answer takes less than this, answers are also requested while a slider is moving.
LIVE_SECONDS = 0.4
ORDER = random.Random(0).sample(SUBJECTS, len(SUBJECTS))


class LookOutputs(NamedTuple):
    """Outputs of `look`."""

    pictures: Any
    before_after: Any
    rack: Any


class GridOutputs(NamedTuple):
    """Outputs of `grid` and `crossed`."""

    table: Any
    outcome: Any
    curves: Any
    picture: Any
    recipe: Any
    film: Any
    scores: Any


class ImageCallbacks:
    """Callbacks of the image tab.

    Args:
        studio: gives access to the models and maps.
        answers: generates the pictures.
    """

    def __init__(self, studio: Studio, answers: Answers) -> None:
        self._studio, self._answers = studio, answers

    @with_messages
    def surprise(self, shown: str) -> str:
        """New prompts, one per line; every subject appears once before any repeats."""
        last = shown.strip().splitlines()[-1:]
        start = ORDER.index(last[0]) + 1 if last and last[0] in ORDER else 0
        return "\n".join(ORDER[(start + i) % len(ORDER)] for i in range(SURPRISES))

    @with_messages
    def look(self, key: str, model: str, rack: Any, prompts: str, seed: float) -> LookOutputs:
        """Steered pictures of every prompt, the first one before and after, and a rack update."""
        began = time.perf_counter()
        mix = self._mix(key, model, rack)
        found = self._answers.pictures.look(mix, model, lines_of(prompts), whole("seed", seed))
        label = mix.titles or "no map is on"
        shown = render.pictures(found.prompts, found.after, found.clip, found.kept, label)
        asked = question_of(mix, model, prompts, seed)
        made = with_scene(
            _noted(found.note) + shown, rack, model=model, prompts=prompts, seed=whole("seed", seed)
        )
        return LookOutputs(
            pictures=drawn(made, "image", asked),
            before_after=(found.before[0], found.after[0]),
            rack=patch(live=time.perf_counter() - began < LIVE_SECONDS),
        )

    @with_messages
    def effects(self, key: str, model: str, rack: Any, prompts: str) -> Any:
        """A rack update with the share of each map's effect that is left beside the others."""
        mix = self._mix(key, model, rack)
        try:
            return patch(effects=self._answers.effects.shares(mix, model, lines_of(prompts)))
        except LineasError:
            # `look` receives the same inputs and reports the error to the visitor.
            return gr.skip()

    @with_messages
    def grid(
        self, key: str, model: str, rack: Any, prompts: str, seed: float, *options: Any
    ) -> GridOutputs:
        """A grid over the first map's strengths: every prompt, or the first on several seeds."""
        chosen = GridOptions.from_page(*options) if options else GridOptions()
        mix = self._mix(key, model, rack)
        if not mix.maps:
            raise ConfigError("No map is on. Switch one on in the rack; the first one is swept.")
        scene = swept_scene(mix, model, lines_of(prompts), whole("seed", seed), 1, chosen)
        asked = question_of(mix, model, prompts, seed, swept=1)
        outputs = self._show(scene, mix, key)
        return outputs._replace(table=drawn(outputs.table, "image", asked, again="#grid"))

    @with_messages
    def crossed(
        self, key: str, model: str, rack: Any, prompts: str, seed: float, *options: Any
    ) -> GridOutputs:
        """A grid of the first prompt: strengths of the first map across, of the second map down."""
        chosen = GridOptions.from_page(*options) if options else GridOptions()
        mix = self._mix(key, model, rack)
        if len(mix.maps) < 2:
            raise ConfigError("Two maps make this grid. Switch a second one on in the rack.")
        scene = swept_scene(mix, model, lines_of(prompts)[:1], whole("seed", seed), 2, chosen)
        asked = question_of(mix, model, prompts, seed, swept=2)
        outputs = self._show(scene, mix, key)
        return outputs._replace(table=drawn(outputs.table, "image", asked, again="#crossed"))

    def _show(self, scene: Scene, mix: Mix, key: str) -> GridOutputs:
        owner = owner_of(key)
        rows = len(scene.down) or len(scene.prompts)
        self._studio.check_images(scene.model, rows * len(scene.strengths))
        maps = {row.id: self._studio.library.map(row.id, owner) for row in mix.rows}
        grid, scores = self._answers.pictures.grid(scene, maps, mix.rows[0].concept)
        with self._studio.ledger.download(owner) as folder:
            picture, recipe, film = (folder / f"grid.{kind}" for kind in ("png", "json", "gif"))
            with replacing(picture) as partial:
                draw_grid(grid, scores).save(partial, "PNG")
            write_whole(recipe, write_sidecar(scene, scores))
            write_whole(film, draw_film(grid))
            table = write_csv(folder / "scores.csv", *score_rows(grid, scores)) if scores else None
        note = withheld_note([image for row in grid.images for image in row])
        return GridOutputs(
            table=_noted(note) + render.picture_grid(grid, scores, mix.rows[0].title),
            outcome=gr.update(visible=True),
            curves=gr.update(value=charts.score_curves(grid, scores) if scores else None),
            picture=str(picture),
            recipe=str(recipe),
            film=str(film),
            scores=gr.update(value=table, interactive=table is not None),
        )

    def _mix(self, key: str, model: str, rack: Any) -> Mix:
        return self._studio.mix(owner_of(key), RackState.from_page(rack), model)


def swept_scene(
    mix: Mix,
    model: str,
    prompts: Sequence[str],
    seed: int,
    sweep: int,
    options: GridOptions = GridOptions(),
) -> Scene:
    """The scene of a grid that sweeps the first `sweep` maps and keeps the others fixed.

    Args:
        mix: the maps that are on.
        model: the model that they are applied to.
        prompts: one per row; if the rows are seeds, only the first prompt is used.
        seed: seed of the noise; if the rows are seeds, of the first row.
        sweep: number of maps that are swept, 1 or 2.
        options: strengths and rows.
    """
    seeds: int | tuple[int, ...] = seed
    if sweep == 1 and options.rows == "seeds":
        seeds = tuple(range(seed, seed + options.seeds))
        prompts = list(prompts[:1]) * len(seeds)
    return Scene(
        model=model,
        modality="image",
        prompts=tuple(prompts),
        maps=tuple(
            UsedMap(row.id, None if n < sweep else strength, inverse, row.digest)
            for n, (row, strength, inverse) in enumerate(
                zip(mix.rows, mix.strengths, mix.inverses, strict=True)
            )
        ),
        seed=seeds,
        strengths=options.strengths or (STRENGTHS if sweep == 1 else CROSSED),
        down=(options.down or CROSSED) if sweep == 2 else (),
    )


def _noted(note: str) -> str:
    return f'<p class="ls-hint" role="status">{escape(note)}</p>' if note else ""
