"""Training with early stopping: it ends once held-out prompts come no closer to the target.

For LinEAS+, once held-out target sentences become no likelier.

The number of steps is then only an upper limit. A run may start from a closed-form map
(`warm_start`) instead of the identity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lineas_core.diagnostics.distance import TargetDistance
from lineas_core.diagnostics.likelihood import TargetLikelihood
from lineas_core.errors import ConfigError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.methods.fit import find_trainer, fit
from lineas_core.methods.names import DEFAULT_METHOD
from lineas_core.methods.shared import closest_strength
from lineas_core.steerable import Samples, Steerable
from lineas_core.training.config import TrainConfig
from lineas_core.training.events import StepEvent
from lineas_core.training.likelihood import LikelihoodTrainer
from lineas_core.training.trainer import Trainer

WARM_STRENGTHS = (0.0, 0.025, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


@dataclass(frozen=True)
class Stopped:
    """The result of a run with early stopping.

    Attributes:
        map: the best of the checked maps, by what the curve holds.
        step: the step at which it was reached; 0 is the initial map.
        steps: total number of steps done.
        curve: (step, remaining share of the held-out distance) of every check; for LinEAS+, (step,
            mean next-token loss of held-out targets in nats).
    """

    map: SteeringMap
    step: int
    steps: int
    curve: tuple[tuple[int, float], ...]


def train_until(
    model: Steerable,
    prompts: Samples,
    config: TrainConfig | None = None,
    *,
    method: str = DEFAULT_METHOD,
    every: int = 5,
    patience: int = 20,
    least: float = 0.01,
    start: SteeringMap | None = None,
    on_event: Callable[[StepEvent], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Stopped:
    """Train a map until held-out prompts come no closer to the target; see `Stopped.curve`.

    Args:
        model: its weights are not changed.
        prompts: the source and target.
        config: the settings, where `steps` is the limit; `TrainConfig.for_model(model, method)` by
            default.
        method: one that trains in steps: "lineas", or "lineas+".
        every: steps between checks, >= 1; a check is a forward pass over the held-out source.
        patience: steps without progress after which the run ends, >= 1.
        least: minimum relative decrease of the measure, below the last check that made progress,
            for a check to count as progress; in [0, 1).
        start: the initial map, for example from `warm_start`; the identity by default.
        on_event: called with a `StepEvent` after each step.
        should_stop: called before each step.

    Raises:
        ConfigError: a setting is out of range, or no prompts are held out.
        TrainingError: the loss diverged.
    """
    if every < 1 or patience < 1 or not 0 <= least < 1:
        raise ConfigError(
            f"every {every}, patience {patience}, least {least:g}: every and patience must be 1 "
            "or more, least 0 or more and below 1."
        )
    config = config or TrainConfig.for_model(model, method)
    if not config.holdout:
        raise ConfigError(
            "holdout is 0; prompts must be held out to stop by. Set it to 0.2, or use train."
        )
    trainer = find_trainer(method)(model, prompts, config, start=start)
    measure = _measure_of(trainer)
    best, step = trainer.map, 0
    lowest = mark = measure(best)
    curve, progressed = [(0, lowest)], 0
    for event in trainer.run(should_stop, read_every=1):
        if on_event:
            on_event(event)
        if event.step % every and not trainer.done:
            continue
        smap = trainer.map
        found = measure(smap)
        curve.append((event.step, found))
        if found < lowest:
            best, step, lowest = smap, event.step, found
        if found < (1 - least) * mark:
            mark, progressed = found, event.step
        elif event.step - progressed >= patience:
            break
    return Stopped(best, step, len(trainer.losses), tuple(curve))


def _measure_of(trainer: Trainer) -> Callable[[SteeringMap], float]:
    """What says how far held-out prompts are from the target with a map."""
    config, size = trainer.config, trainer.config.batch_size
    if isinstance(trainer, LikelihoodTrainer) and config.likelihood:
        return TargetLikelihood(
            trainer.model, trainer.held_out, seed=config.seed, batch_size=size
        ).loss
    distance = TargetDistance(
        trainer.model, trainer.held_out, trainer.sites, pooling=config.pooling, batch_size=size
    )
    return lambda smap: distance.left(smap)[0]


def warm_start(model: Steerable, prompts: Samples, config: TrainConfig) -> SteeringMap:
    """A closed-form initial map: Lin-AcT fitted to each site independently, at reduced strength.

    Sites that are fitted independently each correct what earlier sites have already corrected, so
    all of them at full strength overshoot. Returns the map at the strength of `WARM_STRENGTHS` that
    brings the training prompts closest to the target; 0, the identity, is among them.
    """
    # Training goes on from an affine map.
    smap = fit("lin-act", model, prompts, replace(config, order="parallel", bounds="none"))
    return smap.at(closest_strength(model, prompts, smap, WARM_STRENGTHS, config))
