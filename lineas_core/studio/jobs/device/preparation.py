"""Convert the embedded language model in the background while the app starts."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lineas_core.models.load import needs_converting
from lineas_core.models.shared.catalog import CatalogEntry
from lineas_core.models.shared.gguf import STAGES
from lineas_core.models.shared.packages import abandoned_conversions
from lineas_core.system.paths import checkout

log = logging.getLogger(__name__)

CONVERT = "lineas_core.models.language.convert"
# Seconds between two reports of the conversion's progress.
LOOK = 0.5


@dataclass(frozen=True)
class Waiting:
    """Progress of the conversion that an answer waits for.

    Attributes:
        words: what is being done.
        share: share of the stages done, 0 to 1.
        seconds: time since the conversion began.
    """

    words: str
    share: float
    seconds: float


class Preparation:
    """Converts a packaged model once, in a subprocess.

    A failed conversion is logged. The first call that needs the model then fails with the same
    error, which is shown to the user who made it.

    Args:
        entry: the model.
        home: the folder that it is converted into.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self, entry: CatalogEntry, home: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._entry, self._home, self._clock = entry, home, clock
        self._stage, self._began = 0, clock()
        self._ready = threading.Event()
        self._ready.set()
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the conversion if the model is not converted yet."""
        if not needs_converting(self._entry, self._home):
            return
        self._ready.clear()
        self._began = self._clock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", CONVERT, self._entry.id, str(self._home)],
            cwd=checkout(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._watch, args=(self._process,), daemon=True).start()

    def stop(self) -> None:
        """Terminate a running conversion; the next start begins it again."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._ready.wait()
            abandoned_conversions(self._home)

    def waits(self, model: str) -> Iterator[Waiting]:
        """Yield progress every half second until the model can be loaded; nothing if it can."""
        while model == self._entry.id and not self._ready.is_set():
            yield Waiting(
                f"{self._entry.title} is made ready, once: {STAGES[self._stage]}",
                (self._stage + 0.5) / len(STAGES),
                self._clock() - self._began,
            )
            self._ready.wait(LOOK)

    def _watch(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip().isdecimal():
                self._stage = min(int(line), len(STAGES) - 1)
        _, errors = process.communicate()
        if process.returncode > 0:
            log.warning("%s is not ready: %s", self._entry.id, errors[-500:])
        self._ready.set()
