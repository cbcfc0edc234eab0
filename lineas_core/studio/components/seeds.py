"""The seed of a tab: a number, a button that draws another, and a lock."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

# Another seed than the one shown; the same while it is locked.
DRAW = """(seed, locked) => {
    let next = seed;
    while (!locked && next === seed) next = Math.floor(Math.random() * 10000);
    return next;
}"""
HOLD = '(locked) => ({ __type__: "update", interactive: !locked })'


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
    lock.change(None, lock, draw, js=HOLD)
    return SeedField(seed, draw, lock)
