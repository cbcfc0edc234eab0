from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from lineas_core.notebook.newest import Newest


def test_a_question_waits_for_a_newer_one() -> None:
    answered: list[int] = []
    newest = Newest[int](lambda question, is_old: answered.append(question), pause=0.3)
    for number in range(50):
        newest.ask(number)
    assert newest.wait(30)
    assert answered == [49]
    newest.ask(50)
    assert newest.wait(30)
    assert answered == [49, 50]


def test_one_runs_at_a_time_and_learns_that_a_newer_one_came() -> None:
    started, go_on = threading.Event(), threading.Event()
    log: list[object] = []

    def answer(question: str, is_old: Callable[[], bool]) -> None:
        log.append((question, is_old()))
        if question == "first":
            started.set()
            assert go_on.wait(30)
            log.append(("first, later", is_old()))

    newest = Newest[str](answer, pause=0.0)
    newest.ask("first")
    assert started.wait(30)
    newest.ask("second")
    newest.ask("third")
    assert not newest.wait(0.1)
    assert log == [("first", False)]
    go_on.set()
    assert newest.wait(30)
    assert log == [("first", False), ("first, later", True), ("third", False)]


def test_its_thread_ends_with_the_last_answer() -> None:
    threads: list[threading.Thread] = []
    newest = Newest[int](lambda *_: threads.append(threading.current_thread()), pause=0.0)
    newest.ask(0)
    assert newest.wait(30)
    threads[0].join(30)
    assert not threads[0].is_alive()


def test_a_failed_answer_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: told.append(failed.exc_type))
    threads: list[threading.Thread] = []
    answered: list[int] = []

    def answer(question: int, _: Callable[[], bool]) -> None:
        threads.append(threading.current_thread())
        if not question:
            raise ZeroDivisionError
        answered.append(question)

    newest = Newest[int](answer, pause=0.0)
    newest.ask(0)
    assert newest.wait(30)
    newest.ask(1)
    assert newest.wait(30)
    assert answered == [1]
    for thread in threads:
        thread.join(30)
    assert told == [ZeroDivisionError]
