"""Callbacks of the stage in the train tab: the effect of an ended job's map at any strength."""

from __future__ import annotations

from html import escape
from typing import Any, NamedTuple

import gradio as gr

from lineas_core.errors import ConfigError
from lineas_core.studio.access.error_messages import with_messages
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.app import Studio
from lineas_core.studio.components.outputs import unchanged
from lineas_core.studio.jobs.device.model_cache import catalog_models
from lineas_core.studio.jobs.previews import NEW_TOKENS, SEED
from lineas_core.studio.rack.rack import RackState, Slot
from lineas_core.studio.storage.store import JobRow, MapRow
from lineas_core.studio.tabs.train.shown_job import ShownJob, map_on_stage
from lineas_core.studio.views import completions, render
from lineas_core.studio.views.prompt_sheet import prompt_sheet

HINT = '<p class="ls-hint ls-caption" role="status">Trying the map on the prompt…</p>'


class StageOutputs(NamedTuple):
    """Outputs that open or hide the stage."""

    panel: Any
    strength: Any
    picture: Any
    said: Any
    staged: Any


class LoadedOutputs(NamedTuple):
    """The fields that the prompts of a job are loaded into."""

    modality: Any
    model: Any
    chosen: Any
    table: Any
    counts: Any
    name: Any
    concept: Any
    preview: Any


class StageCallbacks:
    """Callbacks of the stage.

    Args:
        studio: gives access to the maps and jobs.
        answers: generates the pictures and texts.
    """

    def __init__(self, studio: Studio, answers: Answers) -> None:
        self._studio, self._answers = studio, answers

    @with_messages
    def open(self, key: str, shown: Any, staged: str) -> StageOutputs:
        """Open the stage once the job has ended with a map, at the strength recommended for it."""
        job, row = self._found(key, ShownJob.from_page(shown).job)
        if job is None or row is None:
            return StageOutputs(gr.update(visible=False), gr.skip(), None, "", "")
        if job.id == staged:
            return unchanged(StageOutputs)
        return StageOutputs(
            panel=gr.update(visible=True),
            strength=min(1.0, max(0.0, row.first_strength)),
            picture=None,
            said=HINT,
            staged=job.id,
        )

    @with_messages
    def draw(self, key: str, staged: str, strength: float) -> tuple[Any, Any]:
        """The preview prompt without steering, and with only the job's map at the given strength.

        Returns:
            The two pictures, or None for text; and their caption, or the two texts.
        """
        job, row = self._found(key, staged)
        if job is None or row is None:
            return gr.skip(), gr.skip()
        rack = RackState((Slot(row.id, True, float(strength)),), modality=row.modality)
        mix = self._studio.mix(owner_of(key), rack, row.model)
        prompt = job.preview_prompt
        if row.modality == "text":
            texts = self._answers.texts.whole_pair(mix, row.model, prompt, SEED, NEW_TOKENS)
            return None, completions.pair(
                prompt, ("Untouched", f"Strength {strength:.2f}"), texts, mix.concepts
            )
        look = self._answers.pictures.look(mix, row.model, [prompt], SEED)
        scores = render.score_line(
            {name: of_each[0] for name, of_each in look.clip.items()}, look.kept[0]
        )
        note = f"<br>{escape(look.note)}" if look.note else ""
        said = (
            f'<p class="ls-hint ls-caption" data-strength="{strength:.2f}">{escape(prompt)}: '
            f"untouched at the left, strength {strength:.2f} at the right{note}</p>{scores}"
        )
        return (look.before[0], look.after[0]), said

    @with_messages
    def prompts(self, key: str, shown: Any) -> LoadedOutputs:
        """Load the job's modality, model and prompts into the fields again."""
        job = self._studio.jobs.get(ShownJob.from_page(shown).job, owner_of(key))
        if job is None:
            raise ConfigError("There is no such job any more. Train one.")
        kept = job.prompts
        modality = kept.modality
        models = [(entry.title, entry.id) for entry in catalog_models(modality)]
        table, counts = prompt_sheet(kept.source, kept.target)
        sets = self._answers.prompts.choices(owner_of(key), modality)
        return LoadedOutputs(
            modality=modality,
            model=gr.update(choices=models, value=job.model),
            chosen=gr.update(choices=sets, value=None),
            table=table,
            counts=counts,
            name=kept.title or kept.name,
            concept=kept.concept,
            preview=job.preview_prompt,
        )

    def _found(self, key: str, job_id: str) -> tuple[JobRow | None, MapRow | None]:
        """The job, and its map if the job has ended and the map still exists."""
        owner = owner_of(key)
        job = self._studio.jobs.get(job_id, owner) if job_id else None
        return job, None if job is None else map_on_stage(self._studio.library, job, owner)
