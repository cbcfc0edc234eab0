"""Callbacks of the text tab in completion mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import gradio as gr

from lineas_core.studio.access.error_messages import with_messages
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.answers.fields import checked_length, whole
from lineas_core.studio.answers.own_concepts import as_field, own_concepts
from lineas_core.studio.app import Studio
from lineas_core.studio.rack.drawn_from import drawn, question_of
from lineas_core.studio.rack.mix import Mix
from lineas_core.studio.rack.rack import RackState
from lineas_core.studio.rack.scene_tag import with_scene
from lineas_core.studio.views import completions
from lineas_core.studio.views.csv_tables import text_rows, write_csv


class ModeOutputs(NamedTuple):
    """The parts of the tab that are visible in only one of its modes."""

    pair: Any
    beginning: Any
    samples: Any
    buttons: Any
    table: Any
    chat: Any


class TextCallbacks:
    """Callbacks of the text tab.

    Args:
        studio: gives access to the models and maps.
        answers: generates the texts.
    """

    def __init__(self, studio: Studio, answers: Answers) -> None:
        self._studio, self._texts = studio, answers.texts

    @with_messages
    def compare(
        self,
        key: str,
        model: str,
        rack: Any,
        prompt: str,
        seed: float,
        tokens: float,
        words: str = "",
    ) -> Iterator[str]:
        """Stream the unsteered and the steered completion, both with the same seed."""
        mix = self._mix(key, model, rack)
        own = own_concepts(mix.rows, words)
        length = checked_length(prompt, tokens)
        titles = ("Unsteered", mix.titles or "No map is on")
        asked = question_of(mix, model, prompt, seed, tokens)
        for waiting in self._studio.inference.waits(model):
            yield completions.waiting(waiting)
        number = whole("seed", seed)
        for texts, readouts in self._texts.pair(mix, model, prompt, number, length, own):
            cards = completions.pair(
                prompt,
                titles,
                texts,
                mix.concepts,
                writing=not readouts,
                readouts=readouts,
                own=own,
            )
            made = with_scene(cards, rack, model=model, prompts=prompt, seed=number, tokens=length)
            yield drawn(made, "text", asked)

    @with_messages
    def sweep(
        self,
        key: str,
        model: str,
        rack: Any,
        prompt: str,
        seed: float,
        tokens: float,
        samples: float,
        words: str = "",
    ) -> tuple[str, Any]:
        """Completions on several seeds as the first map goes from 0 to 1, and their CSV file."""
        mix = self._mix(key, model, rack)
        own = own_concepts(mix.rows, words)
        first = whole("seed", seed)
        grid, readouts = self._texts.sweep(
            mix, model, prompt, first, checked_length(prompt, tokens), samples, own
        )
        with self._studio.ledger.download(owner_of(key)) as folder:
            file = write_csv(folder / "completions.csv", *text_rows(grid, readouts, first))
        table = completions.text_sweep(grid, readouts, mix.concepts, first, own)
        asked = question_of(mix, model, prompt, seed, tokens, swept=1)
        return drawn(table, "text", asked, again="#sweep"), gr.update(value=file, interactive=True)

    @with_messages
    def words(self, key: str, model: str, rack: Any, shown: str) -> str:
        """The words of each concept without a published list: as edited, else from its prompts."""
        return as_field(own_concepts(self._mix(key, model, rack).rows, shown))

    @staticmethod
    def choose_mode(mode: str) -> ModeOutputs:
        """Show the parts of the tab for "complete" or "chat"."""
        completing, chatting = (gr.update(visible=mode == name) for name in ("complete", "chat"))
        return ModeOutputs(
            pair=completing,
            beginning=completing,
            samples=completing,
            buttons=completing,
            table=completing,
            chat=chatting,
        )

    def _mix(self, key: str, model: str, rack: Any) -> Mix:
        return self._studio.mix(owner_of(key), RackState.from_page(rack), model)
