"""A soak test with many visitors: `python -m benchmarks.soak --minutes 30 --visitors 20`.

Each visitor trains short maps, cancels some, continues texts and, with an image model, generates
pictures, in an order drawn from a fixed seed, while the app's process is monitored. It fails if the
app refuses anything for a reason other than a stated limit, or if memory, threads or open files
keep growing. By default the model is a small one with random weights, which reveals leaks as well.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch
from transformers import LlamaConfig

from benchmarks.inputs import WORDS, random_model
from benchmarks.machine import show
from benchmarks.serving import Server, serving

PAUSE = (0.2, 2.0)
STEPS = (5, 40)
TOKENS = 8
PROMPTS = 8
PATIENCE = 300.0
SECONDS_BETWEEN_LOOKS = 1.0
# Share of the time to ignore, while models are loaded, threads started and caches filled.
WARM_UP = 0.25
MAX_MEMORY_GROWTH = 0.05
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

    @classmethod
    def of(cls, process: psutil.Process) -> Sample:
        """Sample the process now."""
        return cls(process.memory_info().rss / 2**20, process.num_threads(), process.num_fds())


class RefusedError(Exception):
    """The app responded with an error message."""


class Visitor:
    """A simulated visitor, who stays until `leave` is set.

    Args:
        number: seeds the visitor's random choices.
        url: of the app.
        models: a language model, and an image model or "".
        tally: where to record outcomes.
        leave: set when the time is up.
    """

    def __init__(
        self, number: int, url: str, models: tuple[str, str], tally: Tally, leave: threading.Event
    ) -> None:
        self._dice, self._tally, self._leave = random.Random(number), tally, leave
        self._writer, self._painter = models
        self._web = httpx.Client(base_url=url, timeout=PATIENCE)
        self._key = ""
        self._jobs: list[str] = []

    def live(self) -> None:
        """Call random functions of the app, with pauses, until `leave` is set."""
        turns: list[Callable[[], None]] = [self._train, self._cancel, self._look, self._write]
        if self._painter:
            turns.append(self._picture)
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
        source, target = ([self._words(low) for _ in range(PROMPTS)] for low in (0, WORDS // 2))
        job = self._call("train", visitor=self._key, model=self._writer, source=source,
                         target=target, steps=self._dice.randint(*STEPS))  # fmt: skip
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
        maps = [row["id"] for row in self._maps("text")]
        for strength in (0.0, 0.5, 1.0):
            self._call("complete", visitor=self._key, prompt=self._words(0), maps=maps,
                       strengths=[strength] * len(maps), model=self._writer,
                       seed=self._dice.randrange(1000), tokens=TOKENS)  # fmt: skip

    def _picture(self) -> None:
        maps = [row["id"] for row in self._maps("image")]
        self._call("picture", visitor=self._key, prompts=["a cat", "a house"], maps=maps,
                   strengths=[0.5] * len(maps), model=self._painter,
                   seed=self._dice.randrange(1000))  # fmt: skip

    def _maps(self, modality: str) -> list[dict[str, Any]]:
        """One or two maps, if there are any."""
        model = self._writer if modality == "text" else self._painter
        maps = self._call("list_maps", visitor=self._key)
        found = [row for row in maps if row["model"] == model]
        return self._dice.sample(found, min(len(found), self._dice.randint(1, 2)))

    def _words(self, low: int) -> str:
        return " ".join(str(self._dice.randrange(low, WORDS)) for _ in range(6))

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


def soak(minutes: float, visitors: int, model: str, painter: str) -> bool:
    """Run the soak test, print the figures, and return whether it passed.

    Args:
        minutes: how long the visitors stay.
        visitors: number of visitors.
        model: a language model.
        painter: an image model, or "".
    """
    tally, leave = Tally(), threading.Event()
    samples: list[Sample] = []
    with serving() as server:
        people = [
            threading.Thread(
                target=Visitor(n, server.url, (model, painter), tally, leave).live, daemon=True
            )
            for n in range(visitors)
        ]
        for person in people:
            person.start()
        _watch(server, samples, time.monotonic() + 60 * minutes)
        leave.set()
        for person in people:
            person.join(PATIENCE)
        if any(person.is_alive() for person in people):
            tally.errors.append("A visitor still waits for an answer.")
    warm = samples[int(WARM_UP * len(samples)) :]
    before, after = _level(warm[: len(warm) // 3]), _level(warm[-len(warm) // 3 :])
    growth = after.mebibytes / before.mebibytes - 1
    threads, files = after.threads - before.threads, after.files - before.files
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
    )
    within = growth <= MAX_MEMORY_GROWTH and max(threads, files) <= MAX_HANDLE_GROWTH
    return not tally.errors and within


def _watch(server: Server, samples: list[Sample], until: float) -> None:
    while time.monotonic() < until:
        samples.append(Sample.of(server.process))
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _level(samples: Sequence[Sample]) -> Sample:
    """The median of each figure, so that a momentary peak does not count as growth."""
    return Sample(
        statistics.median(s.mebibytes for s in samples),
        round(statistics.median(s.threads for s in samples)),
        round(statistics.median(s.files for s in samples)),
    )


def save_small_model(folder: Path) -> str:
    """Save a small model with random weights as a checkpoint folder."""
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        # No end-of-text token, so that all completions have the same length.
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    made = random_model("small", config, torch.device("cpu"), torch.float32)
    made.module.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return str(folder)


def main() -> None:
    """Run the soak test; exits with 1 if it fails."""
    parser = ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long they stay")
    parser.add_argument("--visitors", type=int, default=20, help="at once")
    parser.add_argument("--model", default="", help="language model; a small random one")
    parser.add_argument("--painter", default="", help="image model; no pictures are made")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lineas-soak-") as folder:
        model = chosen.model or save_small_model(Path(folder))
        good = soak(chosen.minutes, chosen.visitors, model, chosen.painter)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
