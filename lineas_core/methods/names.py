"""The names and titles of the methods, and which of them trains in steps."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lineas_core.errors import ConfigError

# The only method trained by gradient descent; the others are fitted without steps.
STEPWISE = "lineas"
# Name -> title. Each name is that of a module in this folder, with - in place of _.
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
    """Check that a method exists.

    Raises:
        ConfigError: it does not; the message lists the methods.
    """
    if name not in TITLES:
        raise ConfigError(f"method is {name!r}; choose one of {', '.join(TITLES)}.")
