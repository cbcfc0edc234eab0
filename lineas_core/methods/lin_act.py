"""Lin-AcT (Rodriguez et al., ICLR 2025): closed-form transport, fitted layer after layer.

Each site's map is the least-squares affine map between the sorted pooled activations (their
Eq. 5), of the source through the sites steered so far and of the target through none (their
Section 3.2, sequential estimation).
"""

from __future__ import annotations

from lineas_core.activations import Steerable, execution_order, pooled_activations
from lineas_core.maps import Affine, BatchAffine, SteeringMap
from lineas_core.origin import describe_map
from lineas_core.prompts import PromptSet
from lineas_core.trainer import TrainConfig
from lineas_core.transport import affine_transport


def fit(model: Steerable, prompts: PromptSet, config: TrainConfig) -> SteeringMap:
    """Fit site after site in closed form.

    Of the configuration it reads sites, pooling, batch_size, holdout and seed: the same prompts
    train it that train LinEAS.
    """
    training, _ = prompts.split(config.holdout, config.seed)
    source, target = model.prepare(training.source), model.prepare(training.target)
    sites = execution_order(model, source, model.sites(config.sites or model.default_sites))
    size, pooling = config.batch_size, config.pooling
    aims = pooled_activations(model, target, sites, pooling=pooling, batch_size=size)
    fitted: dict[str, Affine] = {}
    live: dict[str, BatchAffine] = {}
    for site in sites:
        here = pooled_activations(
            model, source, [*fitted, site], pooling=pooling, batch_size=size, maps=live
        )[site]
        fitted[site] = affine_transport(here, aims[site])
        live[site] = BatchAffine(
            (fitted[site].scale - 1).to(here.device), fitted[site].shift.to(here.device)
        )
    return SteeringMap(fitted, describe_map(model, prompts, "lin-act", config))
