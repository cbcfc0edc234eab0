"""TrainState: everything a training run needs to resume and reach the same map."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lineas_core.errors import ConfigError, TrainingError
from lineas_core.maps.steering_map import Affine, BatchAffine
from lineas_core.system.files import parse_json, why, write_whole


class HostState(NamedTuple):
    """What the host knows of the last good state: steps, seconds, and how to draw what comes."""

    step: int
    seconds: float
    generator: Tensor


@dataclass(frozen=True, eq=False)
class TrainState:
    """A training run between two steps.

    Attributes:
        run: identifies the run: model, prompts, settings, sites.
        tensors: parameters, optimizer moments and the generator's state, on the CPU.
        losses: the loss before each step so far.
        seconds: training time so far.
    """

    run: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    losses: tuple[float, ...]
    seconds: float

    @property
    def sites(self) -> dict[str, Affine]:
        """The map at this step, site by site in the order of the model."""
        return {
            name: BatchAffine(
                *(self.tensors[f"param.{name}.{part}"] for part in BatchAffine._fields)
            ).affine()
            for name in self.run["sites"]
        }

    def params(self, names: Sequence[str]) -> list[Tensor]:
        """Gain and shift of the sites, one after the other."""
        return [self.tensors[f"param.{n}.{part}"] for n in names for part in BatchAffine._fields]

    def moment(self, name: str, sizes: Sequence[int]) -> list[Tensor]:
        """One of the optimizer's moments, a vector per parameter; zeros before the first step."""
        return [
            self.tensors.get(f"optimizer.{index}.{name}", torch.zeros(size))
            for index, size in enumerate(sizes)
        ]

    @classmethod
    def capture(
        cls,
        *,
        run: Mapping[str, Any],
        params: Mapping[str, BatchAffine],
        moments: Mapping[str, Sequence[Tensor]],
        generator: Tensor,
        rate: Tensor,
        losses: Sequence[float],
        seconds: float,
    ) -> TrainState:
        """Copy the state of a live run.

        Args:
            run: see the class.
            params: site -> gain and shift, on the CPU.
            moments: name -> a vector per parameter, on the CPU.
            generator: state of the generator that draws minibatches.
            rate: the rate at the first step, and how often it was lowered.
            losses: see the class.
            seconds: see the class.
        """
        tensors = {"generator": generator, "rate": rate}
        for name, affine in params.items():
            for part, value in zip(affine._fields, affine, strict=True):
                tensors[f"param.{name}.{part}"] = value.clone()
        for name, vectors in moments.items():
            for index, vector in enumerate(vectors):
                # safetensors rejects tensors that share storage.
                tensors[f"optimizer.{index}.{name}"] = vector.clone()
        return cls(run, tensors, tuple(losses), seconds)

    def check(self, run: Mapping[str, Any]) -> None:
        """Refuse to resume another run.

        Raises:
            ConfigError: the live run's model, prompts, settings or sites differ.
        """
        differing = [key for key in run if self.run.get(key) != run[key]]
        if differing:
            raise ConfigError(
                f"The state was saved with another {differing[0]}: {self.run.get(differing[0])!r}, "
                f"not {run[differing[0]]!r}. Resume with the same one, or start anew."
            )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the state to a safetensors file atomically.

        Raises:
            TrainingError: the file cannot be written.
        """
        header = {"run": self.run, "losses": self.losses, "seconds": self.seconds}
        try:
            return write_whole(
                path, save(dict(self.tensors), metadata={"state": json.dumps(header)})
            )
        except OSError as error:
            raise TrainingError(
                f"Cannot write the training state to {Path(path).name} ({why(error)}). Choose a "
                "folder that can be written."
            ) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TrainState:
        """Read a state written by `save`.

        Raises:
            TrainingError: the file is missing or damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                header = parse_json((file.metadata() or {})["state"])
                # Copies, for a mapped file cannot be replaced on Windows, and the next state will.
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
            return cls(
                dict(header["run"]),
                tensors,
                tuple(map(float, header["losses"])),
                float(header["seconds"]),
            )
        except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
            raise TrainingError(
                f"{Path(path).name} is not a readable training state ({why(error)}). Start anew."
            ) from error
