"""Models as answers use them: loaded, on the device, and ahead of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from lineas_core.models.load import Model
from lineas_core.studio.jobs.device.gpu import on_gpu
from lineas_core.studio.jobs.device.model_cache import ModelCache
from lineas_core.studio.jobs.device.preparation import Preparation, Waiting
from lineas_core.studio.jobs.device.priority import Priority

P = ParamSpec("P")
R = TypeVar("R")


class Inference:
    """Runs models for answers.

    Args:
        models: loads them by name.
        preparation: of the embedded language model.
        priority: training waits while an answer is computed.
        environment: tells whether GPUs are lent by the call.
    """

    def __init__(
        self,
        models: ModelCache,
        preparation: Preparation,
        priority: Priority,
        environment: Mapping[str, str],
    ) -> None:
        self._models, self._preparation, self._priority = models, preparation, priority
        self._environment = environment

    def on_gpu(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function as it must be called for its GPU work; see `gpu.py`."""
        return on_gpu(function, self._environment)

    def waits(self, name: str) -> Iterator[Waiting]:
        """How far the model is, until it can be loaded; see `Preparation.waits`."""
        return self._preparation.waits(name)

    def load(self, name: str) -> None:
        """Have the model in memory: what a process with a lent GPU loads is gone with it."""
        for _ in self.waits(name):
            pass
        self._models.get(name)

    def model(self, name: str) -> Model:
        """The model of that name, in the process that calls."""
        return self._models.get(name)

    def has(self, name: str) -> bool:
        """Whether the model is in memory already."""
        return self._models.has(name)

    @contextmanager
    def serving(self, name: str) -> Iterator[None]:
        """Within the block the model is loaded, and training waits."""
        with self._priority.sliders():
            self.load(name)
            yield

    def give_way(self) -> None:
        """Wait until nobody waits for an answer; for work that nobody asked for."""
        self._priority.give_way()
