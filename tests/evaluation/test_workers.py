from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
from typer.testing import CliRunner

import lineas_core as lc
from lineas_core.cli.app import app
from lineas_core.evaluation.cells import Bench
from lineas_core.evaluation.tables.concepts import TABLE, Sizes
from lineas_core.evaluation.workers import measure_with
from tests.helpers.models import random_map

pytestmark = pytest.mark.thorough

SMALL = Sizes(concepts=("day", "night"), methods=("lin-act", "mean-act"), completions=16, tokens=32)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster on this host with room for two workers, only on the loopback interface."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )
    yield
    ray.shutdown()


def kill_a_worker_at_work() -> None:
    """Send SIGKILL to one of our processes that is measuring a cell, once there is one."""
    for _ in range(12000):
        for process in psutil.Process().children(recursive=True):
            # A worker may exit between being listed and being inspected.
            try:
                busy = "ray::Worker.measure" in " ".join(process.cmdline())
            except psutil.Error:
                continue
            if busy:
                process.send_signal(signal.SIGKILL)
                return
        time.sleep(0.01)
    raise AssertionError("no worker was at work")


def as_csv(results: pd.DataFrame) -> str:
    written = io.StringIO()
    results.drop(columns="fit_seconds").to_csv(written, index=False)
    return written.getvalue()


@pytest.mark.usefixtures("cluster")
def test_workers_make_the_table_that_one_process_makes_though_one_is_killed(
    tiny: lc.LanguageModel, tmp_path: Path
) -> None:
    log: list[str] = []
    bench = Bench(tiny, tmp_path / "spread", log.append)
    killer = threading.Thread(target=kill_a_worker_at_work)
    killer.start()
    results = measure_with(TABLE, bench, SMALL, [0, 1], workers=2, device="cpu")
    killer.join()
    lost = [line for line in log if line.startswith("a worker was lost while it measured")]
    assert len(lost) == 1
    assert len([line for line in log if line.startswith("concepts ")]) == 8 + len(lost)
    alone = TABLE.measure(Bench(tiny, tmp_path / "alone"), SMALL, [0, 1])
    assert as_csv(results) == as_csv(alone)
    assert len(results) == 40

    log.clear()
    again = measure_with(TABLE, bench, SMALL, [0, 1], workers=1, device="cpu")
    assert as_csv(again) == as_csv(alone)
    assert log == []


@pytest.mark.usefixtures("cluster")
def test_what_goes_wrong_in_a_worker_is_told_as_in_one_process(
    tiny: lc.LanguageModel, small_models: dict[str, Path], tmp_path: Path
) -> None:
    sizes = [word for size in ("concepts=day", "methods=mean-act", "tokens=5000")
             for word in ("--set", size)]  # fmt: skip
    command = ["evaluate", "concepts", "-m", str(small_models["llama"]), *sizes, "--workers", "1"]
    ended = CliRunner().invoke(app, [*command, "--device", "cpu", "-o", str(tmp_path)])
    assert isinstance(ended.exception, lc.ConfigError)
    assert "max_new_tokens is 5000" in str(ended.exception)
    with pytest.raises(lc.ConfigError, match="device is 'tpu9'"):
        measure_with(TABLE, Bench(tiny, tmp_path), SMALL, [0], workers=1, device="tpu9")


def test_workers_that_cannot_be_had_are_refused(
    tiny: lc.LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tiny, tmp_path)
    with pytest.raises(lc.ConfigError, match="workers is -1; it must be 1 or more"):
        measure_with(TABLE, bench, SMALL, [0], workers=-1, device="cpu")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(lc.ConfigError, match=r"pip install 'lineas-studio\[scale\]'"):
        measure_with(TABLE, bench, SMALL, [0], workers=1, device="cpu")


def test_what_several_need_at_once_is_made_by_one_of_them(
    tiny: lc.LanguageModel, tmp_path: Path
) -> None:
    smap = random_map(dict.fromkeys(tiny.sites("post_layernorm"), 16), 0)
    learned: list[int] = []

    def learn() -> lc.SteeringMap:
        learned.append(1)
        time.sleep(0.5)
        return smap

    found: list[str] = []

    def need() -> None:
        bench = Bench(tiny, tmp_path)
        found.append(bench.learned({"method": "random"}, learn).map.digest())

    threads = [threading.Thread(target=need) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [smap.digest()] * 3
    assert len(learned) == 1
