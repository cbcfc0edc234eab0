"""Options of a grid: the strengths that it sweeps, and what its rows are."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import gradio as gr

from lineas_core.errors import ConfigError
from lineas_core.scenes.scene import MAX_STRENGTH, MIN_STRENGTH
from lineas_core.studio.answers.fields import whole

STRENGTHS = (0.0, 0.17, 0.33, 0.5, 0.67, 0.83, 1.0)
CROSSED = (0.0, 0.25, 0.5, 0.75, 1.0)
MAX_STRENGTHS, MAX_SEEDS = 12, 8

Rows = Literal["prompts", "seeds"]


@dataclass(frozen=True)
class GridOptions:
    """The rows and columns of a grid.

    Attributes:
        strengths: strengths of the first map, the columns of every grid; empty for the default.
        rows: "prompts" for a row per prompt, "seeds" for a row per seed, counted up from the one
            shown.
        seeds: number of rows if the rows are seeds.
        down: strengths of the second map, the rows of a grid of two maps; empty for the default.
    """

    strengths: tuple[float, ...] = ()
    rows: Rows = "prompts"
    seeds: int = 4
    down: tuple[float, ...] = ()

    @classmethod
    def from_page(cls, strengths: str, rows: str, seeds: float | None, down: str) -> GridOptions:
        """Read the options from the fields; an empty field of strengths selects the default ones.

        Raises:
            ConfigError: a strength or the number of seeds cannot be used; the message names it.
        """
        count = whole("seeds", seeds)
        if not 1 <= count <= MAX_SEEDS:
            raise ConfigError(f"seeds is {count}; choose 1 to {MAX_SEEDS}.")
        return cls(
            strengths_of("Strengths", strengths),
            "seeds" if rows == "seeds" else "prompts",
            count,
            # 0 first: all cells are compared with the untouched picture in the first row.
            tuple(sorted(strengths_of("Strengths of the second map", down), key=lambda s: s != 0)),
        )


def strengths_of(field: str, text: str) -> tuple[float, ...]:
    """The strengths in a text field, sorted and without duplicates; 0 is added for IMGScore.

    >>> strengths_of("Strengths", "1, 0.5 -0.5;1")
    (-0.5, 0.0, 0.5, 1.0)

    Args:
        field: label of the field, for error messages.
        text: numbers separated by commas, semicolons or spaces; an empty text gives an empty tuple.

    Raises:
        ConfigError: an entry is not a valid strength, or there are too many.
    """
    found = {0.0}
    for word in (words := re.split(r"[\s,;]+", text.strip(" \t\r\n,;"))):
        if words == [""]:
            return ()
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        # NaN compares false.
        if not MIN_STRENGTH <= number <= MAX_STRENGTH:
            raise ConfigError(
                f"{field}: {word[:40]!r} is no strength. Give numbers from {MIN_STRENGTH:g} to "
                f"{MAX_STRENGTH:g} with commas between, such as 0, 0.5, 1."
            )
        found.add(number)
    if len(found) > MAX_STRENGTHS:
        raise ConfigError(f"{field}: {len(found)} strengths; {MAX_STRENGTHS} are the most.")
    return tuple(sorted(found))


def build_grid_options() -> list[Any]:
    """Lay out the fields, collapsed; their values are the arguments of `GridOptions.from_page`."""
    with gr.Accordion("Grid options", open=False, elem_id="grid-options"), gr.Row():
        # Set a value: a field that was never expanded would otherwise send None instead of a text.
        strengths = gr.Textbox(
            "", label="Strengths", placeholder=", ".join(f"{s:g}" for s in STRENGTHS),
            info="0 is always among them", elem_id="grid-strengths", min_width=180,
        )  # fmt: skip
        rows = gr.Radio(
            [("Prompts", "prompts"), ("Seeds of the first prompt", "seeds")], value="prompts",
            label="Rows", elem_id="grid-rows", min_width=180,
        )  # fmt: skip
        seeds = gr.Number(
            4, label="Seeds", precision=0, minimum=1, maximum=MAX_SEEDS, elem_id="grid-seeds",
            min_width=80, info="From the seed above",
        )  # fmt: skip
        down = gr.Textbox(
            "", label="Strengths of the second map",
            placeholder=", ".join(f"{s:g}" for s in CROSSED),
            info="Rows of a grid of two maps", elem_id="grid-down", min_width=180,
        )  # fmt: skip
    return [strengths, rows, seeds, down]
