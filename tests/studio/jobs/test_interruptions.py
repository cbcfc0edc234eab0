from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import lineas_core as lc
from lineas_core.studio.jobs.job_files import JobFiles
from tests.helpers.jobs import CHANGES, At, Shop, same
from tests.helpers.waiting import wait_for

# What a server does, without its page. Checkpoints come often, so that the test is short.
SERVER = """
import sys, time
from pathlib import Path
import torch
import lineas_core as lc
from lineas_core.studio.jobs import slices
from lineas_core.studio.jobs.context import JobContext
from lineas_core.studio.jobs.job_files import JobFiles
from lineas_core.studio.jobs.device.priority import Priority
from lineas_core.studio.jobs.queue import Jobs
from lineas_core.studio.jobs.run import run_job
from lineas_core.studio.storage.library import Library
from lineas_core.studio.storage.store import Store

torch.set_num_threads(2)
slices.SECONDS_BETWEEN_CHECKPOINTS = 0.2
home, model, prompts = Path(sys.argv[1]), sys.argv[2], lc.PromptSet.load(sys.argv[3])
store = Store(home / "studio.db")
library = Library(store, home / "maps")
context = JobContext(
    store, library, lambda name: lc.load_model(name, device="cpu"), Priority(), JobFiles(home)
)
jobs = Jobs(context, run_job, max_queued=5, max_per_visitor=5)
changes = {"steps": 150, "rate": 0.05, "batch_size": 4, "holdout": 0.25}
print(jobs.start("ada", model, prompts, changes).id, flush=True)
time.sleep(600)
"""


@pytest.mark.thorough
def test_killed_in_mid_training_it_goes_on_to_the_same_map(
    small_models: dict[str, Path], tiny: lc.LanguageModel, prompts: lc.PromptSet, tmp_path: Path
) -> None:
    prompts.save(tmp_path / "letters.json")
    command = [sys.executable, "-c", SERVER, tmp_path, small_models["llama"]]
    with subprocess.Popen(
        [*map(str, command), str(tmp_path / "letters.json")], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        job_id = server.stdout.readline().strip()
        wait_for(
            lambda: JobFiles(tmp_path).checkpoint(job_id).exists() or server.poll() is not None
        )
        server.send_signal(signal.SIGKILL)
    shop = Shop(tmp_path, tiny)
    job = shop.store.job(job_id)
    assert job is not None
    assert job.status == "running"
    assert 1 <= job.step < 150
    assert JobFiles(tmp_path).sidecar(job_id).exists()
    jobs = shop.jobs(autostart=True)
    wait_for(lambda: shop.row(job).finished)
    jobs.close()
    assert not JobFiles(tmp_path).sidecar(job_id).exists()
    row = shop.row(job)
    # It got on, so the attempt that was cut off counts no more.
    assert (row.status, row.attempts, row.message) == ("done", 1, "")
    whole = lc.train(tiny, prompts, lc.TrainConfig.for_model(tiny, **{**CHANGES, "steps": 150}))
    assert same(shop.map(job), whole.map)
    assert list(row.losses) == whole.losses
    assert len(row.supports) == 150
    shop.store.close()


def test_an_orderly_stop_puts_the_job_back_and_costs_no_attempt(
    shop: Shop, prompts: lc.PromptSet, undisturbed: lc.TrainResult
) -> None:
    priority = At(shop.home)
    jobs = shop.jobs(priority=priority)
    priority.act = jobs.close
    job = jobs.start("ada", "tiny", prompts, CHANGES)
    jobs.work()
    row = shop.row(job)
    assert (row.status, row.step, row.attempts) == ("queued", priority.steps, 0)
    assert len(row.supports) == priority.steps >= 1
    assert shop.library.maps("ada") == []
    shop.jobs().work()
    assert shop.row(job).status == "done"
    assert same(shop.map(job), undisturbed.map)
    assert list(shop.row(job).losses) == undisturbed.losses


def test_a_job_of_lineas_plus_is_put_back_too_and_its_map_says_so(
    shop: Shop, prompts: lc.PromptSet, tiny: lc.LanguageModel
) -> None:
    changes = {"steps": 8, "holdout": 0.25, "likelihood": 2.0}
    priority = At(shop.home)
    jobs = shop.jobs(priority=priority)
    priority.act = jobs.close
    job = jobs.start("ada", "tiny", prompts, changes, method="lineas+")
    jobs.work()
    assert (shop.row(job).status, shop.row(job).step) == ("queued", priority.steps)
    shop.jobs().work()
    row = shop.row(job)
    assert (row.status, row.step, row.message) == ("done", 8, "")
    config = lc.TrainConfig.for_model(tiny, "lineas+", **changes)
    whole = lc.train(tiny, prompts, config, method="lineas+")
    assert same(shop.map(job), whole.map)
    assert list(row.losses) == whole.losses
    assert shop.map(job).info.method == shop.library.row(row.map_id, "ada").method == "lineas+"


def test_cancelling_takes_effect_within_one_step_and_keeps_the_map(
    shop: Shop, prompts: lc.PromptSet, tiny: lc.LanguageModel
) -> None:
    priority = At(shop.home)
    jobs = shop.jobs(priority=priority)
    job = jobs.start("ada", "tiny", prompts, CHANGES)
    priority.act = lambda: jobs.cancel(job.id, "ada")
    jobs.work()
    row = shop.row(job)
    assert (row.status, row.step, row.stopping) == ("cancelled", priority.steps, True)
    assert len(row.losses) == priority.steps >= 1
    trainer = lc.Trainer(tiny, prompts, lc.TrainConfig.for_model(tiny, **CHANGES))
    for _ in range(priority.steps):
        trainer.step()
    assert same(shop.map(job), trainer.map)
    assert not jobs.cancel(job.id, "ada")


def test_a_waiting_job_is_cancelled_at_once(shop: Shop, prompts: lc.PromptSet) -> None:
    jobs = shop.jobs()
    job = jobs.start("ada", "tiny", prompts, CHANGES)
    assert jobs.cancel(job.id, "ada")
    row = shop.row(job)
    assert (row.status, row.map_id) == ("cancelled", "")
    assert row.finished
    assert not jobs.work()


def test_a_job_cancelled_while_it_waits_after_a_restart_keeps_its_map(
    shop: Shop, prompts: lc.PromptSet
) -> None:
    priority = At(shop.home)
    jobs = shop.jobs(priority=priority)
    priority.act = jobs.close
    job = jobs.start("ada", "tiny", prompts, CHANGES)
    jobs.work()
    jobs = shop.jobs()
    assert jobs.cancel(job.id, "ada")
    jobs.work()
    row = shop.row(job)
    assert (row.status, row.step) == ("cancelled", priority.steps)
    assert len(shop.library.row(row.map_id, "ada").losses) == priority.steps >= 1


@pytest.mark.parametrize("damage", ["junk", "cut", "other run"])
def test_a_checkpoint_that_is_of_no_use_means_to_start_anew(
    shop: Shop,
    prompts: lc.PromptSet,
    tiny: lc.LanguageModel,
    undisturbed: lc.TrainResult,
    damage: str,
) -> None:
    priority = At(shop.home)
    jobs = shop.jobs(priority=priority)
    priority.act = jobs.close
    job = jobs.start("ada", "tiny", prompts, CHANGES)
    jobs.work()
    path = JobFiles(shop.home).checkpoint(job.id)
    if damage == "junk":
        path.write_bytes(b"junk")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        lc.Trainer(tiny, prompts, lc.TrainConfig(steps=3)).state.save(path)
    shop.jobs().work()
    assert shop.row(job).status == "done"
    assert same(shop.map(job), undisturbed.map)
    assert list(shop.row(job).losses) == undisturbed.losses
    assert len(shop.row(job).supports) == 12
