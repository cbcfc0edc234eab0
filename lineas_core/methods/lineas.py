"""LinEAS (NeurIPS 2025): all sites jointly, end to end. See `lineas_core.training.trainer`."""

from __future__ import annotations

from lineas_core.maps.steering_map import SteeringMap
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.steerable import Steerable
from lineas_core.training.config import TrainConfig
from lineas_core.training.trainer import Trainer


def fit(model: Steerable, prompts: PromptSet, config: TrainConfig) -> SteeringMap:
    """Train to the last step and give the map, without a health report."""
    trainer = Trainer(model, prompts, config)
    while not trainer.done:
        trainer.step()
    return trainer.map
