"""The device that the trainings run on, its reduced precision, and compilation where it pays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
IS_GPU = DEVICE.type == "cuda"
if IS_GPU:
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


class Switches:
    """What speeds a training up; turned off where it fails."""

    compile = True
    # A CUDA graph of the whole step: small models wait for launches otherwise.
    graph = IS_GPU


class Compiled:
    """A function or module, compiled for as long as `Switches.compile` is on."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.plain = function
        self.fast = torch.compile(function, dynamic=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call either."""
        return (self.fast if Switches.compile else self.plain)(*args, **kwargs)


def autocast() -> torch.autocast:
    """bfloat16; weights are cast anew each time, because a CUDA graph must hold the casts."""
    return torch.autocast(DEVICE.type, dtype=torch.bfloat16, cache_enabled=False)
