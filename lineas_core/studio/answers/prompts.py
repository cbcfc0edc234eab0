"""Prompt sets to train on: lookup, parsing of the page's table, and checks of prompt length."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from lineas_core.errors import ConfigError, PromptError
from lineas_core.models.image.folders import embedded_folder
from lineas_core.models.shared.catalog import catalog
from lineas_core.prompts.prompt_set import PromptSet, shipped_prompt_sets
from lineas_core.studio.jobs.device.model_cache import catalog_models
from lineas_core.studio.storage.library import Library

MAX_ROWS = 256
# List entry for prompts that were uploaded, pasted or generated but are not saved yet.
UNSAVED, UNSAVED_TITLE = "(unsaved)", "The prompts below (not saved)"

Table = Sequence[Sequence[Any]]
Modality = Literal["text", "image"]


class PromptSets:
    """The prompt sets that a visitor may train on.

    Args:
        library: stores the visitors' own prompt sets.
    """

    def __init__(self, library: Library) -> None:
        self._library = library

    def choices(self, owner: str, modality: str, model: str = "") -> list[tuple[str, str]]:
        """(title, id) of the available sets: the visitor's own, then the shipped ones.

        Shipped sets with prompts that exceed the token limit of the model (by default the
        embedded one) come last, and their titles say so.
        """
        long = too_long_for(model or catalog_models(modality)[0].id)
        own = [
            (f"{row.prompts.title or row.prompts.name} (yours)", row.id)
            for row in self._library.prompt_sets(owner)
            if row.prompts.modality == modality
        ]
        names = [name for name, prompts in shipped_sets().items() if prompts.modality == modality]
        return own + [
            (
                (shipped_sets()[name].title or name)
                + (" · prompts too long for this model" if name in long else ""),
                name,
            )
            for name in sorted(names, key=lambda name: name in long)
        ]

    def find(self, owner: str, chosen: str) -> PromptSet:
        """The visitor's prompt set with the id `chosen`, or the shipped one of that name.

        Raises:
            PromptError: there is no such set.
        """
        for row in self._library.prompt_sets(owner):
            if row.id == chosen:
                return row.prompts
        if chosen not in shipped_sets():
            raise PromptError(f"There is no prompt set {chosen!r}. Choose one of the list.")
        return shipped_sets()[chosen]


@cache
def shipped_sets() -> dict[str, PromptSet]:
    """Shipped sets by name; cached so that opening the page does not read them again."""
    return {name: PromptSet.load(name) for name in shipped_prompt_sets()}


def sides_of(table: Table) -> tuple[list[str], list[str]]:
    """The source and target columns of the table, without empty cells.

    Raises:
        ConfigError: the table has more than `MAX_ROWS` rows.
    """
    if len(table) > MAX_ROWS:
        raise ConfigError(f"{len(table)} lines; a prompt set takes {MAX_ROWS} at most.")
    columns = [[str(row[n] or "").strip() for row in table if len(row) > n] for n in (0, 1)]
    source, target = ([text for text in column if text] for column in columns)
    return source, target


def prompt_set(modality: Modality, name: str, concept: str, table: Table) -> PromptSet:
    """Build a prompt set from the table.

    Raises:
        PromptError: the prompts are invalid; the message lists the problems line by line.
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


def check_length(model: str, prompts: Sequence[str]) -> None:
    """Refuse prompts that exceed an embedded image model's token limit, before loading the model.

    Raises:
        PromptError: some prompts exceed the limit; the message gives their number and the first.
    """
    entry = catalog().get(model)
    if entry is None or not entry.folder:
        return
    tokenizer = _tokenizer(embedded_folder(entry))
    limit = tokenizer.model_max_length
    long = [p for p in prompts if len(tokenizer(p, verbose=False)["input_ids"]) > limit]
    if long:
        raise PromptError(
            f"{len(long)} of {len(prompts)} prompts are too long for {entry.title}, which reads "
            f"{limit} tokens. Shorten them, or choose a larger model. The first: {long[0]:.80}"
        )


@cache
def too_long_for(model: str) -> frozenset[str]:
    """Names of shipped sets with prompts that exceed the model's token limit."""
    found = set()
    for name in shipped_prompt_sets():
        prompts = PromptSet.load(name)
        try:
            if prompts.modality == "image":
                check_length(model, [*prompts.source, *prompts.target])
        except PromptError:
            found.add(name)
    return frozenset(found)


@cache
def _tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(Path(folder) / "tokenizer", trust_remote_code=False)
