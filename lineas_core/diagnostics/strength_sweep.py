"""CLIP embeddings of pictures made with one map at many strengths, each generated only once."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from jaxtyping import Float
from torch import Tensor

from lineas_core.errors import ModelError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.metrics.clip import ClipScorer, clip_for
from lineas_core.models.image.model import DiffusionModel

# Prompts are repeated with other noise until there are this many pictures, for a reliable mean.
MIN_PICTURES = 12


class StrengthSweep:
    """The same pictures at any strength, cached for all measurements of a map.

    Args:
        model: the model that `smap` was made for.
        smap: a map.
        prompts: one or more.
        judge: the CLIP model that embeds the pictures.
        seed: of the first picture's noise; each next picture uses the next seed.

    Attributes:
        lines: the prompt of each of the n pictures.
    """

    def __init__(
        self,
        model: DiffusionModel,
        smap: SteeringMap,
        prompts: Sequence[str],
        judge: ClipScorer,
        *,
        seed: int = 0,
    ) -> None:
        self.judge = judge
        self.lines = list(prompts) * ceil(MIN_PICTURES / len(prompts))
        self._model, self._smap = model, smap
        self._seeds = range(seed, seed + len(self.lines))
        self._seen: dict[float, Tensor] = {}

    def embeddings(self, strengths: Sequence[float]) -> list[Float[Tensor, "n d"]]:
        """Unit embeddings of the pictures at each strength."""
        missing = [strength for strength in dict.fromkeys(strengths) if strength not in self._seen]
        if missing:
            grid = self._model.sweep(
                self.lines, [(self._smap, None)], missing, seed=self._seeds
            ).images
            for strength, images in zip(missing, zip(*grid, strict=True), strict=True):
                self._seen[strength] = self.judge.image_embeddings(images)
        return [self._seen[strength] for strength in strengths]

    def image_scores(self, strengths: Sequence[float]) -> list[float]:
        """Mean IMGScore at each strength: cosine with the same picture at strength 0."""
        plain, *steered = self.embeddings([0.0, *strengths])
        return [float((z * plain).sum(dim=1).mean()) for z in steered]


def strength_sweep(
    model: object, smap: SteeringMap, prompts: Sequence[str], *, seed: int = 0
) -> StrengthSweep | None:
    """The sweep of a map; None for language models, without prompts or without a CLIP model."""
    if not isinstance(model, DiffusionModel) or not prompts:
        return None
    try:
        judge = clip_for(model.size, str(model.device))
    except ModelError:
        return None
    return StrengthSweep(model, smap, prompts, judge, seed=seed)
