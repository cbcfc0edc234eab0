"""Pins: results that the browser keeps with their scene, and how one is shown again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from lineas_core.errors import ConfigError
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.texts import whole
from lineas_core.studio.app import Studio, with_messages
from lineas_core.studio.components.scripts import script
from lineas_core.studio.rack.rack import Modality, RackState, patch


class PinWork:
    """Callbacks of the pins.

    Args:
        studio: the maps.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    @with_messages
    def again(self, key: str, asked: Any) -> tuple[Any, ...]:
        """A pin's scene: the rack, then model, prompts, seed and tokens as they were."""
        owner = owner_of(key)
        try:
            scene = asked["scene"]
            state = RackState.from_page({"state": dict(scene["rack"])})
            fields = (str(scene["model"]), str(scene["prompts"]), whole("seed", scene["seed"]))
            tokens = scene.get("tokens")
        except (LookupError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"The pin's scene cannot be read ({error!r:.100}). Remove the pin, and pin again."
            ) from error
        rows = self._studio.library.maps(owner)
        known = {row.id for row in rows}
        gone = len([slot for slot in state.slots if slot.on and slot.id not in known])
        if gone:
            gr.Warning(
                f"{gone} of its maps {'is' if gone == 1 else 'are'} not in your library any more, "
                "so the result differs. Undo the deletion in the Library, or import the map."
            )
        news = patch(rows=rows, state=state, ask=True)
        return (news, *fields) if tokens is None else (news, *fields, whole("tokens", tokens))


def build_pins(
    studio: Studio,
    key: gr.BrowserState,
    kind: Modality,
    source: str,
    outputs: Sequence[Any],
) -> None:
    """The strip of pins under a result.

    Args:
        studio: the state.
        key: of the visitor.
        kind: of the results.
        source: id of the component that shows them, made by `scene_tag.with_scene`.
        outputs: the rack, and the fields for model, prompts, seed and, of a text, tokens.
    """
    pins = gr.HTML(
        {},
        html_template=f'<div class="pins" data-kind="{kind}" data-source="{source}"></div>',
        js_on_load=script("tabs/pins.js"),
        apply_default_css=False,
        elem_id=f"{kind}-pins",
    )
    pins.select(
        PinWork(studio).again, [key, pins], list(outputs), show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip
