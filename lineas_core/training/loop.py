"""The loop that all gradient training shares: one gradient step and one proximal step at a time.

A subclass says what the loss of a minibatch is; optimizer, schedule, sparse penalty, divergence,
state and several processes are handled here.
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
    """The loss is not finite, or far above the first; the run is back at its last good state."""


class TrainingLoop(ABC):
    """Maps of several sites that are trained a step at a time. `state` may be saved after any step.

    Args:
        start: the map of the first step, on the CPU.
        device: that the maps are trained on.
        config: the settings.
        trained: site -> which coordinates are trained, on `device`; all by default.
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
        self._params = {name: affine.on(device) for name, affine in start.sites.items()}
        flat = [p.requires_grad_() for affine in self._params.values() for p in affine]
        # A mask for each parameter, in the optimizer's order.
        self._masks = [trained[name] for name in self._params for _ in range(2)] if trained else []
        optimizer = torch.optim.SGD if config.optimizer == "sgd" else torch.optim.AdamW
        self._optimizer: torch.optim.Optimizer = optimizer(flat, lr=config.rate)
        self._generator = torch.Generator().manual_seed(config.seed)
        self.losses: list[float] = []
        self.seconds = 0.0
        self._good: TrainState | None = None

    @property
    @abstractmethod
    def run_id(self) -> Mapping[str, Any]:
        """What a saved state must agree with to go on from: model, prompts, settings, sites."""

    @property
    @abstractmethod
    def map(self) -> SteeringMap:
        """The map as it is now."""

    @abstractmethod
    def minibatch_losses(self) -> dict[str, Tensor]:
        """Each site's term of the loss on a minibatch drawn anew, differentiable in the maps."""

    @property
    def done(self) -> bool:
        """All steps are done."""
        return len(self.losses) >= self.config.steps

    @property
    def gradients(self) -> dict[str, BatchAffine]:
        """The loss's gradient in the scales and shifts at the last step, by site, on the CPU."""
        empty = torch.empty(0)
        return {
            name: BatchAffine(*(empty if p.grad is None else p.grad.cpu() for p in affine))
            for name, affine in self._params.items()
        }

    @property
    def state(self) -> TrainState:
        """All that is needed to go on from here to the same map, as a value of its own."""
        return TrainState.capture(
            run=self.run_id,
            params=self._params,
            optimizer=self._optimizer,
            generator=self._generator,
            losses=self.losses,
            seconds=self.seconds,
        )

    @torch.no_grad()
    def restore(self, state: TrainState) -> None:
        """Go back, or on, to a state of this run.

        Raises:
            ConfigError: the state belongs to another run.
        """
        state.restore(
            run=self.run_id,
            params=self._params,
            optimizer=self._optimizer,
            generator=self._generator,
        )
        self.losses, self.seconds = list(state.losses), state.seconds
        self._good = state

    def run(self, should_stop: Callable[[], bool] | None = None) -> Iterator[StepEvent]:
        """The steps that are left, each done when its event is asked for.

        Args:
            should_stop: asked before each step; of several processes, the first one's answer
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
            UnstableError: the loss is not finite, or ten times what it was at first. The run is
                back at the last state that was no worse than the first, so `map` is usable.
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
        """Rows of a minibatch, in order; all of them where they are no more than its size."""
        order = torch.randperm(count, generator=self._generator)
        rows: list[int] = order[: self.config.batch_size].sort().values.tolist()
        return rows

    def _diverged(self, first: float, value: float, good: TrainState) -> UnstableError:
        """Go back to the last good state, and say so."""
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
        for affine in self._params.values():
            for z in affine:
                z.copy_(sparse_group_shrink(z, threshold, config.l1, config.group))

    @torch.no_grad()
    def _support(self) -> float:
        changed = [(a.gain != 0) | (a.shift != 0) for a in self._params.values()]
        return float(torch.cat(changed).float().mean())


def rate_at(step: int, config: TrainConfig) -> float:
    """The learning rate of a step, counted from 0: a half cosine."""
    return config.rate * (1 + math.cos(math.pi * step / config.steps)) / 2


def side_by_side(found: Mapping[str, Tensor], sites: Sequence[str]) -> Tensor:
    """(n, sum of widths); on the device of the first site, where a model lies on several."""
    device = found[sites[0]].device
    return torch.cat([found[site].to(device) for site in sites], dim=1)
