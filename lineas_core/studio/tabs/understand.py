"""The understand tab: what one map does, layer by layer, and how two compare."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from lineas_core.errors import ConfigError
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio, with_messages
from lineas_core.studio.components.choices import Choice
from lineas_core.studio.tabs.library.callbacks import label_of
from lineas_core.studio.views import charts, csv_tables, render


class Understanding:
    """Callbacks of the tab.

    Args:
        studio: the state.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    @with_messages
    def choices(self, key: str, chosen: str | None, other: str | None) -> tuple[Any, Any]:
        """Every map, for both dropdowns."""
        rows = self._studio.library.maps(owner_of(key))
        labels = [(label_of(row), row.id) for row in rows]
        ids = [row.id for row in rows]
        first = chosen if chosen in ids else next(iter(ids), None)
        return (
            gr.update(choices=labels, value=first),
            gr.update(choices=[("None", ""), *labels], value=other if other in ids else ""),
        )

    @with_messages
    def show(self, key: str, chosen: str | None) -> tuple[Any, ...]:
        """Health, charts, strongest neurons and origin of a map."""
        if not chosen:
            return (gr.skip(),) * 7
        owner = owner_of(key)
        self._studio.limits.admit(owner)
        row, smap = self._studio.library.row(chosen, owner), self._studio.library.map(chosen, owner)
        return (
            render.health(row.health),
            charts.support_by_layer(smap),
            charts.scale_and_shift(smap),
            gr.update(
                value=charts.deltas_by_layer(row.health) if row.health else None,
                visible=row.health is not None,
            ),
            gr.update(
                value=charts.loss_curve(row.losses) if row.losses else None,
                visible=bool(row.losses),
            ),
            render.neurons(charts.strongest_neurons(smap)),
            render.origin(row, smap),
        )

    @with_messages
    def table(self, key: str, chosen: str | None, what: str) -> str:
        """A CSV file of a map: "layers", "losses" or "neurons", as the charts show them."""
        if not chosen:
            raise ConfigError("No map is chosen; choose one of the list.")
        owner = owner_of(key)
        self._studio.limits.admit(owner)
        row, smap = self._studio.library.row(chosen, owner), self._studio.library.map(chosen, owner)
        if what == "layers":
            header, rows = csv_tables.site_rows(smap, row.health)
        elif what == "losses":
            header, rows = csv_tables.loss_rows(row.losses)
        else:
            frame = charts.strongest_neurons(smap)
            header, rows = list(frame.columns), list(frame.itertuples(index=False, name=None))
        return csv_tables.write_csv(self._studio.download_folder() / f"{what}.csv", header, rows)

    @with_messages
    def compare(self, key: str, chosen: str | None, other: str | None) -> tuple[Any, str]:
        """Two maps beside each other."""
        if not chosen or not other:
            return gr.update(visible=False), ""
        owner = owner_of(key)
        found = charts.compare_maps(
            self._studio.library.map(chosen, owner), self._studio.library.map(other, owner)
        )
        return (
            gr.update(value=found.figure, visible=True),
            f'<p class="ls-hint">{escape(found.words)}</p>',
        )


def build_understand_tab(studio: Studio, key: gr.BrowserState, rack: gr.HTML, tab: gr.Tab) -> None:
    """Lay out the tab, and wire it."""
    work = Understanding(studio)
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
            csv_tables.csv_button(
                f"understand-{what}-csv", work.table, [key, chosen, gr.State(what)], label
            )
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    # The rack asks when maps have come or gone while the tab is open.
    gr.on([tab.select, rack.like], work.choices, [key, chosen, other], [chosen, other], **quiet)
    chosen.change(
        work.show, [key, chosen], [health, support, spread, deltas, losses, neurons, origin],
        trigger_mode="always_last", **quiet,
    )  # fmt: skip
    gr.on(
        [chosen.change, other.change],
        work.compare,
        [key, chosen, other],
        [compared, words],
        trigger_mode="always_last",
        **quiet,
    )
