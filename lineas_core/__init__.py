"""LinEAS: steer generative models by one learned scale and shift per neuron.

import lineas_core as lc
model = lc.load_model("smollm2")
result = lc.train(model, lc.PromptSet.load("football"))
print(model.generate(["Once upon a time"], steer=[(result.map, 1.0)]))
"""

from lineas_core.composition import Effect, effects
from lineas_core.early_stop import Stopped, train_until, warm_start
from lineas_core.errors import (
    ConfigError,
    LineasError,
    MapError,
    ModelError,
    PromptError,
    SiteError,
    TrainingError,
)
from lineas_core.folding import fold
from lineas_core.health import HealthReport
from lineas_core.maps import Affine, MapInfo, SteeringMap, compose
from lineas_core.methods import fit
from lineas_core.metrics.clip import ClipScorer, Scores, clip_score, img_score, load_scorer
from lineas_core.metrics.toxicity import load_toxicity_scorer, toxicity
from lineas_core.models import load_model
from lineas_core.models.diffusion import DiffusionModel, ImageGrid
from lineas_core.models.language import LanguageModel, TextGrid
from lineas_core.prompts import PromptIssue, PromptSet, load_jigsaw
from lineas_core.recommend import Recommendation, recommend_strength
from lineas_core.sparsify import PathConfig, SparsePath, SparsePoint, sparsest
from lineas_core.steering import steer
from lineas_core.to_peft import to_peft
from lineas_core.train_config import TrainConfig
from lineas_core.trainer import DivergedError, StepEvent, Trainer, TrainResult, train
from lineas_core.training_state import TrainState
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
