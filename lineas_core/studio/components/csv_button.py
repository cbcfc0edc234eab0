"""A button that makes a table and downloads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr


def csv_button(
    name: str, make: Callable[..., str], inputs: Sequence[Any], label: str = "CSV"
) -> gr.Button:
    """A button that has a table written when it is pressed, and then downloads it.

    Args:
        name: unique on the page.
        make: inputs -> path of the file.
        inputs: components.
        label: on the button.
    """
    button = gr.Button(label, size="sm", elem_id=name, min_width=80, elem_classes="ls-csv")
    # A download button gives what it has when it is clicked: this one is clicked when there is
    # something.
    file = gr.DownloadButton("CSV", visible="hidden", elem_id=f"{name}-file")
    take = f"() => {{ setTimeout(() => document.querySelector('#{name}-file')?.click(), 50); }}"
    button.click(
        make, list(inputs), file, show_progress="hidden", api_visibility="private"
    ).success(None, None, None, js=take)
    return button
