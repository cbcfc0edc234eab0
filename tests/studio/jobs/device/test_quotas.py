"""Whom training on a lent GPU is charged to."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any

import gradio as gr
import pytest

import lineas_core as lc
from lineas_core.studio.jobs.device.quotas import ABSENT, KEPT, Quotas
from lineas_core.studio.jobs.lent_slices import LentSlices
from tests.helpers.jobs import Shop

VISITOR: contextvars.ContextVar[str] = contextvars.ContextVar("visitor", default="nobody")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def watch(quotas: Quotas, owner: str, visitor: str) -> None:
    """As a page does, in the context of its request."""

    def request() -> None:
        VISITOR.set(visitor)
        quotas.watch(owner)

    contextvars.Context().run(request)


def charged(quotas: Quotas, owner: str) -> str:
    """Whom a call is charged to that another thread makes."""
    found = []
    call = threading.Thread(target=lambda: found.append(quotas.charge(owner, VISITOR.get)))
    call.start()
    call.join()
    return found[0]


def test_a_call_is_charged_to_the_latest_request_of_its_owner() -> None:
    quotas = Quotas(lent=True)
    watch(quotas, "ann", "ann's first")
    watch(quotas, "bob", "bob's")
    watch(quotas, "ann", "ann's second")
    assert [charged(quotas, who) for who in ("ann", "bob", "eve")] == [
        "ann's second", "bob's", "nobody",
    ]  # fmt: skip
    for other in range(KEPT):
        watch(quotas, f"visitor {other}", "other")
    assert charged(quotas, "ann") == "nobody"


@pytest.mark.parametrize("settings", [{"lent": False}, {"lent": True, "host_pays": True}])
def test_the_host_pays_where_it_says_so_or_owns_the_gpu(settings: dict[str, bool]) -> None:
    clock = Clock()
    quotas = Quotas(**settings, clock=clock)
    watch(quotas, "ann", "ann's")
    clock.now += 10 * ABSENT
    assert charged(quotas, "ann") == "nobody"
    assert quotas.absent_for("ann") == 0


def test_a_page_is_absent_since_its_latest_request() -> None:
    clock = Clock()
    quotas = Quotas(lent=True, clock=clock)
    clock.now += 7
    assert quotas.absent_for("ann") == 7
    watch(quotas, "ann", "ann's")
    assert quotas.absent_for("ann") == 0
    clock.now += 3
    assert quotas.absent_for("ann") == 3


def elsewhere(owner: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    assert owner == "ada"
    return function(*args, **kwargs)


def test_training_waits_for_its_page_and_ends_when_that_was_closed(
    shop: Shop, prompts: lc.PromptSet
) -> None:
    clock = Clock()
    quotas = Quotas(lent=True, clock=clock)
    jobs = shop.jobs(slice_runner=elsewhere, quotas=quotas)
    clock.now += ABSENT - 1
    job = jobs.start("ada", "tiny", prompts, {"steps": 2})
    comes = threading.Timer(0.5, watch, (quotas, "ada", "ada's"))
    comes.start()
    jobs.work()
    comes.join()
    assert shop.row(job).status == "done", shop.row(job).message

    job = jobs.start("ada", "tiny", prompts, {"steps": 2})
    clock.now += ABSENT + 1
    jobs.work()
    row = shop.row(job)
    assert (row.status, row.step) == ("failed", 0)
    assert "the page was closed" in row.message


def test_a_refusal_of_zero_gpu_becomes_the_message_of_the_job(
    shop: Shop, prompts: lc.PromptSet
) -> None:
    def refuse(*_: Any) -> Any:
        raise gr.Error("You have exceeded your free ZeroGPU quota (20s requested vs. 3s left).")

    quotas = Quotas(lent=True)
    lent = LentSlices(refuse, {}, quotas)
    jobs = shop.jobs(slice_runner=lent.run, quotas=quotas)
    job = jobs.start("ada", "tiny", prompts, {"steps": 2})
    jobs.work()
    assert shop.row(job).status == "failed"
    assert "20s requested vs. 3s left" in shop.row(job).message
