"""What the server asks of whoever runs it, and the host of one model."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

from lineas_core.maps.steering_map import SteeringMap
from lineas_core.models.language.chat import Prompt
from lineas_core.models.language.model import LanguageModel
from lineas_core.models.language.sampling import MAX_NEW_TOKENS
from lineas_core.serving.batches import Steered
from lineas_core.serving.request_error import RequestError
from lineas_core.steering import steer

MAX_CHOICES = 128
MAX_ROWS = 8


@runtime_checkable
class Host(Protocol):
    """Who may ask, which models and maps there are, and within which limits.

    Attributes:
        max_tokens: tokens of an answer at most.
        max_choices: answers of a request at most.
        max_rows: answers of several requests that are written at once.
        exact: requests share no batch where that may change a text.
        max_waiting: requests that may wait.
        max_characters: of a text at most; None leaves it to the model.
    """

    max_tokens: int
    max_choices: int
    max_rows: int
    exact: bool
    max_waiting: int
    max_characters: int | None

    def caller(self, key: str) -> str:
        """Who asks with this key, which is "" where there is none.

        Raises:
            RequestError: the key is not known, status 401.
        """
        ...

    def models(self) -> Sequence[str]:
        """Names of the models to list."""
        ...

    def steering(
        self,
        caller: str,
        model: str,
        asked: Sequence[tuple[str, float]] | None,
        answers: int,
    ) -> Sequence[Steered]:
        """The maps of a request, which counts as `answers` towards the caller's limits.

        Raises:
            LineasError: the model or a map is not there, or must not be used; or a limit is
                exceeded.
        """
        ...

    def load(self, model: str) -> LanguageModel:
        """The model of that name.

        Raises:
            LineasError: there is none.
        """
        ...

    def check(self, model: LanguageModel, prompts: Sequence[Prompt], room: int) -> None:
        """Refuse answers that would take too much, before they are written.

        Args:
            model: what is to write them.
            prompts: one for each answer.
            room: tokens of an answer at most.

        Raises:
            LineasError: they would.
        """
        ...

    def running(self, model: str) -> AbstractContextManager[object]:
        """Entered for the time that the model is used."""
        ...

    def told(self, message: str) -> str:
        """An error message as callers may see it."""
        ...


class OneModel:
    """Serves one model with maps that are loaded already.

    Args:
        model: the model.
        maps: name -> map, and the strength of requests that do not say; first applied first.
        key: what callers must know; "" lets everybody in.
        max_rows: answers of several requests that are written at once, also where rounding then
            changes a text; None for `MAX_ROWS` where it does not.

    Raises:
        SiteError: a map does not fit the model.
    """

    max_tokens = MAX_NEW_TOKENS
    max_choices = MAX_CHOICES
    max_waiting = 256
    max_characters: int | None = None

    def __init__(
        self,
        model: LanguageModel,
        maps: Mapping[str, tuple[SteeringMap, float]],
        *,
        key: str = "",
        max_rows: int | None = None,
    ) -> None:
        self._model, self._maps, self._key = model, maps, key
        self.max_rows, self.exact = max_rows or MAX_ROWS, max_rows is None
        for smap, strength in maps.values():
            with steer(model, [(smap, strength)]):
                pass
        # A folder's place is nothing that clients should learn.
        self.name = Path(model.id).name if Path(model.id).is_dir() else model.id

    def caller(self, key: str) -> str:
        """Everybody with the key is the same caller."""
        if self._key and not secrets.compare_digest(key.encode(), self._key.encode()):
            raise unknown_key()
        return ""

    def models(self) -> Sequence[str]:
        """The one."""
        return [self.name]

    def steering(
        self,
        caller: str,
        model: str,
        asked: Sequence[tuple[str, float]] | None,
        answers: int,
    ) -> Sequence[Steered]:
        """The maps that are asked for; else all, at the strengths that they were given."""
        self.load(model)
        if asked is None:
            return [Steered(name, *rest) for name, rest in self._maps.items()]
        for place, (name, _) in enumerate(asked):
            if name not in self._maps:
                known = ", ".join(map(repr, self._maps)) or "none; start the server with --map"
                raise RequestError(
                    f"steering.{place}.map is {name!r}; the maps here are {known}.",
                    param=f"steering.{place}.map",
                )
        return [Steered(name, self._maps[name][0], strength) for name, strength in asked]

    def load(self, model: str) -> LanguageModel:
        """The one, if it is asked for."""
        if model != self.name:
            raise no_model(model, f"this server has {self.name!r}")
        return self._model

    def check(self, model: LanguageModel, prompts: Sequence[Prompt], room: int) -> None:
        """Nothing is refused: whoever runs the server knows its memory and its callers."""

    def running(self, model: str) -> AbstractContextManager[object]:
        """Nothing else uses the model."""
        return contextlib.nullcontext()

    def told(self, message: str) -> str:
        """The message, with the model's name in place of its folder."""
        return message.replace(self._model.id, self.name)


def unknown_key() -> RequestError:
    """What a caller with a wrong key is told."""
    return RequestError(
        "The API key is missing or wrong; send the right one as `Authorization: Bearer KEY`.",
        status=401,
        code="invalid_api_key",
    )


def no_model(model: str, there: str) -> RequestError:
    """What is told of a model that is not there; `there` says what is."""
    return RequestError(
        f"model is {model!r}; {there}.", status=404, param="model", code="model_not_found"
    )
