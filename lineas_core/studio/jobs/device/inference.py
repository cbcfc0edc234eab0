"""Run models for answers: loaded, on the device, with priority over training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from lineas_core.models.load import Model
from lineas_core.studio.access.text_limits import TextLimits
from lineas_core.studio.jobs.device.gpu import on_gpu
from lineas_core.studio.jobs.device.model_cache import ModelCache
from lineas_core.studio.jobs.device.preparation import Preparation, Waiting
from lineas_core.studio.jobs.device.priority import Priority

P = ParamSpec("P")
R = TypeVar("R")


class Inference:
    """Runs models for answers.

    Args:
        models: loads models by name.
        preparation: the conversion of the embedded language model.
        priority: makes training wait while an answer is computed.
        environment: environment variables, which say whether this is a ZeroGPU Space.
        text_limits: limits on what language models are given.

    Attributes:
        text_limits: as given.
    """

    def __init__(
        self,
        models: ModelCache,
        preparation: Preparation,
        priority: Priority,
        environment: Mapping[str, str],
        text_limits: TextLimits,
    ) -> None:
        self._models, self._preparation, self._priority = models, preparation, priority
        self._environment, self.text_limits = environment, text_limits

    def on_gpu(self, function: Callable[P, R]) -> Callable[P, R]:
        """Wrap a function for its GPU work; see `gpu.on_gpu`."""
        return on_gpu(function, self._environment)

    def waits(self, name: str) -> Iterator[Waiting]:
        """Yield progress until the model can be loaded; see `Preparation.waits`."""
        return self._preparation.waits(name)

    def load(self, name: str) -> None:
        """Load the model in this process: what a lent GPU's process loads is lost when it ends."""
        for _ in self.waits(name):
            pass
        self._models.get(name)

    def model(self, name: str) -> Model:
        """The model of that name, loaded in the calling process."""
        return self._models.get(name)

    def has(self, name: str) -> bool:
        """Whether the model is already in memory."""
        return self._models.has(name)

    @contextmanager
    def serving(self, name: str) -> Iterator[None]:
        """Make training wait, and have the model loaded, within the block."""
        with self._priority.sliders():
            self.load(name)
            yield

    def give_way(self) -> None:
        """Wait while answers are pending, as training does; for work that no visitor requested."""
        self._priority.give_way()
