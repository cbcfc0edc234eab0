"""Lin-AcT (Rodriguez et al., ICLR 2025): closed-form affine transport of each coordinate.

Each site's map is the least-squares affine map between the sorted pooled activations (their
Eq. 5).

With `trim`, the fit leaves out the quantile levels below `trim` and above `1 - trim`, so that a
few outliers do not dominate the scale. The paper also restricts a map to the range of the source's
activations; a map of this library is affine, so it acts everywhere.
"""

from __future__ import annotations

from functools import partial

from lineas_core.maps.steering_map import SteeringMap
from lineas_core.methods.shared import fit_in_order
from lineas_core.numerics.transport import affine_transport
from lineas_core.steerable import Samples, Steerable
from lineas_core.training.config import TrainConfig


def fit(model: Steerable, prompts: Samples, config: TrainConfig) -> SteeringMap:
    """Fit in closed form.

    Settings used: order, trim, sites, pooling, batch_size, holdout and seed.
    """
    fit_site = partial(affine_transport, trim=config.trim)
    return fit_in_order(model, prompts, config, "lin-act", fit_site)
