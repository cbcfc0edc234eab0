"""Callbacks of the train tab on prompt sets: choose, mark, save, delete, download."""

from __future__ import annotations

from html import escape
from typing import Any, NamedTuple

import gradio as gr

from lineas_core.errors import PromptError
from lineas_core.prompts.files import write_prompts
from lineas_core.prompts.subjects import SUBJECTS
from lineas_core.studio.access.error_messages import with_messages
from lineas_core.studio.access.ledger import size_of
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.answers.prompts import (
    UNSAVED,
    UNSAVED_TITLE,
    Modality,
    Table,
    prompt_set,
    shipped_sets,
    sides_of,
)
from lineas_core.studio.app import Studio
from lineas_core.studio.components.outputs import unchanged
from lineas_core.studio.views.prompt_sheet import prompt_sheet
from lineas_core.system.files import write_whole

FIRST = {"image": "emoji-pixel-art", "text": "football"}


class ChosenOutputs(NamedTuple):
    """The table and fields of a prompt set."""

    table: Any
    counts: Any
    name: Any
    concept: Any
    preview: Any


class RemovedOutputs(NamedTuple):
    """The list of sets, the id of the deleted set, and the button that restores it."""

    chosen: Any
    deleted: Any
    restore: Any


class PromptCallbacks:
    """Callbacks on prompt sets.

    Args:
        studio: gives access to the library.
        answers: gives access to the prompt sets.
    """

    def __init__(self, studio: Studio, answers: Answers) -> None:
        self._studio, self._prompts = studio, answers.prompts

    @with_messages
    def choose(self, key: str, chosen: str | None) -> ChosenOutputs:
        """The table, counts, name, concept and preview prompt of a set."""
        if not chosen or chosen == UNSAVED:
            return unchanged(ChosenOutputs)
        prompts = self._prompts.find(owner_of(key), chosen)
        table, marks = prompt_sheet(prompts.source, prompts.target)
        preview = SUBJECTS[0] if prompts.modality == "image" else "Once upon a time"
        return ChosenOutputs(
            table=table,
            counts=marks,
            name=prompts.title or prompts.name,
            concept=prompts.concept,
            preview=preview,
        )

    @with_messages
    def mark(self, table: Table) -> tuple[Any, str]:
        """The table with a note on each line that has an issue, and the counts."""
        source, target = sides_of(table)
        shown, marks = prompt_sheet(source, target)
        same = [list(map(str, row)) for row in table] == shown
        return gr.skip() if same else shown, marks

    @with_messages
    def save(
        self, key: str, modality: Modality, name: str, concept: str, table: Table
    ) -> tuple[Any, str]:
        """Save the table as one of the visitor's prompt sets."""
        owner = owner_of(key)
        prompts = prompt_set(modality, name, concept, table)
        with self._studio.ledger.keeping(owner, size_of(prompts)):
            row = self._studio.library.add_prompts(owner, prompts)
        choices = self._prompts.choices(owner, modality)
        said = f"Saved as {escape(repr(row.prompts.title))}."
        return gr.update(choices=choices, value=row.id), said

    @with_messages
    def delete(self, key: str, modality: Modality, chosen: str) -> RemovedOutputs:
        """Delete one of the visitor's sets; its id is returned, so that it can be restored."""
        owner = owner_of(key)
        if not chosen or chosen == UNSAVED:
            raise PromptError("These prompts are not saved as a set; there is none to delete.")
        if chosen in shipped_sets():
            raise PromptError("This set ships with the app and stays; yours can be deleted.")
        self._studio.library.delete_prompts(chosen, owner)
        choices = self._prompts.choices(owner, modality)
        return RemovedOutputs(
            chosen=gr.update(choices=choices, value=choices[0][1]),
            deleted=chosen,
            restore=gr.update(visible=True),
        )

    @with_messages
    def undelete(self, key: str, modality: Modality, deleted: str) -> tuple[Any, Any]:
        """Restore the set that was deleted last.

        Raises:
            PromptError: it is gone for good, or this page's state was dropped, and with it its id.
        """
        owner = owner_of(key)
        if not deleted:
            raise PromptError(
                "Nothing was brought back: this page was idle for so long that the server forgot "
                "which set it deleted. Import the set's file, if you have one."
            )
        row = self._studio.library.undelete_prompts(deleted, owner)
        choices = self._prompts.choices(owner, modality)
        return gr.update(choices=choices, value=row.id), gr.update(visible=False)

    @with_messages
    def download(
        self, key: str, modality: Modality, name: str, concept: str, table: Table
    ) -> list[str]:
        """Write the table to a JSON file and a CSV file."""
        owner = owner_of(key)
        self._studio.limits.admit(owner)
        prompts = prompt_set(modality, name, concept, table)
        files = {**write_prompts(prompts, "json"), **write_prompts(prompts, "csv")}
        with self._studio.ledger.download(owner, sum(map(len, files.values()))) as folder:
            return [str(write_whole(folder / file, data)) for file, data in files.items()]

    @staticmethod
    def show_files() -> Any:
        """Show the file field after `download` has filled it."""
        return gr.update(visible=True)

    @with_messages
    def list_for_kind(self, key: str, modality: str, chosen: str | None) -> Any:
        """List the sets of another modality; unsaved prompts stay chosen."""
        choices = self._prompts.choices(owner_of(key), modality)
        if kept := _unsaved(chosen):
            return gr.update(choices=[*kept, *choices], value=UNSAVED)
        return gr.update(choices=choices, value=FIRST[modality])

    @with_messages
    def list_for_model(self, key: str, modality: str, model: str, chosen: str | None) -> Any:
        """List the sets in the order that suits another model."""
        choices = self._prompts.choices(owner_of(key), modality, model)
        return gr.update(choices=[*_unsaved(chosen), *choices])


def _unsaved(chosen: str | None) -> list[tuple[str, str]]:
    """The choice for unsaved prompts if it is the chosen one, to keep it in the list."""
    return [(UNSAVED_TITLE, UNSAVED)] if chosen == UNSAVED else []
