"""Where on the Hugging Face Hub a map was downloaded from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """Where a map was downloaded from; all fields are empty if it was not.

    Attributes:
        repo: the repository.
        revision: the commit.
        file: the map's file name in the repository.
        sha256: of the file.
    """

    repo: str = ""
    revision: str = ""
    file: str = ""
    sha256: str = ""
