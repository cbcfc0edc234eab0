"""Measure a learned map: its health, its calibration and the recommended strength."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from lineas_core.diagnostics.calibration import calibrate, with_calibration
from lineas_core.diagnostics.copying import with_copies
from lineas_core.diagnostics.health import check_health
from lineas_core.diagnostics.report import HealthReport
from lineas_core.diagnostics.strength import recommend_strength
from lineas_core.diagnostics.strength_sweep import strength_sweep
from lineas_core.diagnostics.style_knowledge import drawn_styles, style_knowledge, takes_away
from lineas_core.diagnostics.style_verdict import with_style
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.methods.names import DEFAULT_METHOD
from lineas_core.models.image.model import DiffusionModel
from lineas_core.models.load import Model
from lineas_core.prompts.prompt_set import PromptSet, Sides
from lineas_core.training.config import TrainConfig
from lineas_core.training.provenance import describe_map
from lineas_core.training.state import TrainState

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class MeasuredMap:
    """A map, and its health and recommended strength; None where they were not measured."""

    map: SteeringMap
    health: HealthReport | None
    recommended: float | None


def measure_run(
    model: Model, prompts: PromptSet, config: TrainConfig, state: TrainState, *, recommend: bool
) -> MeasuredMap:
    """The current map of a training run, measured by `measure_map`."""
    # States that an earlier version saved are of the default method, and do not say so.
    method = state.run.get("method", DEFAULT_METHOD)
    smap = SteeringMap(state.sites, describe_map(model, prompts, method, config))
    return measure_map(model, prompts, config, smap, recommend=recommend)


def measure_map(
    model: Model, prompts: PromptSet, config: TrainConfig, smap: SteeringMap, *, recommend: bool
) -> MeasuredMap:
    """Measure a map on held-out prompts: its health, and what `recommend` adds.

    Args:
        model: the model that the map is for.
        prompts: the source and target; split as for training.
        config: the settings of the training.
        smap: the map.
        recommend: also recommend a strength, and measure the calibration and the copies at it.
    """
    training, held_out = prompts.split(config.holdout, config.seed)
    health, strength = None, None
    how: dict[str, Any] = {"pooling": config.pooling, "batch_size": config.batch_size}
    try:
        health = check_health(model, smap, training, held_out, **how)
        if recommend:
            sweep = strength_sweep(model, smap, held_out.source)
            found = recommend_strength(model, smap, held_out, sweep=sweep, **how)
            strength, concept = found.strength, smap.info.concept
            whole = Sides(prompts.source, prompts.target)
            if isinstance(model, DiffusionModel) and not takes_away(concept, whole):
                known = style_knowledge(model, concept, whole)
                health = with_style(health, concept, found, known, drawn_styles(model.entry))
            curve = calibrate(model, smap, held_out.source, sweep=sweep)
            smap = with_calibration(smap, curve)
            if strength is not None:
                health = with_copies(health, model, smap, training, strength)
    except Exception:
        # Keep the map even if measuring it fails.
        log.exception("a map is kept without all of its figures")
    return MeasuredMap(smap, health, strength)
