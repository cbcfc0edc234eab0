"""Interventions of ml-act (Apple): one file of `torch.save` per module, `MODULE.statedict`.

    linear_ot      net.w1, net.b1                 w = w1                b = b1
    gaussian_ot    mu1, std1 -> mu2, std2         w = std2 / std1       b = mu2 - w mu1
    mean_ot        the same tensors               w = 1                 b = mu2 - mu1
    aura           auroc                          w = 1 - 2 (auroc - 1/2) above 1/2, else 1

as in `act/hooks/transport.py` and `act/hooks/aura_hook.py`. The two in the middle save the same
tensors, so the folder tells them apart: ml-act names it `atonce-gaussian_ot-mean`, after its
settings. Neurons with a standard deviation of 1e-4 or less stay as they are in both. All but aura
move only activations within `quantiles_src`, if it holds tensors; those of the two in the middle
are of the neurons that move.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lineas_core.errors import MapError
from lineas_core.maps.bounds import Bounds
from lineas_core.maps.steering_map import Affine

SUFFIX = ".statedict"
# `std_eps` of the hooks.
SMALLEST_SPREAD = 1e-4
GAUSSIAN = ("mu1", "mu2", "std1", "std2")
# Modules of a UNet whose outputs are images, not tokens.
PLACES = re.compile(r"unet\.(?!.*transformer_blocks\.).*")

PLACES_NOTE = (
    "ml-act's linear_ot moves the mean over height and width of these sites; the map acts on every "
    "place, so it also changes the contrast."
)
MEANS_NOTE = (
    "ml-act's gaussian_ot scales every place of these sites; the map, which has bounds, moves a "
    "channel by what it moves the mean, so it does not change the contrast."
)
# Method and whether it has bounds -> a note, if ml-act acts otherwise on images.
NOTES = {("linear_ot", False): PLACES_NOTE, ("gaussian_ot", True): MEANS_NOTE}


def is_state(value: object) -> bool:
    """Whether it has the tensors of a hook of ml-act."""
    return isinstance(value, dict) and bool({"net.w1", "mu1", "auroc"} & value.keys())


def sites_of(
    files: Iterable[tuple[str, Mapping[str, object]]], folder: str
) -> tuple[dict[str, Affine], dict[str, Bounds], str, list[str]]:
    """The maps of the sites, their bounds, the method, and notes on where ml-act acts otherwise.

    Args:
        files: name and contents of each.
        folder: the name of the folder that they are in.

    Raises:
        MapError: a file lacks a tensor, the method cannot be told, files are of several methods,
            or a module puts out several tensors and not its first is meant.
    """
    sites: dict[str, Affine] = {}
    bounds: dict[str, Bounds] = {}
    methods: dict[str, str] = {}
    notes: dict[str, None] = {}
    for name, state in files:
        site = _site(name)
        methods[name] = method = _method(name, state, folder)
        sites[site] = _affine(name, state, method)
        limits = state.get("quantiles_src")
        if isinstance(limits, list) and all(isinstance(limit, Tensor) for limit in limits):
            bounds[site] = _bounds(name, state, method, limits)
        if PLACES.fullmatch(site) and (method, site in bounds) in NOTES:
            notes[NOTES[method, site in bounds]] = None
    if len(kinds := set(methods.values())) > 1:
        raise MapError(f"The files are of several methods: {', '.join(sorted(kinds))}. Keep one.")
    return sites, bounds, next(iter(kinds)), list(notes)


def _site(name: str) -> str:
    module, _, output = name.removesuffix(SUFFIX).partition(":")
    if output not in ("", "0"):
        raise MapError(
            f"{name} acts on output {output} of its module; a map acts on the first. Leave it out."
        )
    return module


def _method(name: str, state: Mapping[str, object], folder: str) -> str:
    if "net.w1" in state:
        return "linear_ot"
    if "auroc" in state:
        return "aura"
    found = [method for method in ("gaussian_ot", "mean_ot") if method in folder.split("-")]
    if len(found) != 1:
        raise MapError(
            f"{name} is of gaussian_ot or of mean_ot, which save the same tensors. Put it into a "
            f"folder whose name tells which, as ml-act does; this one is called {folder!r:.60}."
        )
    return found[0]


def _affine(name: str, state: Mapping[str, object], method: str) -> Affine:
    if method == "linear_ot":
        scale, shift = _tensors(name, state, ("net.w1", "net.b1"))
        return Affine(scale, shift)
    if method == "aura":
        (auroc,) = _tensors(name, state, ("auroc",))
        return Affine(1 - 2 * (auroc - 0.5).clamp(min=0), torch.zeros_like(auroc))
    mean, target, spread, target_spread = _tensors(name, state, GAUSSIAN)
    moved = _moved(spread, target_spread)
    scale = torch.ones_like(mean)
    if method == "gaussian_ot":
        scale[moved] = target_spread[moved] / spread[moved]
    return Affine(scale, torch.where(moved, target - scale * mean, 0))


def _moved(spread: Tensor, target_spread: Tensor) -> Tensor:
    return (spread > SMALLEST_SPREAD) & (target_spread > SMALLEST_SPREAD)


def _bounds(
    name: str, state: Mapping[str, object], method: str, limits: Sequence[Tensor]
) -> Bounds:
    if method == "linear_ot":
        moved = torch.ones(_tensors(name, state, ("net.w1",))[0].shape, dtype=torch.bool)
    else:
        moved = _moved(*_tensors(name, state, ("std1", "std2")))
    sides = [limit.detach().to(torch.float32).reshape(-1) for limit in limits]
    if [len(side) for side in sides] != [int(moved.sum())] * 2:
        raise MapError(
            f"{name}: quantiles_src holds {[len(side) for side in sides]} values; it must hold a "
            f"lower and an upper one for each of the {int(moved.sum())} neurons that move. "
            "Learn the intervention again."
        )
    lower, upper = (torch.zeros(len(moved)).masked_scatter(moved, side) for side in sides)
    return Bounds(lower, upper)


def _tensors(name: str, state: Mapping[str, object], keys: Iterable[str]) -> list[Tensor]:
    """Vectors of a file in float32; `net.w1` and `net.b1` have a first dimension of 1."""
    found = []
    for key in keys:
        value = state.get(key)
        if not isinstance(value, Tensor):
            raise MapError(f"{name} lacks the tensor {key}. Learn the intervention again.")
        found.append(value.detach().to(torch.float32).reshape(-1))
    if len(lengths := {len(value) for value in found}) > 1:
        raise MapError(f"{name}: its tensors have the lengths {sorted(lengths)}, not one length.")
    return found
