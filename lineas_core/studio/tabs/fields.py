"""Fields shared by several tabs, and the parts of a steering tab that the page uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from lineas_core.methods.names import TITLES

OPENINGS = ["My friends and I", "Once upon a time", "People often talk about", "I think that"]


@dataclass(frozen=True)
class SteerTab:
    """The components of a steering tab that the page and links use.

    Attributes:
        tab: the tab itself.
        model: its model field.
        prompts: its prompt field.
        seed: its seed field.
        asked: the inputs of its callback: visitor, model, rack, prompts, seed and, for text,
            tokens.
    """

    tab: gr.Tab
    model: gr.Dropdown
    prompts: gr.Textbox
    seed: gr.Number
    asked: list[Any]


def method_choices() -> list[tuple[str, str]]:
    """The (title, name) pair of every method."""
    return [(title, name) for name, title in TITLES.items()]
