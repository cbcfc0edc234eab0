"""The methods by name: how each is shown to people, and which of them runs in steps."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lineas_core.errors import ConfigError

# The one that is trained by gradients; all others are fitted in one go.
STEPWISE = "lineas"
# Name -> title. Each name is that of a module of this folder, with _ for -.
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


def check_method(name: str) -> None:
    """Refuse a method that there is not.

    Raises:
        ConfigError: with the names that there are.
    """
    if name not in TITLES:
        raise ConfigError(f"method is {name!r}; choose one of {', '.join(TITLES)}.")
