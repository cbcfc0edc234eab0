"""Which device to run on, and why."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn

from lineas_core.errors import ConfigError

log = logging.getLogger(__name__)

GIB = 2**30
# Seconds; nvidia-smi hangs where a card does.
ASKED_FOR = 10


@dataclass(frozen=True)
class NvidiaCard:
    """What the NVIDIA driver says of the first card.

    Attributes:
        name: of the card.
        driver: version of the driver.
        cuda: the newest version of CUDA that this driver runs.
    """

    name: str
    driver: str
    cuda: str


def choose_device(device: str) -> torch.device:
    """Return the named device; "auto" picks a GPU if there is one.

    An NVIDIA card that "auto" cannot use is named in the log, once.

    Raises:
        ConfigError: this machine has no such device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        _warn_of_unused_card()
        return torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device is {device!r}, which this machine does not have. Use 'auto' or 'cpu'."
        ) from error
    return chosen


def describe_device() -> str:
    """The device that "auto" takes, and why, in one line."""
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        return f"cuda, {gpu.name} with {gpu.total_memory / GIB:.0f} GiB"
    if torch.backends.mps.is_available():
        return "mps, the GPU of this Mac"
    card = nvidia_card()
    return f"cpu: {'no NVIDIA driver answers here' if card is None else why_unused(card)}"


def nvidia_card() -> NvidiaCard | None:
    """The first NVIDIA card, asked of its driver and not of torch; None where none answers."""
    if (command := shutil.which("nvidia-smi")) is None:
        return None
    try:
        done = subprocess.run(
            [command, "-q"], capture_output=True, encoding="utf-8", errors="replace",
            timeout=ASKED_FOR, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    found = {
        key: match[1].strip()
        for key in ("Product Name", "Driver Version", "CUDA Version")
        if (match := re.search(rf"^\s*{key}\s*: (.+)$", done.stdout, re.MULTILINE))
    }
    if "Product Name" not in found:
        return None
    return NvidiaCard(
        found["Product Name"], found.get("Driver Version", ""), found.get("CUDA Version", "")
    )


def why_unused(card: NvidiaCard, built_for: str | None = torch.version.cuda) -> str:
    """Why torch does not run on a card, and what to do.

    Args:
        card: that torch does not find.
        built_for: the version of CUDA that torch is built for; None is a build for CPUs.

    >>> why_unused(NvidiaCard("T4", "470.82", "11.4"), "13.2")
    'the driver 470.82 of the T4 runs CUDA 11.4 at most, and torch needs 13. Update the driver.'
    """
    if built_for is None:
        return (
            f"torch {torch.__version__} is built for CPUs, and the {card.name} is not used. "
            "Install the build for CUDA."
        )
    needed = built_for.partition(".")[0]
    if re.match(r"\d+\.", card.cuda) and int(card.cuda.partition(".")[0]) < int(needed):
        return (
            f"the driver {card.driver} of the {card.name} runs CUDA {card.cuda} at most, and torch "
            f"needs {needed}. Update the driver."
        )
    return (
        f"torch does not reach the {card.name} (driver {card.driver}). Look at "
        "CUDA_VISIBLE_DEVICES, and whether a container was given the card."
    )


@cache
def _warn_of_unused_card() -> None:
    card = nvidia_card()
    if card is not None:
        log.warning("The CPU is used: %s", why_unused(card))


def free_bytes(device: torch.device) -> int:
    """Free memory in bytes: the GPU's for CUDA devices, otherwise the machine's.

    What torch has reserved of a GPU and does not use is free too.
    """
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reserved
    return int(psutil.virtual_memory().available)


def on_one_device(module: nn.Module) -> bool:
    """Whether all weights are on one device: none is on another GPU, or offloaded."""
    return len({parameter.device for parameter in module.parameters()}) == 1


def indices_on(device: torch.device, indices: Sequence[int]) -> Tensor:
    """The indices as a tensor on a device, without waiting for what the device is doing."""
    on_host = torch.tensor(indices, dtype=torch.long)
    if device.type != "cuda":
        return on_host.to(device)
    return on_host.pin_memory().to(device, non_blocking=True)


def cpu_has_bfloat16() -> bool:
    """Whether this CPU has bfloat16 instructions; without them, float32 is faster."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def is_slow_on_cpu(dtype: torch.dtype | None) -> bool:
    """Whether a CPU trains several times faster in float32 than in this dtype.

    >>> is_slow_on_cpu(torch.float16), is_slow_on_cpu(torch.float32)
    (True, False)
    """
    return dtype == torch.float16 or (dtype == torch.bfloat16 and not cpu_has_bfloat16())
