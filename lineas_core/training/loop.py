"""The training loop shared by all gradient training: a gradient step, then a proximal step.

A subclass defines the losses of a minibatch. Schedule, sparse penalty, divergence checks, saved
state and several processes are handled here.

A GPU runs ahead of Python only while Python reads nothing back, so parameters, counts, checks and
the record of what to report are tensors on it, and the host reads the record once in several steps.
"""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lineas_core.errors import TrainingError
from lineas_core.maps.bounds import EVERYWHERE, refuse_bounds
from lineas_core.maps.steering_map import BatchAffine, SteeringMap
from lineas_core.training.config import TrainConfig
from lineas_core.training.distributed import ranks
from lineas_core.training.events import LIKELIHOOD, StepEvent
from lineas_core.training.graph import GraphedStep
from lineas_core.training.rows import Rows
from lineas_core.training.state import HostState, TrainState
from lineas_core.training.units import largest_curvature
from lineas_core.training.update import (
    MOMENTS,
    Stepped,
    first_rate,
    gradient_step,
    proximal_step,
    rate_share,
    rule_of,
)

DIVERGED = 10.0
# A run whose loss goes off goes on at a lower rate, so often.
MAX_RESTARTS, LOWER = 5, 5.0
# A GPU's record is read about this often, so that cancelling takes effect at once.
READ_SECONDS, MAX_STEPS_READ = 0.1, 64
# Columns of the record, before the terms of the loss.
LOSS, SUPPORT, FINE, TERMS = 0, 1, 2, 3

log = logging.getLogger(__name__)


class UnstableError(TrainingError):
    """The loss is not finite, or far above the first; the last good state has been restored."""


class TrainingLoop(ABC):
    """Train a map step by step. `state` may be saved after any step.

    A subclass has what `counts` says before it calls this constructor.

    Args:
        start: the initial map, on the CPU; `MapError` if it has bounds.
        device: the device to train on.
        config: the settings.
        trained: site -> mask of the coordinates to train, on `device`; all by default.
        units: of steps in each parameter (`units.py`), for a rate that is measured.
        graph: whether a step may become a CUDA graph, which all on one GPU can.

    Attributes:
        losses: the loss before each step so far.
        seconds: training time so far.
        steps_read: steps that run before their record is read; on a GPU it follows their pace.
    """

    reach: float = 1.0  # How far a step of 1 in a parameter moves what the loss is of.

    def __init__(
        self,
        start: SteeringMap,
        device: torch.device,
        config: TrainConfig,
        *,
        trained: Mapping[str, Tensor] | None = None,
        units: Tensor | None = None,
        graph: bool = True,
    ) -> None:
        refuse_bounds(start.bounds, "trained further", f"To go on from it, {EVERYWHERE}.")
        self.config, self.ranks, self._device = config, ranks(), device
        self._names, self._units = list(start.sites), units
        parts = [part for affine in start.sites.values() for part in affine.on(device)]
        self._sizes = [part.numel() for part in parts]
        # The maps of all sites are one vector: one kernel updates them, and one copy saves them.
        self._vector = torch.cat(parts).requires_grad_()
        masks = [trained[name] for name in self._names for _ in range(2)] if trained else []
        self._mask = torch.cat(masks) if masks else None
        self._rule = rule_of(config)
        self._moments = tuple(torch.zeros_like(self._vector) for _ in MOMENTS[self._rule])
        self._gradient = torch.zeros_like(self._vector)
        # Share of the rate at each step, and the rate: tensors, as a graph of the step reads them.
        shares = [rate_share(step, config.steps) for step in range(config.steps)]
        self._shares = torch.tensor(shares, device=device)
        self._rate = torch.tensor([first_rate(config, self.reach)], device=device)
        self._step, self._slot = torch.zeros(2, 1, dtype=torch.int64, device=device)
        self._first = torch.full((), torch.inf, device=device)
        self._off = torch.zeros((), dtype=torch.bool, device=device)
        self._good = [torch.empty_like(live) for live in self._live]
        self._record = torch.zeros(MAX_STEPS_READ, TERMS + len(self.terms), device=device)
        self._generator = torch.Generator().manual_seed(config.seed)
        self.losses: list[float] = []
        self._restarts, self._note, self.seconds, self.steps_read = 0, "", 0.0, 1
        # Collectives of several processes are left out of graphs.
        possible = graph and self.ranks.count == 1
        self._step_once = GraphedStep(self.run_on_device, self.counts, device, possible=possible)
        self._keep_as_good()

    @property
    @abstractmethod
    def run_id(self) -> Mapping[str, Any]:
        """Model, prompts, settings and sites; a saved state resumes only if they are the same."""

    @property
    @abstractmethod
    def map(self) -> SteeringMap:
        """The current map."""

    @property
    @abstractmethod
    def counts(self) -> Sequence[int]:
        """Number of rows of each set that a minibatch is drawn from."""

    @property
    def terms(self) -> Sequence[str]:
        """Names of the terms of the loss, which are the sites, or `LIKELIHOOD`."""
        return self._names

    @abstractmethod
    def minibatch_losses(self, drawn: Sequence[Rows]) -> Float[Tensor, " terms"]:
        """The terms of the loss on a minibatch, such as each site's, differentiable in the maps.

        Nothing in it may read a tensor back, or a GPU waits.

        Args:
            drawn: rows of each set, in the order of `counts`.
        """

    @property
    def done(self) -> bool:
        """True once all steps are done."""
        return len(self.losses) >= self.config.steps

    @property
    def graphed(self) -> bool:
        """Whether steps are replayed as a CUDA graph."""
        return self._step_once.captured

    @property
    def params(self) -> dict[str, BatchAffine]:
        """Site -> gain and shift, as parts of the one vector that is trained."""
        return self._by_site(self._vector)

    @property
    def gradients(self) -> dict[str, BatchAffine]:
        """Site -> gradient of the loss w.r.t. scale and shift at the last step, on the CPU."""
        return self._by_site(self._gradient.cpu())

    @property
    def state(self) -> TrainState:
        """A copy of everything needed to resume from here and reach the same final map."""
        moments = zip(MOMENTS[self._rule], self._moments, strict=True)
        return TrainState.capture(
            run=self.run_id,
            params=self._by_site(self._vector.detach().cpu()),
            moments={name: moment.cpu().split(self._sizes) for name, moment in moments},
            generator=self._generator.get_state(),
            rate=torch.tensor([self._rate.item(), self._restarts]),
            losses=self.losses,
            seconds=self.seconds,
        )

    @torch.no_grad()
    def restore(self, state: TrainState) -> None:
        """Load a state of this run.

        Raises:
            ConfigError: the state belongs to another run.
        """
        state.check(self.run_id)
        self._vector.copy_(torch.cat(state.params(self._names)))
        for name, moment in zip(MOMENTS[self._rule], self._moments, strict=True):
            moment.copy_(torch.cat(state.moment(name, self._sizes)))
        self._generator.set_state(state.tensors["generator"])
        self.losses, self.seconds = list(state.losses), state.seconds
        self._step.fill_(len(self.losses))
        if self.losses:
            self._first.fill_(self.losses[0])
        if "rate" in state.tensors:
            rate, self._restarts = float(state.tensors["rate"][0]), int(state.tensors["rate"][1])
            self._rate.fill_(rate)
        self._keep_as_good()

    def run(
        self, should_stop: Callable[[], bool] | None = None, *, read_every: int = MAX_STEPS_READ
    ) -> Iterator[StepEvent]:
        """Run the remaining steps lazily: steps run when their events are requested.

        On a GPU, several steps run before the events of the first of them are there, as many as
        take a tenth of a second; `map` and `state` are then those of the last.

        Args:
            should_stop: called before steps are run. With several processes, the first one's answer
                counts.
            read_every: how many steps may run before their events are there, >= 1.

        Raises:
            UnstableError: see `step`.
        """
        while not self.done:
            if should_stop is not None and self.ranks.as_first(should_stop()):
                return
            left = self.config.steps - len(self.losses)
            yield from self._advance(min(self.steps_read, read_every, left))

    def step(self) -> StepEvent:
        """One gradient step and one proximal step.

        A loss that is not finite, or more than ten times the first loss, brings back the last state
        whose loss did not exceed the first, and the step is made from there at a lower rate.

        Raises:
            UnstableError: the loss went off again and again. The last good state has been restored,
                so `map` is usable.
        """
        while True:
            if events := self._advance(1):
                return events[0]

    def _advance(self, count: int) -> list[StepEvent]:
        """Run `count` steps and read their record; fewer events come if the loss went off."""
        if self._rate.isnan().item():
            self._rate.fill_(self._measured_rate())
        began = time.perf_counter()
        self._slot.zero_()
        before_drawing = []
        for _ in range(count):
            before_drawing.append(self._generator.get_state())
            try:
                self._step_once([self.draw(rows) for rows in self.counts])
            except BaseException:
                # A hook stopped the step, which so far changed only what is drawn next.
                self._generator.set_state(before_drawing[-1])
                raise
        record = self._record[:count].tolist()
        seconds = (time.perf_counter() - began) / count
        if self._device.type != "cpu":
            pace = int(self.ranks.as_first(READ_SECONDS / max(seconds, 1e-6)))
            self.steps_read = max(1, min(MAX_STEPS_READ, pace))
        events: list[StepEvent] = []
        for row, generator in zip(record, before_drawing, strict=True):
            loss, step = row[LOSS], len(self.losses)
            if not row[FINE]:
                self._go_back(loss)
                break
            if not self.losses or loss <= self.losses[0]:
                self._calm = HostState(step, self.seconds, generator)
            self.losses.append(loss)
            self.seconds += seconds
            by_site = dict(zip(self.terms, row[TERMS:], strict=True))
            likelihood = by_site.pop(LIKELIHOOD, 0.0)
            events.append(
                StepEvent(
                    step=step + 1,
                    steps=self.config.steps,
                    loss=loss,
                    loss_by_site=by_site,
                    support=row[SUPPORT],
                    seconds=self.seconds,
                    seconds_left=self.seconds / (step + 1) * (self.config.steps - step - 1),
                    note=self._note,
                    likelihood=likelihood,
                )
            )
            self._note = ""
        return events

    def run_on_device(self, drawn: Sequence[Rows]) -> None:
        """One step, without reading anything back. Once a loss was not fine, nothing changes."""
        losses = self.minibatch_losses(drawn)
        gradient = self._gradient_of(losses)
        with torch.no_grad():
            loss = self.ranks.from_first(losses.sum())
            self._first.copy_(torch.where(self._step[0] == 0, loss, self._first))
            fine = loss.isfinite() & (loss <= DIVERGED * self._first) & ~self._off
            self._off.logical_or_(~fine)
            calm = fine & (loss <= self._first)
            for kept, live in zip(self._good, self._live, strict=True):
                kept.copy_(torch.where(calm, live, kept))
            self._gradient.copy_(gradient)
            if self._units is not None:
                gradient.mul_(self._units)
            rate = self._rate * self._shares.index_select(0, self._step)
            before = Stepped(self._vector, self._moments)
            after = gradient_step(self._rule, before, gradient, rate, self._step + 1, self._units)
            shrunk = proximal_step(self.config, after.vector, self._sizes, rate, self._units)
            stepped = shrunk, *after.moments
            for live, new in zip(self._live, stepped, strict=True):
                live.copy_(torch.where(fine, new, live))
            self._step.add_(fine)
            support = self._support()
            row = torch.cat([torch.stack([loss, support, fine.float()]), losses])
            self._record.index_copy_(0, self._slot, row[None])
            self._slot.add_(1)

    @property
    def _live(self) -> tuple[Tensor, ...]:
        """What a step changes: the parameters and their moments."""
        return self._vector.detach(), *self._moments

    def _keep_as_good(self) -> None:
        """Take the current state for the last good one."""
        for kept, live in zip(self._good, self._live, strict=True):
            kept.copy_(live)
        self._off.fill_(False)
        self._calm = HostState(len(self.losses), self.seconds, self._generator.get_state())

    def draw(self, count: int) -> list[int]:
        """Draw the row indices of a minibatch, sorted; all rows if `count` <= batch_size."""
        order = torch.randperm(count, generator=self._generator)
        rows: list[int] = order[: self.config.batch_size].sort().values.tolist()
        return rows

    def _go_back(self, loss: float) -> None:
        """Restore the last good state and lower the rate.

        Raises:
            UnstableError: it was lowered too often, or the untouched model is at fault.
        """
        step, first = len(self.losses) + 1, self.losses[0] if self.losses else loss
        for live, kept in zip(self._live, self._good, strict=True):
            live.copy_(kept)
        self.losses, self.seconds = self.losses[: self._calm.step], self._calm.seconds
        self._generator.set_state(self._calm.generator)
        self._step.fill_(len(self.losses))
        self._keep_as_good()
        if not (self.losses or math.isfinite(loss)):
            raise UnstableError(
                f"The loss of the untouched model is {loss}: its activations are not finite. Load "
                "it with dtype='float32'."
            )
        rate = self._rate.item()
        went = f"The loss went from {first:.4g} to {loss:.4g} at step {step}"
        if self._restarts == MAX_RESTARTS:
            raise UnstableError(
                f"{went}, at lower and lower rates. Lower the rate (it is {rate:.3g}; try "
                f"{rate / LOWER:.3g}). The map of step {len(self.losses)} is kept."
            )
        self._restarts += 1
        self._rate.div_(LOWER)
        self._note = (
            f"{went}, so the rate is {rate / LOWER:.3g} now, not {rate:.3g}. Training goes on from "
            f"step {len(self.losses)}."
        )
        log.warning(self._note)

    def _measured_rate(self) -> float:
        """1 / the largest curvature of the loss on the first minibatch, in units of spread."""
        before_drawing = self._generator.get_state()
        drawn = [self.draw(rows) for rows in self.counts]
        self._generator.set_state(before_drawing)
        assert self._units is not None
        units, start = self._units, self._vector.detach().clone()

        def gradient_at(point: Tensor) -> Tensor:
            with torch.no_grad():
                self._vector.copy_(start + units * point)
            return self._gradient_of(self.minibatch_losses(drawn)).mul_(units)

        curvature = largest_curvature(gradient_at, torch.zeros_like(start))
        with torch.no_grad():
            self._vector.copy_(start)
        # Where nothing has to move, any rate will do.
        rate = 1 / curvature if 0 < curvature < math.inf else 1.0
        return self.ranks.as_first(rate)

    def _gradient_of(self, losses: Tensor) -> Tensor:
        """Gradient of the summed losses over all processes, zero where nothing is trained."""
        [gradient] = torch.autograd.grad(losses.sum(), [self._vector])
        self.ranks.sum([gradient])
        return gradient if self._mask is None else gradient.mul_(self._mask)

    def _support(self) -> Tensor:
        """Share of the coordinates that the maps change."""
        changed = [(a.gain != 0) | (a.shift != 0) for a in self.params.values()]
        return torch.cat(changed).float().mean()

    def _by_site(self, vector: Tensor) -> dict[str, BatchAffine]:
        parts = vector.split(self._sizes)
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return {name: BatchAffine(*pair) for name, pair in zip(self._names, pairs, strict=True)}
