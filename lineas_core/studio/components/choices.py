"""Choices among what may come and go while the page is open: maps and prompt sets."""

from __future__ import annotations

from typing import Any

import gradio as gr


class Choice(gr.Dropdown):
    """A list whose choices answers change.

    What the page sends was on its list, but perhaps not on the newest one, which is still on its
    way; Gradio's own list refuses that with an error of its own. The callbacks look the choice up
    for its owner, and say what to do where it is gone.
    """

    # The page draws Gradio's component.
    is_template = True

    def preprocess(self, payload: Any) -> str | None:
        """The choice, as it was made."""
        return payload if isinstance(payload, str) else None
