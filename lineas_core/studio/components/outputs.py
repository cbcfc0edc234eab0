"""Named outputs of callbacks.

A callback returns a `NamedTuple` of values, and the layout passes one of components as outputs:

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
    """Outputs of the given class that leave every component unchanged.

    Args:
        kind: a `NamedTuple` class.
    """
    fields: tuple[str, ...] = getattr(kind, "_fields")  # noqa: B009
    return kind(*(gr.skip() for _ in fields))
