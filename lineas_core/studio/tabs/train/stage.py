"""The stage of the train tab: what the map of an ended job does, at any strength."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from lineas_core.errors import ConfigError
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.pictures import Pictures
from lineas_core.studio.answers.texts import Texts
from lineas_core.studio.app import Studio, with_messages
from lineas_core.studio.components.before_after import BeforeAfter
from lineas_core.studio.jobs.previews import NEW_TOKENS, SEED
from lineas_core.studio.rack.rack import RackState, Slot
from lineas_core.studio.storage.store import JobRow, MapRow
from lineas_core.studio.tabs.train.prompts import PromptWork
from lineas_core.studio.tabs.train.training import Seen, map_on_stage
from lineas_core.studio.views import completions, render

HINT = '<p class="ls-hint ls-caption" role="status">Trying the map on the prompt…</p>'


class Stage:
    """Callbacks of the stage.

    Args:
        studio: the models, maps and jobs.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._pictures, self._texts, self._prompts = (
            Pictures(studio), Texts(studio), PromptWork(studio)
        )  # fmt: skip

    @with_messages
    def open(self, key: str, shown: Any, staged: str) -> tuple[Any, ...]:
        """Whether there is a stage, its strength, picture and caption, and the job that is on it.

        It opens when the job has ended with a map, at the strength recommended for that.
        """
        job, row = self._found(key, Seen.from_page(shown).job)
        if job is None or row is None:
            return gr.update(visible=False), gr.skip(), None, "", ""
        if job.id == staged:
            return (gr.skip(),) * 5
        strength = 1.0 if row.recommended is None else row.recommended
        return gr.update(visible=True), min(1.0, max(0.0, strength)), None, HINT, job.id

    @with_messages
    def draw(self, key: str, staged: str, strength: float) -> tuple[Any, Any]:
        """The preview prompt untouched and with the job's map alone at that strength.

        Returns:
            The two pictures, or None; and what is said of them, or the two texts.
        """
        job, row = self._found(key, staged)
        if job is None or row is None:
            return gr.skip(), gr.skip()
        rack = RackState((Slot(row.id, True, float(strength)),), modality=row.modality)
        mix = self._studio.mix(owner_of(key), rack, row.model)
        prompt = job.preview_prompt
        if row.modality == "text":
            texts = self._texts.pair(mix, row.model, prompt, SEED, NEW_TOKENS)
            return None, completions.pair(
                prompt, ("Untouched", f"Strength {strength:.2f}"), texts, mix.concepts
            )
        look = self._pictures.make(mix, row.model, [prompt], SEED)
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
    def prompts(self, key: str, shown: Any) -> tuple[Any, ...]:
        """The job's kind, model and prompts, back into the fields that they came from."""
        job = self._studio.jobs.get(Seen.from_page(shown).job, owner_of(key))
        if job is None:
            raise ConfigError("There is no such job any more. Train one.")
        kept = job.prompts
        modality = kept.modality
        models = [(entry.title, entry.id) for entry in self._studio.models(modality)]
        table, counts = self._prompts.shown(kept.source, kept.target)
        return (
            modality,
            gr.update(choices=models, value=job.model),
            gr.update(choices=self._prompts.choices(owner_of(key), modality), value=None),
            table,
            counts,
            kept.title or kept.name,
            kept.concept,
            job.preview_prompt,
        )

    def _found(self, key: str, job_id: str) -> tuple[JobRow | None, MapRow | None]:
        """The job, and its map once it has ended, if that is still there."""
        owner = owner_of(key)
        job = self._studio.jobs.get(job_id, owner) if job_id else None
        return job, None if job is None else map_on_stage(self._studio.library, job, owner)


@dataclass(frozen=True)
class StagePanel:
    """What the train tab wires: the buttons below the picture."""

    keep: gr.Button
    other: gr.Button
    again: gr.Button
    stage: Stage


def build_stage(studio: Studio, key: gr.BrowserState, seen: gr.JSON) -> StagePanel:
    """Lay out the stage, and have it follow the job that the tab shows."""
    stage, staged = Stage(studio), gr.State("")
    with gr.Column(visible=False, elem_id="stage") as panel:
        picture = BeforeAfter("How much of the picture is untouched", "stage-picture")
        said = gr.HTML(elem_id="stage-said")
        strength = gr.Slider(0, 1, 1, step=0.01, label="Strength", elem_id="stage-strength")
        keep = gr.Button("Keep it on", visible=False, variant="primary", size="md", elem_id="keep")
        other = gr.Button("Try other prompts", size="md", elem_id="other-prompts")
        again = gr.Button("Load these prompts again", size="sm", elem_id="load-prompts")
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    seen.change(stage.open, [key, seen, staged], [panel, strength, picture, said, staged], **quiet)
    gr.on(
        [staged.change, strength.input],
        stage.draw,
        [key, staged, strength],
        [picture, said],
        trigger_mode="always_last",
        concurrency_id="sliders",
        **quiet,
    )
    return StagePanel(keep, other, again, stage)
