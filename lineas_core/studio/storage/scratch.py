"""Files of one process that nobody keeps: uploads, downloads and temporary files."""

from __future__ import annotations

import getpass
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lineas_core.system.owned_folders import abandoned, owned_folder

PREFIX = "lineas-studio-"
# Prefixes of the folders of versions that had one folder of each kind, and no lock beside it.
EARLIER = ("lineas-downloads-", "lineas-uploads-")
# Age in seconds at which they are removed.
KEPT_FOR = 3600.0


@dataclass(frozen=True)
class Scratch:
    """The folders of uploads and of temporary files, downloads among them.

    Attributes:
        folder: holds the other two; of this process alone.
        clock: returns the time in seconds since 1970.
    """

    folder: Path
    clock: Callable[[], float] = time.time

    @property
    def uploads(self) -> Path:
        """Uploads, and the copies of downloads that Gradio serves; it serves nothing else."""
        return self.folder / "uploads"

    @property
    def temporary(self) -> Path:
        """Temporary files of this process and of those that it starts, and files for downloads.

        Gradio takes files for a download from `tempfile`'s folder alone.
        """
        return self.folder / "temporary"

    @property
    def parts(self) -> dict[str, Path]:
        """What lies in the folders, in words, and the folders."""
        return {
            "uploads": self.uploads,
            "downloads and temporary files": self.temporary,
        }

    def new_download(self) -> Path:
        """A new folder for the files of one download."""
        return Path(tempfile.mkdtemp(prefix="download-", dir=self.temporary))

    def sweep(self, age: float = KEPT_FOR) -> None:
        """Remove files, and folders without files, that are older than `age` seconds."""
        before = self.clock() - age
        for part in self.parts.values():
            for place, folders, files in os.walk(part, topdown=False):
                for name in files:
                    path = os.path.join(place, name)
                    with suppress(OSError):
                        found = os.lstat(path)
                        # Renaming an upload into its place changes the second only.
                        if max(found.st_mtime, found.st_ctime) < before:
                            os.unlink(path)
                for name in folders:
                    path = os.path.join(place, name)
                    with suppress(OSError):
                        if os.lstat(path).st_mtime < before:
                            os.rmdir(path)

    def remove_loose_uploads(self) -> None:
        """Remove what an upload left behind that was cut off or refused.

        Gradio writes uploads beside the folders in which it puts what has arrived as a whole. Call
        this only while it reads none.
        """
        with os.scandir(self.uploads) as found:
            for entry in found:
                if not entry.is_dir(follow_symlinks=False):
                    with suppress(OSError):
                        os.unlink(entry.path)

    @contextmanager
    def for_all_temporary_files(self) -> Iterator[None]:
        """Within the block, `tempfile` and the processes that are started use `temporary`.

        Whatever a library leaves behind is then counted, and removed by age and with the process.
        """
        # torch's cache of compiled kernels has the temporary folder's name, and is worth keeping.
        with suppress(OSError, KeyError):
            kernels = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(kernels))
        before, named = tempfile.tempdir, os.environ.get("TMPDIR")
        tempfile.tempdir = os.environ["TMPDIR"] = str(self.temporary)
        try:
            yield
        finally:
            tempfile.tempdir = before
            if named is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = named


def scratch_parent(environment: Mapping[str, str]) -> Path:
    """Where processes have their folders: GRADIO_TEMP_DIR, or the system's temporary folder."""
    return Path(environment.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())


@contextmanager
def open_scratch(parent: Path) -> Iterator[Scratch]:
    """New folders, removed after the block; those of processes that were killed are removed first.

    Args:
        parent: from `scratch_parent`.

    Raises:
        OSError: it cannot be written.
    """
    abandoned(parent, PREFIX)
    with owned_folder(parent, PREFIX) as folder:
        scratch = Scratch(folder)
        for part in scratch.parts.values():
            part.mkdir()
        yield scratch
