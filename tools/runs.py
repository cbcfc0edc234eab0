"""A training run for a number of steps or seconds, which can resume after an interruption."""

from __future__ import annotations

import argparse
import json
import math
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tools.device import DEVICE, IS_GPU, Switches

TRIAL_STEPS = 3
STARTED = time.perf_counter()


class Stateful(Protocol):
    """A module or an optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """The state to save."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Restore a saved state."""
        ...


@dataclass(frozen=True)
class Length:
    """Length of a run: `steps`, or `seconds` of wall clock."""

    steps: int | None = None
    seconds: float | None = None


def optimizer_for(
    modules: list[nn.Module],
    rate: float,
    decay: float,
    betas: tuple[float, float] = (0.9, 0.98),
) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and convolutions, but not on norms and biases."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        # A tensor, so that a CUDA graph picks up the rate of each step.
        lr=torch.tensor(rate, device=DEVICE) if IS_GPU else rate,
        betas=betas,
        fused=IS_GPU,
        capturable=IS_GPU,
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


class Average:
    """Exponential moving averages of parameters.

    Args:
        averages, newest: parameters of the same shapes in the same order.
        keep: decay per step, after the first steps.
    """

    def __init__(self, averages: Iterable[Tensor], newest: Iterable[Tensor], keep: float) -> None:
        self.averages, self.newest, self.keep = list(averages), list(newest), keep

    @torch.no_grad()
    def follow(self, number: int) -> None:
        """Update the averages with the newest parameters, after step `number`."""
        keep = min(self.keep, number / (number + 20))
        torch._foreach_lerp_(self.averages, self.newest, 1 - keep)


class Run:
    """Runs `step(progress) -> loss` with warm-up and half cosine decay; checkpoints in `folder`.

    Args:
        folder: for the checkpoint and the log.
        parts: the objects to save and restore, by name.
        optimizers: their rates are set each step. The first one is stepped here with the loss's
            gradients, clipped to norm 1; the others are stepped by `step` itself.
        length: of the whole run.
        warm: number of warm-up steps.
    """

    def __init__(
        self,
        folder: Path,
        parts: Mapping[str, Stateful],
        optimizers: list[torch.optim.Optimizer],
        length: Length,
        warm: int = 200,
    ) -> None:
        self.folder, self.parts, self.optimizers, self.length = folder, parts, optimizers, length
        self.warm = warm
        self.rates = [float(o.param_groups[0]["lr"]) for o in optimizers]
        self.parameters = [p for group in optimizers[0].param_groups for p in group["params"]]
        self.progress = torch.zeros((), device=DEVICE)
        self.done, self.spent = 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if self._checkpoint.is_file():
            state = torch.load(self._checkpoint, weights_only=True, map_location=DEVICE)
            for name, part in parts.items():
                part.load_state_dict(state[name])
            for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(kept)
            self.done, self.spent = state["done"], state["spent"]

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def _share(self) -> float:
        """Progress of the run, 0 to 1."""
        if self.length.seconds is not None:
            return min(1.0, self.spent / self.length.seconds)
        return min(1.0, self.done / (self.length.steps or 1))

    def train(
        self,
        step: Callable[[Tensor], Tensor],
        *,
        after: Callable[[int], object] = lambda number: None,
        report: Callable[[], object] | None = None,
        every: float = 60.0,
    ) -> None:
        """Train to the end of the run.

        Args:
            step: progress (a scalar tensor on the device, 0 to 1) -> loss.
            after: called after each step, with the number of steps done.
            report: its result is logged with each checkpoint.
            every: seconds between checkpoints with reports.
        """
        if self._share >= 1:
            return
        torch.manual_seed(self.done)
        started, wanted = time.perf_counter(), Switches.compile
        advance = self._prepare(step)
        self._log(f"ready after {time.perf_counter() - started:.1f} s")
        began, before, first = time.perf_counter(), self.spent, self.done
        reported = logged = began
        losses: list[Tensor] = []
        while self._share < 1:
            self._schedule()
            loss = advance()
            self.done += 1
            after(self.done)
            if self.done % 10 == 0:
                losses.append(loss.detach().clone())
                if IS_GPU:
                    # Kernel launches are asynchronous, so synchronize before reading the clock.
                    torch.cuda.synchronize()
            now = time.perf_counter()
            self.spent = before + now - began
            if losses and now - logged > 10:
                logged = now
                mean = torch.stack(losses[-50:]).mean().item()
                pace = (self.done - first) / (now - began)
                self._log(f"{self._share:5.1%} step {self.done}: {mean:.4f}, {pace:.2f} steps/s")
            if report and now - reported > every and self._share < 0.9:
                self.save()
                self._report(report)
                before += now - time.perf_counter()
                reported = time.perf_counter()
        Switches.compile = wanted
        self.save()
        self._log(f"done after {self.done} steps and {self.spent:.0f} s")
        if report:
            self._report(report)

    def save(self) -> None:
        """Write the checkpoint atomically."""
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        state["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        state |= {"done": self.done, "spent": self.spent}
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.rename(self._checkpoint)

    def _schedule(self) -> None:
        self.progress.fill_(self._share)
        falling = (1 + math.cos(math.pi * self._share)) / 2
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            set_rate(optimizer, rate * min(1.0, (self.done + 1) / self.warm) * falling)

    def _prepare(self, step: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        """Return a function that runs one step, with a CUDA graph and compilation if they work."""

        def advance() -> Tensor:
            loss = step(self.progress)
            self.optimizers[0].zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizers[0].step()
            return loss

        self._schedule()
        try:
            self._try(advance)
        except Exception:
            if not Switches.compile:
                raise
            self._log("without compilation, which failed:\n" + traceback.format_exc()[-3000:])
            Switches.compile = False
            self._try(advance)
        if not Switches.graph:
            return advance
        try:
            return self._capture(advance)
        except Exception:
            self._log("without a CUDA graph, which failed:\n" + traceback.format_exc()[-3000:])
            torch.cuda.synchronize()
            return advance

    def _try(self, advance: Callable[[], Tensor]) -> None:
        """Run some steps at the small initial rate, on a side stream as CUDA graphs require."""
        if not IS_GPU:
            if Switches.compile:
                advance()
            return
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(TRIAL_STEPS):
                advance()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()

    def _capture(self, advance: Callable[[], Tensor]) -> Callable[[], Tensor]:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = advance()

        def replay() -> Tensor:
            graph.replay()
            return loss

        replay()
        torch.cuda.synchronize()
        return replay

    def _report(self, report: Callable[[], object]) -> None:
        """Log the report, or its error, so that a failed contact sheet does not stop training."""
        try:
            self._log(f"step {self.done}: {report()}")
        except Exception:
            self._log("no report:\n" + traceback.format_exc()[-2000:])

    def _log(self, line: str) -> None:
        line = f"[{time.perf_counter() - STARTED:6.1f}] {self.folder.name}: {line}"
        print(line, flush=True)
        with (self.folder / "log.txt").open("a") as file:
            file.write(line + "\n")


def training_arguments(
    description: str, inputs: list[str], *, steps: int, batch: int
) -> argparse.Namespace:
    """Parse the command line of a training script; the result's `length` is a `Length`.

    Args:
        description: for --help.
        inputs: names of the input folders; the output, `folder`, is the last argument.
        steps: default number of steps.
        batch: default batch size.
    """
    parser = argparse.ArgumentParser(description=description)
    for name in (*inputs, "folder"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seconds", type=float, help="wall clock, instead of steps")
    parser.add_argument("--batch", type=int, default=batch)
    arguments = parser.parse_args()
    arguments.length = (
        Length(seconds=arguments.seconds) if arguments.seconds else Length(steps=arguments.steps)
    )
    return arguments


def compact(folder: Path) -> None:
    """Rewrite every JSON file below a folder without whitespace."""
    for path in folder.rglob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()), separators=(",", ":")) + "\n")
