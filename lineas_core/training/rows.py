"""Rows of a minibatch, and the activations of all sites side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lineas_core.system.devices import indices_on

# Rows of a set: their indices, or a tensor of them that stays at its place on the device.
Rows = Sequence[int] | Tensor


def taken(z: Float[Tensor, "n d"], rows: Rows) -> Float[Tensor, "_ d"]:
    """The given rows of z; z itself if they are all."""
    if isinstance(rows, Tensor):
        return z[rows]
    return z if len(rows) == len(z) else z[indices_on(z.device, rows)]


def side_by_side(found: Mapping[str, Tensor], sites: Sequence[str]) -> Tensor:
    """Concatenate the sites to (n, sum of widths), on the first site's device.

    The sites of a model that is spread over several devices may be on different ones.
    """
    device = found[sites[0]].device
    return torch.cat([found[site].to(device) for site in sites], dim=1)
