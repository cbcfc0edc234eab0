"""Many concurrent visitors, each with their own key: `python -m benchmarks.visitors`.

Each visitor lists maps, generates pictures of 1 to 4 things with one or two shipped maps, and
sometimes continues a text, with pauses in between; every fifth visitor trains short maps. Responses
are checked against the request: one in ten is compared with the library's own result in this
process (after the visitors have left, to not slow the server down), and no list, job or map may
belong to another visitor.
"""

from __future__ import annotations

import base64
import io
import random
import sys
import threading
import time
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from gradio_client import Client
from PIL import Image

import lineas_core as lc
from benchmarks.machine import show, spread
from benchmarks.serving import Server, serving
from lineas_core.models.load import as_image_model, as_language_model
from lineas_core.prompts.subjects import SUBJECTS
from lineas_core.studio.app import GALLERY

PAUSE = (0.5, 2.5)
MAX_TURNS = 1000
PATIENCE = 120.0
SHARE_CHECKED = 0.1
TRAINERS = 5
STEPS = 6
TOKENS = 16
OPENINGS = ("Once upon a time", "My friends and I", "People often talk about", "I think that")
# Pictures from a different batch may differ by rounding, by one level out of 255.
ROUNDING = 1

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """A request whose response is checked afterwards, and the response."""

    prompts: tuple[str, ...]
    maps: tuple[str, ...]
    strengths: tuple[float, ...]
    seed: int
    answer: Any


@dataclass
class Tally:
    """The outcomes of all visitors' requests.

    Attributes:
        seconds: response times, by kind of request.
        errors: failures.
        wrong: responses that belonged to another visitor.
        pictures: to be checked afterwards.
        texts: to be checked afterwards.
        jobs: job id -> the visitor's number.
        maps: map id -> the visitor's number.
        lock: guards all of the above.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    pictures: list[Asked] = field(default_factory=list)
    texts: list[Asked] = field(default_factory=list)
    jobs: dict[str, int] = field(default_factory=dict)
    maps: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Visitor:
    """A simulated visitor with its own client.

    Args:
        number: of the visitor; also its seed.
        url: of the app.
        tally: where to record outcomes.
        until: when to stop, on the clock of `time.monotonic`.
    """

    def __init__(self, number: int, url: str, tally: Tally, until: float) -> None:
        self._number, self._tally, self._until = number, tally, until
        self._dice = random.Random(number)
        self._client = Client(url, verbose=False, download_files=False)
        self._key = self._call("key", "/new_visitor")
        self._job = ""
        self._concept = f"visitor {number}"

    def live(self) -> None:
        """Make requests, with pauses, until the time is up."""
        turns = [self._list, self._picture, self._picture, self._picture, self._text, self._pry]
        if self._number % TRAINERS == 0:
            turns.append(self._train)
        for _ in range(MAX_TURNS):
            pause = self._dice.uniform(*PAUSE)
            if time.monotonic() + pause >= self._until:
                return
            time.sleep(pause)
            try:
                self._dice.choice(turns)()
            except Exception as error:
                # Errors are counted; the visitor continues.
                with self._tally.lock:
                    self._tally.errors.append(f"{type(error).__name__}: {error}")

    def _list(self) -> None:
        maps = self._call("list", "/list_maps", self._key)
        with self._tally.lock:
            foreign = {row["id"]: self._tally.maps.get(row["id"], self._number) for row in maps}
        known = SHIPPED.keys() <= foreign.keys()
        mine = all(row["id"] in SHIPPED or row["concept"] == self._concept for row in maps) and all(
            number == self._number for number in foreign.values()
        )
        self._expect(known and mine, f"maps {sorted(foreign)}")

    def _picture(self) -> None:
        prompts = tuple(self._dice.sample(SUBJECTS, self._dice.randint(1, 4)))
        maps, strengths = self._mix("image", self._dice.randint(1, 2))
        seed = self._dice.randrange(1000)
        found = self._call("picture", "/picture", self._key, list(prompts), list(maps),
                           list(strengths), "emoji-onestep", seed)  # fmt: skip
        concepts = {SHIPPED[name] for name in maps}
        fits = len(found["images"]) == len(prompts) and set(found["clip"]) == concepts
        self._expect(fits, f"{len(found['images'])} pictures of {sorted(found['clip'])}")
        self._sample(self._tally.pictures, Asked(prompts, maps, strengths, seed, found["images"]))

    def _text(self) -> None:
        prompt, (maps, strengths) = self._dice.choice(OPENINGS), self._mix("text", 1)
        seed = self._dice.randrange(1000)
        found = self._call("text", "/complete", self._key, prompt, list(maps), list(strengths),
                           "smollm2", seed, TOKENS)  # fmt: skip
        self._sample(self._tally.texts, Asked((prompt,), maps, strengths, seed, found))

    def _train(self) -> None:
        """Check on the running job, or start one."""
        if self._job:
            job = self._call("job", "/job", self._key, self._job)
            self._expect(job.get("id") == self._job, f"job {job}")
            if job["status"] == "failed":
                raise RuntimeError(job["message"])
            if job["status"] == "done":
                with self._tally.lock:
                    self._tally.maps[job["map_id"]] = self._number
                self._job = ""
            return
        prompts = lc.PromptSet.load("emoji-watercolor")
        job = self._call("train", "/train", self._key, "emoji-onestep", "", prompts.source,
                         prompts.target, self._concept, STEPS)  # fmt: skip
        self._job = job["id"]
        with self._tally.lock:
            self._tally.jobs[job["id"]] = self._number

    def _pry(self) -> None:
        """Request another visitor's job, which must not be found."""
        with self._tally.lock:
            others = [job for job, number in self._tally.jobs.items() if number != self._number]
        if others:
            job = self._call("job", "/job", self._key, self._dice.choice(others))
            self._expect(job == {}, f"another's job {job}")

    def _mix(self, modality: str, count: int) -> tuple[tuple[str, ...], tuple[float, ...]]:
        names = [name for name in SHIPPED if name.startswith("emoji-") == (modality == "image")]
        chosen = self._dice.sample(names, count)
        return tuple(chosen), tuple(round(self._dice.uniform(0.1, 1), 2) for _ in chosen)

    def _call(self, kind: str, function: str, *arguments: Any) -> Any:
        began = time.perf_counter()
        found = self._client.submit(*arguments, api_name=function).result(timeout=PATIENCE)
        with self._tally.lock:
            self._tally.seconds[kind].append(time.perf_counter() - began)
        return found

    def _expect(self, right: bool, found: str) -> None:
        if not right:
            with self._tally.lock:
                self._tally.wrong.append(f"visitor {self._number} got {found}")

    def _sample(self, kept: list[Asked], asked: Asked) -> None:
        if self._dice.random() < SHARE_CHECKED:
            with self._tally.lock:
                kept.append(asked)


def measure_visitors(count: int, seconds: float) -> bool:
    """Run the visitors, print the figures, and return whether nothing went wrong.

    Args:
        count: number of visitors.
        seconds: how long they stay.
    """
    tally = Tally()
    with serving() as server:
        _load_models(server)
        until = time.monotonic() + seconds
        people = _at_once(lambda number: Visitor(number, server.url, tally, until), range(count))
        memory = [server.mebibytes]
        threads = [threading.Thread(target=person.live, daemon=True) for person in people]
        for thread in threads:
            thread.start()
        for tenth in range(1, 11):
            time.sleep(max(0.0, until - seconds * (1 - tenth / 10) - time.monotonic()))
            memory.append(server.mebibytes)
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()) + 2 * PATIENCE)
        if any(thread.is_alive() for thread in threads):
            tally.errors.append("A visitor still waits for an answer.")
    wrong = tally.wrong + _compared(tally)
    for kind, times in sorted(tally.seconds.items()):
        show(f"visitors: {kind}", **spread(times))
    show("visitors: memory in MiB, each tenth of the time", memory=[round(m) for m in memory])
    show(
        "visitors",
        visitors=count,
        seconds=seconds,
        answers=sum(map(len, tally.seconds.values())),
        errors=len(tally.errors),
        wrong_deliveries=len(wrong),
        compared=len(tally.pictures) + len(tally.texts),
        maps_trained=len(tally.maps),
        first_errors=tally.errors[:3] + wrong[:3],
    )
    return not tally.errors and not wrong


def _load_models(server: Server) -> None:
    client = Client(server.url, verbose=False, download_files=False)
    visitor = client.predict(api_name="/new_visitor")
    client.predict(visitor, ["a cat"], ["emoji-pixel-art"], [0.5], api_name="/picture")
    client.predict(visitor, "I", ["football"], [0.5], "smollm2", 0, 1, api_name="/complete")


def _at_once(make: Callable[[int], T], numbers: Sequence[int]) -> list[T]:
    found: dict[int, T] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: make(n)}), daemon=True)
        for n in numbers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return [found[number] for number in numbers]


def _compared(tally: Tally) -> list[str]:
    """The sampled responses that differ from the library's own results."""
    wrong = []
    painter, writer = as_image_model(lc.load_model("emoji-onestep", device="cpu")), None
    for asked in tally.pictures:
        pairs = zip(
            map(_decoded, asked.answer),
            painter.generate(asked.prompts, _steer(asked), seed=asked.seed),
            strict=True,
        )
        if any(_distance(*pair) > ROUNDING for pair in pairs):
            wrong.append(f"other pictures than of {asked.prompts} with {_named(asked)}")
    if tally.texts:
        writer = as_language_model(lc.load_model("smollm2", device="cpu"))
        for asked in tally.texts:
            text = writer.generate(
                asked.prompts, _steer(asked), seed=asked.seed, max_new_tokens=TOKENS
            )[0]
            if text != asked.answer:
                wrong.append(f"another text than of {asked.prompts} with {_named(asked)}")
    return wrong


def _steer(asked: Asked) -> list[tuple[lc.SteeringMap, float]]:
    maps = (lc.SteeringMap.load(GALLERY / f"{name}.safetensors") for name in asked.maps)
    return list(zip(maps, asked.strengths, strict=True))


def _named(asked: Asked) -> str:
    return f"{list(zip(asked.maps, asked.strengths, strict=True))}, seed {asked.seed}"


def _decoded(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB")


def _distance(first: Image.Image, second: Image.Image) -> int:
    a, b = (
        torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8).int() for i in (first, second)
    )
    return int((a - b).abs().max())


# Map id -> concept.
SHIPPED = {
    path.stem: lc.SteeringMap.load(path).info.concept
    for path in sorted(GALLERY.glob("*.safetensors"))
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns 1 if something went wrong."""
    parser = ArgumentParser(prog="python -m benchmarks.visitors")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--visitors", type=int, default=20)
    chosen = parser.parse_args(argv)
    return 0 if measure_visitors(chosen.visitors, chosen.seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
