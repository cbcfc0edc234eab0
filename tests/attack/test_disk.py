"""The disk, filled by strangers over HTTP: what stays of it, and whom it hinders."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
import torch

import lineas_core as lc
from lineas_core.scenes.bundle import Bundle, write_bundle
from lineas_core.scenes.scene import Scene, UsedMap
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import new_key, owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.tabs.library.sharing import SharingCallbacks
from lineas_core.studio.tabs.train.prompts import PromptCallbacks
from tests.helpers.models import random_map
from tests.helpers.server import client_of, launched
from tests.helpers.studio import ANN, answers_of
from tests.helpers.waiting import wait_for

pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]

MIB = 2**20
UPLOAD = "/gradio_api/upload"
# The limit of all visitors in MiB, and that of one.
ALL, ONE = 12, 8


@pytest.fixture
def studio(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Studio]:
    together = getattr(request, "param", ALL)
    settings = Settings(
        home=tmp_path / "home", max_upload=2, max_mebibytes=ONE, mebibytes_in_all=together
    )
    studio = Studio(settings, environment={})
    yield studio
    studio.close()


@pytest.fixture
def page(studio: Studio) -> Iterator[gr.Blocks]:
    with launched(studio) as page:
        yield page


@pytest.fixture
def web(page: gr.Blocks) -> Iterator[httpx.Client]:
    with client_of(page) as client:
        yield client


def on_disk(studio: Studio) -> int:
    """What `du` says of all that the app writes, its empty folders left out."""
    said = subprocess.run(
        ["find", studio.settings.home, studio.scratch.folder, "-type", "f", "-printf", "%s\n"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return sum(map(int, said.split()))


def multipart(name: str, file: str, size: int) -> tuple[bytes, str]:
    """A form with one file, and its content type."""
    head = (
        f'--edge\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n'
        "Content-Type: text/plain\r\n\r\n"
    )
    return head.encode() + b"0" * size + b"\r\n--edge--\r\n", "multipart/form-data; boundary=edge"


def cut_off(page: gr.Blocks, address: str, size: int) -> None:
    """Begin an upload, send a part of it, and hang up."""
    body, kind = multipart("files", "a.txt", size)
    head = (
        f"POST {UPLOAD} HTTP/1.1\r\nHost: 127.0.0.1:{page.server_port}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {2 * len(body)}\r\n\r\n"
    )
    with socket.create_connection(
        ("127.0.0.1", page.server_port), source_address=(address, 0)
    ) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(0.05)


def test_uploads_that_are_cut_off_or_odd_stay_nowhere_and_hinder_nobody(
    studio: Studio, page: gr.Blocks, web: httpx.Client
) -> None:
    before = on_disk(studio)
    for number in range(12):
        cut_off(page, f"127.0.0.{10 + number}", MIB)
    for number, (field, file) in enumerate(
        [("video", "a.txt"), ("files", ".."), ("files", "../.."), ("file", ".."), ("", "a")]
    ):
        body, kind = multipart(field, file, MIB)
        with client_of(page, f"127.0.0.{30 + number}") as stranger:
            stranger.post(UPLOAD, content=body, headers={"content-type": kind})
    # The server may still be reading the last of them.
    wait_for(lambda: not any(path.is_file() for path in studio.scratch.uploads.iterdir()), 10)
    assert on_disk(studio) - before < 2 * MIB
    answer = web.post(UPLOAD, files={"files": ("own.txt", b"0" * MIB)})
    assert answer.status_code == 200, answer.text


def test_an_upload_that_is_not_sent_reserves_no_more_than_the_share_of_its_address(
    studio: Studio, page: gr.Blocks
) -> None:
    body, kind = multipart("files", "a.txt", MIB)
    head = (
        f"POST {UPLOAD} HTTP/1.1\r\nHost: 127.0.0.1:{page.server_port}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: "
    )
    waiting = []
    for _ in range(20):
        connection = socket.create_connection(
            ("127.0.0.1", page.server_port), source_address=("127.0.0.9", 0)
        )
        connection.sendall(f"{head}{2 * MIB}\r\n\r\n".encode() + body[:100])
        waiting.append(connection)
    time.sleep(1)
    with client_of(page, "127.0.0.9") as intruder, client_of(page, "127.0.0.8") as visitor:
        refused = intruder.post(UPLOAD, files={"files": ("b.txt", b"0" * MIB)})
        taken = visitor.post(UPLOAD, files={"files": ("b.txt", b"0" * MIB)})
    for connection in waiting:
        connection.close()
    assert refused.status_code == 507
    assert f"your address sent and fetched within an hour is {ONE}.0 MiB" in refused.text
    assert f"{ONE} MiB is the limit" in refused.text
    assert taken.status_code == 200, taken.text


def test_a_full_disk_is_said_by_name_with_what_takes_the_room(
    studio: Studio, page: gr.Blocks
) -> None:
    answers = []
    for number in range(8):
        with client_of(page, f"127.0.0.{40 + number}") as stranger:
            data = bytes([number]) * (2 * MIB - 1000)
            answers.append(stranger.post(UPLOAD, files={"files": ("a.txt", data)}))
    assert [answer.status_code for answer in answers[:5]] == [200] * 5
    refused = answers[-1]
    assert refused.status_code == 507
    assert f"{ALL} MiB is the limit" in refused.text
    assert "uploads 10" in refused.text
    assert "removed within an hour" in refused.text
    assert on_disk(studio) < (ALL + 1) * MIB


def call(web: httpx.Client, page: gr.Blocks, name: str, data: list[Any]) -> str:
    """Call a function of the page by its number; the server's last word."""
    number = next(n for n, b in page.fns.items() if b.fn and b.fn.__qualname__ == name)
    session = new_key()
    body = {"fn_index": number, "data": data, "session_hash": session}
    joined = web.post("/gradio_api/queue/join", json=body)
    assert joined.status_code == 200, joined.text
    last = ""
    with web.stream("GET", f"/gradio_api/queue/data?session_hash={session}") as stream:
        for line in stream.iter_lines():
            if "process_completed" in line:
                last = line
            if "close_stream" in line:
                break
    return last


def test_downloads_keep_within_the_limits(
    studio: Studio, page: gr.Blocks, web: httpx.Client
) -> None:
    """A table of a MiB, asked for again and again, with as many keys."""
    lines = [[f"{number} " + "a" * 3000, f"{number} " + "b" * 3000] for number in range(150)]
    table = {"headers": ["source", "target"], "data": lines, "metadata": None}
    refusals = []
    for number in range(12):
        table["data"] = [[f"{number} {cell}" for cell in line] for line in lines]
        name = "PromptCallbacks.download"
        said = call(web, page, name, [new_key(), "text", f"N{number}", "c", table])
        if '"success":false' in said:
            refusals.append(said)
    assert refusals
    assert all("MiB is the limit" in said for said in refusals), refusals
    assert on_disk(studio) < (ALL + 1) * MIB


def test_a_map_that_is_listed_200_times_is_written_once(studio: Studio) -> None:
    row = studio.library.add_map(owner_of(ANN), random_map({"layer": 50_000}, 0), title="Big")
    work = SharingCallbacks(studio, answers_of(studio))
    files = work.export(ANN, [row.id] * 200)["value"]
    assert [Path(file).name for file in files] == ["Big.safetensors"]
    written = [path for path in studio.scratch.temporary.rglob("*") if path.is_file()]
    assert len(written) == 1


def test_exports_keep_within_the_share_of_a_visitor(studio: Studio) -> None:
    ids = [
        studio.library.add_map(owner_of(ANN), random_map({"layer": 100_000}, seed)).id
        for seed in range(3)
    ]
    work = SharingCallbacks(studio, answers_of(studio))
    refusals = []
    for _ in range(20):
        try:
            work.export(ANN, ids)
        except gr.Error as error:
            refusals.append(str(error))
    assert "your key sent and fetched" in refusals[0]
    assert f"{ONE} MiB is the limit" in refusals[0]
    assert sum(p.stat().st_size for p in studio.scratch.temporary.rglob("*")) < (ONE + 1) * MIB


def test_a_file_that_is_listed_200_times_is_imported_once(studio: Studio, tmp_path: Path) -> None:
    file = random_map({"layer": 4}, 0).save(tmp_path / "a.safetensors")
    SharingCallbacks(studio, answers_of(studio)).take_in(ANN, [str(file)] * 200)
    assert len(studio.library.maps(owner_of(ANN), include_gallery=False)) == 1


def test_a_bundle_counts_as_what_it_unpacks_to(
    studio: Studio, tmp_path: Path, small_models: dict[str, Path]
) -> None:
    """Maps that are nearly all zeros, packed to a fortieth."""
    maps = {}
    for number in range(8):
        smap = random_map({"layer": 250_000}, number)
        for part in smap.sites["layer"]:
            part[torch.arange(len(part)) % 100 != 0] = 0
        maps[f"{number}.safetensors"] = lc.SteeringMap(smap.sites, smap.info)
    model = str(small_models["llama"])
    scene = Scene(model, "text", ("ab",), tuple(UsedMap(name, 1.0) for name in maps))
    plain, packed = tmp_path / "plain.zip", tmp_path / "bundle.zip"
    write_bundle(plain, Bundle(scene, maps))
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w") as to:
        for info in source.infolist():
            to.writestr(info.filename, source.read(info), zipfile.ZIP_DEFLATED)
    assert packed.stat().st_size < MIB
    assert sum(smap.sites["layer"].scale.nbytes * 2 for smap in maps.values()) > ONE * MIB
    work = SharingCallbacks(studio, answers_of(studio))
    with pytest.raises(gr.Error, match=f"would add 1[0-9].*{ONE} MiB is the limit for a visitor"):
        work.take_in(ANN, [str(packed)])
    # None of its maps, rather than some.
    assert studio.library.maps(owner_of(ANN), include_gallery=False) == []


@pytest.mark.parametrize("studio", [64], indirect=True)
def test_queued_trainings_count_though_they_are_cancelled(
    studio: Studio, small_models: dict[str, Path]
) -> None:
    """Their prompts stay in the database, which has as much again in its log."""
    lines = [f"{number} " + "a" * 3900 for number in range(128)]
    large = lc.PromptSet(name="n", source=lines, target=[line + "b" for line in lines])
    ann, model = owner_of(ANN), str(small_models["llama"])
    refusals = []
    for _ in range(20):
        try:
            job = studio.train(ann, model, large, {"steps": 1})
        except lc.LineasError as error:
            refusals.append(str(error))
        else:
            studio.jobs.cancel(job.id, ann)
    assert "your key sent and fetched" in refusals[0]
    assert f"{ONE} MiB is the limit" in refusals[0]
    file = studio.settings.home / "studio.db"
    assert file.stat().st_size + file.with_name("studio.db-wal").stat().st_size < 3 * ONE * MIB


def test_a_download_of_prompts_is_asked_for_with_a_key(studio: Studio) -> None:
    with pytest.raises(gr.Error, match="visitor is not a key"):
        PromptCallbacks(studio, answers_of(studio)).download("", "text", "N", "c", [["a", "b"]])


def test_what_another_library_leaves_in_the_temporary_folder_is_counted_and_removed(
    studio: Studio,
) -> None:
    """As Gradio's recordings, which stayed for ever in the folder of all programs."""
    with studio.scratch.for_all_temporary_files():
        with tempfile.NamedTemporaryFile(suffix=".mp4", delete=False) as left:
            left.write(io.BytesIO(b"0" * MIB).getbuffer())
        inside = subprocess.run(
            [sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    assert Path(left.name).is_relative_to(studio.scratch.temporary)
    assert Path(inside) == studio.scratch.temporary
    assert Path(tempfile.gettempdir()) != studio.scratch.temporary
    assert on_disk(studio) >= MIB
    studio.close()
    assert not Path(left.name).exists()
