"""The seed of a tab: a number, a button that draws another, and a lock."""

from __future__ import annotations

import random
from dataclasses import dataclass

import gradio as gr

HIGHEST_DRAWN = 9999


@dataclass(frozen=True)
class SeedField:
    """The components of a seed.

    Attributes:
        seed: the number.
        draw: draws another one, and nothing else.
        lock: while it is ticked the seed changes only where somebody types one.
    """

    seed: gr.Number
    draw: gr.Button
    lock: gr.Checkbox


def build_seed(value: int, elem_id: str) -> SeedField:
    """Lay the field out; its button is without effect while the lock is on."""
    with gr.Row(elem_classes="ls-seed"):
        seed = gr.Number(value, label="Seed", precision=0, min_width=80, elem_id=elem_id, scale=2)
        draw = gr.Button("New seed", size="sm", min_width=80, elem_id=f"{elem_id}-draw", scale=1)
        lock = gr.Checkbox(
            False, label="Lock seed", min_width=80, elem_id=f"{elem_id}-lock", container=False,
            scale=1,
        )  # fmt: skip
    lock.change(
        lambda on: gr.update(interactive=not on), lock, draw, show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip
    return SeedField(seed, draw, lock)


def drawn(seed: float | None, locked: bool) -> float | None:
    """Another seed than that one, at random; the same where it is locked."""
    if locked:
        return seed
    # Chance without a seed: nobody is to get the seeds of somebody else, and the number is shown.
    return next(n for n in iter(lambda: random.randint(0, HIGHEST_DRAWN), -1) if n != seed)
