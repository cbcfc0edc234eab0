"""Fields that several tabs have, and what the page needs of a tab that steers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from lineas_core.methods.names import TITLES

OPENINGS = ["My friends and I", "Once upon a time", "People often talk about", "I think that"]


@dataclass(frozen=True)
class SteerTab:
    """What the page and links need of a tab that steers.

    Attributes:
        tab: the tab itself.
        model: the field of its model.
        prompts: the field of its prompts.
        seed: the field of its seed.
        asked: the inputs of an answer: visitor, model, rack, prompts, seed and, of a text, tokens.
    """

    tab: gr.Tab
    model: gr.Dropdown
    prompts: gr.Textbox
    seed: gr.Number
    asked: list[Any]


def method_choices() -> list[tuple[str, str]]:
    """(title, name) of every method."""
    return [(title, name) for name, title in TITLES.items()]
