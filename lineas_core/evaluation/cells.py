"""A cache shared by all tables: each cell is measured once, each map and text generated once.

A table is a list of cells. A cell is a small JSON value that describes a measurement. Its result is
written to a file of its own as soon as it is available, so an interrupted run resumes where it
stopped, and cells can safely be rerun. Several processes may share the folder.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import BaseFileLock, FileLock

from lineas_core.errors import ConfigError, MapError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.methods.fit import fit
from lineas_core.models.load import Model, as_language_model
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.system.files import sha256_of, write_whole
from lineas_core.training.config import OF_METHOD, TrainConfig
from lineas_core.version import __version__

Cell = Mapping[str, Any]
Row = dict[str, Any]


def check_known(field: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Check a size that lists names, before anything is measured.

    Args:
        field: the size's name, for the error.
        given: its names.
        known: those that the table has.

    Raises:
        ConfigError: one is not known.
    """
    choices = list(known)
    for name in given:
        if name not in choices:
            raise ConfigError(f"{field} holds {name!r}; choose among {', '.join(choices)}.")


@dataclass(frozen=True)
class Fitted:
    """A map and the seconds it took to learn."""

    map: SteeringMap
    seconds: float


@dataclass(frozen=True)
class Bench:
    """A model, and the folder that caches its results, maps and texts.

    Args:
        model: the model to measure.
        folder: where this model's results are stored.
        tell: called with each line of progress.
    """

    model: Model
    folder: Path
    tell: Callable[[str], object] = lambda line: None

    def rows(
        self, table: str, cells: Sequence[Cell], measure: Callable[[Cell], list[Row]]
    ) -> pd.DataFrame:
        """Measure each cell, or read its cached rows; the result also has the cell's own columns.

        Args:
            table: the table's name, which is part of the cache key.
            cells: what to measure, in order; each holds all that its result depends on, except
                the model, the settings that ship, and what is in a file that it names.
            measure: cell -> rows. Not called for cells that are already in the folder.
        """
        found: list[Row] = []
        for number, cell in enumerate(cells, start=1):
            kept = self.kept(table, cell)
            if kept is None:
                self.tell(f"{table} {number}/{len(cells)}: {described(cell)}")
                kept = measure(cell)
                self.keep(table, cell, kept)
            found += [{**cell, **row} for row in kept]
        return pd.DataFrame(found)

    def kept(self, table: str, cell: Cell) -> list[Row] | None:
        """The cached rows of a cell; None if it has not been measured."""
        rows: list[Row] | None = _read(self._of_cell(table, cell))
        return rows

    def keep(self, table: str, cell: Cell, rows: list[Row]) -> None:
        """Store the rows of a cell."""
        _write(self._of_cell(table, cell), rows)

    def fit(self, method: str, prompts: PromptSet, config: TrainConfig) -> Fitted:
        """Learn the map of a method, or read it if these prompts and settings were used before."""
        key = {"method": method, "prompts": prompts.hash(), "config": repr(config)}
        return self.learned(key, lambda: fit(method, self.model, prompts, config))

    def learned(self, key: Mapping[str, Any], learn: Callable[[], SteeringMap]) -> Fitted:
        """Call `learn` and store its map, or read the stored map of the same key."""
        file = self._file("maps", key).with_suffix(".safetensors")
        note = file.with_suffix(".json")
        with self._alone(file):
            kept = _read(note)
            if kept is not None:
                try:
                    return Fitted(SteeringMap.load(file), kept["seconds"])
                except MapError:
                    self.tell(f"{file.name} cannot be read; learning the map again")
            began = time.perf_counter()
            smap = learn()
            seconds = time.perf_counter() - began
            smap.save(file)
            _write(note, {"seconds": seconds, **key})
            return Fitted(smap, seconds)

    def texts(
        self,
        prompts: Sequence[str],
        maps: Sequence[tuple[SteeringMap, float]],
        seeds: Sequence[int],
        **settings: Any,
    ) -> list[str]:
        """`LanguageModel.generate`, cached by maps, strengths, prompts, seeds and settings."""
        used = [(smap.digest(), strength) for smap, strength in maps if strength]
        key = {"maps": used, "prompts": list(prompts), "seeds": list(seeds), **settings}
        file = self._file("texts", key)
        with self._alone(file):
            kept: list[str] | None = _read(file)
            if kept is None:
                model = as_language_model(self.model)
                kept = model.generate(prompts, maps, seed=list(seeds), **settings)
                _write(file, kept)
            return kept

    def _alone(self, file: Path) -> BaseFileLock:
        """A lock held while `file` is written, so that other processes wait for it and reuse it.

        The lock is released when its holder exits.
        """
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / file.stem)

    def _of_cell(self, table: str, cell: Cell) -> Path:
        settings = repr((TrainConfig(), OF_METHOD, self.model.train_defaults))
        named = (Path(value) for value in cell.values() if isinstance(value, str) and value)
        files = {str(path): sha256_of(path) for path in named if path.is_file()}
        return self._file("cells", {"table": table, "settings": settings, "files": files, **cell})

    def _file(self, kind: str, key: Mapping[str, Any]) -> Path:
        text = json.dumps({"model": self.model.id, "version": __version__, **key}, sort_keys=True)
        return self.folder / kind / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


def described(cell: Cell) -> str:
    """A one-line description of a cell."""
    return ", ".join(f"{key} {value}" for key, value in cell.items())


def spread(results: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Mean and standard deviation of `values` over all columns not in `by` (usually seeds).

    Returns:
        A row for each combination of `by`, in the order of first appearance, with the columns
        `value` and `value_sd` (0 if there is only one result).
    """
    groups = results.groupby(list(by), sort=False)[list(values)]
    means, deviations = groups.mean(), groups.std(ddof=1).fillna(0.0)
    return means.join(deviations.add_suffix("_sd")).reset_index()


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write(file: Path, value: Any) -> None:
    write_whole(file, json.dumps(value))
