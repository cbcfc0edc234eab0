"""SteeringMap: one scale and one shift per neuron at chosen sites.

    T(z) = w * z + b                      (LinEAS, Section 3)
    T_s(z) = z + s * ((w - 1) * z + b)    s: the strength

where z has shape (batch, ..., d), w and b have shape (d,), and the product is per coordinate.
Such maps are closed under interpolation, inversion and composition, so any number of them,
each at its own strength, costs no more than one. Maps with bounds (`bounds.py`) are not: they keep
their strength, and are composed one after another. This module does not touch models or hooks;
`file_format.py` reads and writes the file, `on_hub.py` pushes and pulls it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lineas_core.errors import MapError
from lineas_core.hub.origin import Origin
from lineas_core.maps import on_hub
from lineas_core.maps.bounds import EVERYWHERE, Bounds, check_bounds, refuse_bounds
from lineas_core.maps.file_format import (
    FORMAT_VERSION,
    WITHOUT_BOUNDS,
    digest_of,
    read_map_file,
    write_map_file,
)

INVERTIBLE_ABOVE = 1e-4

Strength = float | Float[Tensor, " _"]


class Affine(NamedTuple):
    """The map of one site: T(z) = scale * z + shift. Both of shape (d,), float32."""

    scale: Float[Tensor, " d"]
    shift: Float[Tensor, " d"]

    @property
    def changed(self) -> Bool[Tensor, " d"]:
        """True at the coordinates that the map changes."""
        return (self.scale != 1) | (self.shift != 0)

    def on(self, device: torch.device) -> BatchAffine:
        """Convert to gain and shift on `device`, as new tensors."""
        return BatchAffine((self.scale - 1).to(device), self.shift.to(device, copy=True))


class BatchAffine(NamedTuple):
    """One site's map for a batch: T(z) = z + gain * z + shift, with gain = scale - 1.

    Shape (d,), or (batch, d) where each sample has its own strength. Storing the gain instead of
    the scale makes strength 0 add exactly zero.
    """

    gain: Float[Tensor, "*batch d"]
    shift: Float[Tensor, "*batch d"]

    def affine(self) -> Affine:
        """Convert to scale and shift, as new tensors on the CPU; the gain must have shape (d,)."""
        return Affine(1 + self.gain.detach().cpu(), self.shift.detach().cpu().clone())

    def on(self, device: torch.device | None) -> BatchAffine:
        """The same map on `device`."""
        return BatchAffine(self.gain.to(device), self.shift.to(device))

    def after(self, first: BatchAffine) -> BatchAffine:
        """The composition: `first`, then this."""
        return BatchAffine(
            self.gain + first.gain + self.gain * first.gain,
            first.shift + self.gain * first.shift + self.shift,
        )


class Segment(NamedTuple):
    """One of several maps that act at a site in turn; without bounds it acts everywhere."""

    affine: BatchAffine
    bounds: Bounds | None

    def on(self, device: torch.device | None) -> Segment:
        """The same map on `device`."""
        return Segment(self.affine.on(device), self.bounds and self.bounds.on(device))


# What a live model applies at a site: one affine map, or maps in the order in which they act.
LiveMap = BatchAffine | tuple[Segment, ...]


@dataclass(frozen=True)
class MapInfo:
    """Where a map comes from. Everything in it is written to the file.

    `calibration` holds the points of a `Calibration`; () if none was measured, as in older files.
    """

    model: str = ""
    method: str = ""
    name: str = ""
    concept: str = ""
    prompt_hash: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    library_version: str = ""
    created: str = ""
    calibration: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, eq=False)
class SteeringMap:
    """An affine map per site, with its provenance.

    Args:
        sites: module name -> `Affine`, in the order in which the model runs them.
        info: how the map was made.
        bounds: site -> where the map acts; it acts everywhere at sites that have none.
        origin: where on the Hub the map was downloaded from. It is not written to the file.

    Raises:
        MapError: a scale and its shift differ in shape, or hold values that are not finite; or
            bounds are of another width, cross, or are of no site.

    >>> ones, zeros = torch.ones(2), torch.zeros(2)
    >>> smap = SteeringMap({"norm": Affine(2 * ones, ones)})
    >>> smap.at(0.5).sites["norm"]
    Affine(scale=tensor([1.5000, 1.5000]), shift=tensor([0.5000, 0.5000]))
    """

    sites: Mapping[str, Affine]
    info: MapInfo = MapInfo()
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)

    def __post_init__(self) -> None:
        if not self.sites:
            raise MapError("The map has no sites. Train it on at least one.")
        for name, affine in self.sites.items():
            scale, shift = affine
            if scale.ndim != 1 or scale.shape != shift.shape or scale.numel() == 0:
                raise MapError(
                    f"Site {name!r}: scale has shape {tuple(scale.shape)} and shift "
                    f"{tuple(shift.shape)}; both must be one vector of the same length."
                )
            for part, values in zip(affine._fields, affine, strict=True):
                if values.dtype != torch.float32:
                    raise MapError(
                        f"Site {name!r}: {part} is {values.dtype}; maps are kept in float32. "
                        "Convert it with .float()."
                    )
                if not bool(torch.isfinite(values).all()):
                    raise MapError(
                        f"Site {name!r}: {part} holds values that are not finite. "
                        "The map is damaged or its training diverged; train it again."
                    )
        for name, bounds in self.bounds.items():
            if name not in self.sites:
                raise MapError(f"There are bounds of {name!r}, which is no site of the map.")
            check_bounds(name, bounds, self.sites[name].scale.numel())

    @classmethod
    def identity(cls, widths: Mapping[str, int], info: MapInfo = MapInfo()) -> SteeringMap:
        """The map that changes nothing: scale 1 and shift 0 at every site of `widths`."""
        return cls({s: Affine(torch.ones(d), torch.zeros(d)) for s, d in widths.items()}, info)

    @property
    def widths(self) -> dict[str, int]:
        """Site -> number of coordinates d, in order."""
        return {name: affine.scale.numel() for name, affine in self.sites.items()}

    def at(self, strength: float) -> SteeringMap:
        """The map that at strength 1 equals this one at `strength`: w -> 1 + s (w-1), b -> s b.

        Bounds stay as they are: they say which activations move, not how far.
        """
        sites = {
            name: Affine(1 + strength * (affine.scale - 1), strength * affine.shift)
            for name, affine in self.sites.items()
        }
        return SteeringMap(sites, self.info, self.bounds)

    def fingerprint(self) -> str:
        """A short hash of the (site, width) pairs. Maps with equal hashes fit the same models."""
        pairs = json.dumps(list(self.widths.items()))
        return hashlib.sha256(pairs.encode()).hexdigest()[:16]

    def digest(self) -> str:
        """The checksum of the map's file. Equal digests mean equal maps."""
        header, _ = self._contents()
        return str(header["digest"])

    def support(self) -> float:
        """Share of all coordinates, over all sites, that the map changes: w != 1 or b != 0."""
        changed = sum(int(affine.changed.sum()) for affine in self.sites.values())
        return changed / sum(self.widths.values())

    def support_by_site(self) -> dict[str, float]:
        """Site -> share of its coordinates that the map changes."""
        return {name: float(a.changed.float().mean()) for name, a in self.sites.items()}

    def inverse(self) -> SteeringMap:
        """The map that undoes this one at every site: T^-1(z) = (z - b) / w.

        Raises:
            MapError: some |w| is below 1e-4, or the map has bounds; the message names the sites.
        """
        refuse_bounds(self.bounds, "inverted", f"To invert it, {EVERYWHERE}.")
        singular = [
            f"{name} (smallest |scale| {float(affine.scale.abs().min()):.1e})"
            for name, affine in self.sites.items()
            if bool((affine.scale.abs() < INVERTIBLE_ABOVE).any())
        ]
        if singular:
            raise MapError(
                f"The map cannot be inverted: |scale| is below {INVERTIBLE_ABOVE:g} at "
                f"{', '.join(singular)}. Use a smaller strength (map.at(0.5).inverse()) "
                "or train without these sites."
            )
        sites = {n: Affine(1 / a.scale, -a.shift / a.scale) for n, a in self.sites.items()}
        return SteeringMap(sites, self.info)

    def save(self, path: str | os.PathLike[str], extras: Mapping[str, Any] | None = None) -> Path:
        """Write the map to a safetensors file atomically.

        Args:
            path: of the file.
            extras: JSON-serialisable data about the map; `file_format.read_extras` reads it.

        Raises:
            MapError: the map is too large to be read back, or the file cannot be written.
        """
        write_map_file(path, *self._contents(), extras)
        return Path(path)

    def _contents(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The header and tensors of the file."""
        tensors: dict[str, Tensor] = {}
        for name, affine in self.sites.items():
            tensors[f"{name}.scale"] = affine.scale.contiguous().cpu()
            tensors[f"{name}.shift"] = affine.shift.contiguous().cpu()
        for name, bounds in self.bounds.items():
            tensors[f"{name}.lower"] = bounds.lower.contiguous().cpu()
            tensors[f"{name}.upper"] = bounds.upper.contiguous().cpu()
        header = {
            "format": FORMAT_VERSION if self.bounds else WITHOUT_BOUNDS,
            "sites": list(self.widths.items()),
            "fingerprint": self.fingerprint(),
            **{key: getattr(self.info, key) for key in MapInfo.__dataclass_fields__},
        }
        # Older files have no such key; leaving it out when empty keeps their digests unchanged.
        if not header["calibration"]:
            del header["calibration"]
        if self.bounds:
            header["bounded"] = [name for name in self.sites if name in self.bounds]
        # JSON turns tuples into lists; round-trip first, so that the digest matches on reading.
        header = json.loads(json.dumps(header))
        header["digest"] = digest_of(header, tensors)
        return header, tensors

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SteeringMap:
        """Read a map written by `save`.

        Raises:
            MapError: the file is missing, damaged, too large, of another kind or of a newer format.
        """
        header, tensors = read_map_file(path)
        sites = {
            name: Affine(tensors[f"{name}.scale"], tensors[f"{name}.shift"])
            for name, _ in header["sites"]
        }
        known = {key: header[key] for key in MapInfo.__dataclass_fields__ if key in header}
        known["calibration"] = tuple((a, b) for a, b in known.get("calibration", ()))
        bounds = {
            name: Bounds(tensors[f"{name}.lower"], tensors[f"{name}.upper"])
            for name in header.get("bounded", ())
        }
        return cls(sites, MapInfo(**known), bounds)

    push_to_hub = on_hub.push_to_hub
    from_pretrained = classmethod(on_hub.from_pretrained)


Steering = Sequence[tuple[SteeringMap, Strength]]


def compose(maps: Sequence[tuple[SteeringMap, float]]) -> SteeringMap:
    """One map that applies `maps` in order, each at its strength.

    c2 after c1 is z -> T2(T1(z)): w = w2 w1, b = w2 b1 + b2. A map without some site acts as the
    identity there.

    Args:
        maps: (map, strength) pairs, at least one, first applied first.

    Raises:
        MapError: no maps, two maps of different widths at one site, or two of which one has bounds
            there, which are no single map.

    >>> double = SteeringMap({"n": Affine(torch.tensor([2.0]), torch.tensor([0.0]))})
    >>> plus = SteeringMap({"n": Affine(torch.tensor([1.0]), torch.tensor([1.0]))})
    >>> compose([(double, 1.0), (plus, 1.0)]).sites["n"]
    Affine(scale=tensor([2.]), shift=tensor([1.]))
    """
    if not maps:
        raise MapError("There is nothing to compose. Give at least one (map, strength) pair.")
    sites: dict[str, Affine] = {}
    bounds: dict[str, Bounds] = {}
    for smap, strength in maps:
        check_same_widths({name: a.scale.numel() for name, a in sites.items()}, smap)
        shared = [name for name in smap.sites if name in sites]
        refuse_bounds(
            [name for name in shared if name in smap.bounds or name in bounds],
            "composed with another into one",
            "Steer with both, as in steer=[(first, 1.0), (second, 0.5)], which applies them one "
            f"after another; or {EVERYWHERE}.",
        )
        bounds.update(smap.bounds)
        for name, (scale, shift) in smap.at(strength).sites.items():
            first = sites.get(name)
            if first is None:
                sites[name] = Affine(scale, shift)
            else:
                sites[name] = Affine(scale * first.scale, scale * first.shift + shift)
    names = " + ".join(smap.info.name or "map" for smap, _ in maps)
    models = {smap.info.model for smap, _ in maps}
    info = MapInfo(model=models.pop() if len(models) == 1 else "", method="composed", name=names)
    return SteeringMap(sites, info, bounds)


def compose_for_batch(
    maps: Sequence[tuple[SteeringMap, Strength]],
) -> dict[str, LiveMap]:
    """`compose` where a strength may also be a tensor of one value per sample, and bounds may meet.

    Returns:
        Site -> `BatchAffine` of shape (d,), or (batch, d) once any strength is per sample; or
        segments, if a map has bounds there. Maps at strength 0 are skipped, so that their sites
        are not hooked needlessly.

    Raises:
        MapError: two maps of different widths at one site, or a strength that is not finite.
    """
    sites: dict[str, list[Segment]] = {}
    for smap, strength in maps:
        factor = torch.as_tensor(strength, dtype=torch.float32)
        if factor.ndim > 1 or not bool(torch.isfinite(factor).all()):
            raise MapError(
                f"Strength {strength!r} is not usable. Give one finite number, "
                "or a vector with one finite number per sample."
            )
        check_same_widths({n: parts[0].affine.shift.shape[-1] for n, parts in sites.items()}, smap)
        if not bool(factor.any()):
            continue
        column = factor[:, None] if factor.ndim else factor
        for name, (scale, shift) in smap.sites.items():
            segment = Segment(
                BatchAffine(column * (scale - 1), column * shift), smap.bounds.get(name)
            )
            parts = sites.setdefault(name, [])
            if parts and segment.bounds is None and parts[-1].bounds is None:
                segment = Segment(segment.affine.after(parts.pop().affine), None)
            parts.append(segment)
    return {name: live_map(parts) for name, parts in sites.items()}


def live_map(parts: Sequence[Segment]) -> LiveMap:
    """The maps of one site as a live model applies them: those without bounds are affine."""
    return parts[0].affine if len(parts) == 1 and parts[0].bounds is None else tuple(parts)


def check_same_widths(widths: Mapping[str, int], smap: SteeringMap) -> None:
    """Raise `MapError` if the width of `smap` at some site differs from that in `widths`."""
    for name, width in smap.widths.items():
        if name in widths and widths[name] != width:
            raise MapError(
                f"Site {name!r} has width {widths[name]} in one map and {width} in another. "
                "Compose maps of the same model only."
            )
