"""Calls that wait, and the state of open pages, in fair shares of visitors.

Gradio's queue is first come, first served, and its store of sessions drops the oldest: whoever
calls most gets most, and pushes the others out. A key costs nothing to make, so shares are those of
addresses first, and of keys within an address.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from copy import copy
from typing import Any, NamedTuple

import gradio as gr
from fastapi import HTTPException
from gradio.queueing import Event, EventQueue, Queue
from gradio.state_holder import SessionState, StateHolder
from starlette.status import HTTP_429_TOO_MANY_REQUESTS
from starlette.types import Scope

from lineas_core.studio.access.visitors import ADDRESS, KEY

# Largest parts of the queue that the calls of one address, and of one key, may take.
SHARE, KEY_SHARE = 2, 4
# Largest part of the calls that run at once, for an address while others are there: they all have
# the same processor, so that one call beside two has a third of it at most.
RUNNING_SHARE = 3
# Seconds after which a call, or its answer, is dropped that nobody listens for.
UNHEARD = 30.0
# Seconds for which an address that called takes part in the shares.
ACTIVE = 60.0
# Turns that are kept before those of addresses that left are forgotten.
MAX_TURNS = 10_000


class Party(NamedTuple):
    """Who makes a call: an address, and a key, or a session where the function takes no key."""

    address: str
    key: str


class FairQueue(Queue):
    """Gradio's queue, with shares.

    - Of the calls that may wait, one address has half at most, and one key a quarter.
    - The next call is one of the address with the fewest running; of those, the one that waits
      longest since its last turn; and likewise by key within the address.
    - While others are there, an address runs at most a third of the calls that run at once.
    - What nobody listens for is dropped: a call whose stream is not open, and its answer.

    Args:
        like: the queue that this one replaces.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, like: Queue, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(
            live_updates=like.live_updates,
            concurrency_count=like.max_thread_count,
            update_intervals=like.update_intervals,
            max_size=like.max_size,
            blocks=like.blocks,
            default_concurrency_limit=like.default_concurrency_limit,
        )
        self._clock = clock
        # Address -> when it called last; the oldest first.
        self._seen: OrderedDict[str, float] = OrderedDict()
        # Address or `Party` -> number of its last turn.
        self._turns: dict[str | Party, int] = {}
        self._turn = 0
        # Session -> number of open streams, and when the last one was closed or a call was made.
        self._streams: Counter[str] = Counter()
        self._heard: dict[str, float] = {}
        self._dropping = asyncio.Lock()

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """Queue a call.

        Raises:
            HTTPException: the caller's share of the queue is taken.
        """
        now, party = self._clock(), party_of(request.scope, body)
        self._forget_parties(now)
        if body.session_hash:
            self._heard[body.session_hash] = now
        # One at a time: a page that comes back after a while waits here until nothing of its
        # session is being dropped, so that its new call is not.
        async with self._dropping:
            await self._drop_unheard(now)
        self._check_share(party)
        self._seen[party.address] = now
        self._seen.move_to_end(party.address)
        function = self.blocks.fns.get(body.fn_index)
        if function is not None and function.api_visibility != "public" and body.session_hash:
            self.blocks.state_holder.keep(body.session_hash, party.address)
        found = await super().push(body=body, request=request, username=username)
        self._heard[body.session_hash] = now
        return found

    def get_events(self) -> tuple[list[Event], bool, str] | None:
        """The call whose turn it is, as a batch of one; None where all have their share running."""
        running = [_party(event) for job in self.active_jobs for event in job or ()]
        most = len(self.active_jobs)
        ready: list[Event] = []
        for line in self.event_queue_per_concurrency_id.values():
            room = most if line.concurrency_limit is None else line.concurrency_limit
            if line.queue and line.current_concurrency < room:
                ready += self._within_share(line, room)
        counts = Counter([party.address for party in running])
        if self._shared:
            most //= RUNNING_SHARE
            ready = [event for event in ready if counts[_party(event).address] < most]
        if not ready:
            return None
        by_key = Counter(running)

        def turn(event: Event) -> tuple[int, ...]:
            party = _party(event)
            return (
                counts[party.address],
                self._turns.get(party.address, 0),
                by_key[party],
                self._turns.get(party, 0),
            )

        # The first of equals, so that calls of one party are answered in their order.
        chosen = min(ready, key=turn)
        self._turn += 1
        self._turns[_party(chosen)] = self._turns[_party(chosen).address] = self._turn
        self.event_queue_per_concurrency_id[chosen.concurrency_id].queue.remove(chosen)
        return [chosen], False, chosen.concurrency_id

    def opened(self, session: str) -> None:
        """Note that somebody listens for the answers of a session."""
        self._streams[session] += 1

    def closed(self, session: str) -> None:
        """Note that one who listened left, or was told all."""
        self._streams[session] -= 1
        if self._streams[session] <= 0:
            del self._streams[session]
            self._heard[session] = self._clock()

    def session_of(self, event_id: str) -> str | None:
        """The session of a call whose answer was not fetched yet; None if there is no such call."""
        ids = self.pending_event_ids_session.items()
        return next((session for session, events in ids if event_id in events), None)

    def _check_share(self, party: Party) -> None:
        waiting = [
            _party(event)
            for line in self.event_queue_per_concurrency_id.values()
            for event in line.queue
        ]
        size = self.max_size or 0
        for whose, taken, share in (
            ("your address", sum(other.address == party.address for other in waiting), SHARE),
            ("your key", waiting.count(party), KEY_SHARE),
        ):
            if size and taken >= max(1, size // share):
                raise HTTPException(
                    HTTP_429_TOO_MANY_REQUESTS,
                    f"{taken} calls of {whose} are waiting, which is the limit. Try again when "
                    "some are answered.",
                )

    def _within_share(self, line: EventQueue, room: int) -> list[Event]:
        """The waiting calls of a line whose address may run another one there."""
        if not self._shared:
            return [*line.queue]
        running = Counter(
            _party(event).address
            for job in self.active_jobs
            for event in job or ()
            if event.concurrency_id == line.concurrency_id
        )
        most = max(1, room // RUNNING_SHARE)
        return [event for event in line.queue if running[_party(event).address] < most]

    @property
    def _shared(self) -> bool:
        """Whether calls came from more than one address lately."""
        return len(self._seen) > 1

    def _forget_parties(self, now: float) -> None:
        """Forget addresses that called long ago, and the turns of theirs."""
        while self._seen and now - next(iter(self._seen.values())) > ACTIVE:
            self._seen.popitem(last=False)
        if len(self._turns) > MAX_TURNS:
            self._turns = {
                party: turn
                for party, turn in self._turns.items()
                if (party.address if isinstance(party, Party) else party) in self._seen
            }

    async def _drop_unheard(self, now: float) -> None:
        """Drop calls and answers of sessions that nobody listens to."""
        for session in [*self._heard]:
            if not self._streams[session] and now - self._heard[session] > UNHEARD:
                await self.clean_events(session_hash=session)
                self.pending_event_ids_session.pop(session, None)
                if session in self.pending_messages_per_session:
                    del self.pending_messages_per_session[session]
                del self._heard[session]


def share_queue(page: gr.Blocks) -> None:
    """Replace the queue of a page by one with shares."""
    page._queue = FairQueue(page._queue)


def queue_of(page: gr.Blocks) -> FairQueue:
    """The queue of a page that `share_queue` was called with."""
    found: FairQueue = page._queue
    return found


class Sessions(StateHolder):
    """The state of open pages. Calls of the API have none, and so push none out.

    Where there are more sessions than `capacity`, the oldest one goes of the address that has most.

    Args:
        blocks: the page.
    """

    def __init__(self, blocks: gr.Blocks) -> None:
        super().__init__()
        # Session -> address.
        self._kept: dict[str, str] = {}
        self._blank: SessionState | None = None
        self.set_blocks(blocks)

    def keep(self, session_id: str, address: str) -> None:
        """Keep the state of a session from now on, for whoever called first under its name."""
        self._kept.setdefault(session_id, address)

    def __getitem__(self, session_id: str) -> SessionState:
        """The state of a session; a new one, which is forgotten, where it is not to be kept."""
        if session_id not in self._kept:
            return self._forgotten()
        return super().__getitem__(session_id)

    def _forgotten(self) -> SessionState:
        """A new state, without the configurations of all components, which are made when asked."""
        if self._blank is None:
            self._blank = SessionState(self.blocks)
        found = copy(self._blank)
        found.blocks_config = copy(self.blocks.default_config)
        found.config_values, found.state_data, found._state_ttl = {}, {}, {}
        return found

    def update(self, session_id: str) -> None:
        """Mark a session as the latest, and drop another where there are too many."""
        with self.lock:
            if session_id in self.session_data:
                self.session_data.move_to_end(session_id)
            if len(self.session_data) <= self.capacity:
                return
            most, _ = Counter(self._kept[name] for name in self.session_data).most_common(1)[0]
            dropped = next(name for name in self.session_data if self._kept[name] == most)
            del self.session_data[dropped], self._kept[dropped]
            self.time_last_used.pop(dropped, None)


def party_of(scope: Scope, call: Any) -> Party:
    """Who makes a call.

    Args:
        scope: of its request.
        call: its body, with `data` and `session_hash`.
    """
    client = scope.get("client")
    address = scope.get(ADDRESS) or (client[0] if client else "")
    first = call.data[0] if call.data else None
    if isinstance(first, str) and KEY.fullmatch(first):
        return Party(address, first)
    return Party(address, call.session_hash or "")


def _party(event: Event) -> Party:
    """`party_of` a queued call, kept on it: it is asked for a thousand times a second."""
    if not hasattr(event, "party"):
        event.party = party_of(event.request.scope, event.data)
    found: Party = event.party
    return found
