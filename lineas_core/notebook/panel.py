"""Panel: the widget itself, of ipywidgets."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from html import escape
from typing import Any

import ipywidgets
from PIL.Image import Image

from lineas_core.errors import ConfigError, LineasError
from lineas_core.maps.steering_map import Steering, SteeringMap
from lineas_core.models.image.model import DiffusionModel
from lineas_core.models.image.safety import withheld_note
from lineas_core.models.load import Model
from lineas_core.notebook.newest import Newest
from lineas_core.scenes.picture_pairs import PicturePairs
from lineas_core.scenes.scene import MAX_STRENGTH, MIN_STRENGTH
from lineas_core.scenes.streaming import stream_sides
from lineas_core.steering import steer as steering

# Seconds that a slider must rest before it is answered.
PAUSE = 0.2
# Width in pixels below which images are enlarged.
MIN_WIDTH = 256
PROMPTS = {"text": "Once upon a time", "image": "a house"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """The values of the panel's fields at one moment."""

    prompt: str
    seed: int
    steer: list[tuple[SteeringMap, float]]


class Panel(ipywidgets.VBox):
    """Sliders, a prompt and a seed above what the model makes of them.

    Setting the `value` of a field in code is as good as moving it.

    Attributes:
        strengths: the sliders, one per map.
        prompt, seed: the fields.
        before, after: the untouched and the steered output: HTML, or PNG images.
        status: whether the model is running, or what went wrong.

    Args:
        as for `widget`.
    """

    def __init__(
        self, model: Model, maps: Steering, *, prompt: str, seed: int, max_new_tokens: int
    ) -> None:
        chosen = _checked(maps)
        with steering(model, [(smap, 1.0) for smap, _ in chosen]):
            pass
        self._model, self._maps = model, [smap for smap, _ in chosen]
        self._max_new_tokens = max_new_tokens
        self._pairs = PicturePairs()
        self.strengths = [_slider(n, *pair) for n, pair in enumerate(chosen, start=1)]
        self.prompt = _field(
            ipywidgets.Text, "prompt", prompt or PROMPTS[model.modality], continuous_update=False
        )
        self.seed = _field(ipywidgets.IntText, "seed", seed)
        self.before, self.after = self._output(), self._output()
        self.status = ipywidgets.HTML()
        self._newest = Newest(self._answer, PAUSE)
        fields = [*self.strengths, self.prompt, self.seed]
        sides = [
            ipywidgets.VBox([ipywidgets.HTML(f"<b>{title}</b>"), output], layout={"flex": "1 1 0"})
            for title, output in (("Untouched", self.before), ("Steered", self.after))
        ]
        super().__init__([*fields, self.status, ipywidgets.HBox(sides)])
        for field in fields:
            field.observe(self._changed, "value")
        self._changed()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the output is that of the fields; for notebooks that run unattended.

        Args:
            timeout: in seconds; None for as long as it takes.

        Returns:
            Whether it is.
        """
        return self._newest.wait(timeout)

    def _output(self) -> Any:
        if not isinstance(self._model, DiffusionModel):
            return ipywidgets.HTML()
        width = max(self._model.size, MIN_WIDTH)
        return ipywidgets.Image(
            layout={"width": f"{width}px", "max_width": "100%", "visibility": "hidden"}
        )

    def _changed(self, _: object = None) -> None:
        strengths = [slider.value for slider in self.strengths]
        steer = list(zip(self._maps, strengths, strict=True))
        self._newest.ask(Question(self.prompt.value, self.seed.value, steer))

    def _answer(self, question: Question, is_old: Callable[[], bool]) -> None:
        self.status.value = "Running …"
        try:
            note = self._shown(question, is_old)
        except LineasError as error:
            note = str(error)
        except Exception as error:
            log.error("the widget failed", exc_info=error)
            note = f"{type(error).__name__}: {error}"
        if not is_old():
            self.status.value = escape(note)

    def _shown(self, question: Question, is_old: Callable[[], bool]) -> str:
        """Show the outputs; returns a note on them, or ""."""
        model, steer = self._model, question.steer
        if isinstance(model, DiffusionModel):
            pair = self._pairs.draw(model, [question.prompt], steer, question.seed)
            for output, [image] in zip((self.before, self.after), pair, strict=True):
                output.value = _png(image)
                output.layout.visibility = "visible"
            return withheld_note(pair[1])
        sides, prompts = [[], steer], [question.prompt] * 2
        tokens = self._max_new_tokens
        with closing(stream_sides(model, prompts, sides, question.seed, tokens)) as stream:
            for texts in stream:
                if is_old():
                    break
                for output, text in zip((self.before, self.after), texts, strict=True):
                    output.value = _paragraph(question.prompt, text)
        return ""


def _checked(maps: Steering) -> list[tuple[SteeringMap, float]]:
    """The maps with the strengths that the sliders start at.

    Raises:
        ConfigError: there are none, or a strength is not one number within the sliders' range.
    """
    if not isinstance(maps, Sequence) or not maps:
        what = "empty" if isinstance(maps, Sequence) else f"a {type(maps).__name__}"
        raise ConfigError(f"maps is {what}; give at least one (map, strength) pair.")
    found = []
    for number, pair in enumerate(maps, start=1):
        match pair:
            case (SteeringMap() as smap, int() | float() as strength) if (
                MIN_STRENGTH <= strength <= MAX_STRENGTH
            ):
                found.append((smap, float(strength)))
            case (SteeringMap(), strength):
                raise ConfigError(
                    f"Entry {number} of maps has the strength {strength!r}; give one number "
                    f"from {MIN_STRENGTH:g} to {MAX_STRENGTH:g}."
                )
            case _:
                raise ConfigError(
                    f"Entry {number} of maps is a {type(pair).__name__}; give a (map, strength) "
                    "pair."
                )
    return found


def _slider(number: int, smap: SteeringMap, strength: float) -> Any:
    return _field(
        ipywidgets.FloatSlider,
        smap.info.name or smap.info.concept or f"map {number}",
        strength,
        min=MIN_STRENGTH,
        max=MAX_STRENGTH,
        step=0.05,
    )


def _field(kind: Any, label: str, value: object, **settings: object) -> Any:
    return kind(
        value=value,
        description=label,
        style={"description_width": "10em"},
        layout={"width": "100%", "max_width": "40em"},
        **settings,
    )


def _paragraph(prompt: str, text: str) -> str:
    return (
        f'<div style="white-space: pre-wrap; line-height: 1.4"><i>{escape(prompt)}</i>'
        f"{escape(text)}</div>"
    )


def _png(image: Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
