"""The training loop shared by all gradient training: a gradient step, then a proximal step.

A subclass defines the loss of a minibatch. Optimizer, schedule, sparse penalty, divergence checks,
saved state and multiple processes are handled here.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lineas_core.errors import TrainingError
from lineas_core.maps.steering_map import BatchAffine, SteeringMap
from lineas_core.numerics.proximal import sparse_group_shrink
from lineas_core.training.config import TrainConfig
from lineas_core.training.distributed import ranks
from lineas_core.training.events import StepEvent
from lineas_core.training.state import TrainState

DIVERGED = 10.0


class UnstableError(TrainingError):
    """The loss is not finite, or far above the first; the last good state has been restored."""


class TrainingLoop(ABC):
    """Train a map step by step. `state` may be saved after any step.

    Args:
        start: the initial map, on the CPU.
        device: the device to train on.
        config: the settings.
        trained: site -> mask of the coordinates to train, on `device`; all by default.
    """

    def __init__(
        self,
        start: SteeringMap,
        device: torch.device,
        config: TrainConfig,
        *,
        trained: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.config, self.ranks = config, ranks()
        self.params = {name: affine.on(device) for name, affine in start.sites.items()}
        flat = [p.requires_grad_() for affine in self.params.values() for p in affine]
        # One mask per parameter, in the optimizer's order.
        self._masks = [trained[name] for name in self.params for _ in range(2)] if trained else []
        optimizer = torch.optim.SGD if config.optimizer == "sgd" else torch.optim.AdamW
        self._optimizer: torch.optim.Optimizer = optimizer(flat, lr=config.rate)
        self._generator = torch.Generator().manual_seed(config.seed)
        self.losses: list[float] = []
        self.seconds = 0.0
        self._good: TrainState | None = None

    @property
    @abstractmethod
    def run_id(self) -> Mapping[str, Any]:
        """Model, prompts, settings and sites; a saved state resumes only if they are the same."""

    @property
    @abstractmethod
    def map(self) -> SteeringMap:
        """The current map."""

    @abstractmethod
    def minibatch_losses(self) -> dict[str, Tensor]:
        """Draw a minibatch and return each site's loss on it, differentiable in the maps."""

    @property
    def done(self) -> bool:
        """True once all steps are done."""
        return len(self.losses) >= self.config.steps

    @property
    def gradients(self) -> dict[str, BatchAffine]:
        """Site -> gradient of the loss w.r.t. scale and shift at the last step, on the CPU."""
        empty = torch.empty(0)
        return {
            name: BatchAffine(*(empty if p.grad is None else p.grad.cpu() for p in affine))
            for name, affine in self.params.items()
        }

    @property
    def state(self) -> TrainState:
        """A copy of everything needed to resume from here and reach the same final map."""
        return TrainState.capture(
            run=self.run_id,
            params=self.params,
            optimizer=self._optimizer,
            generator=self._generator,
            losses=self.losses,
            seconds=self.seconds,
        )

    @torch.no_grad()
    def restore(self, state: TrainState) -> None:
        """Load a state of this run.

        Raises:
            ConfigError: the state belongs to another run.
        """
        state.restore(
            run=self.run_id,
            params=self.params,
            optimizer=self._optimizer,
            generator=self._generator,
        )
        self.losses, self.seconds = list(state.losses), state.seconds
        self._good = state

    def run(self, should_stop: Callable[[], bool] | None = None) -> Iterator[StepEvent]:
        """Run the remaining steps lazily: each step runs when its event is requested.

        Args:
            should_stop: called before each step. With several processes, the first one's answer
                counts.

        Raises:
            UnstableError: see `step`.
        """
        while not self.done:
            if should_stop is not None and self.ranks.as_first(should_stop()):
                return
            yield self.step()

    def step(self) -> StepEvent:
        """One gradient step and one proximal step.

        Raises:
            UnstableError: the loss is not finite, or more than ten times the first loss. The last
                state whose loss did not exceed the first is restored, so `map` is usable.
        """
        began = time.perf_counter()
        step = len(self.losses)
        good = self._good or self.state
        losses = self.minibatch_losses()
        terms = torch.stack(list(losses.values()))
        loss = terms.sum()
        value = self.ranks.as_first(loss.item())
        first = self.losses[0] if self.losses else value
        if not math.isfinite(value) or value > DIVERGED * first:
            raise self._diverged(first, value, good)
        self._good = self.state if value <= first else good
        rate = rate_at(step, self.config)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        loss.backward()
        gradients = [p.grad for group in self._optimizer.param_groups for p in group["params"]]
        self.ranks.sum(gradients)
        if self._masks:
            for gradient, mask in zip(gradients, self._masks, strict=True):
                gradient.mul_(mask)
        self._optimizer.step()
        self._shrink(rate)
        self.losses.append(value)
        self.seconds += time.perf_counter() - began
        return StepEvent(
            step=step + 1,
            steps=self.config.steps,
            loss=value,
            loss_by_site=dict(zip(losses, terms.tolist(), strict=True)),
            support=self._support(),
            seconds=self.seconds,
            seconds_left=self.seconds / (step + 1) * (self.config.steps - step - 1),
        )

    def draw(self, count: int) -> list[int]:
        """Draw the row indices of a minibatch, sorted; all rows if `count` <= batch_size."""
        order = torch.randperm(count, generator=self._generator)
        rows: list[int] = order[: self.config.batch_size].sort().values.tolist()
        return rows

    def _diverged(self, first: float, value: float, good: TrainState) -> UnstableError:
        """Restore the last good state and return the error to raise."""
        step, rate = len(self.losses) + 1, self.config.rate
        self.restore(good)
        return UnstableError(
            f"The loss went from {first:.4g} to {value:.4g} at step {step}. Lower the rate (it is "
            f"{rate:g}; try {rate / 5:g}). The map of step {len(self.losses)} is kept."
        )

    @torch.no_grad()
    def _shrink(self, rate: float) -> None:
        """Shrink the maps towards the identity (LinEAS, Algorithm 1)."""
        config = self.config
        if config.gamma == 0:
            return
        threshold = config.gamma * (rate if config.prox_step == "rate" else 1.0)
        for affine in self.params.values():
            for z in affine:
                z.copy_(sparse_group_shrink(z, threshold, config.l1, config.group))

    @torch.no_grad()
    def _support(self) -> float:
        changed = [(a.gain != 0) | (a.shift != 0) for a in self.params.values()]
        return float(torch.cat(changed).float().mean())


def rate_at(step: int, config: TrainConfig) -> float:
    """The learning rate at `step`, counted from 0, on a half cosine."""
    return config.rate * (1 + math.cos(math.pi * step / config.steps)) / 2


def side_by_side(found: Mapping[str, Tensor], sites: Sequence[str]) -> Tensor:
    """Concatenate the sites to (n, sum of widths), on the first site's device.

    The sites of a model that is spread over several devices may be on different ones.
    """
    device = found[sites[0]].device
    return torch.cat([found[site].to(device) for site in sites], dim=1)
