"""Paths of the files of training jobs: checkpoints, their sidecars, and preview frames."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lineas_core.studio.storage.store import Store


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

    def ended(self, store: Store, before: float) -> Iterator[Path]:
        """Those of jobs that ended before a time in seconds since 1970.

        Files that are as old, and whose job is unknown, are among them.
        """
        for path in list(self.all()):
            # A process that was killed while writing leaves `.<id>.….partial`.
            job = store.job(path.name.lstrip(".").partition(".")[0])
            ended = job.finished if job is not None else path.stat().st_mtime
            if ended and ended < before:
                yield path

    @staticmethod
    def remove(path: Path) -> None:
        """Remove a file or a folder of frames."""
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
