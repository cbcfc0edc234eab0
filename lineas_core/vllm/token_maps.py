"""TokenMaps: maps on the norms of a model whose batches are rows of tokens of many requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lineas_core.errors import SiteError
from lineas_core.hooks import ELSEWHERE, find_sites
from lineas_core.maps.bounds import EVERYWHERE, refuse_bounds
from lineas_core.maps.steering_map import BatchAffine, SteeringMap, compose
from lineas_core.steering import AtSite, norms_last
from lineas_core.system.lru import Recent
from lineas_core.vllm.asked import Asked

# Combinations of maps and strengths whose composition is kept.
REMEMBERED = 64


@dataclass(frozen=True)
class Batch:
    """What is applied to which tokens.

    Attributes:
        tokens: indices of the steered tokens.
        rows: which row of `maps` each of them takes.
        maps: site -> one row per combination of maps and strengths.
    """

    tokens: Int[Tensor, " n"]
    rows: Int[Tensor, " n"]
    maps: Mapping[str, BatchAffine]


class TokenMaps:
    """Apply maps to the tokens of a batch, to each as its request asks.

    Tokens of requests that ask for nothing stay as they are, bit for bit.

    Args:
        module: its norms keep a token per row, alone or as the first of several outputs.
        maps: by name; their sites must be norms.

    Raises:
        SiteError: the module has no such site, of another width, or one that is no norm.
        MapError: a map acts only within bounds.
    """

    def __init__(self, module: nn.Module, maps: Mapping[str, SteeringMap]) -> None:
        self._maps = maps
        self._device = next(module.parameters()).device
        self._composed: Recent[dict[str, BatchAffine]] = Recent(REMEMBERED)
        self._now: Batch | None = None
        self._widths = {site: d for smap in maps.values() for site, d in smap.widths.items()}
        for name, smap in maps.items():
            _check(module, name, smap)
        for site, norm in find_sites(module, self._widths).items():
            norm.register_forward_hook(partial(self._hook, site))

    @contextmanager
    def steering(self, asked: Sequence[Asked], counts: Sequence[int]) -> Iterator[None]:
        """Within the block the module runs a batch.

        Args:
            asked: what each request asks for, in the order of their tokens.
            counts: of the tokens of each; rows behind them are padding.
        """
        self._now = self._batch(asked, counts)
        try:
            yield
        finally:
            self._now = None

    def _batch(self, asked: Sequence[Asked], counts: Sequence[int]) -> Batch | None:
        places = {each: place for place, each in enumerate(dict.fromkeys(filter(None, asked)))}
        if not places:
            return None
        rows = torch.tensor([places.get(each, -1) for each in asked])
        rows = rows.repeat_interleave(torch.tensor(counts)).to(self._device)
        tokens = (rows >= 0).nonzero()[:, 0]
        composed = [self._compose(each) for each in places]
        sites = dict.fromkeys(site for each in composed for site in each)
        maps = {site: self._rows_at(site, composed) for site in sites}
        return Batch(tokens, rows[tokens], maps)

    def _compose(self, asked: Asked) -> dict[str, BatchAffine]:
        composed = self._composed.get(asked)
        if composed is None:
            steer = [(self._maps[name], strength) for name, strength in asked]
            composed = {
                site: affine.on(self._device) for site, affine in compose(steer).sites.items()
            }
            self._composed.put(asked, composed)
        return composed

    def _rows_at(self, site: str, composed: Sequence[Mapping[str, BatchAffine]]) -> BatchAffine:
        none = torch.zeros(self._widths[site], device=self._device)
        found = [each.get(site, BatchAffine(none, none)) for each in composed]
        return BatchAffine(
            torch.stack([affine.gain for affine in found]),
            torch.stack([affine.shift for affine in found]),
        )

    def _hook(self, site: str, _: nn.Module, __: object, output: Any) -> Any:
        batch = self._now
        if batch is None or site not in batch.maps:
            return None
        z: Tensor = output[0] if isinstance(output, tuple) else output
        gain, shift = batch.maps[site]
        apply = AtSite(site, BatchAffine(gain[batch.rows], shift[batch.rows]), last=True)
        steered = z.index_copy(0, batch.tokens, apply(z[batch.tokens]))
        return (steered, *output[1:]) if isinstance(output, tuple) else steered


def _check(module: nn.Module, name: str, smap: SteeringMap) -> None:
    """Raise `SiteError` if a site of the map is no norm of its width, `MapError` for bounds."""
    refuse_bounds(smap.bounds, "used in vLLM", f"There, {EVERYWHERE}.")
    for site, norm in find_sites(module, smap.widths).items():
        if not norms_last(norm):
            raise SiteError(
                f"Site {site!r} of the map {name!r} is a {type(norm).__name__}; in vLLM maps act "
                "on norms. Learn it on norms, such as the sites '.*layernorm'."
            )
        width = next((weight.shape[-1] for weight in norm.parameters()), smap.widths[site])
        if width != smap.widths[site]:
            raise SiteError(
                f"Site {site!r} has width {width} on this model and {smap.widths[site]} in the map "
                f"{name!r}. {ELSEWHERE}"
            )
