"""A training run that survives being stopped, and what is done to its results."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Stateful(Protocol):
    """Modules and optimizers."""

    def state_dict(self) -> dict[str, Any]:
        """All that has to be kept."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Take it back."""
        ...


def optimizer_for(modules: list[nn.Module], rate: float, decay: float) -> torch.optim.AdamW:
    """AdamW that decays matrices and convolutions, not norms and biases."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=rate,
        betas=(0.9, 0.98),
    )


class Run:
    """Steps of `step(number) -> loss` under a warm-up and a half cosine, kept in `folder`.

    Args:
        folder: of the checkpoint and the log.
        parts: what is saved and restored, by name.
        optimizer: its rates are set each step and its gradients clipped to norm 1.
        rate: the highest learning rate.
        steps: in all.
        warm: steps of the warm-up.
    """

    def __init__(
        self,
        folder: Path,
        parts: Mapping[str, Stateful],
        optimizer: torch.optim.Optimizer,
        rate: float,
        steps: int,
        warm: int = 200,
    ) -> None:
        self.folder, self.parts, self.optimizer = folder, parts, optimizer
        self.rate, self.steps, self.warm = rate, steps, warm
        self.done = 0
        folder.mkdir(parents=True, exist_ok=True)
        if self._checkpoint.is_file():
            state = torch.load(self._checkpoint, weights_only=True)
            self.optimizer.load_state_dict(state["optimizer"])
            for name, part in parts.items():
                part.load_state_dict(state[name])
            self.done = state["done"]

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def train(
        self,
        step: Callable[[int], Tensor],
        *,
        every: int,
        after: Callable[[int], object],
        report: Callable[[], object],
    ) -> None:
        """Train to the last step.

        Args:
            step: the loss of one step, from its number alone.
            every: steps between checkpoints and reports.
            after: called after each step.
            report: its result is logged with each checkpoint.
        """
        began, first, losses = time.perf_counter(), self.done, []
        while self.done < self.steps:
            warm = min(1.0, (self.done + 1) / self.warm)
            rate = self.rate * warm * (1 + math.cos(math.pi * self.done / self.steps)) / 2
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss = step(self.done)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            self.optimizer.step()
            self.done += 1
            after(self.done)
            losses.append(loss.item())
            if self.done % 50 == 0:
                pace = (time.perf_counter() - began) / (self.done - first)
                mean = sum(losses[-50:]) / len(losses[-50:])
                self._log(f"step {self.done} of {self.steps}: loss {mean:.4f}, {pace:.2f} s a step")
            if self.done % every == 0 or self.done == self.steps:
                self.save()
                self._log(f"step {self.done}: {report()}")

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"optimizer": self.optimizer.state_dict(), "done": self.done}
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.rename(self._checkpoint)

    def _log(self, line: str) -> None:
        print(line, flush=True)
        with (self.folder / "log.txt").open("a") as file:
            file.write(line + "\n")


def training_arguments(
    description: str, inputs: list[str], *, steps: int, batch: int
) -> argparse.Namespace:
    """What a training is told on the command line.

    Args:
        description: for --help.
        inputs: names of the folders it reads; the one it writes, `folder`, comes last.
        steps: by default.
        batch: by default.
    """
    parser = argparse.ArgumentParser(description=description)
    for name in (*inputs, "folder"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=batch)
    return parser.parse_args()


def compact(folder: Path) -> None:
    """Write every JSON file below a folder again without its white space."""
    for path in folder.rglob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()), separators=(",", ":")) + "\n")
