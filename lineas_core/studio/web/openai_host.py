"""The app's models and maps for clients of OpenAI's API, within the limits of visitors."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from lineas_core.errors import ConfigError, ModelError
from lineas_core.models.language.chat import Prompt
from lineas_core.models.language.model import LanguageModel
from lineas_core.models.load import as_language_model
from lineas_core.prompts.prompt_set import MAX_PROMPT
from lineas_core.serving.batches import Steered
from lineas_core.serving.host import no_model, unknown_key
from lineas_core.serving.request_error import RequestError
from lineas_core.studio.access.limits import LimitError
from lineas_core.studio.access.moderation import ContentError
from lineas_core.studio.access.redaction import without_paths
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.fields import MAX_TOKENS
from lineas_core.studio.answers.texts import MAX_SAMPLES
from lineas_core.studio.app import Studio
from lineas_core.studio.jobs.device.gpu import lends_gpu
from lineas_core.studio.jobs.device.model_cache import catalog_models
from lineas_core.studio.web.api import mix_of_ids


class StudioHost:
    """Serves the app's language models; a visitor's key is the API key.

    Args:
        studio: the app's shared state.
    """

    max_tokens = MAX_TOKENS
    max_choices = MAX_SAMPLES
    max_characters: int | None = MAX_PROMPT
    exact = True

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self.max_rows = studio.settings.concurrency
        self.max_waiting = studio.settings.max_waiting

    def caller(self, key: str) -> str:
        """The owner of what was made with the key."""
        try:
            return owner_of(key)
        except ConfigError as error:
            raise unknown_key() from error

    def models(self) -> Sequence[str]:
        """The catalogue's language models."""
        return [entry.id for entry in catalog_models("text")]

    def steering(
        self,
        caller: str,
        model: str,
        asked: Sequence[tuple[str, float]] | None,
        answers: int,
    ) -> Sequence[Steered]:
        """The visitor's maps of these ids; none where the request has none."""
        if lends_gpu(self._studio.environment):
            raise RequestError(
                "This Space borrows its GPU for each call of its own page, so /v1 is not offered "
                "here. Call /complete of the API page instead."
            )
        self._check(model)
        maps = asked or ()
        try:
            for _ in range(answers - 1):
                self._studio.limits.admit(caller)
            ids, strengths = [name for name, _ in maps], [strength for _, strength in maps]
            mix = mix_of_ids(self._studio, caller, ids, strengths, model)
        except LimitError as error:
            raise RequestError(str(error), status=429, code="rate_limit_exceeded") from error
        except (ConfigError, ContentError) as error:
            raise RequestError(str(error), param="steering") from error
        return [
            Steered(row.id, smap, strength)
            for row, smap, strength in zip(mix.rows, mix.maps, mix.strengths, strict=True)
        ]

    def load(self, model: str) -> LanguageModel:
        """The model, loaded."""
        try:
            self._studio.inference.load(model)
            return as_language_model(self._studio.inference.model(model))
        except ModelError as error:
            raise no_model(model, str(error)) from error

    def check(self, model: LanguageModel, prompts: Sequence[Prompt], room: int) -> None:
        """As the texts of the page are checked."""
        self._studio.inference.text_limits.check(model, prompts, room)

    def running(self, model: str) -> AbstractContextManager[object]:
        """Training waits meanwhile."""
        return self._studio.inference.serving(model)

    def told(self, message: str) -> str:
        """Without places on the server."""
        return without_paths(message)

    def _check(self, model: str) -> None:
        try:
            self._studio.model_cache.check(model)
        except ConfigError as error:
            raise no_model(model, "/v1/models lists those that are here") from error
