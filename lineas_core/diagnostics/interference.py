"""Interference between maps: how much of each map's own effect remains when several are on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from lineas_core.activations import execution_order, pooled_activations
from lineas_core.errors import PromptError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.steerable import Pooling, Steerable
from lineas_core.steering import steer

Activations = dict[str, Float[Tensor, "n _"]]


@dataclass(frozen=True)
class Effect:
    """How much of a map's effect remains when other maps are on.

    Attributes:
        share: 1 if as strong as alone, 0.5 if half of it remains, above 1 if it is amplified,
            below 0 if it is reversed; None if the map alone changes nothing.
    """

    share: float | None


def effects(
    model: Steerable,
    prompts: Sequence[str],
    maps: Sequence[tuple[SteeringMap, float]],
    *,
    pooling: Pooling = "mean",
    batch_size: int = 32,
) -> list[Effect]:
    """The share of each map's own change that remains in the change of all maps together.

        share_i = <a_all - a_0, a_i - a_0> / <a_i - a_0, a_i - a_0>
        <u, v>  = sum over sites l of map i, prompts and coordinates of u_l v_l / d_l

    where a_0, a_i and a_all are the pooled activations with no map, with map i alone, and with
    all maps on. The share is the least-squares coefficient of the change by map i alone in the
    change by all maps. The factor 1/d_l gives wide and narrow sites the same weight, as in the
    training loss.

    Runs one forward pass over the prompts for each map, and two more.

    Args:
        model: a language or an image model.
        prompts: at least one; a handful is enough.
        maps: (map, strength) pairs, first applied first.
        pooling: see `pool`.
        batch_size: prompts per forward pass.

    Returns:
        One `Effect` for each of `maps`, in the same order.

    Raises:
        PromptError: there are no prompts.
        SiteError: a map does not fit the model.
        MapError: the maps do not fit each other.
    """
    if not maps:
        return []
    if not prompts:
        raise PromptError("prompts is empty; give at least one to measure the maps on.")
    inputs = model.prepare(prompts)
    union = list(dict.fromkeys(site for smap, _ in maps for site in smap.sites))
    order = execution_order(model, inputs, union)

    def activations(on: Sequence[tuple[SteeringMap, float]], sites: Sequence[str]) -> Activations:
        with steer(model, on):
            return pooled_activations(model, inputs, sites, pooling=pooling, batch_size=batch_size)

    plain, together = activations([], order), activations(maps, order)
    found = []
    for smap, strength in maps:
        own = [site for site in order if site in smap.sites]
        alone = activations([(smap, strength)], own)
        shared = size = 0.0
        for site in own:
            change = (alone[site] - plain[site]).double()
            among = (together[site] - plain[site]).double()
            shared += float((among * change).sum()) / change.shape[1]
            size += float(change.square().sum()) / change.shape[1]
        found.append(Effect(shared / size if size else None))
    return found
