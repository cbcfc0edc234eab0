"""The app's named endpoints, for its API page, API clients and MCP tools.

Each takes the visitor's key, as the page does, and returns JSON.
"""

# No postponed annotations: Gradio shows return types as the signature has them, unresolved.
import base64
import functools
import inspect
import io
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar

import gradio as gr
from PIL import Image
from pydantic import ValidationError, validate_call

from lineas_core.errors import ConfigError
from lineas_core.models.image.safety import is_withheld
from lineas_core.prompts.prompt_set import MAX_PROMPT, PromptSet
from lineas_core.studio.access.error_messages import with_plain_messages
from lineas_core.studio.access.redaction import without_paths
from lineas_core.studio.access.visitors import new_key, owner_of
from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.answers.fields import checked_length, checked_prompts, checked_search
from lineas_core.studio.app import Studio
from lineas_core.studio.jobs.device.model_cache import catalog_models
from lineas_core.studio.rack.mix import Mix
from lineas_core.studio.rack.rack import RackState
from lineas_core.studio.storage.store import JobRow, MapRow
from lineas_core.system.words import counted

# Entries of a list; more prompts than a map can be trained on are refused by a limit of their own.
MAX_LISTED = 4096

P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Validate the function's arguments against its annotations, and bound their lengths.

    The wrapped function raises `ConfigError` naming the first invalid argument.
    """
    validated = validate_call(function)
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in [*zip(names, args, strict=False), *kwargs.items()]:
            _check_length(name, value)
        try:
            return validated(*args, **kwargs)
        except ValidationError as error:
            first = error.errors()[0]
            place, *inside = first["loc"]
            name = ".".join(map(str, [names[place] if isinstance(place, int) else place, *inside]))
            raise ConfigError(f"{name} is {first['input']!r:.200}: {first['msg']}.") from error

    return call


def _check_length(name: str, value: Any) -> None:
    """Refuse a text of more than `MAX_PROMPT` characters, also in a list, and a list too long.

    Raises:
        ConfigError: it is.
    """
    if isinstance(value, str) and len(value) > MAX_PROMPT:
        raise ConfigError(
            f"{name} has {len(value)} characters, beginning with {value[:20]!r}; {MAX_PROMPT} is "
            "the limit. Shorten it."
        )
    if isinstance(value, list):
        if len(value) > MAX_LISTED:
            raise ConfigError(
                f"{name} has {len(value)} entries; {MAX_LISTED} is the limit. Leave some out."
            )
        for place, part in enumerate(value):
            if isinstance(part, str):
                _check_length(f"{name}.{place}", part)


class Api:
    """The API functions, as methods that share the app's state.

    Args:
        studio: the app's shared state.
        answers: generates texts and images, and lists prompt sets.
    """

    def __init__(self, studio: Studio, answers: Answers) -> None:
        self._studio = studio
        self._texts, self._pictures = answers.texts, answers.pictures
        self._prompts = answers.prompts

    @with_plain_messages
    @checked
    def new_visitor(self) -> str:
        """A new visitor's key. Maps and jobs belong to whoever knows the key they were made with.

        Returns:
            A secret to pass to the other functions.
        """
        return new_key()

    @with_plain_messages
    @checked
    def list_maps(self, visitor: str, search: str = "") -> list[dict[str, Any]]:
        """The visitor's maps and those that ship with the app.

        Args:
            visitor: the visitor's key.
            search: words that title, tags, concept, model or method hold.

        Returns:
            id, title, concept, model, modality, recommended strength and support of each map.
        """
        words = checked_search(search)
        return [_map(row) for row in self._studio.library.maps(owner_of(visitor), search=words)]

    @with_plain_messages
    @checked
    def list_prompt_sets(self, visitor: str, modality: str = "text") -> list[dict[str, str]]:
        """The prompt sets that a map can be trained on.

        Args:
            visitor: the visitor's key.
            modality: "text" or "image".

        Returns:
            id and title of each set.
        """
        choices = self._prompts.choices(owner_of(visitor), modality)
        return [{"id": chosen, "title": title} for title, chosen in choices]

    @with_plain_messages
    @checked
    def train(
        self,
        visitor: str,
        model: str,
        prompt_set: str = "",
        source: list[str] | None = None,
        target: list[str] | None = None,
        concept: str = "",
        steps: int = 0,
        modality: Literal["", "text", "image"] = "",
        method: str = "lineas",
        sites: str = "",
    ) -> dict[str, Any]:
        """Train a map in the background.

        Args:
            visitor: the visitor's key.
            model: a name of the catalogue, such as "smollm2" or "emoji-onestep".
            prompt_set: id of a prompt set; empty where source and target are given.
            source: prompts to steer, 4 or more.
            target: prompts to steer towards, 4 or more.
            concept: what the targets have.
            steps: 0 takes what suits the model; only "lineas" and "lineas+" have steps.
            modality: "text" or "image", for a model outside the catalogue; empty takes the
                catalogue's word, or text.
            method: "lineas", "lineas+" (for text), or one that is fitted in one go, such as
                "lin-act" or "mean-act".
            sites: a preset, such as "post_layernorm", or a regular expression for names of modules;
                empty takes the model's default.

        Returns:
            The job: id, status, step, steps, loss, map_id and message. Ask `job` for news.
        """
        owner = owner_of(visitor)
        if prompt_set:
            prompts = self._prompts.find(owner, prompt_set)
        else:
            kinds = {entry.id: "image" for entry in catalog_models("image")}
            prompts = PromptSet(
                name="api",
                title=concept or "From the API",
                source=list(source or ()),
                target=list(target or ()),
                concept=concept,
                modality=modality or ("image" if model in kinds else "text"),
            )
        changes: dict[str, Any] = {"steps": steps} if steps else {}
        if sites:
            changes["sites"] = sites
        return _job(self._studio.train(owner, model, prompts, changes, method=method))

    @with_plain_messages
    @checked
    def job(self, visitor: str, job_id: str) -> dict[str, Any]:
        """A training job as it is now.

        Args:
            visitor: the key that it was started with.
            job_id: from `train`.

        Returns:
            id, status, step, steps, loss, map_id and message; empty where there is no such job.
        """
        owner = owner_of(visitor)
        self._studio.quotas.watch(owner)
        found = self._studio.jobs.get(job_id, owner)
        return _job(found) if found else {}

    @with_plain_messages
    @checked
    def cancel(self, visitor: str, job_id: str) -> bool:
        """Stop a training job within a step; what it has learned is kept.

        Args:
            visitor: the key that it was started with.
            job_id: from `train`.

        Returns:
            Whether there was something to stop.
        """
        return self._studio.jobs.cancel(job_id, owner_of(visitor))

    @with_plain_messages
    @checked
    def complete(
        self,
        visitor: str,
        prompt: str,
        maps: list[str],
        strengths: list[float],
        model: str = "smollm2",
        seed: int = 0,
        tokens: int = 48,
    ) -> str:
        """Continue a text with maps on.

        Args:
            visitor: the visitor's key.
            prompt: the text to continue.
            maps: ids from `list_maps`, first applied first; may be empty.
            strengths: one for each map, -1 to 2; 0 is the untouched model and 1 the full map.
            model: a language model's name.
            seed: same seed, same text.
            tokens: written at most.

        Returns:
            The continuation.
        """
        mix = mix_of_ids(self._studio, owner_of(visitor), maps, strengths, model)
        return self._texts.complete(mix, model, prompt, seed, checked_length(prompt, tokens))

    @with_plain_messages
    @checked
    def picture(
        self,
        visitor: str,
        prompts: list[str],
        maps: list[str],
        strengths: list[float],
        model: str = "emoji-onestep",
        seed: int = 0,
    ) -> dict[str, Any]:
        """Picture things with maps on, and score the pictures.

        Args:
            visitor: the visitor's key.
            prompts: at most 8.
            maps: ids from `list_maps`, first applied first; may be empty.
            strengths: one for each map, -1 to 2; 0 is the untouched model and 1 the full map.
            model: an image model's name.
            seed: same seed, same pictures.

        Returns:
            images (PNG as data addresses), clip (concept -> CLIPScore of each), kept (IMGScore of
            each), scorer, and withheld (how many pictures the host's safety checker keeps back).
        """
        mix = mix_of_ids(self._studio, owner_of(visitor), maps, strengths, model)
        wanted = checked_prompts(prompts)
        self._studio.check_images(model, 2 * len(wanted))
        found = self._pictures.look(mix, model, wanted, seed)
        return {
            "images": [_address(image) for image in found.after],
            "clip": found.clip,
            "kept": found.kept,
            "scorer": found.scorer,
            "withheld": sum(map(is_withheld, found.after)),
        }


def mix_of_ids(
    studio: Studio, owner: str, maps: list[str], strengths: list[float], model: str
) -> Mix:
    """The maps of these ids, each at its strength. Counts as a request for an answer.

    Raises:
        ConfigError: a map is not there or not for the model, or a strength is out of range.
        LineasError: as for `Studio.mix`.
    """
    mix = studio.mix(owner, _rack(maps, strengths), model)
    found = {row.id for row in mix.rows}
    if missing := [name for name in maps if name not in found]:
        raise ConfigError(
            f"There is no map {missing[0]!r} of {model} here; list_maps tells which there are."
        )
    return mix


def add_api(studio: Studio, answers: Answers) -> None:
    """Register the API functions on the `Blocks` page that is being built."""
    api = Api(studio, answers)
    for function in (
        api.new_visitor, api.list_maps, api.list_prompt_sets, api.train, api.job, api.cancel,
    ):  # fmt: skip
        gr.api(function, concurrency_id="api")
    gr.api(api.complete, concurrency_id="texts")
    gr.api(api.picture, concurrency_id="sliders")


def _rack(maps: list[str], strengths: list[float]) -> RackState:
    if len(maps) != len(strengths):
        raise ConfigError(
            f"{counted(len(strengths), 'strength')} for {counted(len(maps), 'map')}; give "
            f"one for each."
        )
    rows = [{"id": m, "strength": s} for m, s in zip(maps, strengths, strict=True)]
    return RackState.from_page({"state": {"rows": rows}})


def _map(row: MapRow) -> dict[str, Any]:
    return {
        name: getattr(row, name)
        for name in ("id", "title", "concept", "model", "modality", "recommended", "support")
    }


def _job(job: JobRow) -> dict[str, Any]:
    return {
        name: getattr(job, name) for name in ("id", "status", "step", "steps", "loss", "map_id")
    } | {"message": without_paths(job.message)}


def _address(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
