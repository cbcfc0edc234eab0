"""What the page does with prompts: choose, upload, write, mark, save."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, Literal

import gradio as gr

from lineas_core.errors import ConfigError, PromptError
from lineas_core.models.load import as_language_model
from lineas_core.prompts.checks import line_marks
from lineas_core.prompts.files import (
    MOST_BYTES,
    UnclearColumnsError,
    read_pasted,
    side_of_name,
    title_of_name,
    write_prompts,
)
from lineas_core.prompts.prompt_set import PromptSet, shipped_prompt_sets
from lineas_core.prompts.subjects import SUBJECTS
from lineas_core.prompts.writing.candidates import Draft
from lineas_core.prompts.writing.writer import write_image_prompts, write_text_prompts
from lineas_core.studio.access.limits import size_of
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.texts import whole
from lineas_core.studio.app import Studio, with_messages
from lineas_core.studio.tabs.train.style_line import too_long_for
from lineas_core.studio.tabs.train.uploads import Unclear, asked, report_of
from lineas_core.system.files import write_whole
from lineas_core.system.words import counted

WANTED = 32
MOST_LINES = 256
# In the list of sets: what was uploaded, pasted or written, and is in no list yet.
UNSAVED, UNSAVED_TITLE = "(unsaved)", "The prompts below (not saved)"

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

    def choices(self, owner: str, modality: str, model: str = "") -> list[tuple[str, str]]:
        """(title, id) of the sets there are: the visitor's own, then the shipped ones.

        Those with prompts that the model (by default the embedded one) does not read whole come
        last, and say so.
        """
        long = too_long_for(model or self._studio.models(modality)[0].id)
        own = [
            (f"{row.prompts.title or row.prompts.name} (yours)", row.id)
            for row in self._studio.library.prompt_sets(owner)
            if row.prompts.modality == modality
        ]
        names = [name for name, prompts in _shipped().items() if prompts.modality == modality]
        return own + [
            (
                (_shipped()[name].title or name)
                + (" · prompts too long for this model" if name in long else ""),
                name,
            )
            for name in sorted(names, key=lambda name: name in long)
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
        if not chosen or chosen == UNSAVED:
            return (gr.skip(),) * 5
        prompts = self.find(owner_of(key), chosen)
        table, marks = self.shown(prompts.source, prompts.target)
        preview = SUBJECTS[0] if prompts.modality == "image" else "Once upon a time"
        return table, marks, prompts.title or prompts.name, prompts.concept, preview

    @with_messages
    def mark(self, table: Table) -> tuple[Any, str]:
        """The table with a note at each line that needs one, and the counts."""
        source, target = sides_of(table)
        shown, marks = self.shown(source, target)
        same = [list(map(str, row)) for row in table] == shown
        return gr.skip() if same else shown, marks

    @with_messages
    def upload(
        self, key: str, modality: str, files: Sequence[str] | None, table: Table, filled: str
    ) -> tuple[Any, ...]:
        """The prompts of the files, each judged alone.

        A side that a file gives takes the place of the table's. The set is called as the files say,
        or as they are named: never as the set that was there.

        Args:
            key: the visitor's.
            modality: of what is steered.
            files: what was uploaded.
            table: of the page.
            filled: the side that the upload before filled alone, to which lines go no more that do
                not say theirs.

        Returns:
            What `NAMED` lists, and the files that stay in the field: none, so that no bad one
            stands in the way of the next.
        """
        found: dict[str, list[str]] = {"source": [], "target": []}
        titles: list[str] = []
        concept, said = "", []
        waiting: Unclear | None = None
        for path in files or ():
            file = Path(path)
            side: Literal["source", "target"] | None = None
            if side_of_name(file.name) is None:
                side = "target" if found["source"] or filled == "source" else "source"
            with file.open("rb") as opened:
                # One byte over what is allowed is enough to refuse it.
                unread = Unclear(file.name, opened.read(MOST_BYTES + 1), side)
            try:
                lines = unread.read()
            except UnclearColumnsError as error:
                waiting = waiting or unread
                said.append(("ask", file.name, [str(error)]))
                continue
            except PromptError as error:
                said.append(("bad", file.name, [str(error)]))
                continue
            found["source"] += lines.source
            found["target"] += lines.target
            titles.append(lines.title or title_of_name(file.name))
            concept = concept or lines.concept
            counts = f"{len(lines.source)} source, {len(lines.target)} target."
            said.append(("good", file.name, [counts, *lines.notes]))
        report = report_of(said)
        if not titles:
            return (*(gr.skip(),) * 5, filled, report, *asked(waiting), None)
        title = " + ".join(dict.fromkeys(filter(None, titles))) or "Uploaded prompts"
        named = self._named(key, modality, found, table, title[:120], concept[:120])
        return (*named, report, *asked(waiting), None)

    @with_messages
    def paste(
        self, key: str, modality: str, text: str, side: Literal["source", "target"], table: Table,
        filled: str,
    ) -> tuple[Any, ...]:  # fmt: skip
        """The prompts of pasted text: what `NAMED` lists.

        A text that gives one side goes to `side`, whatever it says; one that gives both, to both.
        """
        if not text.strip():
            raise PromptError("Nothing was pasted; put a prompt on each line, CSV or JSON.")
        try:
            lines = read_pasted(text, side)
        except UnclearColumnsError as error:
            report = report_of([("ask", "Pasted text", [str(error)])])
            waiting = Unclear("", text.encode("utf-8", "replace"), side)
            return (*(gr.skip(),) * 5, filled, report, *asked(waiting))
        found = {"source": list(lines.source), "target": list(lines.target)}
        other = "source" if side == "target" else "target"
        notes = list(lines.notes)
        if found[other] and not found[side]:
            found = {side: found[other], other: []}
            notes.append(f"The text calls its lines {other}; they went to {side}, as you said.")
        # The other side of what is being pasted may have a name already.
        named = self._named(
            key, modality, found, table, lines.title or "Pasted prompts", lines.concept,
            goes_on=filled not in ("", side),
        )  # fmt: skip
        report = report_of([("good", "Pasted text", notes)] if notes else [])
        return (*named, report, *asked(None))

    @with_messages
    def answer(
        self, key: str, modality: str, table: Table, waiting: Unclear | None,
        source: str | None, target: str | None,
    ) -> tuple[Any, ...]:  # fmt: skip
        """The prompts of the columns that a visitor chose: what `NAMED` lists."""
        if waiting is None:
            raise PromptError("No file waits for an answer; upload it again.")
        lines = waiting.answered(source, target)
        found = {"source": list(lines.source), "target": list(lines.target)}
        title = title_of_name(waiting.name) or "Pasted prompts"
        named = self._named(key, modality, found, table, title, lines.concept)
        counts = f"{len(lines.source)} source, {len(lines.target)} target."
        said = [("good", waiting.name or "Pasted text", [counts, *lines.notes])]
        return (*named, report_of(said), *asked(None))

    # What uploading, pasting and answering give.
    NAMED = ("table", "counts", "name", "concept", "chosen", "filled", "report", "waiting",
             "panel", "question", "from", "to")  # fmt: skip

    def _named(
        self,
        key: str,
        modality: str,
        found: Mapping[str, Sequence[str]],
        table: Table,
        title: str,
        concept: str,
        *,
        goes_on: bool = False,
    ) -> tuple[Any, ...]:
        """`NAMED` up to the report, for prompts that no list has yet.

        Args:
            key: the visitor's.
            modality: of the list of sets.
            found: side -> prompts.
            table: that they go into.
            title: of the set from now on.
            concept: likewise; empty where nobody said.
            goes_on: whether they complete what came before, whose names stay.
        """
        before = dict(zip(("source", "target"), sides_of(table), strict=True))
        notes = []
        sides = {}
        for side, texts in found.items():
            sides[side] = list(texts[:MOST_LINES]) or before[side]
            if len(texts) > MOST_LINES:
                notes.append(f"Of {len(texts):,} {side} prompts the first {MOST_LINES} came in.")
            if not texts and before[side] and not goes_on:
                notes.append(f"The {len(before[side])} {side} prompts that were there stay.")
        if not concept and not goes_on:
            notes.append(
                "No concept was given: write under Concept what the targets have, in a word or "
                "two. Answers are scored by it; training works without."
            )
        shown, marks = self.shown(sides["source"], sides["target"], notes)
        given = [side for side, texts in found.items() if texts]
        choices = [(UNSAVED_TITLE, UNSAVED), *self.choices(owner_of(key), modality)]
        return (
            shown,
            marks,
            gr.skip() if goes_on else title,
            gr.skip() if goes_on and not concept else concept,
            gr.update(choices=choices, value=UNSAVED),
            given[0] if len(given) == 1 and not goes_on else "",
        )

    @with_messages
    def written(
        self, key: str, modality: Modality, concept: str, seed: float, writer: str
    ) -> Iterator[tuple[Any, ...]]:
        """What `write` gives, and the name and the place in the list of what is written."""
        choices = [(UNSAVED_TITLE, UNSAVED), *self.choices(owner_of(key), modality)]
        for parts in self.write(key, modality, concept, seed, writer):
            yield *parts, concept.strip()[:120], gr.update(choices=choices, value=UNSAVED)

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
                table, marks = self.shown(draft.source, draft.target, notes)
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
        if not chosen or chosen == UNSAVED:
            raise PromptError("These prompts are not saved as a set; there is none to delete.")
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

    def shown(
        self, source: Sequence[str], target: Sequence[str], notes: Sequence[str] = ()
    ) -> tuple[list[list[str]], str]:
        """The prompts as rows of the table, with their marks, and the counts."""
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
