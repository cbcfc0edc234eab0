"""One vector per layer: what control vectors and steering vectors are, as a map and from one.

    z -> z + v_N                    at the output of layer N, or of one module in it

A map that scales nothing (w = 1) is such vectors: its shifts. Their kind says which module of the
layer they are added to; the names of kinds are those of steering-vectors (`layer_matching.py`).
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lineas_core.errors import ConfigError, MapError, SiteError
from lineas_core.export.edits import BOUNDED, refusal
from lineas_core.maps.steering_map import Affine, MapInfo, SteeringMap

# Kind -> the names its module has within a layer; the first is that of Llama and its relatives.
KINDS: Mapping[str, tuple[str, ...]] = {
    "decoder_block": ("",),
    "self_attn": (".self_attn", ".attn"),
    "mlp": (".mlp",),
    "input_layernorm": (".input_layernorm", ".ln_1"),
    "post_attention_layernorm": (".post_attention_layernorm", ".ln_2"),
}
NUMBER = "{num}"
# Where families of transformers keep their layers. The vision tower of a model has layers too, so
# names outside this list are not taken for layers.
LAYER = re.compile(
    r"(?:model\.layers|model\.language_model\.layers|transformer\.h|gpt_neox\.layers)\.(\d+)(.*)"
)
SCALES = "the map scales there, and a vector only shifts"
NO_LAYER = "such vectors are not added to this module"
FIRST = "nothing can be added to the output of the first layer. Learn the map without it"
# Above the number of layers of any model.
MAX_LAYER = 9_999


@dataclass(frozen=True, eq=False)
class LayerVectors:
    """Vectors of one kind, by the number of their layer.

    Args:
        vectors: layer, from 0, in the order of the layers -> what is added to its output; each of
            shape (d,), float32.
        kind: a key of `KINDS`.
    """

    vectors: Mapping[int, Float[Tensor, " d"]]
    kind: str = "decoder_block"

    @classmethod
    def of_map(
        cls,
        smap: SteeringMap,
        what: str,
        remedy: str,
        kinds: Container[str] = KINDS,
        first: int = 0,
    ) -> LayerVectors:
        """The shifts of a map; sites that it leaves unchanged are left out.

        Args:
            smap: the map.
            what: "written as ...", for the error.
            remedy: a sentence for the error.
            kinds: those that can be written.
            first: the lowest layer that can be written.

        Raises:
            SiteError: the map scales, has bounds, has other sites, or sites of several kinds; the
                message names them.
            MapError: the map changes nothing.
        """
        vectors: dict[int, Tensor] = {}
        refused: dict[str, str] = {}
        written = ""
        for name, affine in smap.sites.items():
            if not bool(affine.changed.any()):
                continue
            layer, kind = _place(name)
            if name in smap.bounds:
                refused[name] = BOUNDED
            elif kind not in kinds:
                refused[name] = NO_LAYER
            elif bool((affine.scale != 1).any()):
                refused[name] = SCALES
            elif layer < first:
                refused[name] = FIRST
            elif kind != (written := written or kind):
                refused[name] = f"vectors of one file are of one kind, {written} here"
            else:
                vectors[layer] = affine.shift.clone()
        if refused:
            raise SiteError(refusal(what, refused, remedy))
        if not vectors:
            raise MapError("The map changes nothing, so there are no vectors to write.")
        return cls(dict(sorted(vectors.items())), written)

    def to_map(self, template: str, info: MapInfo) -> SteeringMap:
        """The map that adds the vectors.

        Args:
            template: of the sites, with `{num}` for the layer, such as `transformer.h.{num}`; ""
                for the names of Llama and its relatives.
            info: the map's origin.

        Raises:
            ConfigError: the template has no `{num}`, or the kind has no template of its own.
            MapError: a vector is no finite vector, or the vectors are empty.
        """
        if not template:
            if self.kind not in KINDS:
                raise ConfigError(
                    f"The vectors are of the kind {self.kind!r:.60}, which has no known site. Name "
                    f"it with layers, such as 'model.layers.{NUMBER}.mlp'."
                )
            template = f"model.layers.{NUMBER}{KINDS[self.kind][0]}"
        if NUMBER not in template:
            raise ConfigError(
                f"layers is {template!r:.200}; it must hold {NUMBER} where the number of the layer "
                f"goes, as in 'transformer.h.{NUMBER}'."
            )
        sites = {}
        for layer, vector in sorted(self.vectors.items()):
            if not 0 <= layer <= MAX_LAYER:
                raise MapError(f"The layer {layer} is none; layers count from 0 to {MAX_LAYER}.")
            shift = vector.detach().to("cpu", torch.float32)
            sites[template.replace(NUMBER, str(layer))] = Affine(torch.ones_like(shift), shift)
        return SteeringMap(sites, info)


def _place(site: str) -> tuple[int, str]:
    """The layer and the kind of a site; kind "" if it has none."""
    found = LAYER.fullmatch(site)
    if found is None:
        return 0, ""
    kinds = (kind for kind, names in KINDS.items() if found[2] in names)
    return int(found[1]), next(kinds, "")
