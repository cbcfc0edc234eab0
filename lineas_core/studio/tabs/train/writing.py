"""Callbacks of the train tab with which a language model writes the prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import gradio as gr

from lineas_core.errors import PromptError
from lineas_core.studio.access.error_messages import with_messages
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.answers.fields import whole
from lineas_core.studio.answers.prompts import UNSAVED, UNSAVED_TITLE, Modality
from lineas_core.studio.app import Studio
from lineas_core.studio.views.prompt_sheet import prompt_sheet


class WrittenOutputs(NamedTuple):
    """The table and fields of the generated prompts."""

    table: Any
    counts: Any
    concept: Any
    name: Any
    chosen: Any


class WritingCallbacks:
    """Callbacks of the writer.

    Args:
        studio: gives access to the limits.
        answers: generates the prompts.
    """

    def __init__(self, studio: Studio, answers: Answers) -> None:
        self._studio, self._answers = studio, answers

    @with_messages
    def write(
        self, key: str, modality: Modality, concept: str, seed: float, writer: str
    ) -> Iterator[WrittenOutputs]:
        """Write prompts with a language model, yielding them as they are accepted."""
        owner = owner_of(key)
        choices = [(UNSAVED_TITLE, UNSAVED), *self._answers.prompts.choices(owner, modality)]
        self._studio.limits.admit(owner)
        if not concept.strip():
            raise PromptError("Say in a few words what the prompts are to be about.")
        outputs = WrittenOutputs(
            table=gr.skip(),
            counts='<p class="ls-hint" role="status">Loading the language model…</p>',
            concept=concept,
            name=concept.strip()[:120],
            chosen=gr.update(choices=choices, value=UNSAVED),
        )
        yield outputs
        drafts = self._answers.drafts.write(writer, modality, concept, whole("seed", seed))
        for draft in drafts:
            state = draft.message or "Done." if draft.done else "Writing…"
            notes = [state, *filter(None, [draft.variety])]
            table, counts = prompt_sheet(draft.source, draft.target, notes)
            yield outputs._replace(table=table, counts=counts)
