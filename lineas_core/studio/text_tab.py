"""The text tab: what is where, and which callback each control calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gradio as gr

from lineas_core.prompts import PromptSet
from lineas_core.studio import render
from lineas_core.studio.callbacks import Studio
from lineas_core.studio.texts import Texts
from lineas_core.studio.training_panel import build_training_panel

OPENINGS = ["Once upon a time", "My friends and I", "People often talk about", "I think that"]


def build_text_tab(
    page: gr.Blocks,
    studio: Studio,
    models: Sequence[tuple[str, str]],
    sets: Mapping[str, PromptSet],
) -> None:
    """Lay out the tab, and wire it.

    Args:
        page: that the tab is on.
        studio: the state.
        models: (title, name) of language models, the first chosen.
        sets: text prompt sets by name, the first chosen.
    """
    texts = Texts(studio)
    chosen = gr.Dropdown([], label="Map", info="The newest is chosen", elem_id="map", render=False)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            gr.Markdown("### 1 · Train a map")
            model = build_training_panel(page, studio, chosen, models, sets, "")
        with gr.Column(scale=3, min_width=320):
            gr.Markdown("### 2 · Steer")
            chosen.render()
            prompt = gr.Textbox(
                OPENINGS[0], label="Prompt", lines=2, elem_id="prompt", submit_btn=False
            )
            gr.Examples([[text] for text in OPENINGS], prompt, label="Openings")
            strength = gr.Slider(
                0,
                1,
                value=1,
                step=0.05,
                label="Strength",
                elem_id="strength",
                info="0 is the untouched model, 1 the full map",
            )
            with gr.Row():
                seed = gr.Number(0, label="Seed", precision=0, min_width=100)
                tokens = gr.Slider(10, 120, value=60, step=5, label="Tokens")
            with gr.Row():
                run = gr.Button("Compare", variant="primary", elem_id="compare")
                sweep = gr.Button("Sweep five strengths", elem_id="sweep")
            pair = gr.HTML(render.waiting((0, 1)), elem_id="pair")
    row = gr.HTML(elem_id="row", min_height=40)

    asked = [model, chosen, prompt, strength, seed, tokens]
    for event in (run.click, prompt.submit, strength.release):
        event(texts.compare, asked, pair, trigger_mode="always_last")
    sweep.click(texts.sweep, [model, chosen, prompt, seed, tokens], row, trigger_mode="once")
