"""Texts as they are written: several sides in one batch, on a thread of their own."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from lineas_core.maps.steering_map import Steering
from lineas_core.models.language.chat import Prompt
from lineas_core.models.language.model import LanguageModel


def stream_sides(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    sides: Sequence[Steering],
    seed: int,
    tokens: int,
) -> Iterator[Sequence[str]]:
    """The completion of each side so far, at every look, and whole at the end.

    Leaving the iterator stops the writing within a few tokens.

    Args:
        model: that writes all of them at once.
        prompts: what each follows, a text or a conversation.
        sides: the maps that each is steered by, at one strength for a map.
        seed: of each.
        tokens: to write.
    """
    # One batch: a map's strength is 0 in all samples but those of its own side.
    together: list[Any] = [
        (smap, torch.eye(len(sides))[n] * strength)
        for n, side in enumerate(sides)
        for smap, strength in side
    ]
    news: queue.SimpleQueue[list[str] | BaseException | None] = queue.SimpleQueue()
    left = threading.Event()

    def tell(texts: list[str]) -> None:
        if left.is_set():
            raise _LeftError
        news.put(texts)

    def write() -> None:
        try:
            news.put(
                model.generate(
                    prompts,
                    together,
                    seed=seed,
                    max_new_tokens=tokens,
                    on_texts=tell,
                )
            )
            news.put(None)
        except BaseException as error:
            news.put(error)

    threading.Thread(target=contextvars.copy_context().run, args=(write,), daemon=True).start()
    try:
        shown: list[str] = []
        while True:
            found = news.get()
            while not news.empty() and isinstance(found, list):
                shown = found
                found = news.get()
            if isinstance(found, BaseException):
                raise found
            if found is None:
                yield shown
                return
            shown = found
            yield shown
    finally:
        left.set()


class _LeftError(Exception):
    """Whoever was reading has gone."""
