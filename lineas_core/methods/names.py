"""The methods by name: how each is shown to people, and which of them runs in steps."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# The one that is trained by gradients; all others are fitted in one go.
STEPWISE = "lineas"
# Name -> title; `methods/fit.py` has what each name fits.
TITLES: Mapping[str, str] = MappingProxyType(
    {
        "lineas": "LinEAS",
        "lin-act": "Lin-AcT",
        "mean-act": "Mean-AcT",
        "gaussian-act": "Gaussian-AcT",
        "iti-c": "ITI-c",
        "caa": "CAA",
        "actadd": "ActAdd",
        "aura": "AurA",
        "repe": "RePE",
    }
)
