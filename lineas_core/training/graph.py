"""A training step as one CUDA graph: the GPU runs its thousands of kernels without Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from lineas_core.system.devices import indices_on
from lineas_core.system.graphs import Graphs
from lineas_core.training.rows import Rows

# Steps before the capture, in which kernels are chosen and compiled.
WARM_UP = 3

Step = Callable[[Sequence[Rows]], None]


class GraphedStep:
    """Runs a step: as it is at first, then as a CUDA graph where one can be had.

    Args:
        step: called with the rows of a minibatch. It changes only tensors that stay at their place,
            and these only after all that may fail.
        counts: number of rows of each set that is drawn from.
        device: where the step runs.
        possible: False runs every step as it is.
    """

    def __init__(
        self, step: Step, counts: Sequence[int], device: torch.device, *, possible: bool = True
    ) -> None:
        self._step, self._counts, self._device = step, counts, device
        self._graphs = Graphs("training", possible=possible and device.type == "cuda")
        self._rows: list[Rows] = []
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm_up = WARM_UP

    @property
    def captured(self) -> bool:
        """Whether steps are replayed."""
        return self._graph is not None

    def __call__(self, drawn: Sequence[Sequence[int]]) -> None:
        """Run one step.

        Args:
            drawn: rows of each set, as many in every call.
        """
        if not self._graphs.possible:
            self._step(drawn)
            return
        self._place(drawn)
        if self._graph is not None:
            self._graph.replay()
            return
        step = partial(self._step, self._rows)
        try:
            if self._warm_up:
                step()
                self._warm_up -= 1
            elif self._graphs.check(step):
                self._graph = self._graphs.capture(step, self._device)
        except Exception as error:
            # Whatever the reason, the step of rows on the host either works or says what is wrong.
            self._graphs.give_up(error)
            self._step(drawn)

    def _place(self, drawn: Sequence[Sequence[int]]) -> None:
        """Put the rows on the device, from the first step on: all steps have the same shapes."""
        if not self._rows:
            # A set that is always drawn whole is a constant of the graph.
            self._rows = [
                rows if len(rows) == count else indices_on(self._device, rows)
                for rows, count in zip(drawn, self._counts, strict=True)
            ]
            return
        for place, rows in zip(self._rows, drawn, strict=True):
            if isinstance(place, Tensor):
                place.copy_(indices_on(self._device, rows))
