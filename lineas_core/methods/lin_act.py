"""Lin-AcT (Rodriguez et al., ICLR 2025): closed-form affine transport of each coordinate.

Each site's map is the least-squares affine map between the sorted pooled activations (their
Eq. 5).

It moves an activation only within the range of the pooled source activations (`quantiles_src:
q_0_100` in ml-act, `act/configs/intervention_params/linear_ot.yaml`), unless `bounds` says
otherwise. With `trim`, the fit leaves out the quantile levels below `trim` and above `1 - trim`, so
that a few outliers do not dominate the scale.
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

    Settings used: order, bounds, trim, sites, pooling, batch_size, holdout and seed.
    """
    fit_site = partial(affine_transport, trim=config.trim)
    within = config.bounds != "none"
    return fit_in_order(model, prompts, config, "lin-act", fit_site, within=within)
