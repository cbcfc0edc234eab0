"""LINEAS_HOME, the folder for everything users make and for converted models; and its bucket."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from lineas_core.errors import ConfigError

# Where a Space has its storage bucket, which is not a disk: see studio/storage/recovery/bucket.py.
SPACE_STORAGE = Path("/data")


def lineas_home(environment: Mapping[str, str] = os.environ) -> Path:
    """LINEAS_HOME if it is set, otherwise the user data folder."""
    if chosen := environment.get("LINEAS_HOME"):
        return Path(chosen).expanduser().resolve()
    return Path(platformdirs.user_data_dir("lineas-studio", appauthor=False))


def lineas_bucket(environment: Mapping[str, str], home: Path) -> Path | None:
    """LINEAS_BUCKET if it is set, `/data` on a Space that has something mounted there, or None.

    Raises:
        ConfigError: it holds LINEAS_HOME, or is in it.
    """
    home = home.resolve()
    if chosen := environment.get("LINEAS_BUCKET"):
        bucket = Path(chosen).expanduser().resolve()
        if bucket.is_relative_to(home) or home.is_relative_to(bucket):
            raise ConfigError(
                f"LINEAS_BUCKET is {bucket}, and LINEAS_HOME is {home}. Give a folder that is not "
                "in the other, and does not hold it."
            )
        return bucket
    if "SPACE_ID" not in environment or home.is_relative_to(SPACE_STORAGE):
        return None
    return SPACE_STORAGE if SPACE_STORAGE.is_mount() else None
