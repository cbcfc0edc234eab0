"""AurA (Suau et al., ICML 2024): dampen the neurons that detect a concept.

    w = 1 - Gini = 1 - 2 (AUROC - 0.5) where AUROC > 0.5, else 1        b = 0

AUROC is that of a neuron's pooled activation as a detector of the source. The source must
therefore be prompts WITH the concept to remove, and the target prompts without it. A neuron that
separates them perfectly is set to zero. The map can only remove a concept, not add one.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lineas_core.maps.steering_map import Affine, SteeringMap
from lineas_core.methods.shared import fit_parallel
from lineas_core.steerable import Samples, Steerable
from lineas_core.training.config import TrainConfig


def fit(model: Steerable, prompts: Samples, config: TrainConfig) -> SteeringMap:
    """Fit in closed form on the untouched model, with max pooling over tokens as in the paper.

    Settings used: sites, batch_size, holdout and seed.
    """
    return fit_parallel(model, prompts, config, "aura", dampen, pooling="max")


def dampen(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> Affine:
    """Scale down each neuron by how well it detects the source."""
    gini = 2 * (auroc(source, target) - 0.5)
    scale = (1 - gini.clamp(min=0)).float()
    return Affine(scale, torch.zeros_like(scale))


def auroc(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> Float[Tensor, " d"]:
    """Area under the ROC curve of each column as a detector of `source`.

    The share of (source, target) pairs in which the source is higher; a tie counts half.
    """
    ordered, scores = target.T.contiguous().sort(dim=1).values, source.T.contiguous()
    below = torch.searchsorted(ordered, scores)
    not_above = torch.searchsorted(ordered, scores, right=True)
    return (below + not_above).sum(dim=1) / (2 * len(source) * len(target))
