"""One client with any number of keys: what the others have left, of the queue and of memory.

The machine has many addresses of its own, 127.0.0.1 to 127.0.0.254: the intruder calls from one,
and the visitor from another.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import httpx
import pytest

from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import new_key
from lineas_core.studio.app import Studio
from lineas_core.studio.web import waiting
from tests.helpers.server import client_of, launched
from tests.helpers.studio import ANN

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="elsewhere 127.0.0.2 is no address"
)
INTRUDER, VISITOR = "127.0.0.2", "127.0.0.3"
COMPLETE = "/gradio_api/call/complete"


@pytest.fixture
def crowded(tmp_path: Path, small_models: dict[str, Path]) -> Iterator[tuple[gr.Blocks, str]]:
    """A page whose queue has few places, and a model that answers quickly."""
    studio = Studio(Settings(home=tmp_path, max_waiting=16, max_sessions=6), environment={})
    try:
        with launched(studio) as page:
            yield page, str(small_models["llama"])
    finally:
        studio.close()


def asked(model: str, key: str, tokens: int = 1) -> dict[str, list[object]]:
    return {"data": [key, "ab", [], [], model, 0, tokens]}


def answered(client: httpx.Client, joined: httpx.Response) -> str:
    return client.get(f"{COMPLETE}/{joined.json()['event_id']}").text


@contextmanager
def standing(page: gr.Blocks) -> Iterator[None]:
    """While inside, no call begins, as when all workers are busy with long ones."""
    jobs = page._queue.active_jobs
    page._queue.active_jobs = [[] for _ in jobs]
    try:
        yield
    finally:
        page._queue.active_jobs = jobs


def test_a_hundred_keys_fill_no_more_than_half_of_the_queue(
    crowded: tuple[gr.Blocks, str],
) -> None:
    page, model = crowded
    with client_of(page, INTRUDER) as intruder, client_of(page, VISITOR) as visitor:
        with standing(page):
            found = [intruder.post(COMPLETE, json=asked(model, new_key())) for _ in range(100)]
            assert [answer.status_code for answer in found[:9]] == [200] * 8 + [429]
            assert "8 calls of your address are waiting" in found[8].json()["detail"]
            joined = visitor.post(COMPLETE, json=asked(model, ANN))
            assert joined.status_code == 200
        assert answered(visitor, joined).startswith("event: complete")


def test_one_key_fills_no_more_than_a_quarter(crowded: tuple[gr.Blocks, str]) -> None:
    page, model = crowded
    with client_of(page, VISITOR) as client, standing(page):
        found = [client.post(COMPLETE, json=asked(model, ANN)) for _ in range(5)]
        assert [answer.status_code for answer in found] == [200] * 4 + [429]
        assert "4 calls of your key are waiting" in found[4].json()["detail"]
        assert client.post(COMPLETE, json=asked(model, new_key())).status_code == 200


def test_calls_that_nobody_listens_for_are_dropped(
    crowded: tuple[gr.Blocks, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page, model = crowded
    monkeypatch.setattr(waiting, "UNHEARD", 1.0)
    with client_of(page, INTRUDER) as intruder, client_of(page, VISITOR) as visitor:
        with standing(page):
            for _ in range(8):
                assert intruder.post(COMPLETE, json=asked(model, new_key())).status_code == 200
            # The visitor listens, for longer than a call without a listener is kept.
            joined = visitor.post(COMPLETE, json=asked(model, ANN))
            heard: list[str] = []
            listens = threading.Thread(target=lambda: heard.append(answered(visitor, joined)))
            listens.start()
            time.sleep(1.5)
            assert intruder.post(COMPLETE, json=asked(model, new_key())).status_code == 200
            assert len(page._queue) == 2
        listens.join(60)
        assert heard
        assert heard[0].startswith("event: complete")


def test_answers_that_nobody_fetches_are_dropped(
    crowded: tuple[gr.Blocks, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page, model = crowded
    queue = page._queue
    monkeypatch.setattr(waiting, "UNHEARD", 0.5)
    with client_of(page) as client:
        for _ in range(3):
            client.post(COMPLETE, json=asked(model, new_key()))
        deadline = time.monotonic() + 60
        while (len(queue) or queue.get_active_worker_count()) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.6)
        joined = client.post(COMPLETE, json=asked(model, ANN))
        assert len(queue.pending_messages_per_session) == 1
        assert len(queue.pending_event_ids_session) == 1
        assert answered(client, joined).startswith("event: complete")
        # What was dropped is said to be.
        assert client.get(f"{COMPLETE}/{'0' * 32}").status_code == 404


def test_a_page_that_comes_back_while_its_session_is_dropped_is_answered(
    crowded: tuple[gr.Blocks, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page, model = crowded
    begun, clean = threading.Event(), page._queue.clean_events

    async def clean_slowly(**whose: str) -> None:
        begun.set()
        await asyncio.sleep(0.5)
        await clean(**whose)

    monkeypatch.setattr(waiting, "UNHEARD", 0.5)
    monkeypatch.setattr(page._queue, "clean_events", clean_slowly)
    call = asked(model, ANN) | {"session_hash": "left"}
    with client_of(page, INTRUDER) as other, client_of(page, VISITOR) as visitor:
        assert visitor.post(COMPLETE, json=call).status_code == 200
        time.sleep(1.0)
        drops = threading.Thread(target=lambda: other.post(COMPLETE, json=asked(model, new_key())))
        drops.start()
        assert begun.wait(60)
        joined = visitor.post(COMPLETE, json=call)
        drops.join()
        assert joined.status_code == 200
        assert answered(visitor, joined).startswith("event: complete")


def test_calls_of_the_api_cost_no_page_its_state(crowded: tuple[gr.Blocks, str]) -> None:
    page, _ = crowded
    number = next(
        n for n, f in page.fns.items() if f.fn and f.fn.__qualname__ == "PromptCallbacks.choose"
    )
    with client_of(page, VISITOR) as visitor, client_of(page, INTRUDER) as intruder:
        call = {"fn_index": number, "data": [ANN, None], "session_hash": "annspage"}
        assert visitor.post("/gradio_api/queue/join", json=call).status_code == 200
        assert "annspage" in page.state_holder
        for turn in range(20):
            # As a program polls: by name, and with a session of its own.
            body = {"data": [ANN, "no such map"]}
            for more in ({}, {"session_hash": f"poll{turn}"}):
                joined = intruder.post("/gradio_api/call/list_maps", json={**body, **more})
                found = intruder.get(f"/gradio_api/call/list_maps/{joined.json()['event_id']}")
                assert found.text.startswith("event: complete")
            # And as somebody makes pages up: their own go.
            made_up = {**call, "session_hash": f"made{turn}"}
            intruder.post("/gradio_api/queue/join", json=made_up)
        assert "annspage" in page.state_holder
        assert len(page.state_holder.session_data) <= 6


FLOOD = """
import json, sys, threading, time
import httpx
base, address, model, seconds = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
until = time.monotonic() + seconds
def flood(number):
    transport = httpx.HTTPTransport(local_address=address)
    with httpx.Client(base_url=base, transport=transport, timeout=120) as client:
        turn = 0
        while time.monotonic() < until:
            key = f"intruder-{number}-{turn % 5}-" + "x" * 16
            turn += 1
            body = {"data": [key, "ab", [], [], model, turn, 16]}
            joined = client.post("/gradio_api/call/complete", json=body)
            if joined.status_code != 200:
                time.sleep(0.05)
                continue
            client.get("/gradio_api/call/complete/" + joined.json()["event_id"])
            answered.append(number)
answered = []
threads = [threading.Thread(target=flood, args=(n,)) for n in range(20)]
[t.start() for t in threads]
print("begun", flush=True)
[t.join() for t in threads]
print(len(answered))
"""


def answers_to(client: httpx.Client, model: str, seconds: float) -> tuple[int, float]:
    """Answers to a visitor who asks again as soon as one is there; the longest refusal."""
    begun, count, refused, longest = time.monotonic(), 0, 0.0, 0.0
    while time.monotonic() - begun < seconds:
        joined = client.post(COMPLETE, json=asked(model, ANN, 16))
        if joined.status_code != 200:
            refused = refused or time.monotonic()
            longest = max(longest, time.monotonic() - refused)
            time.sleep(0.2)
            continue
        refused = 0.0
        assert answered(client, joined).startswith("event: complete")
        count += 1
    return count, longest


@pytest.mark.thorough
def test_a_client_with_a_hundred_keys_leaves_another_a_third_of_the_answers(
    tmp_path: Path, small_models: dict[str, Path]
) -> None:
    model, seconds = str(small_models["llama"]), 20.0
    limits = dict.fromkeys(("max_requests", "requests_in_all"), 10**6)
    studio = Studio(Settings(home=tmp_path, **limits), environment={})
    try:
        with launched(studio) as page, client_of(page, VISITOR) as visitor:
            answers_to(visitor, model, 2.0)
            alone, _ = answers_to(visitor, model, seconds)
            base = f"http://127.0.0.1:{page.server_port}"
            arguments = [base, INTRUDER, model, str(seconds)]
            with subprocess.Popen(
                [sys.executable, "-c", FLOOD, *arguments], stdout=subprocess.PIPE
            ) as flood:
                assert flood.stdout is not None
                assert flood.stdout.readline() == b"begun\n"
                beside, longest = answers_to(visitor, model, seconds)
                others = int(flood.stdout.readline())
    finally:
        studio.close()
    print(json.dumps({"alone": alone, "beside": beside, "others": others, "refused_s": longest}))
    assert beside > (beside + others) / 3
    assert longest < 10
