"""Which device to run on."""

from __future__ import annotations

import psutil  # type: ignore[import-untyped]
import torch

from lineas_core.errors import ConfigError


def choose_device(device: str) -> torch.device:
    """Return the named device; "auto" picks a GPU if there is one.

    Raises:
        ConfigError: this machine has no such device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device is {device!r}, which this machine does not have. Use 'auto' or 'cpu'."
        ) from error
    return chosen


def free_bytes(device: torch.device) -> int:
    """Free memory in bytes: the GPU's for CUDA devices, otherwise the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def cpu_has_bfloat16() -> bool:
    """Whether this CPU has bfloat16 instructions; without them, float32 is faster."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
