"""Callbacks of the understand tab: show a map layer by layer, and compare two maps."""

from __future__ import annotations

from html import escape
from typing import Any, NamedTuple

import gradio as gr

from lineas_core.errors import ConfigError
from lineas_core.studio.access.error_messages import with_messages
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.components.outputs import unchanged
from lineas_core.studio.views import charts, csv_tables, map_cards, render


class InsightOutputs(NamedTuple):
    """The outputs that describe a map."""

    health: Any
    support: Any
    spread: Any
    deltas: Any
    losses: Any
    neurons: Any
    origin: Any


class UnderstandCallbacks:
    """Callbacks of the tab.

    Args:
        studio: the shared state of the app.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    @with_messages
    def choices(self, key: str, chosen: str | None, other: str | None) -> tuple[Any, Any]:
        """List every map in both dropdowns."""
        rows = self._studio.library.maps(owner_of(key))
        labels = [(map_cards.label_of(row), row.id) for row in rows]
        ids = [row.id for row in rows]
        first = chosen if chosen in ids else next(iter(ids), None)
        return (
            gr.update(choices=labels, value=first),
            gr.update(choices=[("None", ""), *labels], value=other if other in ids else ""),
        )

    @with_messages
    def show(self, key: str, chosen: str | None) -> InsightOutputs:
        """The health, charts, strongest neurons and origin of a map."""
        if not chosen:
            return unchanged(InsightOutputs)
        owner = owner_of(key)
        self._studio.limits.admit(owner)
        row, smap = self._studio.library.row(chosen, owner), self._studio.library.map(chosen, owner)
        return InsightOutputs(
            health=render.health(row.health),
            support=charts.support_by_layer(smap),
            spread=charts.scale_and_shift(smap),
            deltas=gr.update(
                value=charts.deltas_by_layer(row.health) if row.health else None,
                visible=row.health is not None,
            ),
            losses=gr.update(
                value=charts.loss_curve(row.losses) if row.losses else None,
                visible=bool(row.losses),
            ),
            neurons=render.neurons(charts.strongest_neurons(smap)),
            origin=render.origin(row, smap),
        )

    @with_messages
    def table(self, key: str, chosen: str | None, what: str) -> str:
        """Write a CSV file of a map's "layers", "losses" or "neurons", as the charts show them."""
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
        with self._studio.ledger.download(owner) as folder:
            return csv_tables.write_csv(folder / f"{what}.csv", header, rows)

    @with_messages
    def compare(self, key: str, chosen: str | None, other: str | None) -> tuple[Any, str]:
        """The chart that compares two maps, and its description."""
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
