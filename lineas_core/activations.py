"""Pooled activations at the sites of a model: one row per prompt, one column per neuron."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lineas_core.errors import ConfigError, SiteError
from lineas_core.hooks import Around, find_sites, hooked_output, is_plain, site_hooks
from lineas_core.maps.steering_map import BatchAffine, LiveMap
from lineas_core.numerics import fused
from lineas_core.numerics.norms import Norm, read_norm
from lineas_core.recompute import in_parts, recomputing
from lineas_core.steerable import Inputs, Packed, Pooling, Steerable
from lineas_core.steering import at_site, norms_last
from lineas_core.system.words import counted


class _LastSiteReached(BaseException):
    """Ends a forward pass after the last requested site.

    Derived from BaseException so that `except Exception` in model code does not catch it.
    """


def pool(
    z: Tensor,
    pooling: Pooling,
    mask: Bool[Tensor, "batch tokens"] | None,
    packing: Packed | None = None,
    *,
    heads: int | None = None,
) -> Float[Tensor, "batch d"]:
    """Pool activations to one float32 value per sample and coordinate.

    Args:
        z: (batch, d, height, width), pooled over height and width; or (batch, tokens, d), pooled
            over the tokens at which `mask` is True; or (1, real tokens, d), with `packing`; or
            (batch, d), which is only converted; or, with `mask`, (batch * tokens, d). With tokens,
            each may have several heads, (batch, tokens, heads, d) or (batch, heads, tokens, d),
            over which it is pooled first.
        pooling: mean, last (real token) or max. `last` is not defined for 4-D activations.
        mask: True at real tokens, which come first in each row; None means all are real.
        packing: layout of the tokens, if all prompts share one row.
        heads: dimension of a 4-D z that holds the heads, where that is known; None finds it with
            the mask, without which a 4-D z is an image.

    Raises:
        ConfigError: `pooling` is not defined for activations of this shape.
        SiteError: rows or dimensions of z cannot be told apart.
    """
    if z.ndim == 2 and mask is not None:
        z = _by_prompt(z, mask, packing)
    if z.ndim == 2:
        return z.float()
    if z.ndim == 4 and heads is None and mask is not None:
        heads = _heads(z, mask.shape[1] if packing is None else packing.averages.shape[1])
    if z.ndim == 4 and heads is not None:
        z = z.float().amax(dim=heads) if pooling == "max" else z.float().mean(dim=heads)
    if z.ndim == 4:
        if pooling == "last":
            raise ConfigError("pooling 'last' needs tokens; choose mean or max for images.")
        return _over(z, pooling, (2, 3))
    if packing is not None and not packing.alike:
        if pooling == "last":
            return z[0, packing.ends.to(z.device)].float()
        if pooling == "mean":
            return packing.averages.to(z.device) @ z[0].float()
    if packing is not None:
        z = packing.spread(z[0])
    if mask is None or mask.shape != z.shape[:2]:
        return z[:, -1].float() if pooling == "last" else _over(z, pooling, (1,))
    mask = mask.to(z.device)
    real = mask[..., None]
    if pooling == "mean":
        return (z.float() * real).sum(dim=1) / real.sum(dim=1)
    if pooling == "max":
        return _over(z.masked_fill(~real, -torch.inf), pooling, (1,))
    last = mask.sum(dim=1) - 1
    return z[torch.arange(len(z), device=z.device), last].float()


def _over(z: Tensor, pooling: Pooling, dims: tuple[int, ...]) -> Tensor:
    """The float32 mean or maximum over `dims`, without a float32 copy of z."""
    return z.mean(dims, dtype=torch.float32) if pooling == "mean" else z.amax(dims).float()


def _by_prompt(z: Tensor, mask: Tensor, packing: Packed | None) -> Tensor:
    """Rows of a 2-D z by prompt, (batch, tokens, d); z itself if it has one row per prompt.

    Raises:
        SiteError: its rows are neither prompts nor tokens.
    """
    shape = tuple(mask.shape) if packing is None else (1, packing.averages.shape[1])
    if len(z) == shape[0] * shape[1]:
        return z.view(*shape, -1)
    if packing is None and len(z) == len(mask):
        return z
    raise SiteError(
        f"A site puts out {tuple(z.shape)} for {shape[0]} rows of {shape[1]} tokens, and which "
        "row is of which token cannot be told. Leave the site out."
    )


def _heads(z: Tensor, tokens: int) -> int:
    """Which dimension of a 4-D z holds the heads of attention, 1 or 2.

    Raises:
        SiteError: it cannot be told, or neither holds the tokens.
    """
    if (z.shape[1] == tokens) == (z.shape[2] == tokens):
        raise SiteError(
            f"A site puts out {tuple(z.shape)} for {tokens} tokens, and which dimension holds the "
            "tokens cannot be told. Add a word to the longest prompt, or leave the site out."
        )
    return 2 if z.shape[1] == tokens else 1


def pooled_forward(
    model: Steerable,
    inputs: Inputs,
    sites: Sequence[str],
    *,
    pooling: Pooling = "mean",
    maps: Mapping[str, LiveMap] | None = None,
    rows_at_once: int = 0,
    layers: Sequence[str] = (),
) -> dict[str, Float[Tensor, "n d"]]:
    """Pooled activations of one batch at `sites`, after `maps`; the pass ends at the last site.

    Differentiable in the maps, which act at every token, in the order of the model.

    Args:
        model: gradients flow through it; frozen weights get none.
        inputs: from `model.prepare`.
        sites: in the order in which the model runs them (see `execution_order`).
        pooling: see `pool`.
        maps: site -> what is applied to the site's output before pooling.
        rows_at_once: number of prompts per forward pass; 0 runs all at once. Each part is
            recomputed in backward (gradient checkpointing, Chen et al. 2016), so that memory
            holds one part at a time.
        layers: modules that are recomputed in backward, so that memory holds their inputs and the
            activations of one (see `recompute.py`).

    Raises:
        SiteError: a site was not reached, its output is not a tensor, or no gradients get to it.
    """

    def run(rows: Inputs) -> dict[str, Tensor]:
        return _forward(model, rows, sites, pooling, maps, layers)

    parts = in_parts(run, inputs, rows_at_once)
    return {site: torch.cat([part[site] for part in parts]) for site in sites}


def _forward(
    model: Steerable,
    inputs: Inputs,
    sites: Sequence[str],
    pooling: Pooling,
    maps: Mapping[str, LiveMap] | None,
    layers: Sequence[str],
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def record(name: str, z: Tensor, pooled: Tensor) -> None:
        if len(pooled) != len(inputs):
            raise SiteError(
                f"Site {name!r} puts out {tuple(z.shape)} for {counted(len(inputs), 'prompt')}, "
                "and which rows belong to which prompt cannot be told. Leave it out."
            )
        # A layer that is recomputed records again, which is for its own backward alone.
        found.setdefault(name, pooled)
        if name == sites[-1]:
            raise _LastSiteReached

    modules = find_sites(model.module, sites)
    hooks = {
        name: _Recorded(name, modules[name], (maps or {}).get(name), pooling, inputs, record)
        for name in sites
    }
    with (
        suppress(_LastSiteReached),
        site_hooks(model.module, hooks),
        recomputing(model.module, layers, hooks),
    ):
        model.forward(inputs)
    missing = [name for name in sites if name not in found]
    if missing:
        raise SiteError(
            f"Site {missing[0]!r} was not reached in a forward pass. Leave it out, or choose "
            "sites that run for every prompt."
        )
    if maps is not None and torch.is_grad_enabled():
        learned = [
            name
            for name, live in maps.items()
            if name in found and isinstance(live, BatchAffine) and live.shift.requires_grad
        ]
        cut = [name for name in learned if not found[name].requires_grad]
        if cut:
            raise SiteError(
                f"Site {cut[0]!r} runs without gradients, as the layers of reversible models "
                "(Reformer) do. Fit a map in closed form, such as 'lin-act', or choose other sites."
            )
    return found


class _Recorded(Around):
    """Applies a map at a site, and records its pooled activations.

    Args:
        name, module: of the site.
        live: the map, if there is one.
        pooling: see `pool`.
        inputs: what the model reads.
        record: called with the name, the activations, and these pooled.
    """

    __slots__ = ("_heads", "_inputs", "_live", "_module", "_name", "_pooling", "_record")

    def __init__(
        self,
        name: str,
        module: nn.Module,
        live: LiveMap | None,
        pooling: Pooling,
        inputs: Inputs,
        record: Callable[[str, Tensor, Tensor], object],
    ) -> None:
        self._name, self._module, self._live = name, module, live
        self._pooling, self._inputs, self._record = pooling, inputs, record
        # In image models, which alone have no mask of tokens, the heads come behind the tokens.
        self._heads = 2 if inputs.mask is None and norms_last(module) else None

    def __call__(self, z: Tensor) -> Tensor:
        if self._live is not None:
            last = self._inputs.mask is not None or self._heads is not None
            z = at_site(self._name, self._live, last=last)(z)
        self._record(self._name, z, self._pool(z))
        return z

    def _pool(self, z: Tensor) -> Tensor:
        inputs, mask = self._inputs, self._inputs.mask
        if z.ndim == 3 or self._heads is not None:
            mask = inputs.mask_at(z.shape[1])
        return pool(z, self._pooling, mask, inputs.packing, heads=self._heads)

    def around(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The norm, the map and the pooling in one kernel, where compiled functions pay."""
        live = self._live
        affine = live if isinstance(live, BatchAffine) else None
        norm = self._fused(args[0], affine) if len(args) == 1 and not kwargs else None
        if norm is None or affine is None:
            return hooked_output(self._name, self, forward(*args, **kwargs))
        given = args[0], self._module, norm, affine
        if self._inputs.mask_at(args[0].shape[1]) is None:
            z, pooled = fused.pooled_norm(*given, len(self._inputs), self._pooling)
        else:
            z = fused.steered_norm(*given)
            pooled = self._pool(z)
        self._record(self._name, z, pooled)
        return z

    def _fused(self, x: Tensor, affine: BatchAffine | None) -> Norm | None:
        """The norm, if it can be run so; None if the module has to run, and say what is wrong."""
        if affine is None or not (fused.compiles(x) and torch.is_grad_enabled()):
            return None
        norm = read_norm(self._module) if is_plain(self._module) else None
        return norm if norm is not None and self._fits(x, norm, len(affine.shift)) else None

    def _fits(self, x: Tensor, norm: Norm, width: int) -> bool:
        """Whether x and the map are as the kernels expect. They expect no tokens of many heads."""
        if norm.kind == "group":
            return x.ndim == 4 and x.shape[1] == norm.width == width
        rows = x.ndim == 3 and x.shape[-1] == norm.width == width
        samples = 1 if self._inputs.packing is not None else len(self._inputs)
        return rows and len(x) == samples


@torch.no_grad()
def execution_order(model: Steerable, inputs: Inputs, sites: Sequence[str]) -> list[str]:
    """`sites` in the order in which a forward pass reaches them.

    Raises:
        SiteError: a site is not reached, or more than once, in one pass.
    """
    order: list[str] = []

    def record(name: str, z: Tensor) -> Tensor:
        order.append(name)
        return z

    with site_hooks(model.module, {name: partial(record, name) for name in sites}):
        model.forward(inputs.rows([0]))
    for name in sites:
        if order.count(name) != 1:
            raise SiteError(
                f"Site {name!r} runs {counted(order.count(name), 'time')} in one forward "
                f"pass; a map needs "
                "it to run once. Leave it out."
            )
    return order


@torch.no_grad()
def pooled_activations(
    model: Steerable,
    inputs: Inputs,
    sites: Sequence[str],
    *,
    pooling: Pooling = "mean",
    batch_size: int = 32,
    maps: Mapping[str, LiveMap] | None = None,
) -> dict[str, Float[Tensor, "n d"]]:
    """`pooled_forward` without gradients, over any number of prompts, `batch_size` at a time."""
    batches = [
        pooled_forward(
            model,
            inputs.rows(range(start, min(start + batch_size, len(inputs)))),
            sites,
            pooling=pooling,
            maps=maps,
        )
        for start in range(0, len(inputs), batch_size)
    ]
    return {name: torch.cat([batch[name] for batch in batches]) for name in sites}
