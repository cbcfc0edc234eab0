"""LINEAS_HOME: the folder for everything users make and for converted models."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs

SPACE_STORAGE = Path("/data")


def lineas_home(environment: Mapping[str, str] = os.environ) -> Path:
    """LINEAS_HOME if it is set, `/data` on a Space that has it, otherwise the user data folder."""
    if chosen := environment.get("LINEAS_HOME"):
        return Path(chosen).expanduser().resolve()
    if "SPACE_ID" in environment and os.access(SPACE_STORAGE, os.W_OK):
        return SPACE_STORAGE
    return Path(platformdirs.user_data_dir("lineas-studio", appauthor=False))
