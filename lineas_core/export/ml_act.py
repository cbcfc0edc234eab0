"""Interventions of ml-act (Apple): one file of `torch.save` per module, `MODULE.statedict`.

    linear_ot      net.w1, net.b1                 w = w1                b = b1
    gaussian_ot    mu1, std1 -> mu2, std2         w = std2 / std1       b = mu2 - w mu1
    mean_ot        the same tensors               w = 1                 b = mu2 - mu1
    aura           auroc                          w = 1 - 2 (auroc - 1/2) above 1/2, else 1

as in `act/hooks/transport.py` and `act/hooks/aura_hook.py`. The two in the middle save the same
tensors, so the folder tells them apart: ml-act names it `atonce-gaussian_ot-mean`, after its
settings. Neurons with a standard deviation of 1e-4 or less stay as they are in both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lineas_core.errors import MapError
from lineas_core.maps.steering_map import Affine

SUFFIX = ".statedict"
# `std_eps` of the hooks.
SMALLEST_SPREAD = 1e-4
GAUSSIAN = ("mu1", "mu2", "std1", "std2")
# Modules of a UNet whose outputs are images, not tokens.
PLACES = re.compile(r"unet\.(?!.*transformer_blocks\.).*")

RANGE_NOTE = (
    "ml-act leaves activations as they are that are outside the range seen in training; the map "
    "acts on all."
)
PLACES_NOTE = (
    "ml-act's linear_ot moves the mean over height and width of these sites; the map acts on every "
    "place, so it also changes the contrast."
)


def is_state(value: object) -> bool:
    """Whether it has the tensors of a hook of ml-act."""
    return isinstance(value, dict) and bool({"net.w1", "mu1", "auroc"} & value.keys())


def affines_of(
    files: Iterable[tuple[str, Mapping[str, object]]], folder: str
) -> tuple[dict[str, Affine], str, list[str]]:
    """The maps of the sites, the method, and notes on where ml-act acts otherwise.

    Args:
        files: name and contents of each.
        folder: the name of the folder that they are in.

    Raises:
        MapError: a file lacks a tensor, the method cannot be told, files are of several methods,
            or a module puts out several tensors and not its first is meant.
    """
    sites: dict[str, Affine] = {}
    methods: dict[str, str] = {}
    notes: dict[str, None] = {}
    for name, state in files:
        site = _site(name)
        methods[name] = method = _method(name, state, folder)
        sites[site] = _affine(name, state, method)
        limits = state.get("quantiles_src")
        if isinstance(limits, list) and any(isinstance(limit, Tensor) for limit in limits):
            notes[RANGE_NOTE] = None
        if method == "linear_ot" and PLACES.fullmatch(site):
            notes[PLACES_NOTE] = None
    if len(kinds := set(methods.values())) > 1:
        raise MapError(f"The files are of several methods: {', '.join(sorted(kinds))}. Keep one.")
    return sites, next(iter(kinds)), list(notes)


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
    moved = (spread > SMALLEST_SPREAD) & (target_spread > SMALLEST_SPREAD)
    scale = torch.ones_like(mean)
    if method == "gaussian_ot":
        scale[moved] = target_spread[moved] / spread[moved]
    return Affine(scale, torch.where(moved, target - scale * mean, 0))


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
