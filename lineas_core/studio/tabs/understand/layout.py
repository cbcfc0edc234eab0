"""Layout of the understand tab, and the callback of each control."""

from __future__ import annotations

import gradio as gr

from lineas_core.studio.app import Studio
from lineas_core.studio.components.choices import Choice
from lineas_core.studio.components.csv_button import csv_button
from lineas_core.studio.tabs.understand.callbacks import InsightOutputs, UnderstandCallbacks


def build_understand_tab(studio: Studio, key: gr.BrowserState, rack: gr.HTML, tab: gr.Tab) -> None:
    """Lay out the tab and wire it."""
    callbacks = UnderstandCallbacks(studio)
    with gr.Row():
        chosen = Choice([], label="Map", elem_id="understand-map", scale=2)
        other = Choice([], label="Beside another", elem_id="understand-other", scale=2)
    health = gr.HTML(elem_id="understand-health")
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            support = gr.Plot(
                label="Neurons changed, by layer", show_label=False, elem_id="support-plot"
            )
        with gr.Column(min_width=320):
            spread = gr.Plot(
                label="Scale and shift, by layer", show_label=False, elem_id="spread-plot"
            )
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            deltas = gr.Plot(
                label="Distance to the target, by layer", show_label=False, elem_id="delta-plot"
            )
        with gr.Column(min_width=320):
            losses = gr.Plot(label="Training loss", show_label=False, elem_id="loss-plot")
    compared = gr.Plot(
        label="The two maps", show_label=False, visible=False, elem_id="compare-plot"
    )
    words = gr.HTML(elem_id="compare-words")
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            neurons = gr.HTML(elem_id="neurons")
        with gr.Column(min_width=320):
            origin = gr.HTML(elem_id="origin")
    with gr.Row():
        for label, what in (
            ("Layers (CSV)", "layers"), ("Losses (CSV)", "losses"), ("Neurons (CSV)", "neurons"),
        ):  # fmt: skip
            csv_button(
                f"understand-{what}-csv", callbacks.table, [key, chosen, gr.State(what)], label
            )
    insight = InsightOutputs(
        health=health,
        support=support,
        spread=spread,
        deltas=deltas,
        losses=losses,
        neurons=neurons,
        origin=origin,
    )
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    # The rack triggers this when maps are added or deleted while the tab is open.
    gr.on(
        [tab.select, rack.like], callbacks.choices, [key, chosen, other], [chosen, other], **quiet
    )
    chosen.change(
        callbacks.show, [key, chosen], [*insight],
        trigger_mode="always_last", **quiet,
    )  # fmt: skip
    gr.on(
        [chosen.change, other.change],
        callbacks.compare,
        [key, chosen, other],
        [compared, words],
        trigger_mode="always_last",
        **quiet,
    )
