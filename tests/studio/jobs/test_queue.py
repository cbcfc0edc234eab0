from __future__ import annotations

import pickle
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import lineas_core as lc
from lineas_core.studio.jobs.frames import load_frame
from lineas_core.studio.jobs.job_files import JobFiles
from lineas_core.studio.jobs.measuring import measure_run
from lineas_core.studio.jobs.queue import JobError
from lineas_core.studio.jobs.slices import run_slice
from lineas_core.studio.storage.schema import MIGRATIONS, migrate
from lineas_core.training.config import OF_METHOD
from tests.helpers.jobs import CHANGES, At, Shop, same
from tests.helpers.pipelines import small_sd
from tests.helpers.waiting import wait_for


def test_a_job_ends_with_the_map_of_a_plain_run(
    shop: Shop, tiny: lc.LanguageModel, prompts: lc.PromptSet, undisturbed: lc.TrainResult
) -> None:
    jobs = shop.jobs()
    job = jobs.start("ada", "tiny", prompts, CHANGES, preview_prompt="ab", title="Letters")
    assert (job.status, job.steps, jobs.position(job.id)) == ("queued", 12, 1)
    assert jobs.work()
    row = shop.row(job)
    assert (row.status, row.phase, row.step, row.message) == ("done", "", 12, "")
    assert same(shop.map(job), undisturbed.map)
    assert list(row.losses) == undisturbed.losses
    assert len(row.supports) == 12
    assert row.health == replace(undisturbed.health, copies=0.0)
    kept = shop.library.row(row.map_id, "ada")
    assert (kept.title, kept.job, kept.prompts) == ("Letters", job.id, prompts)
    assert kept.losses == row.losses
    assert 0 < row.created <= row.started <= row.finished
    assert not jobs.work()
    frames = [load_frame(path) for path in jobs.frames(job.id, "ada")]
    assert row.frames == len(frames) >= 2
    assert (frames[0].step, frames[-1].step) == (1, 12)
    plain = tiny.generate(["ab"], seed=0, max_new_tokens=24)
    steered = tiny.generate(["ab"], [(shop.map(job), 1.0)], seed=0, max_new_tokens=24)
    assert [frames[-1].unsteered, frames[-1].steered] == [*plain, *steered]
    assert jobs.film(job.id, "ada").startswith(b"GIF89a")  # type: ignore[union-attr]


def test_a_database_of_version_1_has_jobs_of_lineas(
    tmp_path: Path, prompts: lc.PromptSet, tiny: lc.LanguageModel
) -> None:
    new = Shop(tmp_path / "new", tiny)
    job = new.jobs().start("ada", "tiny", prompts, CHANGES)
    new.store.close()
    # The row as version 1 kept it.
    with sqlite3.connect(tmp_path / "new" / "studio.db") as db:
        names = [column[1] for column in db.execute("PRAGMA table_info(jobs)")]
        columns = ", ".join(name for name in names if name not in ("method", "interruptions"))
        values = db.execute(f"SELECT {columns} FROM jobs").fetchone()
    db.close()
    (tmp_path / "old").mkdir()
    old = sqlite3.connect(tmp_path / "old" / "studio.db", isolation_level=None)
    migrate(old, MIGRATIONS[:1])
    old.execute(f"INSERT INTO jobs ({columns}) VALUES ({', '.join('?' * len(values))})", values)
    old.close()
    shop = Shop(tmp_path / "old", tiny)
    assert shop.row(job) == job
    assert shop.row(job).method == "lineas"
    assert shop.jobs().work()
    assert shop.row(job).status == "done"
    shop.store.close()


def test_frames_of_an_image_model_are_pictures(tmp_path: Path, prompts: lc.PromptSet) -> None:
    small_sd().save_pretrained(tmp_path / "sd")
    shop = Shop(tmp_path, lc.load_model(str(tmp_path / "sd"), device="cpu"))
    jobs = shop.jobs()
    # No concept: CLIP is not asked, and the strength comes from the activations alone.
    letters = replace(prompts, modality="image", concept="")
    job = jobs.start("ada", "sd", letters, {"steps": 2, "batch_size": 4, "rate": 0.01})
    jobs.work()
    assert shop.row(job).status == "done", shop.row(job).message
    first, last = (load_frame(path) for path in jobs.frames(job.id, "ada"))
    assert isinstance(first.steered, Image.Image)
    assert first.unsteered == last.unsteered
    assert last.steered != last.unsteered
    assert shop.library.row(shop.row(job).map_id, "ada").modality == "image"
    shop.store.close()


def test_slices_elsewhere_give_the_same_map(
    shop: Shop, prompts: lc.PromptSet, undisturbed: lc.TrainResult
) -> None:
    calls: list[str] = []

    def elsewhere(
        _: str, function: Callable[..., Any], model: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """As another process would see it, for five steps or so at a time."""
        calls.append(function.__name__)
        ticks = iter(range(10**6))
        args, kwargs = pickle.loads(pickle.dumps((args, kwargs)))
        if function is run_slice:
            kwargs |= {"budget": 4, "clock": lambda: next(ticks)}
        return pickle.loads(pickle.dumps(function(model, *args, **kwargs)))

    jobs = shop.jobs(slice_runner=elsewhere)
    job = jobs.start("ada", "tiny", prompts, CHANGES, preview_prompt="ab")
    jobs.work()
    row = shop.row(job)
    assert row.status == "done", row.message
    assert calls.count("run_slice") > 1
    assert calls[-1] == "measure_run"
    assert row.frames == calls.count("run_slice")
    assert same(shop.map(job), undisturbed.map)
    assert list(row.losses) == undisturbed.losses
    assert row.health == replace(undisturbed.health, copies=0.0)


@pytest.mark.parametrize("good_steps", [0, 5])
def test_a_run_that_goes_off_fails_with_its_last_good_map(
    shop: Shop, prompts: lc.PromptSet, tiny: lc.LanguageModel, good_steps: int
) -> None:
    jobs = shop.jobs()
    wild = {**CHANGES, "rate": 1e9, "steps": 50}
    job = jobs.start("ada", "tiny", prompts, wild)
    tame = lc.Trainer(tiny, prompts, lc.TrainConfig.for_model(tiny, **CHANGES))
    for _ in range(good_steps):
        tame.step()
    # At this rate no step of its own is good: it goes on from some that were made at a lower one.
    run = lc.Trainer(tiny, prompts, lc.TrainConfig.for_model(tiny, **wild)).state.run
    path = JobFiles(shop.home).checkpoint(job.id)
    path.parent.mkdir(parents=True)
    # States of older versions name no rate.
    tensors = {key: value for key, value in tame.state.tensors.items() if key != "rate"}
    replace(tame.state, run=run, tensors=tensors).save(path)
    jobs.work()
    row = shop.row(job)
    assert row.status == "failed"
    assert "Lower the rate" in row.message
    assert f"The map of step {good_steps} is kept" in row.message
    if not good_steps:
        assert (row.map_id, row.health) == ("", None)
        return
    assert same(shop.map(job), tame.map)
    assert (row.step, list(row.losses)) == (good_steps, tame.losses)
    assert row.health == shop.library.row(row.map_id, "ada").health is not None


def test_a_run_that_goes_on_at_a_lower_rate_says_so(shop: Shop, prompts: lc.PromptSet) -> None:
    jobs = shop.jobs()
    job = jobs.start("ada", "tiny", prompts, {**CHANGES, "rate": 2000.0})
    jobs.work()
    row = shop.row(job)
    assert row.status == "done"
    assert row.map_id
    assert "the rate is" in row.message


def test_failures_become_messages_and_the_next_job_runs(
    shop: Shop, prompts: lc.PromptSet, caplog: pytest.LogCaptureFixture
) -> None:
    def load(name: str) -> Any:
        if name == "odd":
            raise KeyError("secret detail")
        return shop.model if name == "tiny" else lc.load_model(name)

    jobs = shop.jobs(load_model=load, max_per_visitor=9, max_queued=9)
    missing = jobs.start("ada", str(shop.home / "none"), prompts, CHANGES)
    odd = jobs.start("ada", "odd", prompts, CHANGES)
    sites = jobs.start("ada", "tiny", prompts, {**CHANGES, "sites": "nothing_like_it"})
    fine = jobs.start("ada", "tiny", prompts, CHANGES, preview_prompt="far too long " * 40)
    while jobs.work():
        pass
    assert "config.json" in shop.row(missing).message
    assert "unexpected error (KeyError)" in shop.row(odd).message
    assert "secret detail" not in shop.row(odd).message
    assert "secret detail" in caplog.text
    assert shop.row(sites).status == "failed"
    assert shop.row(sites).finished
    # A preview that cannot be made is no reason to stop.
    assert (shop.row(fine).status, shop.row(fine).frames) == ("done", 0)


def test_mistakes_in_settings_show_before_the_queue(shop: Shop, prompts: lc.PromptSet) -> None:
    jobs = shop.jobs()
    for changes, method, message in (
        ({"rate": -1.0}, "lineas", "rate is -1"),
        ({"stepz": 3}, "lineas", "stepz"),
        ({"steps": 3}, "mean-act", "Mean-AcT is fitted in one go"),
        ({"likelihood": 3.0}, "lineas", r"likelihood is 3.0, which LinEAS does not read.*LinEAS\+"),
        ({"distance": 3.0}, "mean-act", "distance is 3.0, which Mean-AcT does not read"),
        ({}, "magic", "method is 'magic'"),
    ):
        with pytest.raises(lc.ConfigError, match=message):
            jobs.start("ada", "smollm2", prompts, changes, method=method)
    pictures = replace(prompts, modality="image")
    with pytest.raises(lc.ConfigError, match=r"method is 'lineas\+'.*emoji-onestep makes images"):
        jobs.start("ada", "emoji-onestep", pictures, {}, method="lineas+")
    assert jobs.recent("ada") == []
    assert jobs.start("ada", "smollm2", prompts, {}).steps == 60
    plus = jobs.start("ada", "smollm2", prompts, {}, method="lineas+")
    assert plus.steps == OF_METHOD["lineas+"]["steps"]


def test_a_map_that_was_kept_before_the_process_died_is_not_kept_twice(
    shop: Shop, prompts: lc.PromptSet, undisturbed: lc.TrainResult
) -> None:
    job = shop.jobs().start("ada", "tiny", prompts, CHANGES)
    shop.store.claim_next()
    kept = shop.library.add_map("ada", undisturbed.map, job=job.id)
    shop.jobs().work()
    assert shop.row(job).map_id == kept.id
    assert len(shop.library.maps("ada")) == 1


def test_three_attempts_and_no_more(shop: Shop, prompts: lc.PromptSet) -> None:
    job = shop.jobs().start("ada", "tiny", prompts, CHANGES)
    for _ in range(3):
        assert shop.store.claim_next() is not None
        jobs = shop.jobs(died_of_itself=True)
    assert shop.row(job).status == "failed"
    assert not jobs.work()
    again = jobs.retry(job.id, "ada")
    jobs.work()
    assert shop.row(again).status == "done"


def test_a_job_is_not_given_up_for_the_restarts_of_others(
    shop: Shop, prompts: lc.PromptSet
) -> None:
    job = shop.jobs().start("ada", "tiny", prompts, CHANGES)
    for number in range(1, 20):
        assert shop.store.claim_next() is not None
        jobs = shop.jobs()
        row = shop.row(job)
        assert (row.status, row.attempts, row.interruptions) == ("queued", 0, number)
    # Two deaths of its own are not three, whatever was in between.
    for number in (1, 2):
        assert shop.store.claim_next() is not None
        jobs = shop.jobs(died_of_itself=True)
        assert (shop.row(job).status, shop.row(job).attempts) == ("queued", number)
    jobs.work()
    assert shop.row(job).status == "done"


def test_a_job_that_never_gets_on_does_not_run_for_ever(shop: Shop, prompts: lc.PromptSet) -> None:
    """As one that kills its process and leaves no trace."""
    job = shop.jobs().start("ada", "tiny", prompts, CHANGES)
    for _ in range(20):
        assert shop.store.claim_next() is not None
        shop.jobs()
    row = shop.row(job)
    assert row.status == "failed"
    assert "20 times" in row.message


def test_a_retry_names_its_parent_and_has_its_settings(shop: Shop, prompts: lc.PromptSet) -> None:
    jobs = shop.jobs()
    job = jobs.start("ada", "tiny", prompts, {}, method="caa", preview_prompt="ab", title="T")
    with pytest.raises(JobError, match="is queued"):
        jobs.retry(job.id, "ada")
    jobs.cancel(job.id, "ada")
    again = jobs.retry(job.id, "ada")
    assert (again.parent, again.status, again.id != job.id) == (job.id, "queued", True)
    assert (again.prompts, again.changes, again.method, again.preview_prompt, again.title) == (
        prompts, {}, "caa", "ab", "T",
    )  # fmt: skip
    jobs.work()
    assert shop.row(again).status == "done"
    with pytest.raises(JobError, match="is done"):
        jobs.retry(again.id, "ada")


def test_the_limits_are_said_with_when_to_try_again(shop: Shop, prompts: lc.PromptSet) -> None:
    jobs = shop.jobs(max_queued=3, max_per_visitor=2)
    first = jobs.start("ada", "tiny", prompts, CHANGES)
    jobs.start("ada", "tiny", prompts, CHANGES)
    with pytest.raises(JobError, match="You have 2 unfinished.*2 at a time is the limit.*minutes"):
        jobs.start("ada", "tiny", prompts, CHANGES)
    jobs.start("bob", "tiny", prompts, CHANGES)
    with pytest.raises(
        JobError, match="3 unfinished training jobs in all, and 3 is the limit. Try"
    ):
        jobs.start("cyd", "tiny", prompts, CHANGES)
    jobs.cancel(first.id, "ada")
    jobs.start("cyd", "tiny", prompts, CHANGES)


def test_the_time_left_is_summed_over_those_before(shop: Shop, prompts: lc.PromptSet) -> None:
    jobs = shop.jobs()
    first = jobs.start("ada", "tiny", prompts, {**CHANGES, "steps": 100})
    second = jobs.start("bob", "tiny", prompts, {**CHANGES, "steps": 10})
    assert jobs.eta(first.id) is jobs.eta(second.id) is None
    shop.store.claim_next()
    shop.store.progress(first.id, phase="training", step=20, seconds=40.0, seconds_left=160.0)
    assert jobs.eta(first.id) == pytest.approx(160)
    assert jobs.eta(second.id) == pytest.approx(160 + 10 * 2)
    assert jobs.eta("no such job") is None
    assert [jobs.position(j.id) for j in (first, second)] == [0, 1]


def test_nothing_of_another_owners_job_is_shown_or_changed(
    shop: Shop, prompts: lc.PromptSet
) -> None:
    jobs = shop.jobs()
    done = jobs.start("ada", "tiny", prompts, CHANGES)
    jobs.work()
    waiting = jobs.start("ada", "tiny", prompts, CHANGES)
    assert jobs.get(done.id, "bob") is None
    assert jobs.unfinished("bob") is None
    assert jobs.recent("bob") == []
    assert jobs.frames(done.id, "bob") == []
    assert jobs.film(done.id, "bob") is None
    assert not jobs.cancel(waiting.id, "bob")
    for job in (done, waiting):
        with pytest.raises(JobError, match="no job"):
            jobs.retry(job.id, "bob")
        with pytest.raises(lc.MapError):
            shop.library.map(shop.row(job).map_id, "bob")
    assert shop.row(waiting) == waiting
    assert jobs.frames(done.id, "ada")
    assert jobs.get(waiting.id, "ada") == waiting == jobs.unfinished("ada")
    assert jobs.unfinished("ada", "tiny") == waiting
    assert jobs.unfinished("ada", "other") is None
    assert [job.id for job in jobs.recent("ada")] == [waiting.id, done.id]


def test_checkpoints_and_frames_of_old_jobs_are_pruned(
    tmp_path: Path, tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    now = [time.time()]
    shop = Shop(tmp_path, tiny, clock=lambda: now[0])
    jobs = shop.jobs(clock=lambda: now[0])
    done = jobs.start("ada", "tiny", prompts, CHANGES)
    jobs.work()
    priority = At(shop.home)
    closed = shop.jobs(priority=priority)
    priority.act = closed.close
    waiting = closed.start("ada", "tiny", prompts, CHANGES)
    closed.work()
    left_behind = shop.home / "checkpoints" / f".{done.id}.safetensors.123.partial"
    left_behind.write_bytes(b"half")
    jobs.prune(3600)
    stray = shop.home / "checkpoints" / "stray.safetensors"
    stray.write_bytes(b"of a job that is not known")
    for _ in range(3):
        assert JobFiles(shop.home).checkpoint(done.id).exists()
        now[0] += 1300
        jobs.prune(3600)
    assert not stray.exists()
    assert not JobFiles(shop.home).checkpoint(done.id).exists()
    assert not JobFiles(shop.home).frames(done.id).exists()
    assert not left_behind.exists()
    assert JobFiles(shop.home).checkpoint(waiting.id).exists()
    assert JobFiles(shop.home).frames(waiting.id).exists()
    assert shop.library.map(shop.row(done).map_id, "ada")
    shop.store.close()


def test_the_worker_takes_up_what_is_started_and_stops_when_closed(
    shop: Shop, prompts: lc.PromptSet
) -> None:
    jobs = shop.jobs(autostart=True)
    first = jobs.start("ada", "tiny", prompts, CHANGES)
    second = jobs.start("bob", "tiny", prompts, {**CHANGES, "steps": 100_000})
    wait_for(lambda: shop.row(second).step > 0)
    assert shop.row(first).status == "done"
    jobs.close()
    row = shop.row(second)
    assert (row.status, row.attempts) == ("queued", 0)
    assert 0 < row.step < 100_000
    assert len(row.losses) == len(row.supports) == row.step


def test_a_map_that_cannot_be_measured_is_kept(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = lc.TrainConfig(steps=2, rate=0.01)
    trainer = lc.Trainer(tiny, prompts, config)
    trainer.step()
    monkeypatch.setattr(tiny, "perplexity", lambda texts: 1 / 0)
    checked = measure_run(tiny, prompts, config, trainer.state, recommend=True)
    assert checked.health is None
    # Not their digests, which hold the second in which each was made.
    for site, affine in trainer.map.sites.items():
        assert torch.equal(checked.map.sites[site].scale, affine.scale)
        assert torch.equal(checked.map.sites[site].shift, affine.shift)
