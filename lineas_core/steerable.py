"""What training, fitting and steering ask of a model and of its prepared prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Bool
from torch import Tensor, nn

Pooling = Literal["mean", "last", "max"]


@runtime_checkable
class Packed(Protocol):
    """Real tokens of all prompts in one row (`models/packing.py`)."""

    @property
    def ends(self) -> Tensor:
        """Where each prompt has its last token."""

    @property
    def averages(self) -> Tensor:
        """Times the row, the mean over each prompt's tokens."""

    def spread(self, packed: Tensor) -> Tensor:
        """(real, d) -> (n, longest, d)."""


@runtime_checkable
class Inputs(Protocol):
    """Prepared prompts: what a model's `forward` takes, with a row per prompt."""

    @property
    def mask(self) -> Bool[Tensor, "n tokens"] | None:
        """True at real tokens; None where the model does not read tokens."""

    @property
    def packing(self) -> Packed | None:
        """How the real tokens lie in a row where the model runs them without padding."""

    def __len__(self) -> int: ...

    def rows(self, indices: Sequence[int]) -> Inputs:
        """The inputs of some of the prompts."""
        ...


@runtime_checkable
class Steerable(Protocol):
    """What training and fitting need of a model."""

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
        """Preset or expression that is used where none is chosen."""
        ...

    @property
    def train_defaults(self) -> Mapping[str, Any]:
        """Shipped settings that differ from those of `TrainConfig`."""
        ...

    def sites(self, pattern: str) -> list[str]:
        """Module names that a preset or expression picks out."""
        ...

    def prepare(self, prompts: Sequence[str]) -> Any:
        """`Inputs` of the prompts, made once and used in every step."""
        ...

    def forward(self, inputs: Any) -> None:
        """Run the part of the model that holds the sites."""
        ...

    def surprise(self, prompts: Sequence[str]) -> float | None:
        """Perplexity of `prompts` under the model as it is steered now; None if it reads none."""
