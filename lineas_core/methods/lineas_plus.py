"""LinEAS+: LinEAS with the likelihood of target sentences. See `training/likelihood.py`."""

from __future__ import annotations

from lineas_core.maps.steering_map import SteeringMap
from lineas_core.methods.lineas import run_to_end
from lineas_core.steerable import Samples, Steerable
from lineas_core.training.config import TrainConfig
from lineas_core.training.likelihood import LikelihoodTrainer

TRAINER = LikelihoodTrainer


def fit(model: Steerable, prompts: Samples, config: TrainConfig) -> SteeringMap:
    """Train to the last step and return the map, without a health report."""
    return run_to_end(TRAINER(model, prompts, config))
