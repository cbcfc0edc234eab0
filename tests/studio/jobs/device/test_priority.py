from __future__ import annotations

import threading
import time

from lineas_core.studio.jobs.device.priority import Priority


def in_thread(priority: Priority) -> tuple[threading.Thread, list[float]]:
    """Gives way once; how many seconds it took."""
    took: list[float] = []

    def run() -> None:
        began = time.monotonic()
        priority.give_way()
        took.append(time.monotonic() - began)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, took


def test_nobody_there_means_no_wait() -> None:
    began = time.monotonic()
    for _ in range(1000):
        Priority().give_way()
    assert time.monotonic() - began < 1


def test_training_waits_for_the_last_of_several_sliders() -> None:
    priority = Priority(patience=60)
    with priority.sliders():
        with priority.sliders():
            thread, took = in_thread(priority)
        thread.join(0.2)
        assert thread.is_alive()
    thread.join(10)
    assert 0.15 < took[0] < 10


def test_training_is_not_starved() -> None:
    priority = Priority(patience=0.3)
    with priority.sliders():
        thread, took = in_thread(priority)
        thread.join(10)
        assert 0.25 < took[0] < 5


def test_a_slider_that_fails_is_not_waited_for() -> None:
    priority = Priority(patience=60)
    try:
        with priority.sliders():
            raise KeyError
    except KeyError:
        pass
    thread, _ = in_thread(priority)
    thread.join(10)
    assert not thread.is_alive()


def test_patience_is_measured_by_the_clock_that_was_given() -> None:
    times = iter([100.0, 100.0 + 5.0])
    priority = Priority(patience=5.0, clock=lambda: next(times))
    began = time.monotonic()
    with priority.sliders():
        priority.give_way()
    assert time.monotonic() - began < 2
