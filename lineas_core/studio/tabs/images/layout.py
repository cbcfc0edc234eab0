"""Layout of the image tab, and the callback of each control."""

from __future__ import annotations

import gradio as gr

from lineas_core.prompts.subjects import SUBJECTS
from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.app import Studio
from lineas_core.studio.components.before_after import BeforeAfter
from lineas_core.studio.components.seeds import DRAW, build_seed
from lineas_core.studio.components.wiring import again, field, field_and_follow
from lineas_core.studio.tabs.fields import SteerTab
from lineas_core.studio.tabs.images.callbacks import (
    SURPRISES,
    GridOutputs,
    ImageCallbacks,
    LookOutputs,
)
from lineas_core.studio.tabs.images.grid_options import build_grid_options
from lineas_core.studio.tabs.pins import PictureScene, build_pins


def build_image_tab(
    studio: Studio, answers: Answers, key: gr.BrowserState, rack: gr.HTML, tab: gr.Tab
) -> SteerTab:
    """Lay out the tab and wire it to the rack."""
    callbacks = ImageCallbacks(studio, answers)
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=300):
            shown = gr.HTML(elem_id="pictures", min_height=232)
        with gr.Column(scale=2, min_width=280):
            slider = BeforeAfter("First prompt: how much of it is untouched", "before-after")
            gr.HTML(
                '<p class="ls-hint ls-caption">First prompt: untouched at the left, steered at the '
                "right; drag the bar, or move it with the arrow keys</p>"
            )
    with gr.Row(equal_height=False):
        prompts = gr.Textbox(
            "\n".join(SUBJECTS[:SURPRISES]),
            label="Prompts, one on a line",
            lines=4,
            max_lines=8,
            elem_id="image-prompts",
            scale=3,
        )
        with gr.Column(scale=2, min_width=280):
            with gr.Row():
                model = gr.Dropdown(
                    studio.model_choices("image"),
                    label="Model",
                    elem_id="image-model",
                    allow_custom_value=not studio.settings.demo,
                    min_width=180,
                    scale=3,
                )
            dice = build_seed(0, "image-seed")
            seed = dice.seed
            with gr.Row():
                run = gr.Button("Show", variant="primary", elem_id="show", size="md")
                surprise = gr.Button("Surprise me", elem_id="surprise", size="md")
    build_pins(studio, key, "image", "pictures", PictureScene(rack, model, prompts, seed))
    with gr.Row():
        grid = gr.Button("Grid over strengths", elem_id="grid", size="md")
        crossed = gr.Button("Grid of two maps", elem_id="crossed", size="md")
    options = build_grid_options()
    table = gr.HTML(elem_id="picture-grid")
    with gr.Row(visible=False) as outcome:
        curves = gr.Plot(show_label=False, elem_id="curves", scale=4)
        with gr.Column(scale=1, min_width=160):
            gr.Markdown("Take the grid with you:")
            picture, recipe, film, scores = (
                gr.DownloadButton(label, size="sm")
                for label in ("Picture (PNG)", "Recipe (JSON)", "Film (GIF)", "Scores (CSV)")
            )

    asked = [key, model, rack, prompts, seed]
    looked = LookOutputs(pictures=shown, before_after=slider, rack=rack)
    gridded = GridOutputs(
        table=table, outcome=outcome, curves=curves,
        picture=picture, recipe=recipe, film=film, scores=scores,
    )  # fmt: skip
    gr.on([run.click, seed.submit], None, None, None, js=again("image"))
    # One dependency for both triggers: while an answer is computed, only the newest question is
    # queued, so a late answer never replaces a newer one.
    gr.on(
        [rack.input, rack.release],
        callbacks.look,
        asked,
        [*looked],
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
        concurrency_id="sliders",
    )
    rack.release(
        callbacks.effects,
        [key, model, rack, prompts],
        rack,
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
        concurrency_id="sliders",
    )
    surprise.click(
        callbacks.surprise, prompts, prompts, show_progress="hidden", api_visibility="private"
    ).then(None, [seed, dice.lock], seed, js=DRAW).then(
        None, prompts, None, js=field("image", "prompts")
    ).then(None, seed, None, js=field_and_follow("image", "seed"))
    dice.draw.click(None, [seed, dice.lock], seed, js=DRAW).then(
        None, seed, None, js=field_and_follow("image", "seed")
    )
    for button, make in ((grid, callbacks.grid), (crossed, callbacks.crossed)):
        button.click(
            make,
            [*asked, *options],
            [*gridded],
            trigger_mode="once",
            api_visibility="private",
            concurrency_id="sliders",
        )
    return SteerTab(tab, model, prompts, seed, asked)
