"""A dropdown for maps and prompt sets, which may be added or deleted while the page is open."""

from __future__ import annotations

from typing import Any

import gradio as gr


class Choice(gr.Dropdown):
    """A dropdown whose choices are updated by callbacks.

    The value that the page sends was among the choices it shows, but a newer list of choices may
    not have reached the page yet. `gr.Dropdown` rejects such a value with an error of its own. Here
    it is accepted: the callbacks look it up for its owner and, if it no longer exists, say what to
    do.
    """

    # The page renders Gradio's own dropdown.
    is_template = True

    def preprocess(self, payload: Any) -> str | None:
        """The chosen value without checking that it is among the current choices."""
        return payload if isinstance(payload, str) else None
