"""Protocols of a model, its samples and its inputs, as training, fitting and steering use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor, nn

from lineas_core.prompts.prompt_set import Sides

Pooling = Literal["mean", "last", "max"]


@runtime_checkable
class Packed(Protocol):
    """Layout of the real tokens of all prompts in one row (`models/language/packing.py`)."""

    @property
    def alike(self) -> bool:
        """Whether all prompts have the same length."""

    @property
    def ends(self) -> Tensor:
        """Index of each prompt's last token in the row."""

    @property
    def averages(self) -> Tensor:
        """Matrix (n, real) that maps the row to the mean over each prompt's tokens."""

    def spread(self, packed: Tensor) -> Tensor:
        """Pad the row to a batch: (real, d) -> (n, longest, d)."""


@runtime_checkable
class Inputs(Protocol):
    """Prepared prompts or pictures: what a model's `forward` takes, with a row per prompt."""

    @property
    def mask(self) -> Bool[Tensor, "n tokens"] | None:
        """True at real tokens; None if the model does not read tokens."""

    @property
    def packing(self) -> Packed | None:
        """Layout of the tokens if the model runs them packed in one row; None if padded."""

    def __len__(self) -> int: ...

    def mask_at(self, tokens: int) -> Bool[Tensor, "n tokens"] | None:
        """The mask of a site's output that has `tokens` tokens; None if all of them are real."""

    def rows(self, indices: Sequence[int] | Tensor) -> Inputs:
        """The inputs of the prompts at `indices`.

        A tensor, on the device, gives inputs of the same shape whatever it holds.
        """
        ...


@runtime_checkable
class Continuations(Protocol):
    """Prepared texts, each after a context, whose likelihood can be trained."""

    @property
    def mask(self) -> Bool[Tensor, "n tokens"] | None:
        """True at real tokens."""

    @property
    def counts(self) -> Float[Tensor, "n 1"]:
        """Number of tokens of each text, without its context."""

    def __len__(self) -> int: ...

    def rows(self, indices: Sequence[int] | Tensor) -> Continuations:
        """The texts at `indices`; see `Inputs.rows`."""
        ...

    def losses(self) -> Float[Tensor, " n"]:
        """Negative log-likelihood of each text after its context, in nats, summed over its tokens.

        With the maps that are on, and differentiable in them.
        """
        ...


@runtime_checkable
class Samples(Protocol):
    """What a map is learned from: a `PromptSet` of texts, or an `ImageSet` of pictures."""

    @property
    def name(self) -> str:
        """Short name."""
        ...

    @property
    def concept(self) -> str:
        """What the target has and the source lacks."""
        ...

    def hash(self) -> str:
        """A short hash of all samples, in order."""
        ...

    def split(self, holdout: float, seed: int) -> tuple[Sides[Any], Sides[Any]]:
        """Training and held-out samples, as a model's `prepare` takes them."""
        ...


@runtime_checkable
class Steerable(Protocol):
    """A model that maps can be trained and fitted on."""

    @property
    def id(self) -> str:
        """The name it was loaded by."""
        ...

    @property
    def module(self) -> nn.Module:
        """The torch module whose sites are steered."""
        ...

    @property
    def default_sites(self) -> str:
        """Preset or regular expression used when none is given."""
        ...

    @property
    def train_defaults(self) -> Mapping[str, Any]:
        """Settings shipped for this model that differ from the defaults of `TrainConfig`."""
        ...

    def sites(self, pattern: str) -> list[str]:
        """Module names that match a preset or regular expression."""
        ...

    def prepare(self, prompts: Sequence[Any]) -> Any:
        """`Inputs` of the prompts or pictures, prepared once and reused in every step."""
        ...

    def forward(self, inputs: Any) -> None:
        """Run the part of the model that contains the sites."""
        ...

    def perplexity(self, prompts: Sequence[Any]) -> float | None:
        """Perplexity of `prompts` under the model as currently steered; None for image models."""

    def continuations(self, contexts: Sequence[str], texts: Sequence[str]) -> Any:
        """`Continuations` of the texts, each after the context at its place.

        Raises:
            ConfigError: the model writes no text.
        """
        ...
