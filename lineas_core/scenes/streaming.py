"""Streaming of partial completions: several sides in one batch, generated on its own thread."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Generator, Sequence
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
) -> Generator[Sequence[str], None, None]:
    """Yield the partial completion of each side as it grows, and the finished ones last.

    A slow consumer skips intermediate updates. Closing the iterator stops generation within a few
    tokens.

    Args:
        model: generates all sides in one batch.
        prompts: the prompt of each side, a text or a conversation.
        sides: the maps that steer each side, with one strength per map.
        seed: sampling seed, the same for every side.
        tokens: maximum number of tokens to generate.
    """
    # One batch: each map has strength 0 in every sample except the one of its own side.
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
    """Raised inside generation to stop it after the consumer has closed the iterator."""
