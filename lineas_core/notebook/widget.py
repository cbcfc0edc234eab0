"""Sliders for the strengths of maps in a notebook, with the texts or images they lead to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lineas_core.errors import ConfigError
from lineas_core.maps.steering_map import Steering
from lineas_core.models.load import Model

if TYPE_CHECKING:
    from lineas_core.notebook.panel import Panel


def widget(
    model: Model,
    maps: Steering,
    *,
    prompt: str = "",
    seed: int = 0,
    max_new_tokens: int = 40,
) -> Panel:
    """A panel that shows what a model makes of a prompt, untouched and steered.

    The last line of a cell shows it. It has a slider per map, the prompt and the seed; a moved
    slider is answered once it rests. What goes wrong then is a message in the panel.

    Args:
        model: writes the texts or makes the images.
        maps: (map, strength) pairs, first applied first. The sliders start at the strengths, which
            are one number each.
        prompt: the one to start with; "" for "Once upon a time", or "a house" for images.
        seed: the one to start with.
        max_new_tokens: of texts.

    Raises:
        ConfigError: ipywidgets is not installed, there are no maps, or a strength is not one
            number within the sliders' range.
        SiteError: a map does not fit the model.
        MapError: the maps do not fit each other.
    """
    try:
        __import__("ipywidgets")
    except ImportError as error:
        raise ConfigError(
            "The widget needs the package ipywidgets. Install it with "
            "`pip install 'lineas-studio[notebook]'`."
        ) from error
    from lineas_core.notebook.panel import Panel

    return Panel(model, maps, prompt=prompt, seed=seed, max_new_tokens=max_new_tokens)
