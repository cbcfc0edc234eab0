"""Training that ends by itself: as soon as held-out prompts come no closer to the target.

The number of steps is then a limit, not a choice. A run may begin at a map that is known in
closed form (`warm_start`) in place of the identity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lineas_core.activations import pooled_activations
from lineas_core.errors import ConfigError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.methods.fit import fit
from lineas_core.numerics.transport import delta
from lineas_core.prompts.prompt_set import PromptSet, Sides
from lineas_core.steerable import Pooling, Steerable
from lineas_core.steering import steer
from lineas_core.training.config import TrainConfig
from lineas_core.training.trainer import StepEvent, Trainer

WARM_STRENGTHS = (0.0, 0.025, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


@dataclass(frozen=True)
class Stopped:
    """What a run that ends by itself gives.

    Attributes:
        map: the best of those checked, by the distance of held-out prompts.
        step: at which it was reached; 0 is the map that the run began with.
        steps: done in all.
        curve: (step, distance left) of every check; see `distance_left`.
    """

    map: SteeringMap
    step: int
    steps: int
    curve: tuple[tuple[int, float], ...]


def train_until(
    model: Steerable,
    prompts: PromptSet,
    config: TrainConfig | None = None,
    *,
    every: int = 5,
    patience: int = 20,
    least: float = 0.01,
    start: SteeringMap | None = None,
    on_event: Callable[[StepEvent], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Stopped:
    """Train a LinEAS map until held-out prompts come no closer to the target.

    Args:
        model: its weights are not changed.
        prompts: the source and target.
        config: the settings, of which `steps` is the limit; the model's shipped ones by default.
        every: steps from one check to the next, >= 1; a check is a forward pass over the held-out
            source.
        patience: steps without progress after which the run ends, >= 1.
        least: share of the distance left by which a check must go below the last that made
            progress, to make progress itself; in [0, 1).
        start: the map to begin with, as `warm_start` gives; the identity by default.
        on_event: called with a `StepEvent` after each step.
        should_stop: asked before each step.

    Raises:
        ConfigError: a setting is out of range, or no prompts are held out.
        TrainingError: the loss went off.
    """
    if every < 1 or patience < 1 or not 0 <= least < 1:
        raise ConfigError(
            f"every {every}, patience {patience}, least {least:g}: every and patience must be 1 "
            "or more, least 0 or more and below 1."
        )
    config = config or TrainConfig.for_model(model)
    if not config.holdout:
        raise ConfigError(
            "holdout is 0; prompts must be held out to stop by. Set it to 0.2, or use train."
        )
    trainer = Trainer(model, prompts, config, start=start)
    left = distance_left(model, trainer.held_out, trainer.sites, config.pooling, config.batch_size)
    best, step = trainer.map, 0
    lowest = mark = left(best)
    curve, progressed = [(0, lowest)], 0
    while not trainer.done and not (should_stop and should_stop()):
        event = trainer.step()
        if on_event:
            on_event(event)
        if event.step % every and not trainer.done:
            continue
        smap = trainer.map
        found = left(smap)
        curve.append((event.step, found))
        if found < lowest:
            best, step, lowest = smap, event.step, found
        if found < (1 - least) * mark:
            mark, progressed = found, event.step
        elif event.step - progressed >= patience:
            break
    return Stopped(best, step, len(trainer.losses), tuple(curve))


def warm_start(model: Steerable, prompts: PromptSet, config: TrainConfig) -> SteeringMap:
    """A map in closed form to begin with: Lin-AcT of every site by itself, made weaker.

    Sites that are fitted by themselves each correct what those before them have corrected
    already, so that all of them at full strength overshoot. Of a few strengths, this is the one
    that leaves the training prompts closest to the target; 0, the identity, is among them.
    """
    smap = fit("lin-act", model, prompts, replace(config, order="parallel"))
    training, _ = prompts.split(config.holdout, config.seed)
    left = distance_left(model, training, list(smap.sites), config.pooling, config.batch_size)
    return smap.at(min(WARM_STRENGTHS, key=lambda strength: left(smap.at(strength))))


def distance_left(
    model: Steerable, prompts: Sides, sites: list[str], pooling: Pooling, batch_size: int
) -> Callable[[SteeringMap], float]:
    """A function: map -> share of the distance between source and target that it leaves.

    `Delta_T / Delta_0`, each the mean over coordinates summed over `sites`, between the target
    and the source with and without the map. 0 is a perfect map, 1 one that does nothing. What
    does not depend on the map is computed once.
    """
    source, target = model.prepare(prompts.source), model.prepare(prompts.target)
    aim = pooled_activations(model, target, sites, pooling=pooling, batch_size=batch_size)

    def distance() -> float:
        z = pooled_activations(model, source, sites, pooling=pooling, batch_size=batch_size)
        return sum(float(delta(z[site], aim[site]).mean()) for site in sites)

    plain = distance()

    def left(smap: SteeringMap) -> float:
        with steer(model, [(smap, 1.0)]):
            return distance() / plain if plain else 1.0

    return left
