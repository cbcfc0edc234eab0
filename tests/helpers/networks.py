"""Random weights for small networks."""

from __future__ import annotations

from typing import Any

from torch import nn


def lively(network: nn.Module) -> Any:
    """Randomise norms and enlarge text encoders, whose initial values would hide mistakes."""
    for name, parameter in network.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter, 1.0, 0.3)
        elif "embedding" in name or "shared" in name:
            nn.init.normal_(parameter, 0.0, 1.0)
        elif parameter.ndim == 2:
            nn.init.normal_(parameter, 0.0, 0.3)
    return network
