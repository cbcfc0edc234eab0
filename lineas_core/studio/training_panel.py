"""The left half of both tabs: choose a model and prompts, train, watch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gradio as gr

from lineas_core.prompts import PromptSet
from lineas_core.studio import render
from lineas_core.studio.callbacks import Studio


def build_training_panel(
    page: gr.Blocks,
    studio: Studio,
    chosen: gr.Dropdown,
    models: Sequence[tuple[str, str]],
    sets: Mapping[str, PromptSet],
    prefix: str,
) -> gr.Dropdown:
    """Lay out the panel, and wire it to `studio`; returns the choice of model.

    Args:
        page: whose opening shows a running job.
        studio: the state.
        chosen: the tab's dropdown of maps, which a finished job adds to.
        models: (title, name), the first chosen.
        sets: prompt sets by name, the first chosen.
        prefix: of the ids that the browser sees.
    """
    first = next(iter(sets))
    job_id, timer = gr.State(""), gr.Timer(1.0, active=False)
    model = gr.Dropdown(list(models), value=models[0][1], label="Model")
    prompt_set = gr.Dropdown(
        [(s.title or name, name) for name, s in sets.items()], value=first, label="Prompt set"
    )
    examples = gr.HTML(render.prompt_set(sets[first]), elem_id=f"{prefix}prompt-examples")
    with gr.Accordion("Training settings", open=False):
        steps = gr.Number(0, label="Steps", info="0 takes the model's own", precision=0)
        rate = gr.Number(0, label="Learning rate", info="0 takes the model's own")
        gamma = gr.Number(None, label="Sparsity (gamma)", info="Empty takes the model's own")
    with gr.Row():
        train = gr.Button("Train", variant="primary", elem_id=f"{prefix}train")
        cancel = gr.Button("Cancel", interactive=False, elem_id=f"{prefix}cancel")
    bar = gr.HTML(render.progress(None), elem_id=f"{prefix}progress")
    curve = gr.LinePlot(
        x="step", y="loss", height=200, visible=False, show_label=False, elem_id=f"{prefix}curve"
    )
    health = gr.HTML(elem_id=f"{prefix}health")

    shown = [job_id, timer, bar, curve, health, train, cancel, chosen]
    page.load(studio.arrive, model, shown, show_progress="hidden")
    prompt_set.change(studio.describe_prompts, prompt_set, examples, show_progress="hidden")
    model.change(studio.arrive, model, shown, show_progress="hidden")
    train.click(
        studio.start_training,
        [model, prompt_set, steps, rate, gamma],
        shown,
        show_progress="hidden",
    )
    cancel.click(studio.cancel, [job_id, model], shown, show_progress="hidden")
    timer.tick(studio.poll, [job_id, model], shown, show_progress="hidden")
    return model
