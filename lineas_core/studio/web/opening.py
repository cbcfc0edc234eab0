"""The state in which a page opens: a link's scene, the visitor's last one, or the first maps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any, NamedTuple

import gradio as gr

from lineas_core.errors import LineasError
from lineas_core.models.shared.catalog import catalog
from lineas_core.studio.access.error_messages import with_messages
from lineas_core.studio.access.redaction import without_paths
from lineas_core.studio.access.visitors import new_key, owner_of
from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.app import Studio
from lineas_core.studio.rack.places import first_rack
from lineas_core.studio.rack.rack import patch
from lineas_core.studio.rack.screen import Screen
from lineas_core.studio.storage.store import MapRow
from lineas_core.studio.tabs.train.prompts import FIRST


class ArrivedOutputs(NamedTuple):
    """Outputs of `Opening.arrive`: the visitor's key, and the values of the page's components."""

    key: Any
    job: Any
    rack: Any
    tabs: Any
    chosen: Any
    image_model: Any
    image_prompts: Any
    image_seed: Any
    text_model: Any
    text_prompt: Any
    text_seed: Any
    tokens: Any


class Opening:
    """Choose the state in which a page opens.

    Args:
        studio: the app's shared state.
        answers: provides the prompt sets.
        begun: the default values of the fields.
    """

    def __init__(self, studio: Studio, answers: Answers, begun: Screen) -> None:
        self._studio, self._prompts, self._begun = studio, answers.prompts, begun

    @with_messages
    def arrive(self, key: str, stored: str, request: gr.Request) -> ArrivedOutputs:
        """Restore the job and scene of a link or of the last visit, and list the prompt sets.

        Creates a key for a new visitor, and for one whose key is invalid.

        Args:
            key: the visitor's key.
            stored: the browser's stored session, as returned by `wiring.STORED`.
            request: the request, whose query may name a job or a scene.
        """
        try:
            owner = owner_of(key)
        except LineasError:
            key = new_key()
            owner = owner_of(key)
        while self._studio.mended:
            note = escape(without_paths(self._studio.mended.pop(0)), quote=False)
            gr.Warning(note, duration=None)
        asked = dict(request.query_params)
        rows = self._studio.library.maps(owner)
        choices = self._prompts.choices(owner, "image")
        shown = self._shown(asked, stored, rows)
        return ArrivedOutputs(
            key,
            asked.get("job", ""),
            patch(
                rows=rows,
                state=shown.rack,
                models={"image": shown.image_model, "text": shown.text_model},
                fields=shown.fields,
                tab=shown.tab,
            ),
            gr.Tabs(selected=shown.tab),
            gr.update(choices=choices, value=FIRST["image"]),
            *shown.values,
        )

    def _shown(self, asked: Mapping[str, str], stored: str, rows: list[MapRow]) -> Screen:
        """The screen to show: on a reload the page's own, else a link's, else the last one."""
        first = replace(self._begun, rack=first_rack(rows))
        kept, again = _kept(stored)
        if code := "" if kept and again else asked.get("scene", ""):
            try:
                found, missing = Screen.from_link(code).settled(rows)
            except LineasError as error:
                gr.Warning(escape(str(error), quote=False))
                return first
            if missing:
                gr.Warning(_of_a_link(missing), duration=None)
            return self._known(replace(found, tab=found.rack.modality), rows)
        if kept is not None:
            first, missing = kept.settled(rows)
            if missing:
                gr.Info(_of_the_last_time(missing))
            first = replace(first, tab=first.tab or first.rack.modality)
        return replace(first, tab="train") if asked.get("job") and not again else first

    def _known(self, linked: Screen, rows: Sequence[MapRow]) -> Screen:
        """A link's screen without models that are not known here; a warning names them.

        A page loads the model that it shows, so any link on any site could else make this machine
        fetch a repository of the Hub, or read a folder.
        """
        known = {*catalog(), *(row.model for row in rows)}
        for name in ("image_model", "text_model"):
            model = getattr(linked, name)
            if model not in known and not self._studio.model_cache.has(model):
                linked = replace(linked, **{name: getattr(self._begun, name)})
                gr.Warning(_of_a_model(model), duration=None)
        return linked


def _kept(stored: str) -> tuple[Screen | None, bool]:
    """The screen that the browser stored, if any, and whether the page is being reloaded."""
    try:
        found = json.loads(stored)
        return Screen.from_json(found["session"]), found["again"] is True
    except (LineasError, KeyError, TypeError, ValueError, RecursionError):
        return None, False


def _listed(titles: Sequence[str]) -> str:
    return escape(" and ".join(f"“{title:.80}”" for title in titles), quote=False)


def _of_a_link(missing: Sequence[str]) -> str:
    return (
        f"You do not have {_listed(missing)}, which this link uses: it is of the person who made "
        "the link, or was deleted. Ask for its map file or a bundle (Library, Export or What is "
        "on the screen), take it in at Library, Import, and open the link again. The rest is shown."
    )


def _of_a_model(model: str) -> str:
    named = escape(f"{model!r:.80}", quote=False)
    return (
        f"The link's model is {named}, which was not loaded here yet, and no link loads a model. "
        "If you trust it, type the name at Model, and open the link again when it is there."
    )


def _of_the_last_time(missing: Sequence[str]) -> str:
    return (
        f"{_listed(missing)} is no longer in the library, and was taken off the rack."
        if len(missing) == 1
        else f"{_listed(missing)} are no longer in the library, and were taken off the rack."
    )
