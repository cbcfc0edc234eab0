"""A button that writes a table to a file and downloads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr


def csv_button(
    name: str, make: Callable[..., str], inputs: Sequence[Any], label: str = "CSV"
) -> gr.Button:
    """A button that writes a table to a file when it is clicked, and then downloads the file.

    Args:
        name: HTML id of the button, unique on the page.
        make: inputs -> path of the file.
        inputs: components whose values `make` receives.
        label: text on the button.
    """
    button = gr.Button(label, size="sm", elem_id=name, min_width=80, elem_classes="ls-csv")
    # A download button serves the file that it holds when it is clicked, so a script clicks this
    # hidden one after the file has been written.
    file = gr.DownloadButton("CSV", visible="hidden", elem_id=f"{name}-file")
    take = f"() => {{ setTimeout(() => document.querySelector('#{name}-file')?.click(), 50); }}"
    button.click(
        make, list(inputs), file, show_progress="hidden", api_visibility="private"
    ).success(None, None, None, js=take)
    return button
