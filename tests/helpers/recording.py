"""Graphs without a GPU: the operations of a step, recorded and run again over the same tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lineas_core.system.graphs import Graphs


class Recording(TorchDispatchMode):
    """Replays what ran within, as a CUDA graph does: no Python of the step runs again.

    What Python computed is a constant from then on, and each result lies where it lay.
    """

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._operations.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        self.replays += 1
        # What is recorded has run, unlike what a CUDA graph captures.
        if self.replays == 1:
            return
        for func, args, kwargs, result in self._operations:
            given = {z.untyped_storage().data_ptr() for z in tensors((args, kwargs))}
            again = func(*args, **kwargs)
            for place, z in zip(tensors(result), tensors(again), strict=True):
                # Views, and what was changed in place, are there already.
                if place.untyped_storage().data_ptr() not in given:
                    place.copy_(z)


class RecordedGraphs(Graphs):
    """Makes recordings in place of CUDA graphs.

    Attributes:
        made: the recordings.
    """

    def __init__(self) -> None:
        super().__init__("a test", possible=True)
        self.made: list[Recording] = []

    def capture(self, step: Callable[[], object], device: torch.device) -> Any:
        recording = Recording()
        with recording:
            step()
        self.made.append(recording)
        return recording


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
