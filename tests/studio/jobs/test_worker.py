"""The worker: what hangs is noticed, and what gets on may be cut off."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import lineas_core as lc
from lineas_core.studio.jobs import slices, watchdog, worker
from tests.helpers.jobs import CHANGES, At, Shop, same
from tests.helpers.waiting import wait_for


class Knot:
    """Holds whatever passes a site of the model, once it is tied, until it is cut."""

    def __init__(self, model: Any) -> None:
        self.tied = False
        self.reached, self.cut = threading.Event(), threading.Event()
        module = model.module.get_submodule(next(iter(model.sites(model.default_sites))))
        self._hook = module.register_forward_hook(self._hold)

    def _hold(self, *_: Any) -> None:
        if self.tied:
            self.reached.set()
            self.cut.wait()

    def remove(self) -> None:
        self._hook.remove()


@pytest.mark.parametrize("anew", [True, False])
def test_a_step_that_hangs_is_told_and_the_queue_goes_on_where_it_can(
    tmp_path: Path,
    small_models: dict[str, Path],
    prompts: lc.PromptSet,
    monkeypatch: pytest.MonkeyPatch,
    anew: bool,
) -> None:
    monkeypatch.setattr(watchdog, "MIN_SECONDS", 1.0)
    monkeypatch.setattr(worker, "SECONDS_BETWEEN_LOOKS", 0.05)
    loaded: list[Any] = []

    def load(name: str) -> Any:
        if not loaded or not anew:
            loaded[:] = loaded or [lc.load_model(str(small_models["llama"]), device="cpu")]
        return loaded[-1]

    def forget(name: str) -> None:
        loaded.append(lc.load_model(str(small_models["llama"]), device="cpu"))

    shop = Shop(tmp_path, None)
    knot = Knot(load("tiny"))
    ended: list[str] = []
    jobs = shop.jobs(
        autostart=True,
        load_model=load,
        forget_model=forget if anew else None,
        on_end=lambda job: ended.append(job.id),
    )
    hangs = jobs.start("ada", "tiny", prompts, {**CHANGES, "steps": 100_000})
    waits = jobs.start("bob", "tiny", prompts, CHANGES)
    wait_for(lambda: shop.row(hangs).step > 3)
    knot.tied = True
    assert knot.reached.wait(120)
    wait_for(lambda: shop.row(hangs).finished)
    row = shop.row(hangs)
    assert row.status == "failed"
    assert "A training step has not ended for" in row.message
    assert "one took" in row.message
    wait_for(lambda: ended == [hangs.id])
    if anew:
        assert "go on with the model loaded anew" in row.message
        wait_for(lambda: shop.row(waits).finished)
        fresh = lc.train(loaded[-1], prompts, lc.TrainConfig.for_model(loaded[-1], **CHANGES))
        assert same(shop.map(waits), fresh.map)
    else:
        assert "restart the app" in row.message
        assert shop.row(waits).status == "queued"
    # When it moves again after all, it changes nothing any more.
    before, maps = shop.row(hangs), len(shop.library.maps("ada"))
    knot.tied = False
    knot.cut.set()
    wait_for(lambda: sum(t.name == "training" for t in threading.enumerate()) == int(anew))
    jobs.close()
    assert shop.row(hangs) == before
    assert len(shop.library.maps("ada")) == maps == 0
    knot.remove()
    shop.store.close()


def test_a_watchdog_knows_how_long_a_step_takes() -> None:
    now = [0.0]
    dog = watchdog.Watchdog(lambda: now[0])
    now[0] += 10 * watchdog.OTHER_SECONDS
    assert dog.overdue() == ""  # Loading may take as long as it likes.
    dog.beat()
    now[0] += watchdog.OTHER_SECONDS
    assert dog.overdue() == ""
    now[0] += 1
    assert "no step" in dog.overdue()
    dog.beat()
    for seconds in (50.0, 20.0, 20.0, 20.0, 90.0):
        now[0] += seconds
        dog.step()
    now[0] += 400  # 20 times the median.
    assert dog.overdue() == ""
    now[0] += 1
    assert "has not ended for 401 s, and one took 20 s before" in dog.overdue()
    dog.step()
    assert dog.overdue() == ""


def test_a_job_that_gets_on_may_be_cut_off_any_number_of_times(
    shop: Shop, prompts: lc.PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)

    class DiedError(BaseException):
        """As a process dies: nothing is told to the row."""

    def die() -> None:
        raise DiedError

    job = shop.jobs().start("ada", "tiny", prompts, {**CHANGES, "steps": 60})
    for _ in range(5):
        priority = At(shop.home)
        priority.act = die
        with pytest.raises(DiedError):
            shop.jobs(priority=priority).work()
        assert shop.row(job).status == "running"
    while shop.jobs().work():
        pass
    assert shop.row(job).status == "done"
    stuck = shop.jobs().start("ada", "tiny", prompts, CHANGES)
    for _ in range(3):
        shop.store.claim_next()
        shop.jobs(died_of_itself=True)
    assert "3 times" in shop.row(stuck).message
