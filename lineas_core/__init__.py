"""LinEAS: steer generative models by one learned scale and shift per neuron.

import lineas_core as lc
model = lc.load_model("smollm2")
result = lc.train(model, lc.PromptSet.load("football"))
print(model.generate(["Once upon a time"], steer=[(result.map, 1.0)]))
"""

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
from lineas_core.export.peft import to_peft
from lineas_core.maps.steering_map import Affine, MapInfo, SteeringMap, compose
from lineas_core.methods.early_stop import Stopped, train_until, warm_start
from lineas_core.methods.fit import fit
from lineas_core.methods.lineas import DivergedError, TrainResult, train
from lineas_core.methods.sparsify import PathConfig, SparsePath, SparsePoint, sparsest
from lineas_core.metrics.clip import ClipScorer, Scores, clip_score, img_score, load_scorer
from lineas_core.metrics.toxicity import load_toxicity_scorer, toxicity
from lineas_core.models.image.model import DiffusionModel, ImageGrid
from lineas_core.models.language.model import LanguageModel, TextGrid
from lineas_core.models.load import load_model
from lineas_core.prompts.prompt_set import PromptIssue, PromptSet, load_jigsaw
from lineas_core.steering import steer
from lineas_core.training.config import TrainConfig
from lineas_core.training.events import StepEvent
from lineas_core.training.state import TrainState
from lineas_core.training.trainer import Trainer
from lineas_core.version import __version__

__all__ = [
    "Affine",
    "ClipScorer",
    "ConfigError",
    "DiffusionModel",
    "DivergedError",
    "Effect",
    "HealthReport",
    "ImageGrid",
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
    "effects",
    "fit",
    "fold",
    "img_score",
    "load_jigsaw",
    "load_model",
    "load_scorer",
    "load_toxicity_scorer",
    "recommend_strength",
    "sparsest",
    "steer",
    "to_peft",
    "toxicity",
    "train",
    "train_until",
    "warm_start",
]
