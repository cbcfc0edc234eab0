"""The seed field of a tab: a number, a button that draws a new one, and a lock."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

# Draws a seed that differs from the one shown; returns the same one while it is locked.
DRAW = """(seed, locked) => {
    let next = seed;
    while (!locked && next === seed) next = Math.floor(Math.random() * 10000);
    return next;
}"""
HOLD = '(locked) => ({ __type__: "update", interactive: !locked })'


@dataclass(frozen=True)
class SeedField:
    """The components of a seed field.

    Attributes:
        seed: the number.
        draw: button that draws a new seed and changes nothing else.
        lock: checkbox; while it is ticked, the seed changes only if the visitor types one.
    """

    seed: gr.Number
    draw: gr.Button
    lock: gr.Checkbox


def build_seed(value: int, elem_id: str) -> SeedField:
    """Lay out the field; its button is disabled while the lock is ticked."""
    with gr.Row(elem_classes="ls-seed"):
        seed = gr.Number(value, label="Seed", precision=0, min_width=80, elem_id=elem_id, scale=2)
        draw = gr.Button("New seed", size="sm", min_width=80, elem_id=f"{elem_id}-draw", scale=1)
        lock = gr.Checkbox(
            False, label="Lock seed", min_width=80, elem_id=f"{elem_id}-lock", container=False,
            scale=1,
        )  # fmt: skip
    lock.change(None, lock, draw, js=HOLD)
    return SeedField(seed, draw, lock)
