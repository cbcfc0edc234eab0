"""The image tab: what is where, and which callback each control calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gradio as gr

from lineas_core.prompts import PromptSet
from lineas_core.studio.callbacks import Studio
from lineas_core.studio.pictures import SURPRISES, Pictures
from lineas_core.studio.training_panel import build_training_panel
from lineas_core.subjects import SUBJECTS


def build_image_tab(
    page: gr.Blocks,
    studio: Studio,
    models: Sequence[tuple[str, str]],
    sets: Mapping[str, PromptSet],
) -> None:
    """Lay out the tab, and wire it.

    Args:
        page: that the tab is on.
        studio: the state.
        models: (title, name) of image models, the first chosen.
        sets: image prompt sets by name, the first chosen.
    """
    pictures = Pictures(studio)
    chosen = gr.Dropdown(
        [], label="Map", info="The newest is chosen", elem_id="image-map", render=False
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            gr.Markdown("### 1 · Train a map")
            model = build_training_panel(page, studio, chosen, models, sets, "image-")
        with gr.Column(scale=3, min_width=320):
            gr.Markdown("### 2 · Steer")
            chosen.render()
            prompts = gr.Textbox(
                "\n".join(SUBJECTS[:SURPRISES]),
                label="Prompts, one on a line",
                lines=4,
                elem_id="image-prompts",
            )
            with gr.Row():
                strength = gr.Slider(
                    0,
                    1,
                    value=1,
                    step=0.05,
                    label="Strength",
                    elem_id="image-strength",
                    info="0 is the untouched model, 1 the full map",
                    scale=3,
                )
                seed = gr.Number(0, label="Seed", precision=0, min_width=90, elem_id="image-seed")
            with gr.Row():
                run = gr.Button("Show", variant="primary", elem_id="show")
                grid = gr.Button("Grid over strengths", elem_id="grid")
                surprise = gr.Button("Surprise me", elem_id="surprise")
            shown = gr.HTML(elem_id="pictures", min_height=200)
            slider = gr.ImageSlider(
                label="First prompt, before and after",
                show_label=False,
                elem_id="before-after",
                interactive=False,
                buttons=[],
            )
            gr.HTML(
                '<p class="ls-hint ls-caption">First prompt: untouched at the left, steered at the '
                "right; drag the bar</p>"
            )
    table = gr.HTML(elem_id="picture-grid")
    with gr.Row(visible=False) as outcome:
        curves = gr.Plot(show_label=False, elem_id="curves", scale=4)
        with gr.Column(scale=1, min_width=160):
            gr.Markdown("Take the grid with you:")
            downloads = [
                gr.DownloadButton(label, size="sm")
                for label in ("Picture (PNG)", "Recipe (JSON)", "Film (GIF)")
            ]

    asked = [model, chosen, prompts, strength, seed]
    for event in (run.click, strength.change, seed.submit):
        event(
            pictures.look,
            asked,
            [shown, slider],
            trigger_mode="always_last",
            show_progress="hidden",
        )
    surprise.click(pictures.surprise, prompts, prompts, show_progress="hidden")
    grid.click(
        pictures.grid,
        [model, chosen, prompts, seed],
        [table, outcome, curves, *downloads],
        trigger_mode="once",
    )
