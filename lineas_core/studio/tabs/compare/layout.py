"""Layout of the compare tab: train two methods on the same prompts, show two maps."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lineas_core.methods.names import DEFAULT_METHOD
from lineas_core.prompts.subjects import SUBJECTS
from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.app import Studio
from lineas_core.studio.components.choices import Choice
from lineas_core.studio.components.csv_button import csv_button
from lineas_core.studio.tabs.compare.callbacks import (
    CompareCallbacks,
    MapOutputs,
    ProgressOutputs,
    TakenOutputs,
)
from lineas_core.studio.tabs.fields import OPENINGS, method_choices

PROMPTS = 3
RIVAL = "lin-act"
NOTHING = '<p class="ls-hint">Choose two maps, and press Show.</p>'


def build_compare_tab(
    studio: Studio, answers: Answers, key: gr.BrowserState, rack: gr.HTML, tab: gr.Tab
) -> None:
    """Lay out the tab and wire it."""
    callbacks = CompareCallbacks(studio, answers)
    jobs, trained = gr.State([]), gr.State([])
    timer = gr.Timer(1.0, active=False)
    with gr.Accordion("Train two methods on the same prompts", open=False, elem_id="versus"):
        with gr.Row():
            kind = gr.Radio(
                [("Pictures", "image"), ("Text", "text")], value="image", label="What to steer",
                elem_id="versus-kind",
            )  # fmt: skip
            model = gr.Dropdown(
                studio.model_choices("image"), label="Model",
                elem_id="versus-model", allow_custom_value=not studio.settings.demo,
            )  # fmt: skip
            prompts = Choice([], label="Prompt set", elem_id="versus-set")
        with gr.Row():
            methods = [
                gr.Dropdown(
                    method_choices(), value=value, label=f"Method {letter}",
                    elem_id=f"method-{letter.lower()}",
                )
                for letter, value in (("A", DEFAULT_METHOD), ("B", RIVAL))
            ]  # fmt: skip
        with gr.Row():
            train = gr.Button("Train both", variant="primary", elem_id="train-both", size="md")
            cancel = gr.Button("Cancel", interactive=False, elem_id="cancel-both", size="md")
        progress = gr.HTML(elem_id="versus-progress")
    with gr.Row():
        a = Choice([], label="Map A", elem_id="map-a", min_width=240)
        b = Choice([], label="Map B", elem_id="map-b", min_width=240)
    figures = gr.HTML(elem_id="versus-figures")
    csv_button("versus-csv", callbacks.table, [key, a, b], "Figures (CSV)")
    with gr.Row(equal_height=False):
        pictured = gr.Textbox(
            "\n".join(SUBJECTS[:PROMPTS]), label="Prompts, one on a line", lines=PROMPTS,
            max_lines=8, elem_id="versus-prompts", scale=3, min_width=280,
        )  # fmt: skip
        opening = gr.Textbox(
            OPENINGS[0], label="Prompt", lines=PROMPTS, visible=False, elem_id="versus-opening",
            scale=3, min_width=280,
        )  # fmt: skip
        seed = gr.Number(0, label="Seed", precision=0, min_width=80, elem_id="versus-seed")
    strength = gr.Slider(
        0.0, 1.0, value=1.0, step=0.05, label="Strength of both", elem_id="versus-strength",
        buttons=[],
    )  # fmt: skip
    run = gr.Button("Show", variant="primary", elem_id="versus-show", size="md")
    beside = gr.HTML(NOTHING, elem_id="beside", min_height=60)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    chosen = MapOutputs(a=a, b=b, figures=figures, prompts=pictured, opening=opening)
    maps = [*chosen]
    gr.on([tab.select, rack.edit], callbacks.relist, [key, a, b], maps, **quiet)
    gr.on([tab.select, kind.change], callbacks.sets, [key, kind], [model, prompts], **quiet)

    view: dict[str, Any] = {
        "fn": callbacks.show,
        "inputs": [key, a, b, strength, pictured, opening, seed],
        "outputs": beside,
        "concurrency_id": "sliders",
        **quiet,
    }
    # One dependency for every trigger, so that a late answer never replaces a newer one.
    gr.on(
        [run.click, strength.release, seed.submit, opening.submit, pictured.blur],
        trigger_mode="always_last",
        **view,
    )
    gr.on([a.input, b.input], callbacks.open, [key, a, b], maps, **quiet).then(**view)

    state = [
        *ProgressOutputs(
            jobs=jobs, timer=timer, progress=progress, train=train, cancel=cancel, trained=trained
        )
    ]
    train.click(
        callbacks.train, [key, model, prompts, *methods], state, trigger_mode="once", **quiet
    )
    timer.tick(callbacks.poll, [key, jobs], state, trigger_mode="once", **quiet)
    cancel.click(callbacks.cancel, [key, jobs], state, **quiet)
    trained.change(
        callbacks.take, [key, trained, rack], [*TakenOutputs(*chosen, rack=rack)], **quiet
    ).then(**view)
