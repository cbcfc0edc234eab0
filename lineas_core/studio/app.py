"""The app's state, and how its errors reach the page."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import gradio as gr
import torch
from filelock import FileLock, Timeout

from lineas_core.diagnostics.interference import Effect, effects
from lineas_core.errors import LineasError
from lineas_core.models.load import as_image_model
from lineas_core.models.shared.availability import asks_for
from lineas_core.models.shared.catalog import CatalogEntry, catalog
from lineas_core.scenes.revision import model_revision
from lineas_core.studio.access.limits import Limits
from lineas_core.studio.access.moderation import load_for_visitors
from lineas_core.studio.access.redaction import without_paths
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.jobs.gpu import lends_gpu, on_gpu, slices_on_gpu
from lineas_core.studio.jobs.model_cache import Shelf
from lineas_core.studio.jobs.preparation import Preparation
from lineas_core.studio.jobs.priority import Turns
from lineas_core.studio.jobs.queue import Jobs
from lineas_core.studio.rack.mix import Mix, mix_of
from lineas_core.studio.rack.rack import RackState
from lineas_core.studio.storage.recovery.recovery import open_state
from lineas_core.studio.storage.schema import store_errors
from lineas_core.studio.storage.store import JobRow, StoreError
from lineas_core.system.paths import packaged

P = ParamSpec("P")
R = TypeVar("R")
log = logging.getLogger(__name__)

DAY = 86_400.0
# Seconds after which what was uploaded, or made for a download, is removed.
KEPT_FOR = 3600


def with_messages(function: Callable[P, R]) -> Callable[P, R]:
    """An error of the library becomes a message on the page; any other goes to the log."""
    # The page takes messages for HTML, and they hold what visitors wrote.
    return _guarded(function, lambda text: escape(text, quote=False))


def with_plain_messages(function: Callable[P, R]) -> Callable[P, R]:
    """The same for clients, which take messages as they are."""
    return _guarded(function, str)


def _guarded(function: Callable[P, R], shown: Callable[[str], str]) -> Callable[P, R]:
    def message(error: Exception) -> gr.Error:
        if isinstance(error, gr.Error):
            return error
        if isinstance(error, LineasError):
            return gr.Error(shown(without_paths(str(error))), print_exception=False)
        log.error("%s failed", function.__name__, exc_info=error)
        return gr.Error(
            "Something unexpected went wrong; the log has the details. Nothing was lost.",
            print_exception=False,
        )

    if inspect.isgeneratorfunction(inspect.unwrap(function)):

        @functools.wraps(function)
        def streamed(*args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
            try:
                yield from cast(Iterator[Any], function(*args, **kwargs))
            except Exception as error:
                raise message(error) from error

        return cast(Callable[P, R], streamed)

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise message(error) from error

    return guarded


class Studio:
    """The app's state: models, maps, jobs.

    Args:
        settings: the host's.
        environment: tells whether GPUs are lent by the call.
    """

    def __init__(self, settings: Settings, environment: Mapping[str, str] | None = None) -> None:
        self.settings = settings
        self.environment = os.environ if environment is None else environment
        home = settings.home
        self._alone = _only_one(home)
        opened = open_state(home, wal=not settings.network_disk, gallery=packaged("gallery"))
        self.store, self.library = opened.store, opened.library
        # For the person whose machine it is; strangers have no use for it.
        self.mended = [] if settings.demo else list(opened.notes)
        load = functools.partial(load_for_visitors, safety_checker=settings.safety_checker)
        self.shelf = Shelf(home, load, only_catalog=settings.demo)
        self.preparation = Preparation(catalog()["smollm2"], home)
        self.turns = Turns()
        self.jobs = Jobs(
            self.store,
            self.library,
            self.shelf.get,
            self.turns,
            home,
            most_queued=settings.most_queued,
            most_per_visitor=settings.most_jobs,
            slice_runner=slices_on_gpu(self.shelf, self.environment),
            forget_model=self.shelf.forget,
            on_end=self._track if settings.trackio else None,
        )
        self.jobs.prune(settings.keep_days * DAY)
        self.library.purge(settings.keep_days * DAY)
        self._effects = self.on_gpu(self._effects_here)
        # Gradio serves what it has copied from the one into the other, and nothing else.
        self.downloads = tempfile.TemporaryDirectory(prefix="lineas-downloads-")
        self.uploads = tempfile.TemporaryDirectory(prefix="lineas-uploads-")
        self.limits = Limits(
            settings,
            self.store,
            self.library,
            (Path(self.downloads.name), Path(self.uploads.name)),
        )

    def close(self) -> None:
        """Stop the worker, whose job goes on at the next start, and drop the downloads."""
        self.preparation.stop()
        self.jobs.close()
        self.store.close()
        self._alone.release()
        self.downloads.cleanup()
        self.uploads.cleanup()

    def download_folder(self) -> Path:
        """A new folder for what one visitor downloads; those of an hour ago are removed."""
        for folder in Path(self.downloads.name).iterdir():
            with suppress(OSError):
                if time.time() - folder.stat().st_mtime > KEPT_FOR:
                    shutil.rmtree(folder, ignore_errors=True)
        return Path(tempfile.mkdtemp(dir=self.downloads.name))

    def models(self, modality: str) -> list[CatalogEntry]:
        """The catalogue's models of "text" or "image"; the embedded one comes first."""
        kind = "language" if modality == "text" else "diffusion"
        return [entry for entry in catalog().values() if entry.kind == kind]

    def model_choices(self, modality: str) -> list[tuple[str, str]]:
        """(title, id) of `models`; a title says what the model asks for that is not here."""
        gpu = torch.cuda.is_available() or lends_gpu(self.environment)
        return [
            (f"{entry.title} · {asked}" if asked else entry.title, entry.id)
            for entry in self.models(modality)
            for asked in (asks_for(entry, gpu=gpu),)
        ]

    def load(self, model: str) -> None:
        """Have the model in memory: what a process with a lent GPU loads is gone with it."""
        for _ in self.preparation.waits(model):
            pass
        self.shelf.get(model)

    def on_gpu(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function as it must be called for its GPU work; see `gpu.py`."""
        return on_gpu(function, self.environment)

    def mix(self, owner: str, rack: RackState, model: str) -> Mix:
        """The maps that the rack puts on a model, for an answer that counts as a request.

        Raises:
            LimitError: the visitor has asked for too much.
            ConfigError: too many maps are on.
            MapError: a map's file is damaged, or has no inverse.
        """
        self.limits.admit(owner)
        return mix_of(rack, self.library, owner, model, guarded=self.settings.demo)

    def check_images(self, model: str, count: int) -> None:
        """Refuse an answer of more images than the host allows.

        Raises:
            LimitError: there would be too many images or pixels.
        """
        entry = catalog().get(model)
        size = entry.size if entry else 0
        self.limits.check_images(count, size or as_image_model(self.shelf.get(model)).size)

    def revision(self, model: str) -> str:
        """Of the weights that the model was loaded from."""
        return model_revision(self.shelf.get(model))

    def effects(self, mix: Mix, model: str, prompts: list[str]) -> dict[str, float | None]:
        """Map id -> how much of its effect is left beside the others; empty for one map."""
        if len(mix.maps) < 2:
            return {}
        with self.turns.sliders():
            self.load(model)
            found = self._effects(mix, model, prompts)
        return {row.id: effect.share for row, effect in zip(mix.rows, found, strict=True)}

    def _track(self, job: JobRow) -> None:
        """A job's curves to trackio."""
        from lineas_core.training.tracking import log_run, open_tracker

        tracker = open_tracker("trackio", self.settings.trackio, name=f"{job.title} {job.id[:8]}")
        log_run(tracker, {"model": job.model, **job.changes}, job.losses, job.supports)

    def _effects_here(self, mix: Mix, model: str, prompts: list[str]) -> list[Effect]:
        pooling = mix.maps[0].info.config.get("pooling", "mean")
        return effects(self.shelf.get(model), prompts, mix.steer, pooling=pooling)


def _only_one(home: Path) -> FileLock:
    """Hold the folder: a second process would take this one's running job for an interrupted one.

    Raises:
        StoreError: another process holds it, or it cannot be written.
    """
    lock = FileLock(home / "studio.lock", timeout=0)
    with store_errors(home / "studio.db"):
        home.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise StoreError(
                f"Another LinEAS Studio uses {home}. Stop it, or set LINEAS_HOME to another folder."
            ) from error
    return lock
