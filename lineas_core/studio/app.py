"""The app's state: its settings, models, maps and training jobs."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from lineas_core.errors import ConfigError
from lineas_core.methods.names import DEFAULT_METHOD
from lineas_core.models.load import as_image_model
from lineas_core.models.shared.availability import asks_for
from lineas_core.models.shared.catalog import catalog
from lineas_core.models.shared.packages import abandoned_conversions
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.scenes.revision import model_revision
from lineas_core.studio.access.ledger import DAY, Ledger, size_of
from lineas_core.studio.access.limits import Limits
from lineas_core.studio.access.moderation import check_target, load_for_visitors
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.text_limits import TextLimits, check_characters
from lineas_core.studio.access.visitors import client_address
from lineas_core.studio.jobs.context import JobContext
from lineas_core.studio.jobs.device.gpu import lends_gpu
from lineas_core.studio.jobs.device.inference import Inference
from lineas_core.studio.jobs.device.model_cache import ModelCache, catalog_models
from lineas_core.studio.jobs.device.preparation import Preparation
from lineas_core.studio.jobs.device.priority import Priority
from lineas_core.studio.jobs.device.quotas import Quotas
from lineas_core.studio.jobs.ending import died_of_itself
from lineas_core.studio.jobs.job_files import JobFiles
from lineas_core.studio.jobs.lent_slices import slices_on_gpu
from lineas_core.studio.jobs.queue import Jobs
from lineas_core.studio.jobs.run import run_job
from lineas_core.studio.rack.mix import Mix, mix_of
from lineas_core.studio.rack.rack import RackState
from lineas_core.studio.storage.recovery.bucket import BucketCopies
from lineas_core.studio.storage.recovery.recovery import open_state
from lineas_core.studio.storage.schema import store_errors
from lineas_core.studio.storage.scratch import open_scratch, scratch_parent
from lineas_core.studio.storage.store import JobRow, StoreError
from lineas_core.system.paths import packaged

log = logging.getLogger(__name__)


class Studio:
    """The app's state: models, maps, jobs.

    Args:
        settings: the host's settings.
        environment: environment variables, which say whether this is a ZeroGPU Space;
            `os.environ` by default.
    """

    def __init__(self, settings: Settings, environment: Mapping[str, str] | None = None) -> None:
        self.settings = settings
        self.environment = os.environ if environment is None else environment
        home = settings.home
        # What was opened is closed if what comes after it fails.
        with ExitStack() as stack:
            self._open(home, stack)
            self._opened = stack.pop_all()

    def _open(self, home: Path, stack: ExitStack) -> None:
        """Open the folder; `stack` gets what closes it."""
        settings = self.settings
        alone = only_one(home)
        stack.callback(alone.release)
        for folder in abandoned_conversions(home):
            log.warning("removed %s, which a process that was killed left", folder)
        opened = open_state(
            home,
            bucket=settings.bucket,
            wal=not settings.network_disk,
            gallery=packaged("gallery"),
        )
        stack.callback(opened.store.close)
        self.store, self.library = opened.store, opened.library
        # Recovery notes are for the host; a public Space does not show them to its visitors.
        self.mended = [] if settings.demo else list(opened.notes)
        lent = lends_gpu(self.environment)
        load = functools.partial(
            load_for_visitors, safety_checker=settings.safety_checker, lent=lent
        )
        self.model_cache = ModelCache(home, load, only_catalog=settings.demo)
        self.preparation = Preparation(catalog()["smollm2"], home)
        stack.callback(self.preparation.stop)
        if settings.bucket is not None:
            copies = BucketCopies(home, settings.bucket)
            copies.start()
            # Closed after the worker, so that the last copy has what it saved.
            stack.callback(copies.close)
        priority, self.quotas = Priority(), Quotas(lent=lent, host_pays=settings.host_pays)
        self.inference = Inference(
            self.model_cache,
            self.preparation,
            priority,
            self.environment,
            TextLimits(settings.max_call_mebibytes),
        )
        context = JobContext(
            self.store,
            self.library,
            self.model_cache.get,
            priority,
            JobFiles(home),
            slices_on_gpu(self.model_cache, self.environment, self.quotas),
            self.quotas,
            60.0 * settings.max_minutes,
        )
        self.jobs = Jobs(
            context,
            run_job,
            max_queued=settings.max_queued,
            max_per_visitor=settings.max_jobs,
            max_per_address=settings.max_address_jobs,
            died_of_itself=died_of_itself(home),
            forget_model=self.model_cache.forget,
            on_end=self._track if settings.trackio else None,
        )
        stack.callback(self.jobs.close)
        self.scratch = stack.enter_context(open_scratch(scratch_parent(self.environment)))
        self.limits = Limits(settings)
        self.ledger = Ledger(
            settings,
            self.store,
            self.library,
            self.scratch,
            (functools.partial(self.jobs.prune, settings.keep_days * DAY),),
        )
        self.ledger.sweep()
        self.ledger.start()
        stack.callback(self.ledger.close)

    def close(self) -> None:
        """Stop the worker and delete downloads and uploads; its job resumes at the next start."""
        self._opened.close()

    def model_choices(self, modality: str) -> list[tuple[str, str]]:
        """(title, id) pairs of `catalog_models`; a title includes what the model still needs."""
        gpu = torch.cuda.is_available() or lends_gpu(self.environment)
        return [
            (f"{entry.title} · {asked}" if asked else entry.title, entry.id)
            for entry in catalog_models(modality)
            for asked in (asks_for(entry, gpu=gpu, home=self.settings.home),)
        ]

    def mix(self, owner: str, rack: RackState, model: str) -> Mix:
        """The maps that the rack applies to a model. Counts as a request for an answer.

        Raises:
            LimitError: the visitor, or all visitors, made too many requests within a minute.
            ConfigError: too many maps are on.
            MapError: a map's file is damaged, or has no inverse.
        """
        self.limits.admit(owner)
        return mix_of(rack, self.library, owner, model, guarded=self.settings.demo)

    def check_images(self, model: str, count: int) -> None:
        """Refuse an answer with more images or pixels than the host allows.

        Raises:
            LimitError: there would be too many images or pixels.
        """
        entry = catalog().get(model)
        size = entry.size if entry else 0
        self.limits.check_images(count, size or as_image_model(self.model_cache.get(model)).size)

    def revision(self, model: str) -> str:
        """The revision of the weights that the model was loaded from."""
        return model_revision(self.model_cache.get(model))

    def train(
        self,
        owner: str,
        model: str,
        prompts: PromptSet,
        changes: Mapping[str, Any],
        *,
        preview_prompt: str = "",
        method: str = DEFAULT_METHOD,
    ) -> JobRow:
        """Queue a training job within the host's limits.

        Args:
            owner: the owner of the job and of its map.
            model: the name to load the model by.
            prompts: the source and target.
            changes: settings that differ from the model's shipped ones.
            preview_prompt: the prompt of the preview frames; chosen by `Jobs.start` by default.
            method: a key of `TITLES`.

        Raises:
            ConfigError: there are too many steps, or the model or method is not available here.
            PromptError: the preview prompt is too long.
            ContentError: on a public Space, the prompts lean towards harm.
            LimitError: another limit is exceeded.
            JobError: the queue is full.
        """
        if changes.get("steps", 1) > self.settings.max_steps:
            raise ConfigError(
                f"steps is {changes['steps']}; {self.settings.max_steps} at most are allowed here."
            )
        check_characters(preview_prompt)
        self.model_cache.check(model)
        self.limits.admit(owner)
        self.limits.check_prompts(prompts)
        if self.settings.demo:
            check_target(prompts)
        self.quotas.watch(owner)
        with self.ledger.keeping(owner, size_of(prompts)):
            return self.jobs.start(
                owner,
                model,
                prompts,
                changes,
                method=method,
                preview_prompt=preview_prompt,
                address=client_address(),
            )

    def retry(self, owner: str, job_id: str) -> JobRow:
        """Queue a failed or cancelled job of the owner again, within the host's limits.

        Raises:
            LimitError: a limit is exceeded.
            JobError: as for `Jobs.retry`.
        """
        self.limits.admit(owner)
        job = self.jobs.get(job_id, owner)
        self.quotas.watch(owner)
        with self.ledger.keeping(owner, size_of(job.prompts) if job else 0):
            return self.jobs.retry(job_id, owner, client_address())

    def _track(self, job: JobRow) -> None:
        """Log the loss and support curves of a job to trackio."""
        from lineas_core.training.tracking import log_run, open_tracker

        tracker = open_tracker("trackio", self.settings.trackio, name=f"{job.title} {job.id[:8]}")
        log_run(tracker, {"model": job.model, **job.changes}, job.losses, job.supports)


def only_one(home: Path) -> FileLock:
    """Lock the folder; a second process would treat the running job of this one as interrupted.

    Raises:
        StoreError: another process holds the lock, or the folder cannot be written.
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
