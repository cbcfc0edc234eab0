"""Layout of the stage in the train tab."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from lineas_core.studio.components.before_after import BeforeAfter


@dataclass(frozen=True)
class StageFields:
    """The components of the stage.

    Attributes:
        panel: column around the whole stage, hidden until there is a map.
        staged: id of the job whose map is shown.
        picture: the untouched and the steered picture.
        said: the caption, or the two texts.
        strength: strength of the map.
        keep: button that puts the map on the rack.
        other: button that does the same, and then focuses the prompt field of the map's tab.
        again: button that loads the job's prompts into the table.
    """

    panel: gr.Column
    staged: gr.State
    picture: BeforeAfter
    said: gr.HTML
    strength: gr.Slider
    keep: gr.Button
    other: gr.Button
    again: gr.Button


def lay_out_stage() -> StageFields:
    """Lay out the stage."""
    staged = gr.State("")
    with gr.Column(visible=False, elem_id="stage") as panel:
        picture = BeforeAfter("How much of the picture is untouched", "stage-picture")
        said = gr.HTML(elem_id="stage-said")
        strength = gr.Slider(0, 1, 1, step=0.01, label="Strength", elem_id="stage-strength")
        keep = gr.Button("Keep it on", visible=False, variant="primary", size="md", elem_id="keep")
        other = gr.Button("Try other prompts", size="md", elem_id="other-prompts")
        again = gr.Button("Load these prompts again", size="sm", elem_id="load-prompts")
    return StageFields(panel, staged, picture, said, strength, keep, other, again)
