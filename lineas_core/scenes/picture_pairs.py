"""Images without and with maps, of which those without are generated once."""

from __future__ import annotations

from collections.abc import Sequence

from PIL.Image import Image

from lineas_core.maps.steering_map import Steering
from lineas_core.models.image.model import DiffusionModel
from lineas_core.system.lru import Recent

REMEMBERED = 64


class PicturePairs:
    """Generate images without and with maps.

    Moving a slider repeats the same prompts, so caching the unsteered images halves the work.
    """

    def __init__(self) -> None:
        self._untouched: Recent[list[Image]] = Recent(REMEMBERED)

    def draw(
        self, model: DiffusionModel, prompts: Sequence[str], steer: Steering, seed: int
    ) -> tuple[list[Image], list[Image]]:
        """The unsteered and the steered images, one of each per prompt.

        Args:
            model: images are cached by its id.
            prompts: at least one.
            steer: (map, strength) pairs; an empty list gives the unsteered images twice.
            seed: seed of the initial noise.

        Raises:
            as `DiffusionModel.generate`.
        """
        key = (model.id, seed, *prompts)
        before = self._untouched.get(key)
        if before is None:
            before = model.generate(prompts, seed=seed)
            self._untouched.put(key, before)
        return before, model.generate(prompts, steer, seed=seed) if steer else before
