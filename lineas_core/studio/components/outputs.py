"""Outputs of callbacks by name: a callback returns a `NamedTuple`, and its layout fills one in.

class Shown(NamedTuple):
    picture: Any
    caption: Any

button.click(callback, inputs, [*Shown(picture=image, caption=text)])
"""

from __future__ import annotations

from typing import TypeVar

import gradio as gr

Outputs = TypeVar("Outputs", bound=tuple)  # type: ignore[type-arg]


def unchanged(kind: type[Outputs]) -> Outputs:
    """Outputs of that kind, none of which changes what is on the page.

    Args:
        kind: a `NamedTuple` class.
    """
    fields: tuple[str, ...] = getattr(kind, "_fields")  # noqa: B009
    return kind(*(gr.skip() for _ in fields))
