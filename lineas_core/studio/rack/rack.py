"""The rack: which maps are on, their order and strengths, and the page component for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import gradio as gr

from lineas_core.errors import ConfigError
from lineas_core.scenes.scene import MAX_STRENGTH, MIN_STRENGTH
from lineas_core.studio.components.scripts import script
from lineas_core.studio.storage.gallery import GALLERY
from lineas_core.studio.storage.store import MapRow

MAX_MAPS = 8

Modality = Literal["text", "image"]


@dataclass(frozen=True)
class Slot:
    """A map on the rack.

    Attributes:
        id: id of the map.
        on: whether it steers.
        strength: -1 to 2.
        inverse: whether to apply the map's inverse instead of the map.
    """

    id: str
    on: bool = True
    strength: float = 1.0
    inverse: bool = False


@dataclass(frozen=True)
class RackState:
    """The state of the rack.

    Attributes:
        slots: the maps of both modalities, in the order in which they are applied.
        solo: id of the only map that steers, or "".
        beyond: whether strengths outside 0 to 1 are offered.
        modality: the modality whose maps are shown.
        even: whether equal steps of a slider change the output by equal amounts.
    """

    slots: tuple[Slot, ...] = ()
    solo: str = ""
    beyond: bool = False
    modality: Modality = "image"
    even: bool = True

    @classmethod
    def from_page(cls, value: Any) -> RackState:
        """The state that the component sent, or that a link contains.

        Raises:
            ConfigError: it is not a rack, or a strength is out of range.
        """
        state = value.get("state", {}) if isinstance(value, Mapping) else {}
        try:
            slots = tuple(
                Slot(
                    str(row["id"]),
                    bool(row.get("on", True)),
                    float(row.get("strength", 1.0)),
                    bool(row.get("inverse", False)),
                )
                for row in state.get("rows", [])[: 4 * MAX_MAPS]
            )
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise ConfigError(
                f"rack is not a list of maps ({error!r}); reload the page."
            ) from error
        for slot in slots:
            if not MIN_STRENGTH <= slot.strength <= MAX_STRENGTH:
                raise ConfigError(
                    f"strength is {slot.strength}; it must be {MIN_STRENGTH:g} to {MAX_STRENGTH:g}."
                )
        return cls(
            slots,
            str(state.get("solo") or ""),
            bool(state.get("beyond")),
            "text" if state.get("modality") == "text" else "image",
            bool(state.get("even", True)),
        )

    def active(self, ids: Iterable[str]) -> list[Slot]:
        """The slots that steer, limited to the maps in `ids`.

        Raises:
            ConfigError: too many are on.
        """
        known = set(ids)
        if self.solo in known:
            found = [slot for slot in self.slots if slot.id == self.solo]
        else:
            found = [slot for slot in self.slots if slot.on and slot.id in known]
        if len(found) > MAX_MAPS:
            raise ConfigError(f"{len(found)} maps are on; {MAX_MAPS} may be. Switch some off.")
        return found

    def to_page(self) -> dict[str, Any]:
        """The state in the format of the component and of links."""
        return {
            "rows": [asdict(slot) for slot in self.slots],
            "solo": self.solo,
            "beyond": self.beyond,
            "modality": self.modality,
            "even": self.even,
        }


def patch(
    *,
    rows: Sequence[MapRow] | None = None,
    state: RackState | None = None,
    add: Sequence[str] = (),
    effects: Mapping[str, float | None] | None = None,
    live: bool | None = None,
    ask: bool = False,
    fields: Mapping[str, Mapping[str, Any]] | None = None,
    tab: str = "",
    models: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """An update for the rack on the page; it leaves unchanged whatever is omitted.

    Args:
        rows: every map that may be put on the rack.
        state: replaces the state of the rack.
        add: ids of maps to switch on at the top; the others of their modality are switched off.
        effects: map id -> share of its effect that is left when combined with the other maps.
        live: whether the rack may request answers while a slider is moving.
        ask: whether the rack requests an answer now, as if a slider had been released.
        fields: "image" or "text" -> the prompts, seed and tokens of that tab.
        models: "image" or "text" -> the model of that tab.
        tab: the tab that is open, sent once the page has loaded; the page then requests what is on
            the screen.
    """
    news: dict[str, Any] = {"from": "server"}
    if rows is not None:
        news["catalog"] = [
            {
                "id": row.id,
                "title": row.title,
                "concept": row.concept,
                "modality": row.modality,
                "model": row.model,
                "recommended": row.recommended,
                "calibration": row.calibration,
                "own": row.owner != GALLERY,
            }
            for row in rows
        ]
    if state is not None:
        news["state"] = state.to_page()
    if add:
        news["add"] = list(add)
    if effects is not None:
        news["effects"] = dict(effects)
    if live is not None:
        news["live"] = live
    if ask:
        news["ask"] = True
    if fields is not None:
        news["fields"] = {kind: dict(values) for kind, values in fields.items()}
    if models is not None:
        news["models"] = dict(models)
    if tab:
        news["tab"] = tab
    return news


def build_rack(elem_id: str) -> gr.HTML:
    """The rack component; its value is JSON: a patch from the server, or a state from the page."""
    return gr.HTML(
        patch(),
        html_template='<div class="rack"></div>',
        js_on_load=script("rack/scene.js", "rack/rack.js"),
        apply_default_css=False,
        elem_id=elem_id,
    )
