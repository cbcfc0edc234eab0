"""The text tab: what is where, and which callback each control calls."""

from __future__ import annotations

import gradio as gr

from lineas_core.studio import render_texts
from lineas_core.studio.callbacks import Studio
from lineas_core.studio.image_tab import SteerTab
from lineas_core.studio.texts import MOST_SAMPLES, MOST_TOKENS, Texts
from lineas_core.studio.wiring import answered

OPENINGS = ["My friends and I", "Once upon a time", "People often talk about", "I think that"]


def build_text_tab(studio: Studio, key: gr.BrowserState, rack: gr.HTML, tab: gr.Tab) -> SteerTab:
    """Lay out the tab, and wire it to the rack."""
    texts = Texts(studio)
    waiting = render_texts.pair(OPENINGS[0], ("Unsteered", "Steered"), ("", ""), ())
    pair = gr.HTML(waiting, elem_id="pair", min_height=230)
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=300):
            prompt = gr.Textbox(OPENINGS[0], label="Prompt", lines=2, elem_id="prompt")
            gr.Examples([[text] for text in OPENINGS], prompt, label="Openings")
        with gr.Column(scale=2, min_width=280):
            model = gr.Dropdown(
                [(entry.title, entry.id) for entry in studio.models("text")],
                label="Model",
                elem_id="text-model",
                allow_custom_value=not studio.settings.demo,
            )
            with gr.Row():
                seed = gr.Number(3, label="Seed", precision=0, min_width=80, elem_id="text-seed")
                samples = gr.Number(
                    3, label="Samples", precision=0, minimum=1, maximum=MOST_SAMPLES, min_width=80
                )
                tokens = gr.Number(
                    48, label="Tokens", precision=0, minimum=1, maximum=MOST_TOKENS, min_width=80,
                    elem_id="tokens",
                )  # fmt: skip
            with gr.Row():
                run = gr.Button("Compare", variant="primary", elem_id="compare", size="md",
                                min_width=100)  # fmt: skip
                stop = gr.Button("Stop", elem_id="stop-compare", min_width=80, size="md")
    sweep = gr.Button("Table over strengths", elem_id="sweep", size="md")
    row = gr.HTML(elem_id="row", min_height=40)

    asked = [key, model, rack, prompt, seed, tokens]
    # One dependency for every trigger: a late answer never takes the place of a newer one.
    writing = gr.on(
        [run.click, prompt.submit, seed.submit, rack.submit],
        texts.compare,
        asked,
        pair,
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
        concurrency_id="texts",
    )
    writing.then(None, None, None, js=answered("text"))
    sweeping = sweep.click(
        texts.sweep,
        [*asked, samples],
        row,
        trigger_mode="once",
        api_visibility="private",
        concurrency_id="texts",
    )
    stop.click(None, cancels=[writing, sweeping])
    return SteerTab(tab, model, prompt, seed, asked)
