"""LinEAS: steer generative models by one learned scale and shift per neuron.

import lineas_core as lc
model = lc.load_model("smollm2")
result = lc.train(model, lc.PromptSet.load("football"))
print(model.generate(["Once upon a time"], steer=[(result.map, 1.0)]))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lineas_core.diagnostics.interference import Effect, effects
    from lineas_core.diagnostics.report import HealthReport, Recommendation
    from lineas_core.diagnostics.strength import recommend_strength
    from lineas_core.errors import (
        ConfigError,
        LineasError,
        MapError,
        ModelError,
        PromptError,
        SiteError,
        TrainingError,
    )
    from lineas_core.export.checkpoint import fold
    from lineas_core.export.comfyui import to_comfyui
    from lineas_core.export.control_vector import to_gguf
    from lineas_core.export.import_map import import_map
    from lineas_core.export.peft import to_peft
    from lineas_core.export.steering_vectors import to_steering_vector
    from lineas_core.maps.bounds import Bounds
    from lineas_core.maps.steering_map import Affine, MapInfo, SteeringMap, compose
    from lineas_core.methods.fit import fit
    from lineas_core.methods.lineas import DivergedError, TrainResult, train
    from lineas_core.methods.variants.early_stop import Stopped, train_until, warm_start
    from lineas_core.methods.variants.sparsify import PathConfig, SparsePath, SparsePoint, sparsest
    from lineas_core.metrics.clip import ClipScorer, Scores, clip_score, img_score, load_scorer
    from lineas_core.metrics.toxicity import load_toxicity_scorer, toxicity
    from lineas_core.models.image.model import DiffusionModel, ImageGrid
    from lineas_core.models.language.model import LanguageModel
    from lineas_core.models.load import load_model
    from lineas_core.models.shared.batches import TextGrid
    from lineas_core.notebook.widget import widget
    from lineas_core.prompts.image_set import ImageSet
    from lineas_core.prompts.prompt_set import PromptIssue, PromptSet, load_jigsaw
    from lineas_core.scenes.drawing import draw_grid
    from lineas_core.steering import steer
    from lineas_core.training.config import TrainConfig
    from lineas_core.training.events import StepEvent
    from lineas_core.training.state import TrainState
    from lineas_core.training.trainer import Trainer
    from lineas_core.version import __version__

__all__ = [
    "Affine",
    "Bounds",
    "ClipScorer",
    "ConfigError",
    "DiffusionModel",
    "DivergedError",
    "Effect",
    "HealthReport",
    "ImageGrid",
    "ImageSet",
    "LanguageModel",
    "LineasError",
    "MapError",
    "MapInfo",
    "ModelError",
    "PathConfig",
    "PromptError",
    "PromptIssue",
    "PromptSet",
    "Recommendation",
    "Scores",
    "SiteError",
    "SparsePath",
    "SparsePoint",
    "SteeringMap",
    "StepEvent",
    "Stopped",
    "TextGrid",
    "TrainConfig",
    "TrainResult",
    "TrainState",
    "Trainer",
    "TrainingError",
    "__version__",
    "clip_score",
    "compose",
    "draw_grid",
    "effects",
    "fit",
    "fold",
    "img_score",
    "import_map",
    "load_jigsaw",
    "load_model",
    "load_scorer",
    "load_toxicity_scorer",
    "recommend_strength",
    "sparsest",
    "steer",
    "to_comfyui",
    "to_gguf",
    "to_peft",
    "to_steering_vector",
    "toxicity",
    "train",
    "train_until",
    "warm_start",
    "widget",
]

# Public name -> its module, imported when the name is first asked for: prompts can be read, and
# `--help` printed, without torch.
_HOMES = {
    "Affine": "maps.steering_map",
    "Bounds": "maps.bounds",
    "ClipScorer": "metrics.clip",
    "ConfigError": "errors",
    "DiffusionModel": "models.image.model",
    "DivergedError": "methods.lineas",
    "Effect": "diagnostics.interference",
    "HealthReport": "diagnostics.report",
    "ImageGrid": "models.image.model",
    "ImageSet": "prompts.image_set",
    "LanguageModel": "models.language.model",
    "LineasError": "errors",
    "MapError": "errors",
    "MapInfo": "maps.steering_map",
    "ModelError": "errors",
    "PathConfig": "methods.variants.sparsify",
    "PromptError": "errors",
    "PromptIssue": "prompts.prompt_set",
    "PromptSet": "prompts.prompt_set",
    "Recommendation": "diagnostics.report",
    "Scores": "metrics.clip",
    "SiteError": "errors",
    "SparsePath": "methods.variants.sparsify",
    "SparsePoint": "methods.variants.sparsify",
    "SteeringMap": "maps.steering_map",
    "StepEvent": "training.events",
    "Stopped": "methods.variants.early_stop",
    "TextGrid": "models.shared.batches",
    "TrainConfig": "training.config",
    "TrainResult": "methods.lineas",
    "TrainState": "training.state",
    "Trainer": "training.trainer",
    "TrainingError": "errors",
    "__version__": "version",
    "clip_score": "metrics.clip",
    "compose": "maps.steering_map",
    "draw_grid": "scenes.drawing",
    "effects": "diagnostics.interference",
    "fit": "methods.fit",
    "fold": "export.checkpoint",
    "img_score": "metrics.clip",
    "import_map": "export.import_map",
    "load_jigsaw": "prompts.prompt_set",
    "load_model": "models.load",
    "load_scorer": "metrics.clip",
    "load_toxicity_scorer": "metrics.toxicity",
    "recommend_strength": "diagnostics.strength",
    "sparsest": "methods.variants.sparsify",
    "steer": "steering",
    "to_comfyui": "export.comfyui",
    "to_gguf": "export.control_vector",
    "to_peft": "export.peft",
    "to_steering_vector": "export.steering_vectors",
    "toxicity": "metrics.toxicity",
    "train": "methods.lineas",
    "train_until": "methods.variants.early_stop",
    "warm_start": "methods.variants.early_stop",
    "widget": "notebook.widget",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
