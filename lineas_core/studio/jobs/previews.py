"""Preview frames of a map in training: one prompt, unsteered and steered, every few seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from lineas_core.maps.steering_map import Steering, SteeringMap
from lineas_core.models.image.model import DiffusionModel
from lineas_core.models.language.model import LanguageModel
from lineas_core.studio.jobs.frames import Frame, Sample
from lineas_core.training.events import StepEvent

SECONDS_BETWEEN = 3.0
# Seconds of training per second of previews, so that previews take at most a fifth of the time.
TRAINING_TO_PREVIEW = 4.0
NEW_TOKENS = 24
SEED = 0

log = logging.getLogger(__name__)


class Previews:
    """Makes the preview frames of one run.

    Args:
        model: the model that the map is trained for.
        prompt: the prompt to continue or to draw; "" makes no frames.
        unsteered: the unsteered sample of an earlier part of the run; generated for the first
            frame by default.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        model: LanguageModel | DiffusionModel,
        prompt: str,
        unsteered: Sample | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model, self._prompt, self._unsteered = model, prompt, unsteered
        self._clock = clock
        self._next = 0.0

    def due(self, trained: float) -> bool:
        """Whether a frame is due after `trained` seconds of training."""
        return bool(self._prompt) and trained >= self._next

    def make(self, smap: SteeringMap, event: StepEvent) -> Frame | None:
        """The frame after a step; None if the model cannot make it, and then no more are due."""
        if not self._prompt:
            return None
        began = self._clock()
        try:
            if self._unsteered is None:
                self._unsteered = self._sample(())
            steered = self._sample([(smap, 1.0)])
        except (RuntimeError, ValueError):
            # The prompt is too long, or memory too small; training itself is not affected.
            log.warning("no preview of %r on %s", self._prompt, self._model.id, exc_info=True)
            self._prompt = ""
            return None
        cost = self._clock() - began
        self._next = event.seconds + max(SECONDS_BETWEEN, TRAINING_TO_PREVIEW * cost)
        return Frame(event.step, event.loss, event.support, self._unsteered, steered)

    def _sample(self, steer: Steering) -> Sample:
        if isinstance(self._model, LanguageModel):
            return self._model.generate(
                [self._prompt], steer, seed=SEED, max_new_tokens=NEW_TOKENS
            )[0]
        return self._model.generate([self._prompt], steer, seed=SEED)[0]
