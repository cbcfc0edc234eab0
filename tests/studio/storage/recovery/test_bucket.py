"""A folder that is wiped is filled again from the copies in its bucket."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import lineas_core as lc
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.app import Studio
from lineas_core.studio.jobs.job_files import JobFiles
from lineas_core.studio.storage.recovery.backups import KEPT, KEPT_NEWEST, back_up, backups
from lineas_core.studio.storage.recovery.bucket import BucketCopies
from lineas_core.studio.storage.recovery.recovery import State, open_state
from lineas_core.studio.storage.store import JobRow, PromptRow, StoreError
from lineas_core.training.state import TrainState
from tests.helpers.jobs import CHANGES, Shop, same
from tests.helpers.studio import finished
from tests.helpers.waiting import wait_for
from tests.studio.storage.recovery.test_recovery import fill, rows_of
from tests.studio.storage.test_library import labelled

LONG = {**CHANGES, "steps": 150}
# The app without its page. Copies and checkpoints come often, so that the test is short.
APP = f"""
import sys, time
from pathlib import Path
import torch
import lineas_core as lc
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.app import Studio
from lineas_core.studio.jobs import slices
from lineas_core.studio.storage.recovery import bucket
from tests.helpers.models import random_map

torch.set_num_threads(2)
slices.SECONDS_BETWEEN_CHECKPOINTS = bucket.SECONDS_BETWEEN_COPIES = 0.2
studio = Studio(Settings(home=Path(sys.argv[1]), bucket=Path(sys.argv[2])), environment={{}})
prompts = lc.PromptSet.load(sys.argv[4])
kept = studio.library.add_map("ada", random_map({{"a": 8}}, 0), title="Kept")
named = studio.library.add_prompts("bob", prompts)
print(kept.id, named.id, studio.train("ada", sys.argv[3], prompts, {LONG!r}).id, flush=True)
time.sleep(600)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    (tmp_path / "bucket").mkdir()
    return tmp_path / "bucket"


@pytest.fixture
def state(home: Path, bucket: Path, prompts: lc.PromptSet) -> Iterator[State]:
    """An open folder with rows and maps of two owners."""
    state = open_state(home, bucket=bucket)
    fill(state, prompts, "x", 2)
    yield state
    state.store.close()


def newest(bucket: Path) -> dict[str, dict[str, dict[str, object]]]:
    found = backups(bucket / "backups")
    return rows_of(found[0]) if found else {"jobs": {}, "maps": {}, "prompt_sets": {}}


@pytest.mark.thorough
def test_killed_and_wiped_the_app_finds_its_maps_and_jobs_again(
    home: Path,
    bucket: Path,
    tmp_path: Path,
    small_models: dict[str, Path],
    tiny: lc.LanguageModel,
    prompts: lc.PromptSet,
) -> None:
    prompts.save(tmp_path / "letters.json")
    model = str(small_models["llama"])
    command = [sys.executable, "-c", APP, home, bucket, model, tmp_path / "letters.json"]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as app:
        assert app.stdout is not None
        kept, named, job_id = app.stdout.readline().split()
        checkpoint = JobFiles(bucket).checkpoint(job_id)
        wait_for(
            lambda: (
                (checkpoint.exists() and job_id in newest(bucket)["jobs"]) or app.poll() is not None
            )
        )
        app.send_signal(signal.SIGKILL)
    assert TrainState.load(checkpoint).losses
    shutil.rmtree(home)

    studio = Studio(Settings(home=home, bucket=bucket), environment={})
    try:
        assert not any("damaged" in note for note in studio.mended)
        assert studio.library.row(kept, "ada").title == "Kept"
        assert studio.library.map(kept, "ada").sites
        assert studio.library.prompts(named, "bob").prompts == prompts
        job = finished(studio, job_id, "ada")
        assert (job.status, job.step, len(job.supports)) == ("done", 150, 150)
        config = lc.TrainConfig.for_model(tiny, **LONG)
        undisturbed = lc.train(tiny, prompts, config)
        assert same(studio.library.map(job.map_id, "ada"), undisturbed.map)
        assert list(job.losses) == undisturbed.losses
    finally:
        studio.close()
    # When it is closed, the bucket has what happened last.
    assert newest(bucket)["jobs"][job_id]["status"] == "done"
    assert not JobFiles(bucket).sidecar(job_id).exists()


def test_a_wiped_folder_is_filled_and_nothing_is_said(
    home: Path, bucket: Path, state: State, caplog: pytest.LogCaptureFixture
) -> None:
    copies = BucketCopies(home, bucket)
    copies.copy()
    # After the last backup, so that only the files beside the maps tell of it.
    [late] = [state.library.add_map("ada", labelled(7), title="Late")]
    changed = state.library.maps("bob", include_gallery=False)[0]
    for name in (f"{late.id}.safetensors", f"{late.id}.json"):
        shutil.copy(home / "maps" / name, bucket / "maps")
    state.library.rename(changed.id, "bob", "Renamed late")
    shutil.copy(home / "maps" / f"{changed.id}.json", bucket / "maps")
    before, secret = rows_of(home / "studio.db"), state.store.secret()
    state.store.close()
    shutil.rmtree(home)
    with caplog.at_level(logging.INFO):
        again = open_state(home, bucket=bucket)
    assert again.notes == ("1 map found again by the files.",)
    assert f"restored from {bucket}" in caplog.text
    after = rows_of(home / "studio.db")
    assert after["jobs"] == before["jobs"]
    assert after["prompt_sets"] == before["prompt_sets"]
    assert after["maps"].keys() == before["maps"].keys()
    assert again.library.row(late.id, "ada").title == "Late"
    assert again.library.row(changed.id, "bob").title == "Renamed late"
    for row in again.library.maps("ada", include_gallery=False):
        assert again.library.map(row.id, "ada").digest() == row.digest
    assert again.store.secret() == secret
    again.store.close()


@pytest.mark.parametrize("damage", ["cut", "empty", "garbled"])
def test_a_damaged_newest_backup_falls_back_to_the_one_before_and_says_so(
    home: Path, bucket: Path, state: State, prompts: lc.PromptSet, damage: str
) -> None:
    copies = BucketCopies(home, bucket)
    copies.copy()
    state.store.add_prompts(PromptRow("later", "ada", prompts))
    copies.copy()
    state.store.close()
    latest, before = backups(bucket / "backups")[:2]
    data = latest.read_bytes()
    whole = {"cut": data[: len(data) // 2], "empty": b"", "garbled": b"\x07" * len(data)}
    latest.write_bytes(whole[damage])
    shutil.rmtree(home)
    again = open_state(home, bucket=bucket)
    assert latest.name in again.notes[0]
    assert before.name in again.notes[0]
    assert again.store.prompts("later") is None
    assert rows_of(home / "studio.db") == rows_of(before)
    again.store.close()


def test_without_a_sound_backup_maps_come_back_by_their_files(
    home: Path, bucket: Path, state: State
) -> None:
    BucketCopies(home, bucket).copy()
    maps = {row.id for row in state.library.maps("ada", include_gallery=False)}
    state.store.close()
    for path in backups(bucket / "backups"):
        path.write_bytes(b"")
    shutil.rmtree(home)
    again = open_state(home, bucket=bucket)
    assert "In its place is a new one" in again.notes[0]
    assert {row.id for row in again.library.maps("ada", include_gallery=False)} == maps
    again.store.close()


def test_the_bucket_follows_and_loses_nothing_that_the_app_did_not_remove(
    home: Path, bucket: Path, state: State
) -> None:
    copies = BucketCopies(home, bucket)
    (bucket / "maps").mkdir()
    (bucket / "maps" / "stranger.safetensors").write_bytes(b"of somebody else")
    (home / "checkpoints").mkdir()
    (home / "checkpoints" / "a.safetensors").write_bytes(b"1")
    copies.copy()
    kept, gone = (
        row.id for row in state.library.maps("bob", include_gallery=False)[:1] +
        state.library.maps("ada", include_gallery=False)[:1]
    )  # fmt: skip
    first = (bucket / "maps" / f"{kept}.safetensors").stat().st_mtime_ns
    state.library.delete(gone, "ada")
    assert state.library.purge(0.0) == 2
    (home / "checkpoints" / "a.safetensors").write_bytes(b"23")
    copies.copy()
    names = {path.name for path in (bucket / "maps").iterdir()}
    assert names == {path.name for path in (home / "maps").iterdir()} | {"stranger.safetensors"}
    assert f"{gone}.json" not in names
    assert (bucket / "checkpoints" / "a.safetensors").read_bytes() == b"23"
    assert (bucket / "maps" / f"{kept}.safetensors").stat().st_mtime_ns == first
    # A folder that somebody removes is none that the app has emptied.
    shutil.rmtree(home / "maps")
    copies.copy()
    assert (bucket / "maps" / f"{kept}.safetensors").exists()
    # An app that starts anew knows which copies are up to date.
    (home / "maps").mkdir()
    (home / "checkpoints" / "a.safetensors").write_bytes(b"4")
    again = BucketCopies(home, bucket)
    again.copy()
    assert (bucket / "maps" / f"{kept}.safetensors").stat().st_mtime_ns == first
    assert (bucket / "checkpoints" / "a.safetensors").read_bytes() == b"4"


def test_unchanged_there_is_no_new_backup(
    home: Path, bucket: Path, state: State, prompts: lc.PromptSet
) -> None:
    copies = BucketCopies(home, bucket)
    copies.copy()
    copies.copy()
    assert len(backups(bucket / "backups")) == 1
    state.store.add_job(JobRow("new", "ada", "m", prompts))
    copies.copy()
    assert len(backups(bucket / "backups")) == 2
    assert "new" in newest(bucket)["jobs"]


def test_old_backups_do_not_gather_in_the_bucket(home: Path, bucket: Path, state: State) -> None:
    state.store.close()
    for _ in range(2 * KEPT_NEWEST):
        again = open_state(home, bucket=bucket)
        BucketCopies(home, bucket).copy()
        again.store.close()
        shutil.rmtree(home)
    assert len(backups(bucket / "backups")) == KEPT_NEWEST


def test_the_newest_of_a_day_and_the_newest_of_all_are_kept(home: Path, state: State) -> None:
    folder, numbers = home / "backups", []
    for day in range(KEPT + 3):
        today = date(2026, 3, 1 + day)
        for _ in range(KEPT_NEWEST + 2):
            made = back_up(home / "studio.db", folder, today, again=True)
            assert made is not None
            numbers.append((int(made.name.split("-")[1]), day))
    last_of = {day: number for number, day in numbers}
    wanted = {number for number, _ in numbers[-KEPT_NEWEST:]}
    wanted |= {last_of[day] for day in range(3, KEPT + 3)}
    assert {int(path.name.split("-")[1]) for path in backups(folder)} == wanted
    assert back_up(home / "studio.db", folder, today) is None


def test_a_bucket_takes_files_only_as_object_storage_does(
    home: Path, bucket: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hf-mount: a file is written from its start, and refuses to be opened to be changed."""
    seen: list[int] = []
    watching = True

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if not watching or not args or not isinstance(args[0], str | os.PathLike):
            return
        if Path(args[0]).is_relative_to(bucket):
            assert event != "sqlite3.connect"
            if event == "open":
                seen.append(args[2])

    sys.addaudithook(watch)
    copies = BucketCopies(home, bucket)
    copies.copy()
    state.library.rename(state.library.maps("bob")[0].id, "bob", "Again")
    copies.copy()
    state.store.close()
    shutil.rmtree(home)
    open_state(home, bucket=bucket).store.close()
    watching = False
    writing = [flags for flags in seen if flags & (os.O_WRONLY | os.O_RDWR)]
    assert len(writing) > 10
    assert len(seen) > 2 * len(writing) - 10
    assert all(flags & os.O_WRONLY and flags & os.O_TRUNC for flags in writing)


def test_what_is_wrong_with_a_bucket_is_said(
    home: Path, bucket: Path, state: State, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    copies = BucketCopies(home, bucket)
    copies.copy()
    assert caplog.text == ""
    # Gone, while the app runs, and there again.
    bucket.rename(tmp_path / "elsewhere")
    copies.copy(), copies.copy()
    assert caplog.text.count(f"{bucket} is gone") == 1
    assert not bucket.exists(), "files in the mount's place would be lost"
    (tmp_path / "elsewhere").rename(bucket)
    copies.copy()
    assert caplog.text.count("has a copy of all changes again") == 1
    # One file of many.
    caplog.clear()
    (bucket / "maps" / ".new.safetensors.partial").mkdir()
    (home / "maps" / "new.safetensors").write_bytes(b"1")
    (home / "maps" / "other.safetensors").write_bytes(b"2")
    copies.copy()
    assert "maps/new.safetensors" in caplog.text
    assert (bucket / "maps" / "other.safetensors").exists()
    state.store.close()
    # Of another Studio.
    open_state(tmp_path / "other").store.close()
    with pytest.raises(StoreError, match=f"{bucket} holds the copies of another"):
        open_state(tmp_path / "other", bucket=bucket)
    # Of another that has started on it meanwhile.
    caplog.clear()
    (home / "studio.secret").write_text("f" * 64)
    (home / "maps" / "more.safetensors").write_bytes(b"3")
    copies.copy()
    assert "holds the copies of another" in caplog.text
    assert not (bucket / "maps" / "more.safetensors").exists()
    # Not to be read: nothing is opened, so that nothing is taken for new.
    (bucket / "maps" / "dangling.safetensors").symlink_to("nowhere")
    with pytest.raises(StoreError, match=f"in the bucket {bucket} cannot be read"):
        open_state(tmp_path / "empty", bucket=bucket)
    assert not (tmp_path / "empty" / "studio.db").exists()
    (bucket / "maps" / "dangling.safetensors").unlink()
    open_state(tmp_path / "empty", bucket=bucket).store.close()
    with pytest.raises(StoreError, match=f"LINEAS_BUCKET is {tmp_path / 'none'}, which is no fold"):
        open_state(home, bucket=tmp_path / "none")


def test_a_row_behind_its_checkpoint_gets_as_many_supports_as_losses(
    tmp_path: Path, tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    """As one from a backup is; the checkpoint was copied later."""
    shop = Shop(tmp_path, tiny)
    config = lc.TrainConfig.for_model(tiny, **CHANGES)
    job = shop.jobs().start("ada", "tiny", prompts, CHANGES)
    trainer = lc.Trainer(tiny, prompts, config)
    for _ in range(5):
        trainer.step()
    trainer.state.save(JobFiles(tmp_path).checkpoint(job.id))
    assert shop.row(job).losses == ()
    shop.jobs().work()
    done, whole = shop.row(job), lc.train(tiny, prompts, config)
    assert (done.status, len(done.supports)) == ("done", CHANGES["steps"])
    assert list(done.losses) == whole.losses
    assert same(shop.map(job), whole.map)
    shop.store.close()
