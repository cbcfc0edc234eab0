"""Callbacks of the train tab on uploaded and pasted prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gradio as gr

from lineas_core.errors import PromptError
from lineas_core.prompts.files import (
    MAX_BYTES,
    UnclearColumnsError,
    read_pasted,
    side_of_name,
    title_of_name,
)
from lineas_core.studio.access.error_messages import with_messages
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.answers.prompts import MAX_ROWS, UNSAVED, UNSAVED_TITLE, Table, sides_of
from lineas_core.studio.components.outputs import unchanged
from lineas_core.studio.tabs.train.unclear_table import UnclearTable
from lineas_core.studio.views.prompt_sheet import columns_question, prompt_sheet, report_of


class PromptOutputs(NamedTuple):
    """Outputs of `paste`, `answer` and `clear`."""

    table: Any
    counts: Any
    name: Any
    concept: Any
    chosen: Any
    filled: Any
    report: Any
    waiting: Any
    panel: Any
    question: Any
    from_column: Any
    to_column: Any


class UploadedOutputs(NamedTuple):
    """The fields of `PromptOutputs`, followed by the file field."""

    table: Any
    counts: Any
    name: Any
    concept: Any
    chosen: Any
    filled: Any
    report: Any
    waiting: Any
    panel: Any
    question: Any
    from_column: Any
    to_column: Any
    files: Any


class UploadCallbacks:
    """Callbacks on uploads.

    Args:
        answers: gives access to the prompt sets.
    """

    def __init__(self, answers: Answers) -> None:
        self._prompts = answers.prompts

    @with_messages
    def upload(
        self, key: str, modality: str, files: Sequence[str] | None, table: Table, filled: str
    ) -> UploadedOutputs:
        """Read prompts from the uploaded files; an error in one does not affect the others.

        A side found in the files replaces that side of the table. The new set takes the title given
        in the files, or else their file names; it never keeps the title of the previous set.

        Args:
            key: key of the visitor.
            modality: modality of the model that is steered.
            files: paths of the uploaded files.
            table: contents of the prompt table.
            filled: the side that the previous upload filled, if it filled only one; lines that do
                not name their side then go to the other one.

        Returns:
            The changes to the page. They clear the file field, so that an invalid file does not
            block the next upload.
        """
        found: dict[str, list[str]] = {"source": [], "target": []}
        titles: list[str] = []
        concept, said = "", []
        waiting: UnclearTable | None = None
        for path in files or ():
            file = Path(path)
            side: Literal["source", "target"] | None = None
            if side_of_name(file.name) is None:
                side = "target" if found["source"] or filled == "source" else "source"
            with file.open("rb") as opened:
                # Reading one byte more than the limit is enough to reject a larger file.
                unread = UnclearTable(file.name, opened.read(MAX_BYTES + 1), side)
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
            return UploadedOutputs(*_asked(_unfilled(filled), report, waiting), files=None)
        title = " + ".join(dict.fromkeys(filter(None, titles))) or "Uploaded prompts"
        named = self._named(key, modality, found, table, title[:120], concept[:120])
        return UploadedOutputs(*_asked(named, report, waiting), files=None)

    @with_messages
    def paste(
        self, key: str, modality: str, text: str, side: Literal["source", "target"], table: Table,
        filled: str,
    ) -> PromptOutputs:  # fmt: skip
        """Read prompts from pasted text.

        A text that contains one side goes to `side`, even if it names the other one. A text that
        contains both sides fills both.
        """
        if not text.strip():
            raise PromptError("Nothing was pasted; put a prompt on each line, CSV or JSON.")
        try:
            lines = read_pasted(text, side)
        except UnclearColumnsError as error:
            report = report_of([("ask", "Pasted text", [str(error)])])
            waiting = UnclearTable("", text.encode("utf-8", "replace"), side)
            return _asked(_unfilled(filled), report, waiting)
        found = {"source": list(lines.source), "target": list(lines.target)}
        other = "source" if side == "target" else "target"
        notes = list(lines.notes)
        if found[other] and not found[side]:
            found = {side: found[other], other: []}
            notes.append(f"The text calls its lines {other}; they went to {side}, as you said.")
        # If the other side was pasted before this one, the set may already have a name.
        named = self._named(
            key, modality, found, table, lines.title or "Pasted prompts", lines.concept,
            goes_on=filled not in ("", side),
        )  # fmt: skip
        report = report_of([("good", "Pasted text", notes)] if notes else [])
        return _asked(named, report, None)

    @with_messages
    def answer(
        self, key: str, modality: str, table: Table, waiting: UnclearTable | None,
        source: str | None, target: str | None,
    ) -> PromptOutputs:  # fmt: skip
        """Read prompts from the columns that the visitor chose."""
        if waiting is None:
            raise PromptError("No file waits for an answer; upload it again.")
        lines = waiting.answered(source, target)
        found = {"source": list(lines.source), "target": list(lines.target)}
        title = title_of_name(waiting.name) or "Pasted prompts"
        named = self._named(key, modality, found, table, title, lines.concept)
        counts = f"{len(lines.source)} source, {len(lines.target)} target."
        said = [("good", waiting.name or "Pasted text", [counts, *lines.notes])]
        return _asked(named, report_of(said), None)

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
    ) -> PromptOutputs:
        """Outputs that show new prompts, which are not saved as a set yet.

        Args:
            key: key of the visitor.
            modality: modality of the list of sets.
            found: side -> prompts.
            table: the table that they are written to.
            title: new title of the set.
            concept: new concept of the set; empty if none was given.
            goes_on: whether the prompts complete the previous upload, whose title stays, and whose
                concept stays unless a new one is given.
        """
        before = dict(zip(("source", "target"), sides_of(table), strict=True))
        notes = []
        sides = {}
        for side, texts in found.items():
            sides[side] = list(texts[:MAX_ROWS]) or before[side]
            if len(texts) > MAX_ROWS:
                notes.append(f"Of {len(texts):,} {side} prompts the first {MAX_ROWS} came in.")
            if not texts and before[side] and not goes_on:
                notes.append(f"The {len(before[side])} {side} prompts that were there stay.")
        if not concept and not goes_on:
            notes.append(
                "No concept was given: write under Concept what the targets have, in a word or "
                "two. Answers are scored by it; training works without."
            )
        shown, marks = prompt_sheet(sides["source"], sides["target"], notes)
        given = [side for side, texts in found.items() if texts]
        choices = [(UNSAVED_TITLE, UNSAVED), *self._prompts.choices(owner_of(key), modality)]
        return unchanged(PromptOutputs)._replace(
            table=shown,
            counts=marks,
            name=gr.skip() if goes_on else title,
            concept=gr.skip() if goes_on and not concept else concept,
            chosen=gr.update(choices=choices, value=UNSAVED),
            filled=given[0] if len(given) == 1 and not goes_on else "",
        )

    @staticmethod
    def clear() -> PromptOutputs:
        """Discard the report and state of the last upload, as when another set is chosen."""
        return _asked(_unfilled(""), "", None)


def _unfilled(filled: str) -> PromptOutputs:
    return unchanged(PromptOutputs)._replace(filled=filled)


def _asked(outputs: PromptOutputs, report: str, waiting: UnclearTable | None) -> PromptOutputs:
    """The outputs with a report and the question about a waiting table, hidden if there is none."""
    if waiting is None:
        return outputs._replace(
            report=report, waiting=None, panel=gr.update(visible=False), question=""
        )
    choices = [(f"{part}: {sample}", str(n)) for n, (part, sample) in enumerate(waiting.offers())]
    columns = gr.update(choices=choices, value=None)
    return outputs._replace(
        report=report,
        waiting=waiting,
        panel=gr.update(visible=True),
        question=columns_question(waiting.name),
        from_column=columns,
        to_column=columns,
    )
