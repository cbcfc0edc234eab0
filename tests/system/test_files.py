"""Files are written atomically, even by a process that is killed while writing."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import threading
import time
from pathlib import Path

import pytest

from lineas_core.system.files import parse_json, replacing, why, write_whole


def write_forever(path: Path) -> None:
    while True:
        for letter in (b"a", b"b"):
            write_whole(path, letter * 3_000_000)


def test_a_writer_that_is_killed_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path, rng = write_whole(tmp_path / "file", b"a" * 3_000_000), random.Random(0)
    seen = set()
    for _ in range(12):
        writer = multiprocessing.get_context("fork").Process(target=write_forever, args=(path,))
        writer.start()
        time.sleep(0.02 + rng.random() / 20)
        writer.kill()
        writer.join()
        data = path.read_bytes()
        assert data in (b"a" * 3_000_000, b"b" * 3_000_000)
        seen.add(len(os.listdir(tmp_path)))
    # Some processes were killed while writing, and left partial files.
    assert max(seen) > 1


def test_who_reads_meanwhile_sees_no_half(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "file", b"0" * 100_000)
    done = threading.Event()

    def write(letter: bytes) -> None:
        while not done.is_set():
            write_whole(path, letter * 100_000)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in (b"1", b"2")]
    for writer in writers:
        writer.start()
    try:
        seen = [path.read_bytes() for _ in range(200)]
    finally:
        done.set()
        for writer in writers:
            writer.join()
    assert {(len(data), len(set(data))) for data in seen} == {(100_000, 1)}
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "new" / "file", "old ß")

    def fail() -> None:
        with replacing(path) as partial:
            partial.write_text("half of")
            assert partial.parent == path.parent
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text("utf-8") == "old ß"
    assert os.listdir(path.parent) == ["file"]


def test_the_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, bytes]] = []
    fsync, replace = os.fsync, os.replace

    def flushed(descriptor: int) -> None:
        events.append(("flushed", Path(f"/proc/self/fd/{descriptor}").readlink().name.encode()))
        fsync(descriptor)

    def renamed(one: Path, other: Path) -> None:
        events.append(("renamed", one.read_bytes()))
        replace(one, other)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    write_whole(tmp_path / "file", b"all")
    (first, partial), renaming, last = events
    assert first == "flushed"
    assert partial.startswith(b".file.")
    assert renaming == ("renamed", b"all")
    assert last == ("flushed", tmp_path.name.encode())


def test_reasons_tell_no_path(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="secret") as caught:
        (tmp_path / "secret").read_text()
    assert why(caught.value) == os.strerror(errno.ENOENT)
    assert why(KeyError()) == "KeyError"


def test_json_is_read_within_limits() -> None:
    value = {"a": [1, None, {"b": "ß"}], "c": {}}
    assert parse_json(json.dumps(value)) == value
    assert parse_json("[" * 16 + "]" * 16) is not None
    for text in ("[" * 17 + "]" * 17, "[" * 200_000, '{"a":' * 100_000, "1" * 5000, "", "{"):
        with pytest.raises(ValueError, match=r".") as caught:
            parse_json(text)
        assert len(str(caught.value)) < 300
