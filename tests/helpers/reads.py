"""Modes in which nothing may be read from a device, for code that is not to wait for a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Of a GPU, each of these waits until all that was asked of it is done.
METHODS = {"item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"}
KERNELS = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "bincount",
           "is_nonzero", "unique_consecutive", "unique_dim"}  # fmt: skip


class NoMethods(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert getattr(func, "__name__", "") not in METHODS, func
        return func(*args, **(kwargs or {}))


class NoKernels(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in KERNELS, func
        if name.startswith("index"):
            # Indexing by a mask looks for its True entries.
            masks = (
                [z for z in args[1] if isinstance(z, Tensor) and z.dtype == torch.bool]
                if (isinstance(args[1], list | tuple))
                else []
            )
            assert not masks, func
        return func(*args, **(kwargs or {}))
