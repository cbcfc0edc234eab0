"""TrainState: everything a training run needs to resume and reach the same map."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lineas_core.errors import ConfigError, TrainingError
from lineas_core.maps.steering_map import Affine, BatchAffine
from lineas_core.system.files import parse_json, why, write_whole


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

    @classmethod
    def capture(
        cls,
        *,
        run: Mapping[str, Any],
        params: Mapping[str, BatchAffine],
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        losses: list[float],
        seconds: float,
    ) -> TrainState:
        """Copy the state of a live run."""
        live: dict[str, Tensor] = {}
        for name, affine in params.items():
            for part, value in zip(affine._fields, affine, strict=True):
                live[f"param.{name}.{part}"] = value.detach()
        for index, moments in optimizer.state_dict()["state"].items():
            for key, value in moments.items():
                if isinstance(value, Tensor):
                    live[f"optimizer.{index}.{key}"] = value.detach()
        tensors = {"generator": generator.get_state(), **_copied(live)}
        return cls(run, tensors, tuple(losses), seconds)

    @torch.no_grad()
    def restore(
        self,
        *,
        run: Mapping[str, Any],
        params: Mapping[str, BatchAffine],
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> None:
        """Copy this state into a live run.

        Raises:
            ConfigError: the live run's model, prompts, settings or sites differ.
        """
        differing = [key for key in run if self.run.get(key) != run[key]]
        if differing:
            raise ConfigError(
                f"The state was saved with another {differing[0]}: {self.run.get(differing[0])!r}, "
                f"not {run[differing[0]]!r}. Resume with the same one, or start anew."
            )
        for name, affine in params.items():
            for part, value in zip(affine._fields, affine, strict=True):
                value.copy_(self.tensors[f"param.{name}.{part}"])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in self.tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                moments.setdefault(int(index), {})[name] = tensor.clone()
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
        generator.set_state(self.tensors["generator"])

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


def _copied(live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the CPU, with one transfer per dtype and device instead of one per tensor."""
    kinds: dict[tuple[torch.dtype, torch.device], list[str]] = {}
    for name, tensor in live.items():
        kinds.setdefault((tensor.dtype, tensor.device), []).append(name)
    found: dict[str, Tensor] = {}
    for names in kinds.values():
        flat = torch.cat([live[name].flatten() for name in names]).cpu()
        for name, part in zip(names, flat.split([live[n].numel() for n in names]), strict=True):
            # safetensors rejects tensors that share storage.
            found[name] = part.view(live[name].shape).clone()
    return found
