"""A training step as one CUDA graph: the GPU runs its thousands of kernels without Python.

A graph can be made of a step that reads nothing back and whose tensors stay at their place. Whether
a step reads something back is found before the capture, by running it while torch refuses to: a
capture that fails midway can leave the process's other kernels failing as well.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from lineas_core.system.devices import indices_on
from lineas_core.training.rows import Rows

# Steps before the capture, in which kernels are chosen and compiled.
WARM_UP = 3

log = logging.getLogger(__name__)

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
        self._possible = possible and device.type == "cuda"
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
        if not self._possible:
            self._step(drawn)
            return
        self._place(drawn)
        if self._graph is not None:
            self._graph.replay()
            return
        checking = _refusing_to_wait() if self._warm_up == 0 else nullcontext()
        try:
            with checking:
                self._step(self._rows)
        except Exception as error:
            # Whatever the reason, the step of rows on the host either works or says what is wrong.
            self._give_up(error)
            self._step(drawn)
            return
        if self._warm_up:
            self._warm_up -= 1
        else:
            self._capture()

    def _capture(self) -> None:
        """Capture the step for those to come; the one that did not wait has run."""
        torch.cuda.synchronize(self._device)
        # What the steps before hold in torch's cache, the graph has to allocate anew.
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._step(self._rows)
        except Exception as error:
            torch.cuda.synchronize(self._device)
            self._give_up(error)
            return
        self._graph = graph

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

    def _give_up(self, error: Exception) -> None:
        self._possible, self._rows = False, []
        log.warning("training goes on without a CUDA graph: %s", error)


@contextmanager
def _refusing_to_wait() -> Iterator[None]:
    """Within the block, torch raises where the host would wait for the GPU."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)
