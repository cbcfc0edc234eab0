"""The training device, its reduced precision, and compilation where it is worthwhile."""

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
    """Optimisations of training; each is turned off if it fails."""

    compile = True
    # A CUDA graph of the whole step, since small models are otherwise bound by kernel launches.
    graph = IS_GPU


class Compiled:
    """A function or module that runs compiled while `Switches.compile` is on."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.plain = function
        self.fast = torch.compile(function, dynamic=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the compiled or the plain version."""
        return (self.fast if Switches.compile else self.plain)(*args, **kwargs)


def autocast() -> torch.autocast:
    """bfloat16 autocast without a weight cache, because a CUDA graph must include the casts."""
    return torch.autocast(DEVICE.type, dtype=torch.bfloat16, cache_enabled=False)
