"""What the image tab does."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from lineas_core.errors import ConfigError, LineasError, PromptError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.metrics.clip import clip_score, img_score
from lineas_core.models.image.model import ImageGrid
from lineas_core.models.image.safety import is_withheld, withheld_note
from lineas_core.models.load import as_image_model
from lineas_core.prompts.subjects import SUBJECTS
from lineas_core.scenes.grid import (
    GridScores,
    draw_film,
    draw_grid,
    make_grid,
    score_grid,
    write_sidecar,
)
from lineas_core.scenes.scene import Scene, UsedMap
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.texts import whole
from lineas_core.studio.app import Studio, with_messages
from lineas_core.studio.rack.drawn_from import drawn, question_of
from lineas_core.studio.rack.mix import Mix
from lineas_core.studio.rack.rack import RackState, patch
from lineas_core.studio.rack.scene_tag import with_scene
from lineas_core.studio.tabs.images.grid_options import CROSSED, STRENGTHS, GridOptions
from lineas_core.studio.views import charts, render
from lineas_core.studio.views.csv_tables import score_rows, write_csv
from lineas_core.system.files import replacing, write_whole
from lineas_core.system.lru import Recent

MOST_PROMPTS = 8
SURPRISES = 4
UNTOUCHED = 64
# Answers under this come while a slider still moves.
LIVE_SECONDS = 0.4
ORDER = random.Random(0).sample(SUBJECTS, len(SUBJECTS))


@dataclass(frozen=True)
class Look:
    """Pictures of some prompts, untouched and with the rack's maps on.

    Attributes:
        prompts: one for each.
        before: untouched pictures.
        after: steered ones.
        clip: concept -> CLIPScore of each steered picture.
        kept: IMGScore of each; None where it could not be scored.
        scorer: the CLIP they come from, or why there are no scores.
    """

    prompts: list[str]
    before: list[Image.Image]
    after: list[Image.Image]
    clip: dict[str, list[float]]
    kept: list[float | None]
    scorer: str

    @property
    def note(self) -> str:
        """How many pictures the safety checker withheld; empty where it withheld none."""
        return withheld_note(self.after)


class Pictures:
    """Callbacks of the image tab.

    Args:
        studio: the models and maps.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        # A slider moves over the same prompts: their untouched pictures are half of the work.
        self._untouched: Recent[list[Image.Image]] = Recent(UNTOUCHED)
        self._look, self._grid = studio.on_gpu(self._look_here), studio.on_gpu(self._grid_here)

    @with_messages
    def surprise(self, shown: str) -> str:
        """Other prompts than those shown, a line each; all have come up before one comes again."""
        last = shown.strip().splitlines()[-1:]
        start = ORDER.index(last[0]) + 1 if last and last[0] in ORDER else 0
        return "\n".join(ORDER[(start + i) % len(ORDER)] for i in range(SURPRISES))

    @with_messages
    def look(
        self, key: str, model: str, rack: Any, prompts: str, seed: float
    ) -> tuple[str, Any, Any]:
        """Every prompt with the rack's maps on, the first one before and after, and rack news."""
        began = time.perf_counter()
        mix = self._mix(key, model, rack)
        found = self.make(mix, model, lines_of(prompts), whole("seed", seed))
        label = mix.titles or "no map is on"
        shown = render.pictures(found.prompts, found.after, found.clip, found.kept, label)
        news = patch(live=time.perf_counter() - began < LIVE_SECONDS)
        asked = question_of(mix, model, prompts, seed)
        made = with_scene(
            _said(found.note) + shown, rack, model=model, prompts=prompts, seed=whole("seed", seed)
        )
        return drawn(made, "image", asked), (found.before[0], found.after[0]), news

    def make(
        self,
        mix: Mix,
        model: str,
        prompts: list[str],
        seed: int,
        concepts: Sequence[str] | None = None,
    ) -> Look:
        """The pictures and their scores; a scorer that cannot be loaded leaves them unscored.

        Args:
            mix: the maps that are on.
            model: an image model's name.
            prompts: one for each picture.
            seed: of the noise.
            concepts: to score for; those of the maps by default.
        """
        with self._studio.turns.sliders():
            self._studio.load(model)
            asked = mix.concepts if concepts is None else list(concepts)
            return self._look(mix, model, prompts, seed, asked)

    def _look_here(
        self, mix: Mix, model: str, prompts: list[str], seed: int, concepts: list[str]
    ) -> Look:
        loaded = as_image_model(self._studio.shelf.get(model))
        before = self._untouched.get((model, seed, *prompts))
        if before is None:
            before = loaded.generate(prompts, seed=seed)
            self._untouched.put((model, seed, *prompts), before)
        after = loaded.generate(prompts, mix.steer, seed=seed) if mix.maps else before
        try:
            clip = {text: list(clip_score(after, text)) for text in concepts}
            found = img_score(after, before)
            kept = [
                None if is_withheld(a) or is_withheld(b) else score
                for a, b, score in zip(after, before, found, strict=True)
            ]
            return Look(prompts, before, after, clip, kept, found.scorer)
        except LineasError as error:
            return Look(prompts, before, after, {}, [None] * len(prompts), str(error))

    @with_messages
    def effects(self, key: str, model: str, rack: Any, prompts: str) -> Any:
        """How much of each map's effect is left beside the others, for the rack."""
        mix = self._mix(key, model, rack)
        try:
            return patch(effects=self._studio.effects(mix, model, lines_of(prompts)))
        except LineasError:
            # `look` is asked the same and tells the visitor.
            return gr.skip()

    @with_messages
    def grid(
        self, key: str, model: str, rack: Any, prompts: str, seed: float, *options: Any
    ) -> tuple[Any, ...]:
        """Every prompt, or the first one on several seeds, over strengths of the first map."""
        chosen = GridOptions.from_page(*options) if options else GridOptions()
        mix = self._mix(key, model, rack)
        if not mix.maps:
            raise ConfigError("No map is on. Switch one on in the rack; the first one is swept.")
        lines, first = lines_of(prompts), whole("seed", seed)
        scene = swept_scene(mix, model, lines, first, 1, chosen)
        asked = question_of(mix, model, prompts, seed, swept=1)
        table, *rest = self._show(scene, mix, key)
        return drawn(table, "image", asked, again="#grid"), *rest

    @with_messages
    def crossed(
        self, key: str, model: str, rack: Any, prompts: str, seed: float, *options: Any
    ) -> tuple[Any, ...]:
        """The first prompt: strengths of the first map across, of the second one down."""
        chosen = GridOptions.from_page(*options) if options else GridOptions()
        mix = self._mix(key, model, rack)
        if len(mix.maps) < 2:
            raise ConfigError("Two maps make this grid. Switch a second one on in the rack.")
        first = whole("seed", seed)
        scene = swept_scene(mix, model, lines_of(prompts)[:1], first, 2, chosen)
        asked = question_of(mix, model, prompts, seed, swept=2)
        table, *rest = self._show(scene, mix, key)
        return drawn(table, "image", asked, again="#crossed"), *rest

    def _show(self, scene: Scene, mix: Mix, key: str) -> tuple[Any, ...]:
        owner = owner_of(key)
        rows = len(scene.down) or len(scene.prompts)
        self._studio.check_images(scene.model, rows * len(scene.strengths))
        with self._studio.turns.sliders():
            maps = {row.id: self._studio.library.map(row.id, owner) for row in mix.rows}
            self._studio.load(scene.model)
            grid, scores = self._grid(scene, maps, mix.rows[0].concept)
        folder = self._studio.download_folder()
        picture, sidecar, film = (folder / f"grid.{kind}" for kind in ("png", "json", "gif"))
        with replacing(picture) as partial:
            draw_grid(grid, scores).save(partial, "PNG")
        write_whole(sidecar, write_sidecar(scene, scores))
        write_whole(film, draw_film(grid))
        table = write_csv(folder / "scores.csv", *score_rows(grid, scores)) if scores else None
        note = withheld_note([image for row in grid.images for image in row])
        return (
            _said(note) + render.picture_grid(grid, scores, mix.rows[0].title),
            gr.update(visible=True),
            gr.update(value=charts.score_curves(grid, scores) if scores else None),
            str(picture),
            str(sidecar),
            str(film),
            gr.update(value=table, interactive=table is not None),
        )

    def _grid_here(
        self, scene: Scene, maps: dict[str, SteeringMap], concept: str
    ) -> tuple[ImageGrid, GridScores | None]:
        model = as_image_model(self._studio.shelf.get(scene.model))
        grid = make_grid(scene, model, maps.__getitem__)
        return grid, _scores(grid, concept, crossed=bool(scene.down))

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
    """The grid in which the first `sweep` maps are swept and the others stay."""
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


def checked_prompts(prompts: list[str]) -> list[str]:
    """The prompts.

    Raises:
        PromptError: there is none, or there are too many.
    """
    if not prompts:
        raise PromptError("There is no prompt; write one on a line, or press Surprise me.")
    if len(prompts) > MOST_PROMPTS:
        raise PromptError(f"{len(prompts)} prompts; {MOST_PROMPTS} at most are pictured at once.")
    return prompts


def lines_of(prompts: str) -> list[str]:
    """The prompts of a text field, one on a line.

    Raises:
        PromptError: there is none, or there are too many.
    """
    lines = [line.strip() for line in prompts.splitlines() if line.strip()]
    if not lines:
        raise PromptError("There is no prompt; write one on a line, or press Surprise me.")
    if len(lines) > MOST_PROMPTS:
        raise PromptError(f"{len(lines)} prompts; a grid takes {MOST_PROMPTS} at most.")
    return lines


def _scores(grid: ImageGrid, concept: str, *, crossed: bool) -> GridScores | None:
    try:
        return score_grid(grid, concept, crossed=crossed)
    except LineasError:
        return None


def _said(note: str) -> str:
    return f'<p class="ls-hint" role="status">{escape(note)}</p>' if note else ""
