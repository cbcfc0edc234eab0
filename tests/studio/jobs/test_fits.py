from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

import lineas_core as lc
from lineas_core.methods.names import STEPWISE, TITLES
from lineas_core.studio.jobs import interrupts
from lineas_core.studio.jobs.frames import load_frame
from tests.helpers.jobs import At, Shop, same


@pytest.mark.parametrize("method", [name for name in TITLES if name not in STEPWISE])
def test_a_method_without_steps_ends_with_the_map_that_it_fits(
    shop: Shop, tiny: lc.LanguageModel, prompts: lc.PromptSet, method: str
) -> None:
    jobs, changes = shop.jobs(), {"batch_size": 4, "holdout": 0.25}
    job = jobs.start("ada", "tiny", prompts, changes, method=method, preview_prompt="ab")
    assert (job.steps, job.method) == (1, method)
    assert jobs.work()
    row = shop.row(job)
    assert (row.status, row.step, row.message) == ("done", 1, "")
    wanted = lc.fit(method, tiny, prompts, lc.TrainConfig.for_model(tiny, **changes))
    assert same(shop.map(job), wanted)
    kept = shop.library.row(row.map_id, "ada")
    assert (kept.method, kept.losses) == (method, ())
    assert kept.title == f"{prompts.title or prompts.name} · {TITLES[method]}"
    assert row.health == kept.health is not None
    [frame] = [load_frame(path) for path in jobs.frames(job.id, "ada")]
    steered = tiny.generate(["ab"], [(wanted, 1.0)], seed=0, max_new_tokens=24)
    assert [frame.steered] == steered
    assert jobs.film(job.id, "ada") is None


def test_a_fit_is_stopped_or_put_back_before_its_end(
    shop: Shop, prompts: lc.PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "SECONDS_BETWEEN_LOOKS", 0.0)
    priority = At(shop.home)
    jobs = shop.jobs(priority=priority)
    job = jobs.start("ada", "tiny", prompts, {}, method="lin-act")
    priority.act = lambda: jobs.cancel(job.id, "ada")
    jobs.work()
    assert (shop.row(job).status, shop.row(job).map_id) == ("cancelled", "")
    priority = At(shop.home)
    jobs = shop.jobs(priority=priority)
    job = jobs.start("ada", "tiny", prompts, {}, method="lin-act")
    priority.act = jobs.close
    jobs.work()
    assert (shop.row(job).status, shop.row(job).attempts) == ("queued", 0)
    assert shop.jobs().work()
    assert shop.row(job).status == "done"


def test_a_fit_elsewhere_gives_the_same_map(
    shop: Shop, prompts: lc.PromptSet, tiny: lc.LanguageModel
) -> None:
    calls: list[str] = []

    def elsewhere(
        _: str, function: Callable[..., Any], model: Any, *args: Any, **kwargs: Any
    ) -> Any:
        calls.append(function.__name__)
        args, kwargs = pickle.loads(pickle.dumps((args, kwargs)))
        return pickle.loads(pickle.dumps(function(model, *args, **kwargs)))

    jobs = shop.jobs(slice_runner=elsewhere)
    job = jobs.start("ada", "tiny", prompts, {}, method="mean-act", preview_prompt="ab")
    jobs.work()
    assert shop.row(job).status == "done", shop.row(job).message
    assert calls == ["run_fit", "measure_map"]
    assert same(shop.map(job), lc.fit("mean-act", tiny, prompts))
