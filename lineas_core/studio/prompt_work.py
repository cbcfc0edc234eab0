"""What the page does with prompts: choose, upload, write, mark, save."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, Literal

import gradio as gr

from lineas_core.errors import ConfigError, PromptError
from lineas_core.files import write_whole
from lineas_core.models import as_language_model
from lineas_core.prompt_files import read_pasted, read_prompt_file, write_prompts
from lineas_core.prompt_marks import line_marks
from lineas_core.prompt_sheet import Draft
from lineas_core.prompt_writer import write_image_prompts, write_text_prompts
from lineas_core.prompts import PromptSet, shipped_prompt_sets
from lineas_core.studio.callbacks import Studio, with_messages
from lineas_core.studio.limits import size_of
from lineas_core.studio.texts import whole
from lineas_core.studio.visitors import owner_of
from lineas_core.subjects import SUBJECTS
from lineas_core.words import counted

WANTED = 32
MOST_LINES = 256

Table = Sequence[Sequence[Any]]
Modality = Literal["text", "image"]


class PromptWork:
    """Callbacks on prompts.

    Args:
        studio: the state.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._drafts = studio.on_gpu(self._drafts_here)

    def choices(self, owner: str, modality: str) -> list[tuple[str, str]]:
        """(title, id) of the sets there are: the visitor's own, then the shipped ones."""
        own = [
            (f"{row.prompts.title or row.prompts.name} (yours)", row.id)
            for row in self._studio.library.prompt_sets(owner)
            if row.prompts.modality == modality
        ]
        return own + [
            (prompts.title or name, name)
            for name, prompts in _shipped().items()
            if prompts.modality == modality
        ]

    def find(self, owner: str, chosen: str) -> PromptSet:
        """The set of that id, or shipped under that name.

        Raises:
            PromptError: there is none.
        """
        for row in self._studio.library.prompt_sets(owner):
            if row.id == chosen:
                return row.prompts
        if chosen not in _shipped():
            raise PromptError(f"There is no prompt set {chosen!r}. Choose one of the list.")
        return _shipped()[chosen]

    @with_messages
    def choose(self, key: str, chosen: str | None) -> tuple[Any, ...]:
        """Table, marks, name, concept and preview prompt of a set."""
        if not chosen:
            return (gr.skip(),) * 5
        prompts = self.find(owner_of(key), chosen)
        table, marks = self._shown(prompts.source, prompts.target)
        preview = SUBJECTS[0] if prompts.modality == "image" else "Once upon a time"
        return table, marks, prompts.title or prompts.name, prompts.concept, preview

    @with_messages
    def mark(self, table: Table) -> tuple[Any, str]:
        """The table with a note at each line that needs one, and the counts."""
        source, target = sides_of(table)
        shown, marks = self._shown(source, target)
        same = [list(map(str, row)) for row in table] == shown
        return gr.skip() if same else shown, marks

    @with_messages
    def upload(self, files: Sequence[str] | None, table: Table) -> tuple[Any, str]:
        """The prompts of the files: a side that a file gives takes the place of the table's."""
        source, target = sides_of(table)
        notes: list[str] = []
        for place, path in enumerate(files or ()):
            file = Path(path)
            side: Literal["source", "target"] | None = None
            if file.suffix.lower() == ".txt" and "target" not in file.stem.lower():
                side = "source" if place == 0 or "source" in file.stem.lower() else "target"
            lines = read_prompt_file(file.name, file.read_bytes(), side)
            source, target = list(lines.source) or source, list(lines.target) or target
            notes += lines.notes
        shown, marks = self._shown(source, target, notes)
        return shown, marks

    @with_messages
    def paste(self, text: str, side: str, table: Table) -> tuple[Any, str]:
        """The prompts of pasted text; plain lines go to `side`."""
        if not text.strip():
            raise PromptError("Nothing was pasted; put a prompt on each line, CSV or JSON.")
        source, target = sides_of(table)
        lines = read_pasted(text)
        if lines.source and not lines.target and side == "target":
            target = list(lines.source)
        else:
            source, target = list(lines.source) or source, list(lines.target) or target
        return self._shown(source, target, list(lines.notes))

    @with_messages
    def write(
        self, key: str, modality: Modality, concept: str, seed: float, writer: str
    ) -> Iterator[tuple[Any, ...]]:
        """A language model writes the prompts; they come as they are accepted."""
        self._studio.limits.admit(owner_of(key))
        if not concept.strip():
            raise PromptError("Say in a few words what the prompts are to be about.")
        yield gr.skip(), '<p class="ls-hint" role="status">Loading the language model…</p>', concept
        with self._studio.turns.sliders():
            self._studio.load(writer)
            for draft in self._drafts(writer, modality, concept, whole("seed", seed)):
                state = draft.message or "Done." if draft.done else "Writing…"
                notes = [state, *filter(None, [draft.variety])]
                table, marks = self._shown(draft.source, draft.target, notes)
                yield table, marks, concept

    def _drafts_here(
        self, writer: str, modality: Modality, concept: str, seed: int
    ) -> Iterator[Draft]:
        model = as_language_model(self._studio.shelf.get(writer))
        if modality == "image":
            yield from write_image_prompts(model, concept, subjects=SUBJECTS, seed=seed)
        else:
            yield from write_text_prompts(model, concept, seed=seed)

    @with_messages
    def save(
        self, key: str, modality: Modality, name: str, concept: str, table: Table
    ) -> tuple[Any, str]:
        """Keep the table as a set of the visitor's."""
        owner = owner_of(key)
        prompts = prompt_set(modality, name, concept, table)
        self._studio.limits.check_room(owner, size_of(prompts))
        row = self._studio.library.add_prompts(owner, prompts)
        choices = self.choices(owner, modality)
        return gr.update(
            choices=choices, value=row.id
        ), f"Saved as {escape(repr(row.prompts.title))}."

    @with_messages
    def delete(self, key: str, modality: Modality, chosen: str) -> tuple[Any, str, Any]:
        """Take a set of the visitor's out of the list; what was deleted, to bring it back."""
        owner = owner_of(key)
        if chosen in _shipped():
            raise PromptError("This set ships with the app and stays; yours can be deleted.")
        self._studio.library.delete_prompts(chosen, owner)
        choices = self.choices(owner, modality)
        return gr.update(choices=choices, value=choices[0][1]), chosen, gr.update(visible=True)

    @with_messages
    def undelete(self, key: str, modality: Modality, deleted: str) -> tuple[Any, Any]:
        """Bring back the set that was deleted last."""
        owner = owner_of(key)
        row = self._studio.library.undelete_prompts(deleted, owner)
        choices = self.choices(owner, modality)
        return gr.update(choices=choices, value=row.id), gr.update(visible=False)

    @with_messages
    def download(self, modality: Modality, name: str, concept: str, table: Table) -> list[str]:
        """The table as a JSON and a CSV file."""
        prompts = prompt_set(modality, name, concept, table)
        folder = self._studio.download_folder()
        files = {**write_prompts(prompts, "json"), **write_prompts(prompts, "csv")}
        return [str(write_whole(folder / file, data)) for file, data in files.items()]

    def _shown(
        self, source: Sequence[str], target: Sequence[str], notes: Sequence[str] = ()
    ) -> tuple[list[list[str]], str]:
        rows = max(len(source), len(target), 1)
        marks: dict[int, list[str]] = {}
        for mark in line_marks(source, target):
            marks.setdefault(mark.line, []).append(f"{mark.side}: {mark.message}")
        table = [
            [
                source[n] if n < len(source) else "",
                target[n] if n < len(target) else "",
                "; ".join(marks.get(n + 1, ())),
            ]
            for n in range(rows)
        ]
        counts = " · ".join(
            f'<b class="{"ls-full" if len(side) >= WANTED else "ls-short"}">{len(side)}</b>'
            f" / {WANTED} {name}"
            for name, side in (("source", source), ("target", target))
        )
        lines = counted(len(marks), "line")
        warned = f" · {lines} marked" if marks else ""
        said = "".join(f"<p>{escape(note)}</p>" for note in notes)
        return table, f'<div class="ls-counts" role="status"><p>{counts}{warned}</p>{said}</div>'


@cache
def _shipped() -> dict[str, PromptSet]:
    """The sets that ship, by name: read once, not at every opening of the page."""
    return {name: PromptSet.load(name) for name in shipped_prompt_sets()}


def sides_of(table: Table) -> tuple[list[str], list[str]]:
    """The prompts of either column, without empty cells.

    Raises:
        ConfigError: there are too many.
    """
    if len(table) > MOST_LINES:
        raise ConfigError(f"{len(table)} lines; a prompt set takes {MOST_LINES} at most.")
    columns = [[str(row[n] or "").strip() for row in table if len(row) > n] for n in (0, 1)]
    source, target = ([text for text in column if text] for column in columns)
    return source, target


def prompt_set(modality: Modality, name: str, concept: str, table: Table) -> PromptSet:
    """The table as a prompt set.

    Raises:
        PromptError: it cannot be used; the message says why, line by line.
    """
    source, target = sides_of(table)
    title = name.strip() or concept.strip() or "Untitled"
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60] or "untitled"
    return PromptSet(
        name=slug,
        title=title[:120],
        modality=modality,
        source=source,
        target=target,
        concept=concept.strip()[:120],
    )
