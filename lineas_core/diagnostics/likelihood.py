"""How likely held-out target sentences are under a map: what LinEAS+ trains, on other sentences."""

from __future__ import annotations

from typing import Any

import torch

from lineas_core.maps.steering_map import SteeringMap
from lineas_core.prompts.prompt_set import Sides
from lineas_core.steerable import Steerable
from lineas_core.steering import steer
from lineas_core.training.contexts import in_context


class TargetLikelihood:
    """Mean next-token loss of target sentences, each after a source sentence.

    Args:
        model: a language model; its weights are not changed.
        prompts: source and target, both with at least one line.
        seed: for drawing the source sentences.
        batch_size: sentences per forward pass.

    Raises:
        ConfigError: the model writes no text.
    """

    def __init__(
        self, model: Steerable, prompts: Sides[Any], *, seed: int = 0, batch_size: int = 32
    ) -> None:
        self._model, self._batch_size = model, batch_size
        self._texts = in_context(model, prompts, seed, contexts=1)

    @torch.no_grad()
    def loss(self, smap: SteeringMap, strength: float = 1.0) -> float:
        """Nats per token with the map on."""
        starts = range(0, len(self._texts), self._batch_size)
        parts = [range(s, min(s + self._batch_size, len(self._texts))) for s in starts]
        with steer(self._model, [(smap, strength)]):
            summed = sum(float(self._texts.rows(part).losses().sum()) for part in parts)
        return summed / float(self._texts.counts.sum())
