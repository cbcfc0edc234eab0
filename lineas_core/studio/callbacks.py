"""The app's state, and what both tabs do: train, cancel, find maps."""

from __future__ import annotations

import functools
import logging
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import gradio as gr
import pandas as pd

from lineas_core.errors import LineasError, MapError
from lineas_core.maps import SteeringMap
from lineas_core.models import Model, load_model
from lineas_core.models.catalog import catalog
from lineas_core.prompts import PromptSet
from lineas_core.studio import render
from lineas_core.studio.jobs import Job, Jobs
from lineas_core.studio.library import MapLibrary
from lineas_core.trainer import TrainConfig

P = ParamSpec("P")
R = TypeVar("R")
log = logging.getLogger(__name__)


def with_messages(function: Callable[P, R]) -> Callable[P, R]:
    """An error of the library becomes a message on the page; any other goes to the log."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except LineasError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except gr.Error:
            raise
        except Exception as error:
            log.exception("%s failed", function.__name__)
            raise gr.Error(
                "Something unexpected went wrong; the log has the details. Nothing was lost.",
                print_exception=False,
            ) from error

    return guarded


class Studio:
    """The app's state and the callbacks that do not depend on what is generated.

    Args:
        home: folder for maps and converted models.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.library = MapLibrary(home / "maps")
        self.jobs = Jobs(self.model, self.library.add)
        # What visitors download; the page serves nothing else from the disk.
        self.downloads = tempfile.TemporaryDirectory(prefix="lineas-downloads-")
        self._models: dict[str, Model] = {}
        self._loading = threading.Lock()

    def close(self) -> None:
        """Stop every job and drop the downloads."""
        self.jobs.close()
        self.downloads.cleanup()

    def model(self, name: str) -> Model:
        """The loaded model of that name; one of each kind is kept."""
        with self._loading:
            if name not in self._models:
                kept = {n: m for n, m in self._models.items() if _kind(n) != _kind(name)}
                self._models = kept
                self._models[name] = load_model(name, home=self.home)
            return self._models[name]

    def map(self, map_id: str | None) -> SteeringMap:
        """The map that was chosen."""
        if not map_id:
            raise MapError("There is no map to steer with yet; train one first.")
        return self.library.get(map_id)

    @with_messages
    def describe_prompts(self, prompt_set: str) -> str:
        """Examples of a prompt set, as HTML."""
        return render.prompt_set(PromptSet.load(prompt_set))

    @with_messages
    def start_training(
        self, model: str, prompt_set: str, steps: float, rate: float, gamma: float | None
    ) -> tuple[Any, ...]:
        """Queue a job; steps and rate of 0, and no gamma, take the model's shipped ones."""
        prompts = PromptSet.load(prompt_set)
        settings = (("steps", int(steps)), ("rate", rate))
        chosen = {name: value for name, value in settings if value}
        if gamma is not None:
            chosen["gamma"] = float(gamma)
        job = self.jobs.start(model, prompts, lambda m: TrainConfig.for_model(m, **chosen))
        return self.poll(job.id, model)

    @with_messages
    def poll(self, job_id: str, model: str) -> tuple[Any, ...]:
        """What the page shows of a job: id, timer, bar, curve, health, buttons, maps."""
        job = self.jobs.get(job_id) if job_id else None
        running = job is not None and not job.finished
        maps = gr.update()
        if job is not None and job.finished and job.map_id:
            maps = gr.update(choices=self.library.choices(model), value=job.map_id)
        return (
            job_id,
            gr.Timer(active=running),
            render.progress(job),
            gr.update(value=loss_curve(job), visible=bool(job and job.losses)),
            render.health(job.health if job else None),
            gr.update(interactive=not running),
            gr.update(interactive=running),
            maps,
        )

    @with_messages
    def cancel(self, job_id: str, model: str) -> tuple[Any, ...]:
        """Stop a job within a step; its map is kept."""
        self.jobs.cancel(job_id)
        return self.poll(job_id, model)

    @with_messages
    def arrive(self, model: str) -> tuple[Any, ...]:
        """What a page that has just opened shows: the model's running job, if any, and its maps."""
        job = self.jobs.unfinished(model)
        *shown, _ = self.poll(job.id if job else "", model)
        return (*shown, self.maps_of(model))

    @with_messages
    def maps_of(self, model: str) -> Any:
        """The maps made for a model, the newest chosen."""
        choices = self.library.choices(model)
        return gr.update(choices=choices, value=choices[0][1] if choices else None)


def loss_curve(job: Job | None) -> pd.DataFrame:
    """Loss by step, for the plot."""
    losses = job.losses if job else ()
    return pd.DataFrame({"step": range(1, len(losses) + 1), "loss": list(losses)})


def _kind(model: str) -> str:
    entry = catalog().get(model)
    return entry.kind if entry else model
