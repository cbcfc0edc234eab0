"""LinEAS: learn the maps of all sites jointly, end to end, under a distributional loss.

    min over (w, b)   sum over sites l of  mean over coordinates of
                      Delta(pooled activations of the steered source, of the untouched target)
                      + R(w, b)

(LinEAS, Eq. 4, with the penalty of `proximal.py`.) The model's weights stay frozen; gradients
flow through it from every site into the maps of all earlier ones. Where several processes were
launched together, each runs its share of the prompts (`distributed.py`); the map is the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from lineas_core.activations import execution_order, pooled_activations, pooled_forward
from lineas_core.diagnostics.health import HealthReport, check_health
from lineas_core.errors import ConfigError, TrainingError
from lineas_core.maps.steering_map import Affine, BatchAffine, SteeringMap
from lineas_core.numerics.proximal import sparse_group_shrink
from lineas_core.numerics.transport import delta
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.steerable import Steerable
from lineas_core.training.config import TrainConfig
from lineas_core.training.distributed import ranks
from lineas_core.training.memory import rows_that_fit
from lineas_core.training.provenance import describe_map
from lineas_core.training.state import TrainState

DIVERGED = 10.0


@dataclass(frozen=True)
class StepEvent:
    """What one step reports.

    Attributes:
        step: steps done, from 1.
        steps: steps in all.
        loss: the sum over sites, before the step, without the penalty.
        loss_by_site: its terms.
        support: share of the coordinates that the map changes, after the step.
        seconds: since training began, over all its sittings.
        seconds_left: expected until the last step.
    """

    step: int
    steps: int
    loss: float
    loss_by_site: Mapping[str, float] = field(repr=False)
    support: float
    seconds: float
    seconds_left: float

    @property
    def steps_left(self) -> int:
        """Steps still to do."""
        return self.steps - self.step


@dataclass(frozen=True)
class TrainResult:
    """What training gives.

    Attributes:
        map: the learned map.
        losses: the loss before each step.
        health: what the map does to held-out prompts, in numbers and words.
        seconds: spent training, without the health report.
        cancelled: it was stopped before the last step.
    """

    map: SteeringMap
    losses: list[float]
    health: HealthReport
    seconds: float
    cancelled: bool = False


class DivergedError(TrainingError):
    """Training stopped because the loss went off; `result` is that of the last good state."""

    def __init__(self, message: str, result: TrainResult) -> None:
        super().__init__(message)
        self.result = result


class Trainer:
    """One training run, a step at a time. `state` may be saved after any step.

    Args:
        model: its weights are not changed.
        prompts: the source and target.
        config: the settings; the model's shipped ones by default.
        state: of an earlier run with the same prompts and settings, to go on from.
        start: the map of the first step, for the same sites; the identity by default.
        support: a map for the same sites, whose neurons alone are trained; all by default.

    Raises:
        ConfigError: `state` belongs to other prompts or settings, or `start` or `support` to
            other sites; or there are more processes than prompts.
        SiteError: the sites match nothing, or do not run once a pass.
    """

    def __init__(
        self,
        model: Steerable,
        prompts: PromptSet,
        config: TrainConfig | None = None,
        state: TrainState | None = None,
        *,
        start: SteeringMap | None = None,
        support: SteeringMap | None = None,
    ) -> None:
        self.model = model
        self.ranks = ranks()
        self.prompts = prompts
        self.config = config or TrainConfig.for_model(model)
        self.train_prompts, self.held_out = prompts.split(self.config.holdout, self.config.seed)
        pattern = self.config.sites or model.default_sites
        self._source = model.prepare(self.train_prompts.source)
        target = model.prepare(self.train_prompts.target)
        self.sites = execution_order(model, self._source, model.sites(pattern))
        pooling, size = self.config.pooling, self.config.batch_size
        own = target.rows(self.ranks.share(range(len(target))))
        aims = pooled_activations(model, own, self.sites, pooling=pooling, batch_size=size)
        device = aims[self.sites[0]].device
        identity = SteeringMap.identity({name: z.shape[1] for name, z in aims.items()})
        self._widths = list(identity.widths.values())
        # All sites side by side, so that one sort serves them all.
        self._target = self.ranks.gathered(_side_by_side(aims, self.sites), len(target))
        self._whole = self._target.sort(dim=0).values if len(target) <= size else None
        self._given: dict[str, str] = {}
        for role, given in (("start", start), ("support", support)):
            if given is None:
                continue
            if given.fingerprint() != identity.fingerprint():
                raise ConfigError(
                    f"{role} has other sites than this run; give a map of the same ones."
                )
            self._given[role] = given.digest()
        self._params = {
            name: BatchAffine((scale - 1).to(device), shift.to(device, copy=True))
            for name, (scale, shift) in (start or identity).sites.items()
        }
        flat = [p.requires_grad_() for affine in self._params.values() for p in affine]
        self._free: list[Tensor] = []
        if support is not None:
            for name in self._params:
                self._free += [support.sites[name].changed.to(device)] * 2
        self._rows_at_once = rows_that_fit(
            model, self._source, self.sites, self._params, pooling, batch_size=size
        )
        self._optimizer: torch.optim.Optimizer
        if self.config.optimizer == "sgd":
            self._optimizer = torch.optim.SGD(flat, lr=self.config.rate)
        else:
            self._optimizer = torch.optim.AdamW(flat, lr=self.config.rate)
        self._generator = torch.Generator().manual_seed(self.config.seed)
        self.losses: list[float] = []
        self.seconds = 0.0
        if state is not None:
            self._restore(state)
        self._good = self.state

    @property
    def done(self) -> bool:
        """All steps are done."""
        return len(self.losses) >= self.config.steps

    @property
    def map(self) -> SteeringMap:
        """The map as it is now."""
        info = describe_map(self.model, self.prompts, "lineas", self.config)
        return SteeringMap(affines_of(self._params), info)

    @property
    def slopes(self) -> dict[str, BatchAffine]:
        """The loss's gradient in the scales and shifts at the last step, by site."""
        empty = torch.empty(0)
        return {
            name: BatchAffine(*(empty if p.grad is None else p.grad.cpu() for p in affine))
            for name, affine in self._params.items()
        }

    @property
    def state(self) -> TrainState:
        """All that is needed to go on from here to the same map, as a value of its own."""
        return TrainState.capture(
            run=self._run_id,
            params=self._params,
            optimizer=self._optimizer,
            generator=self._generator,
            losses=self.losses,
            seconds=self.seconds,
        )

    def step(self) -> StepEvent:
        """One gradient step and one proximal step.

        Raises:
            TrainingError: the loss is not finite, or ten times what it was at first. The run is
                back at the last state that was no worse than the first, so `map` is usable.
        """
        began = time.perf_counter()
        step = len(self.losses)
        losses = self._losses(*self._draw())
        terms = torch.stack(list(losses.values()))
        loss = terms.sum()
        value = self.ranks.as_first(loss.item())
        first = self.losses[0] if self.losses else value
        if not math.isfinite(value) or value > DIVERGED * first:
            reached = len(self._good.losses)
            self._restore(self._good)
            raise TrainingError(
                f"The loss went from {first:.4g} to {value:.4g} at step {step + 1}. Lower the "
                f"rate (it is {self.config.rate:g}; try {self.config.rate / 5:g}). The map of "
                f"step {reached} is kept."
            )
        if value <= first:
            self._good = self.state
        rate = rate_at(step, self.config)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        loss.backward()
        slopes = [p.grad for group in self._optimizer.param_groups for p in group["params"]]
        self.ranks.sum(slopes)
        if self._free:
            for slope, free in zip(slopes, self._free, strict=True):
                slope.mul_(free)
        self._optimizer.step()
        proximal_step(self._params, self.config, rate)
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

    def result(self) -> TrainResult:
        """The map so far, and its health on the held-out prompts."""
        smap = self.map
        health = check_health(
            self.model,
            smap,
            self.train_prompts,
            self.held_out,
            pooling=self.config.pooling,
            batch_size=self.config.batch_size,
        )
        return TrainResult(smap, list(self.losses), health, self.seconds, not self.done)

    def _draw(self) -> tuple[list[int], list[int]]:
        """Rows of a minibatch on either side; the whole side where it is no larger."""
        source, target = (
            draw(len(lines), self.config.batch_size, self._generator)
            for lines in (self.train_prompts.source, self.train_prompts.target)
        )
        return source, target

    def _losses(self, source: list[int], target: list[int]) -> dict[str, Tensor]:
        found = pooled_forward(
            self.model,
            self._source.rows(self.ranks.share(source)),
            self.sites,
            pooling=self.config.pooling,
            maps=self._params,
            rows_at_once=self._rows_at_once,
        )
        steered = self.ranks.gathered(_side_by_side(found, self.sites), len(source))
        if self._whole is not None:
            distances = delta(steered, self._whole, v_sorted=True)
        else:
            distances = delta(steered, self._target[target])
        parts = distances.split(self._widths)
        return {site: part.mean() for site, part in zip(self.sites, parts, strict=True)}

    @torch.no_grad()
    def _support(self) -> float:
        changed = [(a.gain != 0) | (a.shift != 0) for a in self._params.values()]
        return float(torch.cat(changed).float().mean())

    @property
    def _run_id(self) -> dict[str, Any]:
        return {
            "model": self.model.id,
            "prompts": self.prompts.hash(),
            "config": asdict(self.config),
            "sites": self.sites,
            **self._given,
        }

    @torch.no_grad()
    def _restore(self, state: TrainState) -> None:
        state.restore(
            run=self._run_id,
            params=self._params,
            optimizer=self._optimizer,
            generator=self._generator,
        )
        self.losses, self.seconds = list(state.losses), state.seconds


def rate_at(step: int, config: TrainConfig) -> float:
    """The learning rate of a step, counted from 0: a half cosine."""
    return config.rate * (1 + math.cos(math.pi * step / config.steps)) / 2


def draw(count: int, size: int, generator: torch.Generator) -> list[int]:
    """Rows of a minibatch, in order; all of them where there are no more than `size`."""
    order = torch.randperm(count, generator=generator)
    rows: list[int] = order[:size].sort().values.tolist()
    return rows


@torch.no_grad()
def proximal_step(params: Mapping[str, BatchAffine], config: TrainConfig, rate: float) -> None:
    """Shrink the maps in training towards the identity, in place (LinEAS, Algorithm 1)."""
    if config.gamma == 0:
        return
    threshold = config.gamma * (rate if config.prox_step == "rate" else 1.0)
    for affine in params.values():
        for z in affine:
            z.copy_(sparse_group_shrink(z, threshold, config.l1, config.group))


def affines_of(params: Mapping[str, BatchAffine]) -> dict[str, Affine]:
    """What maps in training are now, on the CPU."""
    return {
        name: Affine(1 + a.gain.detach().cpu(), a.shift.detach().cpu().clone())
        for name, a in params.items()
    }


def _side_by_side(found: Mapping[str, Tensor], sites: Sequence[str]) -> Tensor:
    """(n, sum of widths); on the device of the first site, where a model lies on several."""
    device = found[sites[0]].device
    return torch.cat([found[site].to(device) for site in sites], dim=1)


def train(
    model: Steerable,
    prompts: PromptSet,
    config: TrainConfig | None = None,
    *,
    on_event: Callable[[StepEvent], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
    state: TrainState | None = None,
) -> TrainResult:
    """Train a LinEAS map to its last step, or until `should_stop` says so.

    Args:
        model: from `load_model`; its weights are not changed.
        prompts: the source and target.
        config: the settings; the model's shipped ones by default.
        on_event: called with a `StepEvent` after each step.
        should_stop: asked before each step; of several processes, the first one's answer counts.
        state: of an earlier run, to go on from.

    Raises:
        DivergedError: the loss went off; `error.result` is that of the last good state.
    """
    trainer = Trainer(model, prompts, config, state)
    while not trainer.done:
        if should_stop and trainer.ranks.as_first(should_stop()):
            break
        try:
            event = trainer.step()
        except TrainingError as error:
            raise DivergedError(str(error), trainer.result()) from error
        if on_event:
            on_event(event)
    return trainer.result()
