"""Images generated with and without maps, and their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from lineas_core.errors import LineasError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.metrics.clip import clip_score, img_score
from lineas_core.models.image.model import ImageGrid
from lineas_core.models.image.safety import is_withheld, withheld_note
from lineas_core.models.load import as_image_model
from lineas_core.scenes.grid import make_grid, score_grid
from lineas_core.scenes.picture_pairs import PicturePairs
from lineas_core.scenes.scene import Scene
from lineas_core.scenes.scores import GridScores
from lineas_core.studio.jobs.device.inference import Inference
from lineas_core.studio.rack.mix import Mix


@dataclass(frozen=True)
class Look:
    """Images for a list of prompts, without and with the rack's maps.

    Attributes:
        prompts: one per image.
        before: unsteered images.
        after: steered images.
        clip: concept -> CLIPScore of each steered image.
        kept: IMGScore of each image; None where it could not be scored.
        scorer: the CLIP model that computed the scores, or why there are none.
    """

    prompts: list[str]
    before: list[Image.Image]
    after: list[Image.Image]
    clip: dict[str, list[float]]
    kept: list[float | None]
    scorer: str

    @property
    def note(self) -> str:
        """A sentence with the number of images the safety checker withheld; "" if none."""
        return withheld_note(self.after)


class Pictures:
    """Generate and score images.

    Args:
        inference: loads and runs the models.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._pairs = PicturePairs()
        self._look, self._grid = (
            inference.on_gpu(self._look_here),
            inference.on_gpu(self._grid_here),
        )

    def look(
        self,
        mix: Mix,
        model: str,
        prompts: list[str],
        seed: int,
        concepts: Sequence[str] | None = None,
    ) -> Look:
        """Generate the images and score them; without a loadable scorer they stay unscored.

        Args:
            mix: the maps that are on.
            model: an image model's name.
            prompts: one per image.
            seed: seed of the initial noise.
            concepts: concepts to compute CLIPScore for; by default, those of the maps.
        """
        with self._inference.serving(model):
            asked = mix.concepts if concepts is None else list(concepts)
            return self._look(mix, model, prompts, seed, asked)

    def _look_here(
        self, mix: Mix, model: str, prompts: list[str], seed: int, concepts: list[str]
    ) -> Look:
        loaded = as_image_model(self._inference.model(model))
        before, after = self._pairs.draw(loaded, prompts, mix.steer, seed)
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

    def grid(
        self, scene: Scene, maps: Mapping[str, SteeringMap], concept: str
    ) -> tuple[ImageGrid, GridScores | None]:
        """Generate and score the image grid of a scene that sweeps strengths.

        The scores are None if no CLIP model can be loaded.

        Args:
            scene: the scene to render.
            maps: its maps, by the names the scene uses for them.
            concept: the concept to compute CLIPScore for.
        """
        with self._inference.serving(scene.model):
            return self._grid(scene, dict(maps), concept)

    def _grid_here(
        self, scene: Scene, maps: dict[str, SteeringMap], concept: str
    ) -> tuple[ImageGrid, GridScores | None]:
        model = as_image_model(self._inference.model(scene.model))
        grid = make_grid(scene, model, maps.__getitem__)
        try:
            return grid, score_grid(grid, concept, crossed=bool(scene.down))
        except LineasError:
            return grid, None
