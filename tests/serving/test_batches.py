"""Requests share a batch, and each gets what it would get alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

import lineas_core as lc
from lineas_core.errors import PromptError
from lineas_core.models.language.sampling import Sampling
from lineas_core.serving.batches import Batches, Question, Steered, Ticket, together
from lineas_core.serving.request_error import RequestError
from lineas_core.serving.rows import Shown
from tests.helpers.models import ARCHITECTURES, save_checkpoint
from tests.serving.conftest import GatedHost

Maps = dict[str, tuple[lc.SteeringMap, float]]

# Seconds in which a busy machine too hands in all questions of a test.
WINDOW = 0.5


def question(model: lc.LanguageModel, prompt: str, **changes: Any) -> Question:
    fields: dict[str, Any] = {
        "name": "m", "model": model, "prompts": [prompt], "seeds": [5], "steering": [],
        "temperature": 1.0, "room": 12, "stops": [], "length": len(prompt),
    }  # fmt: skip
    return Question(**{**fields, **changes})


async def last(ticket: Ticket) -> list[Shown] | Exception:
    found: list[Shown] = []
    try:
        async for later in ticket.news():
            found = later
    except Exception as error:
        return error
    return found


def answers(batches: Batches, *questions: Question) -> list[list[Shown] | Exception]:
    async def ask() -> list[list[Shown] | Exception]:
        tickets = [Ticket(each) for each in questions]
        for ticket in tickets:
            batches.submit(ticket)
        return list(await asyncio.gather(*map(last, tickets)))

    return asyncio.run(ask())


@pytest.fixture
def batches(host: GatedHost) -> Batches:
    return Batches(host.running, max_rows=4, max_waiting=8, window=WINDOW)


def test_rows_with_other_maps_are_as_each_alone(talker: lc.LanguageModel, maps: Maps) -> None:
    ink, gold = (Steered(name, *maps[name]) for name in ("ink", "gold"))
    rows = [
        [],
        [ink],
        [gold, ink],
        [ink._replace(strength=2.0)],
        [gold, ink._replace(strength=0.1)],
    ]
    pairs = together(rows)
    # One map of its own, and two of the chain.
    assert len(pairs) == 3
    texts = talker.generate(["ab"] * 5, pairs, seed=range(5), max_new_tokens=20)
    for seed, (row, text) in enumerate(zip(rows, texts, strict=True)):
        steer = [(each.map, each.strength) for each in row]
        assert [text] == talker.generate(["ab"], steer, seed=seed, max_new_tokens=20)
    assert len(set(texts)) == 5
    assert all(isinstance(strength, torch.Tensor) for _, strength in together([[ink]]))


def test_those_that_wait_run_together_and_get_their_own(
    talker: lc.LanguageModel, host: GatedHost, batches: Batches, maps: Maps
) -> None:
    asked = [
        question(talker, "ab", steering=[Steered("ink", maps["ink"][0], strength)], room=room)
        for strength, room in ((0.2, 9), (0.9, 20), (0.0, 4))
    ]
    found = answers(batches, *asked)
    assert host.batches == 1
    for each, shown in zip(asked, found, strict=True):
        steer = [(maps["ink"][0], each.steering[0].strength)]
        [alone] = talker.complete(["ab"], steer, Sampling(max_new_tokens=each.room), seed=5)
        assert shown == [Shown(alone.text, shown[0].finish, len(alone.tokens))]
        assert shown[0].finish == ("length" if len(alone.tokens) == each.room else "stop")


def test_what_does_not_fit_into_a_batch_waits(
    talker: lc.LanguageModel, host: GatedHost, batches: Batches
) -> None:
    others = [
        question(talker, "ab", temperature=0.5),
        question(talker, "ab", prompts=["ab"] * 4, seeds=range(4)),
        # Beside a long prompt there is no room for a long answer.
        question(talker, "a" * 100, room=20),
        question(talker, "ab", room=100),
    ]
    found = answers(batches, question(talker, "ab"), *others)
    assert all(isinstance(shown, list) for shown in found)
    # The long prompt runs beside the first request, all others alone.
    assert host.batches == 4


def test_low_precision_is_shared_on_demand_only(tmp_path: Path, host: GatedHost) -> None:
    folder = save_checkpoint(ARCHITECTURES["llama"], tmp_path, torch.bfloat16)
    # By name: "auto" takes float32 on a CPU without instructions for bfloat16.
    model = lc.load_model(str(folder), device="cpu", dtype="bfloat16")
    assert isinstance(model, lc.LanguageModel)
    asked = [question(model, prompt) for prompt in ("ab", "a longer one", "b")]
    exact, shared = (
        Batches(host.running, max_rows=4, max_waiting=8, exact=each, window=WINDOW)
        for each in (True, False)
    )
    for each, shown in zip(asked, answers(exact, *asked), strict=True):
        assert isinstance(shown, list)
        [alone] = model.generate(each.prompts, seed=5, max_new_tokens=12)
        assert shown[0].text == alone
    assert host.batches == 3
    answers(shared, *asked)
    assert host.batches == 4


def test_one_that_fails_does_not_spoil_the_others(
    talker: lc.LanguageModel, batches: Batches
) -> None:
    wrong = question(talker, "ab", prompts=["a" * 200])
    first, failed, second = answers(batches, question(talker, "ab"), wrong, question(talker, "ba"))
    assert isinstance(failed, PromptError)
    for prompt, shown in (("ab", first), ("ba", second)):
        assert isinstance(shown, list)
        assert [shown[0].text] == talker.generate([prompt], seed=5, max_new_tokens=12)


class Leaves(Ticket):
    """A client that leaves as soon as it is told anything."""

    def tell(self, news: list[Shown] | Exception) -> None:
        self.left = True


def test_a_client_that_leaves_is_dropped_at_the_next_look(
    talker: lc.LanguageModel, host: GatedHost, batches: Batches
) -> None:
    async def ask() -> tuple[Ticket, list[Shown] | Exception]:
        leaves, stays = (kind(question(talker, "ab", room=100)) for kind in (Leaves, Ticket))
        for ticket in (leaves, stays):
            batches.submit(ticket)
        return leaves, await last(stays)

    leaves, found = asyncio.run(ask())
    assert host.batches == 1
    assert isinstance(found, list)
    # The first look is after three tokens.
    assert leaves.rows[0].shown.tokens == 3
    [whole] = talker.complete(["ab"], (), Sampling(max_new_tokens=100), seed=5)
    assert (found[0].text, found[0].tokens) == (whole.text, len(whole.tokens))
    assert found[0].tokens > 3


def test_no_more_than_the_limit_may_wait(talker: lc.LanguageModel, host: GatedHost) -> None:
    async def ask() -> None:
        batches = Batches(host.running, max_rows=1, max_waiting=2)
        host.gate.clear()
        running = Ticket(question(talker, "ab"))
        batches.submit(running)
        await asyncio.to_thread(host.begun.wait, 60)
        waiting = [Ticket(question(talker, "ab")) for _ in range(2)]
        for ticket in waiting:
            batches.submit(ticket)
        with pytest.raises(RequestError, match="2 requests") as refused:
            batches.submit(Ticket(question(talker, "ab")))
        assert refused.value.status == 429
        # Whoever leaves makes room.
        waiting[0].left = True
        late = Ticket(question(talker, "ab"))
        batches.submit(late)
        host.gate.set()
        for ticket in (running, waiting[1], late):
            assert isinstance(await last(ticket), list)

    asyncio.run(ask())
    assert host.batches == 3
