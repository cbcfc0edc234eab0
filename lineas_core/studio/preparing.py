"""The embedded language model, made ready in the background while the app starts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lineas_core.errors import LineasError
from lineas_core.models import convert_model, needs_converting
from lineas_core.models.catalog import CatalogEntry
from lineas_core.models.wheels import STAGES

log = logging.getLogger(__name__)

# Seconds between two looks at how far the conversion is.
LOOK = 0.5


@dataclass(frozen=True)
class Waiting:
    """What an answer waits for.

    Attributes:
        words: what is being done.
        share: of the stages that are behind, 0 to 1.
        seconds: since it began.
    """

    words: str
    share: float
    seconds: float


class Preparation:
    """Converts a packaged model once, beside everything else.

    A conversion that fails is logged and left to the first call that needs the model, which fails
    with the same error where the person who asked can read it.

    Args:
        entry: the model.
        home: that it is converted into.
        clock: seconds from any start.
    """

    def __init__(
        self, entry: CatalogEntry, home: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._entry, self._home, self._clock = entry, home, clock
        self._stage, self._began = 0, clock()
        self._ready = threading.Event()
        if needs_converting(entry, home):
            threading.Thread(target=self._convert, name="preparation", daemon=True).start()
        else:
            self._ready.set()

    def waits(self, model: str) -> Iterator[Waiting]:
        """How far the model is, every half second until it can be loaded; nothing if it can."""
        while model == self._entry.id and not self._ready.is_set():
            yield Waiting(
                f"{self._entry.title} is made ready, once: {STAGES[self._stage]}",
                (self._stage + 0.5) / len(STAGES),
                self._clock() - self._began,
            )
            self._ready.wait(LOOK)

    def _convert(self) -> None:
        try:
            convert_model(self._entry, self._home, self._at)
        except LineasError as error:
            log.warning("%s is not ready: %s", self._entry.id, error)
        finally:
            self._ready.set()

    def _at(self, stage: int) -> None:
        self._stage = stage
