"""Where a map acts: an interval per neuron, outside which activations stay as they are.

    z -> T_s(z)  where lower < z < upper,   z elsewhere

as in Lin-AcT (Rodriguez et al., ICLR 2025), which moves an activation only within the range of
those that the map was fitted on. A map with bounds is not affine: its inverse is ambiguous, and two
of them at one site are no single map, so a live model applies them one after another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lineas_core.errors import MapError
from lineas_core.system.words import counted

EVERYWHERE = "learn the map again with bounds='none', with which it acts everywhere"


class Bounds(NamedTuple):
    """The open interval of activations that a map moves. Both of shape (d,), float32."""

    lower: Float[Tensor, " d"]
    upper: Float[Tensor, " d"]

    def on(self, device: torch.device | None) -> Bounds:
        """The same bounds on `device`."""
        return Bounds(self.lower.to(device), self.upper.to(device))


def check_bounds(site: str, bounds: Bounds, width: int) -> None:
    """Check the bounds of one site.

    Raises:
        MapError: they are not two finite float32 vectors of the site's width, or cross.
    """
    for part, values in zip(bounds._fields, bounds, strict=True):
        if values.dtype != torch.float32 or tuple(values.shape) != (width,):
            raise MapError(
                f"Site {site!r}: {part} is {values.dtype} of shape {tuple(values.shape)}; it must "
                f"be float32 of shape ({width},), like scale and shift."
            )
        if not bool(torch.isfinite(values).all()):
            raise MapError(f"Site {site!r}: {part} holds values that are not finite.")
    if bool((bounds.lower > bounds.upper).any()):
        raise MapError(f"Site {site!r}: lower is above upper for some neurons. Exchange them.")


def refuse_bounds(sites: Iterable[str], what: str, remedy: str) -> None:
    """Raise `MapError` if there are sites with bounds: the map cannot be `what` there."""
    if names := list(sites):
        others = f" and {counted(len(names) - 1, 'other site')}" if names[1:] else ""
        raise MapError(
            f"The map cannot be {what}: it acts only within bounds at {names[0]}{others}. {remedy}"
        )
