"""Newest: answers the newest question on a thread of its own, and drops those before it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

Question = TypeVar("Question")


class Newest(Generic[Question]):
    """Answer the newest of the questions that are asked, one at a time.

    A question waits for `pause` seconds, and a newer one within them takes its place. The thread
    runs only while there is something to answer, so that it keeps nothing in memory.

    Args:
        answer: called on the thread with the question, and with a function that says whether a
            newer one has come meanwhile; it should not raise.
        pause: in seconds.

    >>> answered = []
    >>> newest = Newest(lambda question, is_old: answered.append(question), pause=0.1)
    >>> for number in range(9):
    ...     newest.ask(number)
    >>> newest.wait(), answered
    (True, [8])
    """

    def __init__(
        self, answer: Callable[[Question, Callable[[], bool]], object], pause: float
    ) -> None:
        self._answer, self._pause = answer, pause
        self._changed = threading.Condition()
        self._waiting: list[Question] = []
        self._asked = 0
        self._runs = False

    def ask(self, question: Question) -> None:
        """Have a question answered in place of the one that waits; returns at once."""
        with self._changed:
            self._waiting = [question]
            self._asked += 1
            self._changed.notify_all()
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._work, daemon=True).start()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until all questions are answered; returns whether they were within `timeout`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._runs, timeout)

    def _work(self) -> None:
        try:
            while taken := self._take():
                number, question = taken
                self._answer(question, partial(self._is_old, number))
        except BaseException:
            with self._changed:
                self._stop()
            raise

    def _take(self) -> tuple[int, Question] | None:
        """The newest question and its number, after the pause; None, and the end, without one."""
        with self._changed:
            if not self._waiting:
                self._stop()
                return None
            while self._changed.wait(self._pause):
                pass
            return self._asked, self._waiting.pop()

    def _stop(self) -> None:
        self._runs = False
        self._changed.notify_all()

    def _is_old(self, number: int) -> bool:
        return self._asked != number
