"""What is kept on the disk and passes through it: counted, reserved, shared out and removed."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import pytest

import lineas_core as lc
from lineas_core.studio.access.ledger import Ledger, size_of, size_of_map
from lineas_core.studio.access.limits import MIB, LimitError
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import address_of, new_key, owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.storage.scratch import KEPT_FOR
from lineas_core.studio.tabs.library.sharing import SharingCallbacks
from tests.helpers.models import random_map
from tests.helpers.studio import ANN, BOB, answers_of


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Studio]:
    """A Studio with room for next to nothing."""
    studio = Studio(
        Settings(home=tmp_path / "home", max_mebibytes=1, mebibytes_in_all=3), environment={}
    )
    yield studio
    studio.close()


@pytest.fixture
def ledger(small: Studio, clock: Clock) -> Ledger:
    return Ledger(small.settings, small.store, small.library, small.scratch, clock=clock)


def big_map(seed: int) -> lc.SteeringMap:
    return random_map({"layer": 50_000}, seed)


def taken_by(folder: Path) -> int:
    """What `du` says, so that the ledger is not asked about itself."""
    said = subprocess.run(["du", "-sb", folder], capture_output=True, text=True, check=True).stdout
    return int(said.split()[0])


def test_bytes_of_a_visitor_and_of_all_are_limited(small: Studio, prompts: lc.PromptSet) -> None:
    ann, bob, ledger = owner_of(ANN), owner_of(BOB), small.ledger
    row = small.library.add_map(ann, big_map(0))
    saved = small.library.add_prompts(ann, prompts)
    file = small.library.file(row.id, ann)
    taken = sum(path.stat().st_size for path in file.parent.iterdir()) + size_of(prompts)
    assert ledger.bytes_of(ann) == taken
    assert ledger.bytes_of(bob) == 0
    ledger.check_share(ann, MIB - taken)
    with pytest.raises(LimitError, match=r"take 0\.4 MiB, .* 1 MiB is the limit .* 30 days"):
        ledger.check_share(ann, MIB - taken + 1)
    ledger.check_share(bob, MIB)
    # Deleting and importing again must not fill the disk.
    small.library.delete(row.id, ann)
    small.library.delete_prompts(saved.id, ann)
    assert ledger.bytes_of(ann) == taken
    small.library.purge(-1)
    assert ledger.bytes_of(ann) == 0


def test_keys_without_end_do_not_fill_the_disk(
    small: Studio, ledger: Ledger, clock: Clock, tmp_path: Path
) -> None:
    file = big_map(1).save(tmp_path / "map.safetensors")
    work, kept, refusals = SharingCallbacks(small, answers_of(small)), 0, set()
    small.ledger = ledger
    for _ in range(20):
        clock.now += 60
        try:
            work.take_in(new_key(), [str(file)])
        except gr.Error as error:
            refusals.add(str(error))
        else:
            kept += 1
    assert 4 <= kept <= 8
    assert taken_by(small.settings.home / "maps") <= 3 * MIB
    # What is full is maps, so waiting for uploads to go would not help.
    assert all("3 MiB is the limit" in text and "maps" in text for text in refusals)
    assert all("lineas clean" in text for text in refusals)


def test_every_kind_is_counted_by_its_name(small: Studio, ledger: Ledger) -> None:
    home, scratch = small.settings.home, small.scratch
    before = ledger.sizes()
    places = {
        "maps": home / "maps" / "x.safetensors",
        "checkpoints": home / "checkpoints" / "x.safetensors",
        "live frames": home / "frames" / "job" / "1.webp",
        "backups": home / "backups" / "x.db",
        "unfinished conversions": home / "models" / ".smollm2.abc" / "model.safetensors",
        "uploads": scratch.uploads / "hash" / "x.csv",
        "downloads and temporary files": scratch.temporary / "x.mp4",
        "the database": home / "studio-damaged-1.db",
    }
    for number, path in enumerate(places.values(), start=1):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0" * 1000 * number)
    # A finished model is the host's.
    (home / "models" / "smollm2").mkdir()
    (home / "models" / "smollm2" / "model.safetensors").write_bytes(b"0" * 10**6)
    again = Ledger(small.settings, small.store, small.library, scratch).sizes()
    for number, name in enumerate(places, start=1):
        assert again[name] - before[name] == 1000 * number, name
    assert again.keys() == before.keys()


def test_what_is_reserved_counts_until_it_is_written_or_given_up(
    ledger: Ledger, clock: Clock
) -> None:
    reservation = ledger.upload("", 2 * MIB)
    clock.now += 100
    with pytest.raises(LimitError, match=r"would add 2\.0, and 3 MiB is the limit"):
        ledger.upload("", 2 * MIB)
    reservation.release()
    clock.now += 100
    ledger.upload("", 2 * MIB).release()


def test_imports_at_once_do_not_share_the_room_of_one(small: Studio) -> None:
    ann = owner_of(ANN)

    def add(seed: int) -> bool:
        smap = big_map(seed)
        try:
            with small.ledger.keeping(ann, size_of_map(smap)):
                time.sleep(0.1)
                small.library.add_map(ann, smap)
        except LimitError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        kept = sum(pool.map(add, range(8)))
    assert kept == 2
    assert small.ledger.bytes_of(ann) <= MIB


def test_a_client_has_a_share_of_what_passes_within_an_hour(ledger: Ledger, clock: Clock) -> None:
    for _ in range(2):
        ledger.upload("192.0.2.1", MIB // 2).release()
    with pytest.raises(
        LimitError, match=r"your address .* 1 MiB is the limit. Try again in 60 min"
    ):
        ledger.upload("192.0.2.1", 1)
    ledger.upload("192.0.2.2", MIB // 2).release()
    clock.now += 1800
    with pytest.raises(LimitError, match="Try again in 30 min"):
        ledger.upload("192.0.2.1", 1)
    clock.now += 1800
    ledger.upload("192.0.2.1", MIB).release()


def test_a_download_that_fails_or_passes_the_share_leaves_nothing(small: Studio) -> None:
    ann, folders = owner_of(ANN), small.scratch.temporary

    def write(size: int, where: str = "a") -> Path:
        with small.ledger.download(ann, 10) as folder:
            (folder / "first").write_bytes(b"0")
            (folder / where).write_bytes(b"0" * size)
        return folder

    with pytest.raises(FileNotFoundError):
        write(1, "no such folder/a")
    # As large as was not to be expected.
    with pytest.raises(LimitError, match="your key"):
        write(MIB)
    assert list(folders.iterdir()) == []
    assert (write(10) / "a").stat().st_size == 10


def test_what_nobody_keeps_goes_after_an_hour(small: Studio) -> None:
    scratch, old = small.scratch, time.time() - KEPT_FOR - 1
    fresh = [part / "a" / "new" for part in scratch.parts.values()]
    for path in fresh:
        path.parent.mkdir()
        path.write_bytes(b"0")
    later = Path(scratch.folder)
    scratch.sweep()
    assert all(path.exists() for path in fresh)
    # A file's time of change cannot be set back, so the clock is set forward.
    late = type(scratch)(later, clock=lambda: time.time() + KEPT_FOR + 1)
    for path in fresh:
        os.utime(path, (old, old))
        os.utime(path.parent, (old, old))
    late.sweep()
    assert not any(path.exists() for path in fresh)
    late.sweep()
    assert all(list(part.iterdir()) == [] for part in scratch.parts.values())


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("8.8.8.8", "", "8.8.8.8"),
        ("127.0.0.1", "", "127.0.0.1"),
        # A proxy that is not trusted: all visitors have its address.
        ("10.0.0.2", "8.8.8.8", ""),
        # One that is: the server has put the client in its place.
        ("8.8.8.8", "8.8.8.8", "8.8.8.8"),
        # Whoever says so without a proxy is not hidden by it.
        ("8.8.8.8", "8.8.4.4", "8.8.8.8"),
        ("2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::"),
        ("testclient", "", ""),
    ],
)
def test_the_address_of_a_client(peer: str, forwarded: str, address: str) -> None:
    assert address_of(peer, forwarded) == address
