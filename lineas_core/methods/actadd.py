"""ActAdd, activation addition (Turner et al., 2023): the difference of one pair of prompts.

    w = 1        b = target_1 - source_1, at the last token

on the untouched model. The pair is the first target and the first source prompt that are not
held out. The paper adds the differences of several tokens at the first positions of one layer. A
map of this library is the same at every position, so it uses the difference at the last token,
which has attended to the whole prompt, at every site.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from lineas_core.maps.steering_map import Affine, SteeringMap
from lineas_core.methods.shared import fit_parallel, shift_by
from lineas_core.steerable import Samples, Steerable
from lineas_core.training.config import TrainConfig


def fit(model: Steerable, prompts: Samples, config: TrainConfig) -> SteeringMap:
    """Fit in closed form; image models use the mean over height and width in place of a token.

    Settings used: sites, batch_size, holdout and seed.
    """
    return fit_parallel(model, prompts, config, "actadd", move_first, pooling="last")


def move_first(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> Affine:
    """The shift from the first source prompt to the first target prompt."""
    return shift_by(target[0] - source[0])
