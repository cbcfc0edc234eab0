"""The page: what is where, and which callback each control calls."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from lineas_core.home import lineas_home
from lineas_core.models.catalog import catalog
from lineas_core.prompts import PromptSet, shipped_prompt_sets
from lineas_core.studio import render
from lineas_core.studio.callbacks import Studio

STYLE = Path(__file__).with_name("style.css")
THEME = gr.themes.Soft(
    primary_hue="indigo",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
OPENINGS = ["Once upon a time", "My friends and I", "People often talk about", "I think that"]


def build_page(studio: Studio) -> gr.Blocks:
    """Lay out the page and wire it to `studio`."""
    models = [(entry.title, entry.id) for entry in catalog().values() if entry.kind == "language"]
    sets = {name: PromptSet.load(name) for name in shipped_prompt_sets()}
    first = "football"
    with gr.Blocks(title="LinEAS Studio", analytics_enabled=False) as page:
        gr.HTML(
            "<header class='ls-head'><h1>LinEAS Studio</h1><p>Learn to steer a language model from "
            "a few prompts, then move a slider.</p></header>"
        )
        job_id, timer = gr.State(""), gr.Timer(1.0, active=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                gr.Markdown("### 1 · Train a map")
                model = gr.Dropdown(models, value="smollm2", label="Model")
                prompt_set = gr.Dropdown(
                    [(s.title or name, name) for name, s in sets.items() if s.modality == "text"],
                    value=first,
                    label="Prompt set",
                )
                examples = gr.HTML(render.prompt_set(sets[first]), elem_id="prompt-examples")
                with gr.Accordion("Training settings", open=False):
                    steps = gr.Number(0, label="Steps", info="0 takes the model's own", precision=0)
                    rate = gr.Number(0, label="Learning rate", info="0 takes the model's own")
                    gamma = gr.Number(0, label="Sparsity (gamma)", info="0 may change every neuron")
                with gr.Row():
                    train = gr.Button("Train", variant="primary", elem_id="train")
                    cancel = gr.Button("Cancel", interactive=False, elem_id="cancel")
                bar = gr.HTML(render.progress(None), elem_id="progress")
                curve = gr.LinePlot(
                    x="step", y="loss", height=200, visible=False, show_label=False, elem_id="curve"
                )
                health = gr.HTML(elem_id="health")
            with gr.Column(scale=3, min_width=320):
                gr.Markdown("### 2 · Steer")
                chosen = gr.Dropdown([], label="Map", info="The newest is chosen", elem_id="map")
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

        shown = [job_id, timer, bar, curve, health, train, cancel, chosen]
        asked = [model, chosen, prompt, strength, seed, tokens]
        page.load(studio.arrive, model, shown, show_progress="hidden")
        prompt_set.change(studio.describe_prompts, prompt_set, examples, show_progress="hidden")
        model.change(studio.maps_of, model, chosen, show_progress="hidden")
        train.click(
            studio.start_training,
            [model, prompt_set, steps, rate, gamma],
            shown,
            show_progress="hidden",
        )
        cancel.click(studio.cancel, [job_id, model], shown, show_progress="hidden")
        timer.tick(studio.poll, [job_id, model], shown, show_progress="hidden")
        for event in (run.click, prompt.submit, strength.release):
            event(studio.compare, asked, pair, trigger_mode="always_last")
        sweep.click(studio.sweep, [model, chosen, prompt, seed, tokens], row, trigger_mode="once")
    return page


def launch(home: Path | None = None, port: int | None = None) -> None:
    """Build the page and serve it until stopped; the port is Gradio's choice by default."""
    studio = Studio(home or lineas_home())
    try:
        build_page(studio).launch(
            server_port=port,
            theme=THEME,
            css_paths=[STYLE],
            ssr_mode=False,
            footer_links=["api", "settings"],
        )
    finally:
        studio.jobs.close()
