"""Callbacks of the compare tab: train two methods on the same prompts, show two maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import gradio as gr

from lineas_core.errors import ConfigError, MapError
from lineas_core.methods.names import TITLES
from lineas_core.studio.access.error_messages import with_messages
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.answers.fields import checked_length, lines_of, whole
from lineas_core.studio.app import Studio
from lineas_core.studio.components.outputs import unchanged
from lineas_core.studio.rack.mix import Mix
from lineas_core.studio.rack.rack import RackState, Slot, patch
from lineas_core.studio.storage.store import JobRow, MapRow
from lineas_core.studio.views import comparison
from lineas_core.studio.views.charts import compare_maps
from lineas_core.studio.views.csv_tables import write_csv
from lineas_core.studio.views.map_cards import made_on

NEW_TOKENS = 48
LETTERS = ("A", "B")


class MapOutputs(NamedTuple):
    """The two maps, their figures, and the prompt fields for pictures and for text."""

    a: Any
    b: Any
    figures: Any
    prompts: Any
    opening: Any


class TakenOutputs(NamedTuple):
    """The fields of `MapOutputs`, followed by the rack."""

    a: Any
    b: Any
    figures: Any
    prompts: Any
    opening: Any
    rack: Any


class ProgressOutputs(NamedTuple):
    """The ids and progress of the two jobs, and their maps once both have ended."""

    jobs: Any
    timer: Any
    progress: Any
    train: Any
    cancel: Any
    trained: Any


class CompareCallbacks:
    """Callbacks of the compare tab.

    Args:
        studio: the shared state of the app.
        answers: generates pictures and texts, and gives access to the prompt sets.
    """

    def __init__(self, studio: Studio, answers: Answers) -> None:
        self._studio = studio
        self._pictures, self._texts = answers.pictures, answers.texts
        self._prompts = answers.prompts

    @with_messages
    def open(self, key: str, a: str | None, b: str | None) -> MapOutputs:
        """List every map for A and the maps of the same model for B, with figures and prompt field.

        Choices that still exist are kept; otherwise A is the newest map.
        """
        return self._chosen(owner_of(key), a, b)

    @with_messages
    def relist(self, key: str, a: str | None, b: str | None) -> MapOutputs:
        """As `open`, after the library changed; if both choices still exist, only update the lists.

        The values are then left out, so that this answer does not revert a choice that the visitor
        makes before it arrives.
        """
        owner = owner_of(key)
        rows, first, others, second = self._offered(owner, a, b)
        if not (first and second and (first.id, second.id) == (a, b)):
            return self._chosen(owner, a, b)
        return unchanged(MapOutputs)._replace(
            a=gr.update(choices=_labels(rows)), b=gr.update(choices=_labels(others))
        )

    @with_messages
    def sets(self, key: str, kind: str) -> tuple[Any, Any]:
        """List the models and prompt sets to train on."""
        models = self._studio.model_choices(kind)
        found = self._prompts.choices(owner_of(key), kind)
        return (
            gr.update(choices=models, value=models[0][1]),
            gr.update(choices=found, value=found[0][1]),
        )

    @with_messages
    def train(
        self, key: str, model: str, chosen: str | None, method_a: str, method_b: str
    ) -> ProgressOutputs:
        """Queue one job per method; if queueing the second fails, the first is cancelled."""
        owner = owner_of(key)
        if method_a == method_b:
            raise ConfigError(f"Both are {TITLES[method_a]}; choose two methods.")
        if not chosen:
            raise ConfigError("No prompt set is chosen; choose one of the list.")
        prompts = self._prompts.find(owner, chosen)
        jobs = [self._studio.train(owner, model, prompts, {}, method=method_a)]
        try:
            jobs.append(self._studio.train(owner, model, prompts, {}, method=method_b))
        except Exception:
            self._studio.jobs.cancel(jobs[0].id, owner)
            raise
        return self._progress(owner, jobs)

    @with_messages
    def poll(self, key: str, asked: list[str]) -> ProgressOutputs:
        """The progress of the two jobs."""
        owner = owner_of(key)
        self._studio.quotas.watch(owner)
        return self._progress(owner, self._jobs(owner, asked))

    @with_messages
    def cancel(self, key: str, asked: list[str]) -> ProgressOutputs:
        """Stop both jobs; their maps are kept as trained so far."""
        owner = owner_of(key)
        for job in asked:
            self._studio.jobs.cancel(job, owner)
        return self._progress(owner, self._jobs(owner, asked))

    @with_messages
    def take(self, key: str, trained: list[str], rack: Any) -> TakenOutputs:
        """Choose the two new maps here and put them on the rack, with the first one soloed."""
        if not trained:
            return unchanged(TakenOutputs)
        owner = owner_of(key)
        rows = self._studio.library.maps(owner)
        new = [self._studio.library.row(map_id, owner) for map_id in trained]
        now = RackState.from_page(rack)
        slots = tuple(Slot(row.id, True, row.first_strength) for row in new)
        rest = tuple(slot for slot in now.slots if slot.id not in trained)
        state = replace(now, slots=slots + rest, solo=trained[0], modality=new[0].modality)
        return TakenOutputs(*self._chosen(owner, *trained), patch(rows=rows, state=state))

    @with_messages
    def show(
        self,
        key: str,
        a: str | None,
        b: str | None,
        strength: float,
        prompts: str,
        opening: str,
        seed: float,
    ) -> Iterator[str]:
        """Show the results of the untouched model, map A and map B side by side."""
        if not a or not b:
            raise ConfigError("Two maps are needed; choose A and B, or train two methods above.")
        owner = owner_of(key)
        self._studio.limits.admit(owner)
        rows = [self._studio.library.row(chosen, owner) for chosen in (a, b)]
        model = rows[0].model
        if rows[1].model != model:
            raise ConfigError(
                f"{rows[0].title} is of {model} and {rows[1].title} of {rows[1].model}; "
                "choose two maps of one model."
            )
        sides = [
            self._studio.mix(
                owner,
                RackState.from_page({"state": {"rows": [{"id": row.id, "strength": strength}]}}),
                model,
            )
            for row in rows
        ]
        concepts = Mix(rows=tuple(rows)).concepts
        titles = ["Untouched", *(_heading(n, row, strength) for n, row in enumerate(rows))]
        if rows[0].modality == "image":
            lines = lines_of(prompts)
            self._studio.check_images(model, 3 * len(lines))
            looks = [
                self._pictures.look(side, model, lines, whole("seed", seed), concepts)
                for side in (Mix(), *sides)
            ]
            yield comparison.pictures(titles, looks)
            return
        length = checked_length(opening, NEW_TOKENS)
        steered = [[], *(side.steer for side in sides)]
        for texts, readouts in self._texts.sides(
            steered, concepts, model, opening, whole("seed", seed), length
        ):
            yield comparison.texts(opening, titles, texts, concepts, readouts)

    @with_messages
    def table(self, key: str, a: str | None, b: str | None) -> str:
        """Write the figures of the two maps to a CSV file."""
        if not a or not b:
            raise ConfigError("Two maps are needed; choose A and B, or train two methods above.")
        owner = owner_of(key)
        self._studio.limits.admit(owner)
        rows = [self._studio.library.row(chosen, owner) for chosen in (a, b)]
        jobs = [self._studio.jobs.get(row.job, owner) for row in rows]
        sides = [
            comparison.figures_of(row, job.seconds if job else None)
            for row, job in zip(rows, jobs, strict=True)
        ]
        header = ["figure", *(row.title for row in rows)]
        lines = [(name, *(side[name] for side in sides)) for name in sides[0]]
        with self._studio.ledger.download(owner) as folder:
            return write_csv(folder / "comparison.csv", header, lines)

    def _offered(
        self, owner: str, a: str | None, b: str | None
    ) -> tuple[list[MapRow], MapRow | None, list[MapRow], MapRow | None]:
        """The maps offered for A and the one chosen, then the same for B."""
        rows = self._studio.library.maps(owner)
        first = next((row for row in rows if row.id == a), rows[0] if rows else None)
        others = [row for row in rows if first and row.model == first.model and row != first]
        second = next((row for row in others if row.id == b), others[0] if others else None)
        return rows, first, others, second

    def _chosen(self, owner: str, a: str | None, b: str | None) -> MapOutputs:
        rows, first, others, second = self._offered(owner, a, b)
        image = first is None or first.modality == "image"
        return MapOutputs(
            a=gr.update(choices=_labels(rows), value=first.id if first else None),
            b=gr.update(choices=_labels(others), value=second.id if second else None),
            figures=self._figures(owner, first, second),
            prompts=gr.update(visible=image),
            opening=gr.update(visible=not image),
        )

    def _figures(self, owner: str, first: MapRow | None, second: MapRow | None) -> str:
        if first is None or second is None:
            return comparison.too_few()
        rows = [first, second]
        jobs = [self._studio.jobs.get(row.job, owner) for row in rows]
        try:
            words = compare_maps(*(self._studio.library.map(row.id, owner) for row in rows)).words
        except MapError as error:
            words = str(error)
        return comparison.figures(rows, [job.seconds if job else None for job in jobs], words)

    def _jobs(self, owner: str, asked: list[str]) -> list[JobRow]:
        found = [self._studio.jobs.get(job, owner) for job in asked]
        return [job for job in found if job is not None]

    def _progress(self, owner: str, jobs: list[JobRow]) -> ProgressOutputs:
        running = any(not job.finished for job in jobs)
        maps = [job.map_id for job in jobs if job.map_id]
        queue = self._studio.jobs
        lines = [
            (job, queue.position(job.id), None if job.finished else queue.eta(job.id))
            for job in jobs
        ]
        return ProgressOutputs(
            jobs=[job.id for job in jobs],
            timer=gr.Timer(active=running),
            progress=comparison.progress(lines),
            train=gr.update(interactive=not running),
            cancel=gr.update(interactive=running),
            trained=maps if not running and len(maps) == len(LETTERS) else gr.skip(),
        )


def _labels(rows: list[MapRow]) -> list[tuple[str, str]]:
    return [
        (f"{row.title} · {TITLES.get(row.method, row.method)} · {made_on(row)}", row.id)
        for row in rows
    ]


def _heading(number: int, row: MapRow, strength: float) -> str:
    return f"{LETTERS[number]}: {row.title} {strength:.2f}"
