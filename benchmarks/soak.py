"""A soak test with many visitors: `make soak`, or `python -m benchmarks.soak --minutes 30`.

Each visitor trains maps on the shipped prompts, watches and cancels some, continues texts, makes
pictures and breaks off uploads, in an order drawn from a fixed seed. One more has a page open in
Chromium all the while, moves its slider, and downloads what is on the screen as a bundle. It fails
if the app refuses anything for a reason other than a stated limit, if memory, threads or open files
keep growing, if the disk goes over its limit, or if the open page no longer answers.
"""

from __future__ import annotations

import json
import random
import socket
import statistics
import sys
import threading
import time
import zipfile
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
from playwright.sync_api import Error as PageError
from playwright.sync_api import Page

from benchmarks.machine import show
from benchmarks.serving import Server, serving
from benchmarks.slider import chromium, moved, opened
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.studio.access.ledger import bytes_below
from lineas_core.studio.access.settings import Settings

PAUSE = (0.2, 2.0)
STEPS = (5, 40)
TOKENS = 8
WRITER, PAINTER = "smollm2", "emoji-onestep"
TEXTS, LOOKS = ("football", "night", "formality"), ("emoji-watercolor", "emoji-pixel-art")
# Bytes that an upload announces, and those that it sends before it breaks off.
ANNOUNCED, SENT = 2**20, 2**18
SECONDS_BETWEEN_MOVES = 10.0
MOVES_AN_EXPORT = 6
PATIENCE = 300.0
SECONDS_BETWEEN_LOOKS = 1.0
# Share of the time to ignore, while models are loaded, threads started and caches filled.
WARM_UP = 0.25
MAX_MEMORY_GROWTH = 0.02
# Allowed increase, since threads and open files vary with the requests in progress.
MAX_HANDLE_GROWTH = 10
SHOWN, TENTHS = 5, 10


@dataclass
class Tally:
    """The outcomes of all visitors' calls.

    Attributes:
        calls: number of calls by function.
        limits: refusals that name a limit.
        errors: all other refusals and failures.
        lock: guards all of the above.
    """

    calls: Counter[str] = field(default_factory=Counter)
    limits: int = 0
    errors: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Sample:
    """The app's process at one point in time."""

    mebibytes: float
    threads: int
    files: int
    disk: float

    @classmethod
    def of(cls, server: Server) -> Sample:
        """Sample the process now, and its files, in MiB, without converted models."""
        process = server.process
        kept = [path for path in server.home.iterdir() if path.name != "models"]
        disk = sum(bytes_below(path) if path.is_dir() else path.stat().st_size for path in kept)
        mebibytes = process.memory_info().rss / 2**20
        return cls(mebibytes, process.num_threads(), process.num_fds(), disk / 2**20)


class RefusedError(Exception):
    """The app responded with an error message."""


class Visitor:
    """A simulated visitor, who stays until `leave` is set.

    Args:
        number: seeds the visitor's random choices.
        url: of the app.
        tally: where to record outcomes.
        leave: set when the time is up.
    """

    def __init__(self, number: int, url: str, tally: Tally, leave: threading.Event) -> None:
        self._dice, self._tally, self._leave = random.Random(number), tally, leave
        self._url = url
        self._web = httpx.Client(base_url=url, timeout=PATIENCE)
        self._key = ""
        self._jobs: list[str] = []

    def live(self) -> None:
        """Call random functions of the app, with pauses, until `leave` is set."""
        turns: list[Callable[[], None]] = [
            self._train, self._cancel, self._look, self._write, self._picture, self._break_off,
        ]  # fmt: skip
        with self._web:
            while not self._leave.wait(self._dice.uniform(*PAUSE)):
                try:
                    if not self._key:
                        self._key = self._call("new_visitor")
                    self._dice.choice(turns)()
                except RefusedError as error:
                    with self._tally.lock:
                        if "limit" in str(error):
                            self._tally.limits += 1
                        else:
                            self._tally.errors.append(str(error))
                except Exception as error:
                    # Errors are counted; the visitor continues.
                    with self._tally.lock:
                        self._tally.errors.append(f"{type(error).__name__}: {error}")

    def _train(self) -> None:
        model, sets = self._dice.choice([(WRITER, TEXTS), (PAINTER, LOOKS)])
        prompts, steps = self._dice.choice(sets), self._dice.randint(*STEPS)
        job = self._call("train", visitor=self._key, model=model, prompt_set=prompts, steps=steps)
        self._jobs.append(job["id"])

    def _cancel(self) -> None:
        if self._jobs:
            job = self._jobs.pop(self._dice.randrange(len(self._jobs)))
            self._call("cancel", visitor=self._key, job_id=job)

    def _look(self) -> None:
        for job in self._jobs:
            found = self._call("job", visitor=self._key, job_id=job)
            if found.get("id") != job or found["status"] == "failed":
                raise RefusedError(f"job {job}: {found}")

    def _write(self) -> None:
        maps = self._maps(WRITER)
        prompt = self._dice.choice(PromptSet.load(self._dice.choice(TEXTS)).source)
        for strength in (0.0, 0.5, 1.0):
            self._call("complete", visitor=self._key, prompt=prompt, maps=maps,
                       strengths=[strength] * len(maps), model=WRITER,
                       seed=self._dice.randrange(1000), tokens=TOKENS)  # fmt: skip

    def _picture(self) -> None:
        maps = self._maps(PAINTER)
        self._call("picture", visitor=self._key, prompts=["a cat", "a house"], maps=maps,
                   strengths=[0.5] * len(maps), model=PAINTER,
                   seed=self._dice.randrange(1000))  # fmt: skip

    def _break_off(self) -> None:
        """Announce an upload, and leave before it is sent."""
        address = urlsplit(self._url)
        head = (
            f"POST /gradio_api/upload HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Content-Length: {ANNOUNCED}\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n"
            '--b\r\nContent-Disposition: form-data; name="files"; filename="a.csv"\r\n\r\n'
        )
        with socket.create_connection((address.hostname, address.port), PATIENCE) as connection:
            connection.sendall(head.encode() + b"0" * SENT)

    def _maps(self, model: str) -> list[str]:
        """One or two maps, if there are any."""
        maps = self._call("list_maps", visitor=self._key)
        found = [row["id"] for row in maps if row["model"] == model]
        return self._dice.sample(found, min(len(found), self._dice.randint(1, 2)))

    def _call(self, name: str, **arguments: Any) -> Any:
        with self._tally.lock:
            self._tally.calls[name] += 1
        joined = self._web.post(f"/gradio_api/call/v2/{name}", json=arguments)
        if joined.status_code != 200:
            raise RefusedError(f"{name}: {joined.status_code} {joined.text}")
        heard = self._web.get(f"/gradio_api/call/v2/{name}/{joined.json()['event_id']}").text
        event, _, data = heard.rpartition("event: ")[2].partition("\ndata: ")
        if event != "complete":
            raise RefusedError(f"{name}: {data.strip()}")
        return json.loads(data)[0]


def soak(minutes: float, visitors: int) -> bool:
    """Run the soak test, print the figures, and return whether it passed.

    Args:
        minutes: how long the visitors stay.
        visitors: number of visitors, beside the one with an open page.
    """
    tally, leave = Tally(), threading.Event()
    samples: list[Sample] = []
    with serving() as server, chromium() as browser:
        page = opened(browser, server)
        people = [
            threading.Thread(target=Visitor(n, server.url, tally, leave).live, daemon=True)
            for n in range(visitors)
        ]
        for person in people:
            person.start()
        moves, exports = _watch(server, page, samples, tally, time.monotonic() + 60 * minutes)
        leave.set()
        for person in people:
            person.join(PATIENCE)
        if any(person.is_alive() for person in people):
            tally.errors.append("A visitor still waits for an answer.")
    warm = samples[int(WARM_UP * len(samples)) :]
    before, after = _level(warm[: len(warm) // 3]), _level(warm[-len(warm) // 3 :])
    growth = after.mebibytes / before.mebibytes - 1
    threads, files = after.threads - before.threads, after.files - before.files
    disk, limit = max(s.disk for s in samples), Settings(home=server.home).mebibytes_in_all
    show(
        "soak",
        minutes=minutes,
        visitors=visitors,
        calls=dict(tally.calls),
        limits=tally.limits,
        errors=len(tally.errors),
        first_errors=tally.errors[:SHOWN],
        mebibytes=[round(s.mebibytes) for s in samples[:: max(1, len(samples) // TENTHS)]],
        memory_growth_percent=100 * growth,
        threads=after.threads,
        thread_growth=threads,
        files=after.files,
        file_growth=files,
        mebibytes_on_disk=[round(s.disk) for s in samples[:: max(1, len(samples) // TENTHS)]],
        most_on_disk=disk,
        limit_on_disk=limit,
        moves_of_the_open_page=moves,
        exports_of_the_open_page=exports,
    )
    within = growth <= MAX_MEMORY_GROWTH and max(threads, files) <= MAX_HANDLE_GROWTH
    return not tally.errors and within and disk <= limit and moves > 0 and exports > 0


def _watch(
    server: Server, page: Page, samples: list[Sample], tally: Tally, until: float
) -> tuple[int, int]:
    """Sample the app, and use the open page; returns how many moves and exports it answered."""
    dice, moves, exports, next_move = random.Random(0), 0, 0, 0.0
    while (now := time.monotonic()) < until:
        samples.append(Sample.of(server))
        if now >= next_move:
            next_move = now + SECONDS_BETWEEN_MOVES
            try:
                moved(page, dice.uniform(0.05, 0.95))
                moves += 1
                if moves % MOVES_AN_EXPORT == 1:
                    _export(page)
                    exports += 1
            except (PageError, zipfile.BadZipFile) as error:
                with tally.lock:
                    tally.errors.append(f"The open page: {error}")
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return moves, exports


def _export(page: Page) -> None:
    """Download a bundle of what is on the screen, and come back to it."""
    page.get_by_role("tab", name="Library").click()
    button, link = page.locator("#bundle-button"), page.locator("#bundle a.download-link")
    if not button.is_visible():
        page.locator("#library-screen > button").click()
    before = link.get_attribute("href") if link.count() else None
    button.click()
    page.wait_for_function(
        "(before) => ![undefined, before].includes("
        "document.querySelector('#bundle a.download-link')?.getAttribute('href'))",
        arg=before,
    )
    with page.expect_download() as download:
        link.click()
    with zipfile.ZipFile(download.value.path()) as bundle:
        if bundle.testzip() is not None:
            raise zipfile.BadZipFile("a file in the bundle is damaged")
    page.get_by_role("tab", name="Images").click()


def _level(samples: Sequence[Sample]) -> Sample:
    """The median of each figure, so that a momentary peak does not count as growth."""
    return Sample(
        statistics.median(s.mebibytes for s in samples),
        round(statistics.median(s.threads for s in samples)),
        round(statistics.median(s.files for s in samples)),
        statistics.median(s.disk for s in samples),
    )


def main() -> None:
    """Run the soak test; exits with 1 if it fails."""
    parser = ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long they stay")
    parser.add_argument("--visitors", type=int, default=5, help="at once, beside an open page")
    chosen = parser.parse_args()
    sys.exit(0 if soak(chosen.minutes, chosen.visitors) else 1)


if __name__ == "__main__":
    main()
