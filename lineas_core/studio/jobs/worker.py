"""The worker thread, which runs one job after the other, and the thread that watches it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from lineas_core.errors import LineasError
from lineas_core.studio.jobs.watchdog import Watchdog
from lineas_core.studio.storage.store import JobRow, Store

SECONDS_BETWEEN_LOOKS = 1.0
# Maximum number of hung threads; each keeps its model in memory.
MAX_HUNG = 3
HOUR = 3600.0
MAX_GAP = 30 * 24 * HOUR

log = logging.getLogger(__name__)


class JobWorker:
    """Runs the jobs of the queue, one at a time.

    Python cannot stop a thread from outside, so a thread that hangs is abandoned: its job fails,
    its model is dropped from the cache, because hooks of the hung step are still attached to it,
    and a new thread runs the remaining jobs.

    Args:
        store: the database of the jobs.
        run: runs a claimed job to its end; returns why it failed if its row could not be updated.
        forget_model: drops a model from the cache, so that the next job loads it again; without
            it a job that hangs stops the queue.
        on_end: called with each job that has reached a final status.
    """

    def __init__(
        self,
        store: Store,
        run: Callable[[JobRow, Watchdog], str],
        forget_model: Callable[[str], object] | None,
        on_end: Callable[[JobRow], object],
    ) -> None:
        self._store, self._run, self._on_end = store, run, on_end
        self._forget_model = forget_model
        self._wake, self._closing, self._gone = (threading.Event() for _ in range(3))
        self._at_work: tuple[JobRow, Watchdog] | None = None
        self._thread: threading.Thread | None = None
        self._watch: threading.Thread | None = None
        self._hung: list[threading.Thread] = []
        # Job id -> why it failed, if that could not be written to its row yet (say, a full disk).
        self._unsaid: dict[str, str] = {}

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing.is_set()

    def start(self) -> None:
        """Start the worker thread and the thread that watches it."""
        self._start_thread()
        self._watch = threading.Thread(target=self._look_on, name="watch", daemon=True)
        self._watch.start()

    def wake(self) -> None:
        """Wake the worker, after a job was queued."""
        self._wake.set()

    def stop(self) -> None:
        """Ask the worker to stop after the current step; `close` waits for it."""
        self._closing.set()
        self._wake.set()

    def close(self) -> None:
        """Stop after the current step and join the threads, except those that hang."""
        self.stop()
        # Join with a timeout: if the thread hangs, `look` replaces it or sets it to None.
        while (thread := self._thread) is not None and thread.is_alive():
            thread.join(SECONDS_BETWEEN_LOOKS)
        self._gone.set()
        if self._watch is not None:
            self._watch.join()

    def work(self) -> bool:
        """Run the next job of the queue to its end. Returns whether there was one."""
        for job_id, why in list(self._unsaid.items()):
            self._fail(job_id, why)
        job = self._store.claim_next()
        if job is None:
            return False
        watchdog = Watchdog()
        self._at_work = (job, watchdog)
        why = self._run(job, watchdog)
        if watchdog.given_up:
            return True
        self._at_work = None
        if why:
            self._unsaid[job.id] = why
        else:
            self._tell_end(job.id)
        return True

    def look(self) -> None:
        """Fail the current job if it hangs, and continue with the other jobs if possible."""
        if (at_work := self._at_work) is None:
            return
        job, watchdog = at_work
        if not (why := watchdog.overdue()):
            return
        goes_on = self._forget_model is not None and len(self._alive()) < MAX_HUNG
        then = (
            "The other jobs go on with the model loaded anew."
            if goes_on
            else "The other jobs wait: restart the app."
        )
        message = f"{why} It hangs, and was given up. {then} What hangs is freed by a restart only."
        log.error("job %s: %s", job.id, message)
        if not self._fail(job.id, message) and job.id not in self._unsaid:
            return  # The job ended in the meantime.
        watchdog.give_up()
        self._at_work = None
        if self._thread is not None:
            self._hung.append(self._thread)
        self._thread = None
        if goes_on and self._forget_model is not None:
            self._forget_model(job.model)
            if not self.closing:
                self._start_thread()

    def _alive(self) -> list[threading.Thread]:
        return [thread for thread in self._hung if thread.is_alive()]

    def _fail(self, job_id: str, why: str) -> bool:
        """Mark a job as failed; if its row cannot be written, `work` tries again later."""
        try:
            failed = self._store.transition(job_id, {"running"}, "failed", message=why)
        except LineasError:
            self._unsaid[job_id] = why
            return False
        self._unsaid.pop(job_id, None)
        if failed:
            self._tell_end(job_id)
        return failed

    def _tell_end(self, job_id: str) -> None:
        ended = self._store.job(job_id)
        if ended is not None and ended.finished:
            try:
                self._on_end(ended)
            except Exception:
                log.exception("what follows the end of job %s failed", job_id)

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._loop, name="training", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self.closing and threading.current_thread() is self._thread:
            try:
                worked = self.work()
            except LineasError:
                log.exception("the worker could not take up a job; it tries again")
                worked = False
            if not worked:
                self._wake.wait(SECONDS_BETWEEN_LOOKS)
                self._wake.clear()

    def _look_on(self) -> None:
        noted = time.monotonic()
        while not self._gone.wait(SECONDS_BETWEEN_LOOKS):
            try:
                self.look()
                if time.monotonic() - noted >= HOUR:
                    noted = time.monotonic()
                    # Note the time each hour: months without a note would count as a clock jump.
                    self._store.steady_for(MAX_GAP)
            except Exception:
                log.exception("the look at the worker failed")
