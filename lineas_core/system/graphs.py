"""CUDA graphs: a GPU replays a step's kernels without Python.

A graph can be made of a step that reads nothing back and whose tensors stay at their place. Whether
a step reads something back is found before the capture, by running it while torch tells of waits: a
capture that fails midway can leave the process's other kernels failing as well.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

import torch

log = logging.getLogger(__name__)

Step = Callable[[], object]

# What torch warns of.
WAIT = "synchronizing CUDA operation"
# torch allows one capture at a time in a process.
_capturing = Lock()


class Graphs:
    """Makes CUDA graphs of steps, until one fails; a warning in the log says why.

    Args:
        work: what the steps are part of, for the log.
        possible: False makes none.

    Attributes:
        possible: whether graphs are made.
    """

    def __init__(self, work: str, *, possible: bool) -> None:
        self._work, self.possible = work, possible

    def check(self, step: Step) -> bool:
        """Run a step, and return whether the host never had to wait for the GPU in it."""
        with _waits_noted() as waits:
            step()
        if waits:
            self.give_up(waits[0])
        return self.possible

    def capture(self, step: Step, device: torch.device) -> torch.cuda.CUDAGraph | None:
        """The graph of a step, which does not run meanwhile; None where the capture failed.

        The step has run on this device before, so that its kernels are chosen and compiled.
        """
        with _capturing:
            torch.cuda.synchronize(device)
            # What the steps before hold in torch's cache, the graph has to allocate anew.
            torch.cuda.empty_cache()
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(
                    graph, stream=_stream(device), capture_error_mode="thread_local"
                ):
                    step()
            except Exception as error:
                torch.cuda.synchronize(device)
                self.give_up(error)
                return None
        return graph

    def give_up(self, reason: object) -> None:
        """Make no more graphs, and say why."""
        self.possible = False
        log.warning("%s goes on without a CUDA graph: %s", self._work, reason)


class Replayed:
    """A step that runs as it is once, and from then on as a graph where one can be had.

    Args:
        step: reads nothing back; changes only tensors that stay at their place.
        graphs: makes the graph.
        device: where the step runs.
    """

    def __init__(self, step: Step, graphs: Graphs, device: torch.device) -> None:
        self._step, self._graphs, self._device = step, graphs, device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = False

    def __call__(self) -> None:
        """Run one step."""
        if self._graph is None and self._warm and self._graphs.possible:
            self._graph = self._graphs.capture(self._step, self._device)
        if self._graph is None:
            self._step()
            self._warm = True
        else:
            self._graph.replay()


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """A stream for captures on a device; one for all, since torch keeps workspaces for each."""
    return torch.cuda.Stream(device)


@contextmanager
def _waits_noted() -> Iterator[list[str]]:
    """Within the block, a list gets what torch says where the host waits for the GPU.

    torch notes the waits of all threads. It could raise in place of that, but in theirs too.
    """
    mode, waits = torch.cuda.get_sync_debug_mode(), list[str]()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            waits += [str(one.message) for one in told if WAIT in str(one.message)]
