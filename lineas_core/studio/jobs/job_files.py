"""Paths of the files of training jobs: checkpoints, their sidecars, and preview frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class JobFiles:
    """Paths of the jobs' files, which need not exist.

    Attributes:
        home: the folder that contains them.
    """

    home: Path

    def checkpoint(self, job_id: str) -> Path:
        """The file of a job's newest checkpoint."""
        return self.home / "checkpoints" / f"{job_id}.safetensors"

    def sidecar(self, job_id: str) -> Path:
        """The file beside a job's checkpoint that holds the job's row."""
        return self.home / "checkpoints" / f"{job_id}.json"

    def frames(self, job_id: str) -> Path:
        """The folder of a job's preview frames."""
        return self.home / "frames" / job_id

    def all(self) -> Iterator[Path]:
        """All checkpoints, sidecars and folders of frames that exist."""
        for folder in ("checkpoints", "frames"):
            yield from (self.home / folder).glob("*")
