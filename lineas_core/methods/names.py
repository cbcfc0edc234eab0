"""The names and titles of the methods, and which of them train in steps."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lineas_core.errors import ConfigError

# The method that is taken where none is named.
DEFAULT_METHOD = "lineas"
# Trained by gradient descent; the others are fitted without steps.
STEPWISE = frozenset({"lineas", "lineas+"})
# For language models alone.
TEXT_ONLY = frozenset({"lineas+"})
# Name -> title; see `module_of`.
TITLES: Mapping[str, str] = MappingProxyType(
    {
        "lineas": "LinEAS",
        "lineas+": "LinEAS+",
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


def module_of(name: str) -> str:
    """Name of a method's module in this folder.

    >>> module_of("lin-act"), module_of("lineas+")
    ('lin_act', 'lineas_plus')
    """
    return name.replace("-", "_").replace("+", "_plus")
