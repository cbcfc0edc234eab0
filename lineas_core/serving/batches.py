"""Requests that wait at the same time run in one batch, each with its own maps and strengths.

One batch runs at a time. A request that comes while it does waits until it has ended.

In bfloat16 and float16 requests share no batch unless the host wants it: prompts of other lengths
round differently beside one another, which there is enough to choose another token every few dozen
tokens, so that a seed would no longer stand for one text.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lineas_core.maps.steering_map import SteeringMap
from lineas_core.models.language.chat import Prompt
from lineas_core.models.language.decoding import Completion
from lineas_core.models.language.model import LanguageModel
from lineas_core.models.language.sampling import Sampling
from lineas_core.serving.request_error import RequestError
from lineas_core.serving.rows import Row, Shown

# Seconds that a batch waits for requests that are sent at the same time as its first one.
WINDOW = 0.02


class Steered(NamedTuple):
    """A map that steers an answer; `name` is the same for the same map only."""

    name: str
    map: SteeringMap
    strength: float


@dataclass(frozen=True)
class Question:
    """What a request asks of a model.

    Attributes:
        name: the name that the model is known by here.
        model: the model.
        prompts: one for each answer.
        seeds: one for each answer.
        steering: the maps of all answers, first applied first.
        temperature: of all answers.
        room: tokens of an answer at most.
        stops: texts that an answer ends before.
        length: tokens of the longest prompt.
    """

    name: str
    model: LanguageModel
    prompts: Sequence[Prompt]
    seeds: Sequence[int]
    steering: Sequence[Steered]
    temperature: float
    room: int
    stops: Sequence[str]
    length: int


class Ticket:
    """A request that waits or is answered; made and read in an event loop.

    Attributes:
        question: what it asks.
        rows: its answers.
        left: whether nobody waits for it any more.
    """

    def __init__(self, question: Question) -> None:
        self.question, self.left = question, False
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[list[Shown] | Exception] = asyncio.Queue()
        self.begin()

    def begin(self) -> None:
        """Start all answers anew."""
        asked = self.question
        self.rows = [Row(asked.stops, asked.room, asked.model.text_of) for _ in asked.prompts]

    @property
    def over(self) -> bool:
        """Whether there is nothing more to write."""
        return self.left or all(row.shown.finish for row in self.rows)

    def tell(self, news: list[Shown] | Exception) -> None:
        """Pass on the state of all answers, or why there is none; from any thread."""
        # The loop is closed where the server was stopped meanwhile.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._news.put_nowait, news)

    async def news(self) -> AsyncIterator[list[Shown]]:
        """The state of all answers as they grow; the last one has them all. Leaves when closed.

        Raises:
            Exception: what the model failed with.
        """
        try:
            while True:
                found = await self._news.get()
                if isinstance(found, Exception):
                    raise found
                yield found
                if all(each.finish for each in found):
                    return
        finally:
            self.left = True


class Batches:
    """Answers tickets, on a thread that runs while there are any.

    Args:
        running: a context manager for the time that the model of a name is used.
        max_rows: answers of several requests that are written at once.
        exact: share no batch where that may change a text.
        max_waiting: requests that may wait.
        window: seconds that a batch waits for others.
    """

    def __init__(
        self,
        running: Callable[[str], AbstractContextManager[object]],
        *,
        max_rows: int,
        max_waiting: int,
        exact: bool = True,
        window: float = WINDOW,
    ) -> None:
        self._running, self._max_rows, self._window = running, max_rows, window
        self._max_waiting, self._exact = max_waiting, exact
        self._lock = threading.Lock()
        self._waiting: list[Ticket] = []
        self._working = False

    def submit(self, ticket: Ticket) -> None:
        """Queue a ticket.

        Raises:
            RequestError: too many wait already.
        """
        with self._lock:
            self._waiting = [other for other in self._waiting if not other.left]
            if len(self._waiting) >= self._max_waiting:
                raise RequestError(
                    f"{len(self._waiting)} requests are waiting, which is the limit here. Try "
                    "again in a few seconds.",
                    status=429,
                    code="rate_limit_exceeded",
                )
            self._waiting.append(ticket)
            if not self._working:
                self._working = True
                threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            time.sleep(self._window)
            with self._lock:
                chosen, self._waiting = self._chosen()
                self._working = bool(chosen)
            if not chosen:
                return
            self._answer(chosen)

    def _chosen(self) -> tuple[list[Ticket], list[Ticket]]:
        """The first ticket with those that can run beside it, and the others."""
        chosen: list[Ticket] = []
        others: list[Ticket] = []
        for ticket in self._waiting:
            if ticket.left:
                continue
            fits = not chosen or self._fits([each.question for each in [*chosen, ticket]])
            (chosen if fits else others).append(ticket)
        return chosen, others

    def _fits(self, questions: Sequence[Question]) -> bool:
        first = questions[0]
        if any((q.model, q.temperature) != (first.model, first.temperature) for q in questions):
            return False
        if self._exact and first.model.module.dtype != torch.float32:
            return False
        if sum(len(q.prompts) for q in questions) > self._max_rows:
            return False
        # All rows of a batch may run until the last one ends, so each must have room for that.
        limit = first.model.max_length
        needed = max(q.length for q in questions) + max(q.room for q in questions)
        return limit is None or needed <= limit

    def _answer(self, tickets: Sequence[Ticket]) -> None:
        try:
            self._write(tickets)
        except Exception as error:
            if len(tickets) == 1:
                tickets[0].tell(error)
                return
            # One request must not spoil those beside it. The same seed gives the same text again.
            for ticket in tickets:
                if not ticket.over:
                    ticket.begin()
                    self._answer([ticket])

    def _write(self, tickets: Sequence[Ticket]) -> None:
        questions = [ticket.question for ticket in tickets]
        first, places = questions[0], [(t, row) for t in tickets for row in t.rows]

        def read(found: list[Completion]) -> Collection[int]:
            changed: dict[Ticket, None] = {}
            for (ticket, row), completion in zip(places, found, strict=True):
                before = row.shown
                row.read(completion)
                if row.shown != before:
                    changed[ticket] = None
            for ticket in changed:
                ticket.tell([row.shown for row in ticket.rows])
            return [n for n, (t, row) in enumerate(places) if t.left or row.shown.finish]

        sampling = Sampling(
            max_new_tokens=max(q.room for q in questions), temperature=first.temperature
        )
        with self._running(first.name):
            read(
                first.model.complete(
                    [prompt for q in questions for prompt in q.prompts],
                    together([q.steering for q in questions for _ in q.prompts]),
                    sampling,
                    seed=[seed for q in questions for seed in q.seeds],
                    on_look=read,
                )
            )


def together(rows: Sequence[Sequence[Steered]]) -> list[tuple[SteeringMap, Tensor]]:
    """The maps of all rows of a batch, each with one strength per row: 0 where it is not on.

    Strengths are per row even for a single row, so that an answer does not depend on what runs
    beside it: on a GPU, one strength for all is computed in another precision.
    """
    chains = {tuple(s.name for s in row): row for row in rows}
    pairs = []
    for names, chain in chains.items():
        own = [n for n, row in enumerate(rows) if tuple(s.name for s in row) == names]
        for place, steered in enumerate(chain):
            strengths = torch.zeros(len(rows))
            strengths[own] = torch.tensor([rows[n][place].strength for n in own])
            pairs.append((steered.map, strengths))
    return pairs
