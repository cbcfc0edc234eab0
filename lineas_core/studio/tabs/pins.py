"""Pins: results that the browser stores with their scene, and the callback that restores one."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr

from lineas_core.errors import ConfigError
from lineas_core.studio.access.error_messages import with_messages
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.fields import whole
from lineas_core.studio.app import Studio
from lineas_core.studio.components.scripts import script
from lineas_core.studio.rack.rack import Modality, RackState, patch


class PictureScene(NamedTuple):
    """The rack and fields of the scene of a picture."""

    rack: Any
    model: Any
    prompts: Any
    seed: Any


class TextScene(NamedTuple):
    """The rack and fields of the scene of a text."""

    rack: Any
    model: Any
    prompts: Any
    seed: Any
    tokens: Any


class PinCallbacks:
    """Callbacks of the pins.

    Args:
        studio: gives access to the maps.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    @with_messages
    def again(self, key: str, asked: Any) -> PictureScene | TextScene:
        """The scene stored in a pin; only the scene of a text has tokens."""
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
        if tokens is None:
            return PictureScene(news, *fields)
        return TextScene(news, *fields, whole("tokens", tokens))


def build_pins(
    studio: Studio,
    key: gr.BrowserState,
    kind: Modality,
    source: str,
    scene: PictureScene | TextScene,
) -> None:
    """Lay out and wire the strip of pins below a result.

    Args:
        studio: the shared state of the app.
        key: key of the visitor.
        kind: modality of the results.
        source: id of the component that shows the results, made by `scene_tag.with_scene`.
        scene: the components that a restored pin sets: the rack and the fields.
    """
    pins = gr.HTML(
        {},
        html_template=f'<div class="pins" data-kind="{kind}" data-source="{source}"></div>',
        js_on_load=script("tabs/pins.js"),
        apply_default_css=False,
        elem_id=f"{kind}-pins",
    )
    pins.select(
        PinCallbacks(studio).again, [key, pins], [*scene], show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip
