"""The arithmetic of folding: how a map changes a model's own weights. Nothing is written here.

    T(z) = w * z + b                                  on a module's output

    linear layer, convolution     W' = diag(w) W      c' = w * c + b
    norm with weight and bias     g' = w * g          h' = w * h + b
    norm without a bias           g' = w * g          c' = c + W b in the linear layers that read it

The last line requires that only linear layers read the norm's output, which holds before attention
and before the MLP in the families below.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lineas_core.errors import SiteError
from lineas_core.hooks import ELSEWHERE, find_sites
from lineas_core.maps.steering_map import Affine, SteeringMap
from lineas_core.system.words import counted

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj")
PRE_NORM = {"input_layernorm": ATTENTION, "post_attention_layernorm": MLP}
# Model type -> norm -> the sibling linear layers that are the only readers of its output.
READERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "llama": PRE_NORM,
    "mistral": PRE_NORM,
    "qwen2": PRE_NORM,
    "qwen3": PRE_NORM,
    "gemma2": {"input_layernorm": ATTENTION, "pre_feedforward_layernorm": MLP},
}

NO_BIAS = (
    "a norm without a bias has no place for a shift, unless only linear layers of a known family "
    "read it. Fold a map whose shifts are zero there, or one of other sites, such as '.*o_proj'"
)
OTHER_KIND = (
    "only linear layers, convolutions and norms with weights of their own hold a map. Choose such "
    "modules as sites"
)
IN_FEW_BITS = (
    "the weights that would change are quantised. Load the model itself in float32 or bfloat16"
)
BOUNDED = (
    "the map acts only within bounds there, and weights act on everything. Learn it again with "
    "bounds='none'"
)
SHARED = "other modules use the same weights, and would change too. Choose other sites"
STEER = "`lineas_core.steer` needs no folding."


@dataclass(frozen=True)
class Edits:
    """The changes that a map makes to the weights of a model. All in float32, on the CPU.

    Attributes:
        norms: parameter of a norm -> its new value.
        scales: linear layer or convolution -> w of its output; only layers where w is not 1.
        shifts: linear layer or convolution -> what is added to its output, after the scale.
        sources: layer in `shifts` -> the sites that its shift comes from.
    """

    norms: Mapping[str, Float[Tensor, " _"]]
    scales: Mapping[str, Float[Tensor, " _"]]
    shifts: Mapping[str, Float[Tensor, " _"]]
    sources: Mapping[str, tuple[str, ...]]


def edits_of(module: nn.Module, model_type: str, smap: SteeringMap) -> Edits:
    """Compute the weight changes that fold a map into a model. The model is not modified.

    Args:
        module: the model whose modules the map names.
        model_type: from its config, such as "llama"; selects the entry of `READERS`.
        smap: the map, already at the wanted strength.

    Raises:
        SiteError: the model lacks a site, or sites cannot be folded; the message names them all.
    """
    sites = find_sites(module, smap.sites)
    shared = _shared(module)
    linear: dict[str, Affine] = {}
    norms: dict[str, Tensor] = {}
    # Site -> its shift, and the reader layers whose biases take the shift over.
    onward: dict[str, tuple[Tensor, list[str]]] = {}
    refused: dict[str, str] = {}
    for name, (scale, shift) in smap.sites.items():
        if bool((scale == 1).all() and (shift == 0).all()):
            continue
        site = sites[name]
        if name in smap.bounds:
            refused[name] = BOUNDED
            continue
        if shared & {id(parameter) for parameter in site.parameters(recurse=False)}:
            refused[name] = SHARED
            continue
        if is_linear(site):
            _check_width(name, out_features(site), scale)
            linear[name] = Affine(scale, shift)
            continue
        offset = _norm_offset(site)
        if offset is None:
            refused[name] = IN_FEW_BITS if isinstance(site, nn.Linear) else OTHER_KIND
            continue
        parameters = {key: wide(value) for key, value in site.named_parameters()}
        _check_width(name, len(parameters["weight"]), scale)
        norms[f"{name}.weight"] = scale * (parameters["weight"] + offset) - offset
        if "bias" in parameters:
            norms[f"{name}.bias"] = scale * parameters["bias"] + shift
        elif bool((shift != 0).any()):
            parent, _, last = name.rpartition(".")
            readers = READERS.get(model_type, {}).get(last, ())
            onward[name] = shift, [f"{parent}.{reader}" for reader in readers]
            if not readers:
                refused[name] = NO_BIAS
            elif not all(is_linear(module.get_submodule(r)) for r in onward[name][1]):
                refused[name] = IN_FEW_BITS
    if refused:
        raise SiteError(refusal("folded into weights", refused))
    scales = {name: a.scale for name, a in linear.items() if bool((a.scale != 1).any())}
    shifts = {name: a.shift for name, a in linear.items() if bool((a.shift != 0).any())}
    sources = {name: (name,) for name in shifts}
    for name, (shift, carriers) in onward.items():
        for reader in carriers:
            carried = wide(module.get_submodule(reader).weight) @ shift
            if reader in scales:
                carried = scales[reader] * carried
            shifts[reader] = shifts[reader] + carried if reader in shifts else carried
            sources[reader] = (*sources.get(reader, ()), name)
    return Edits(norms, scales, shifts, sources)


def parameters_of(module: nn.Module, edits: Edits) -> dict[str, Tensor]:
    """Parameter -> its new value, in the dtype of the weights.

    Includes biases that the model does not have yet.
    """
    found = {n: v.to(module.get_parameter(n).dtype) for n, v in edits.norms.items()}
    for name in dict.fromkeys([*edits.scales, *edits.shifts]):
        layer = module.get_submodule(name)
        weight, bias = layer.weight, layer.bias
        assert isinstance(weight, Tensor)
        constant = wide(bias) if isinstance(bias, Tensor) else None
        if name in edits.scales:
            scale = edits.scales[name]
            # transformers' Conv1D stores its weight transposed.
            along = -1 if isinstance(layer, Conv1D) else 0
            shape = [1] * weight.ndim
            shape[along] = -1
            found[f"{name}.weight"] = (scale.view(shape) * wide(weight)).to(weight.dtype)
            constant = None if constant is None else scale * constant
        if name in edits.shifts:
            shift = edits.shifts[name]
            constant = shift if constant is None else constant + shift
        if constant is not None:
            found[f"{name}.bias"] = constant.to(weight.dtype)
    return found


def shared_copy(module: nn.Module, others: Iterable[nn.Module] = ()) -> nn.Module:
    """Copy a module but share its tensors, so that replacing a few of them needs little memory.

    Args:
        module: not modified.
        others: modules that may be attached to it, whose tensors are shared too.
    """
    kept = {
        id(tensor): tensor
        for each in (module, *others)
        for tensor in (*each.parameters(), *each.buffers())
    }
    return copy.deepcopy(module, kept)


def is_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer or a convolution with floating-point (unquantised) weights."""
    kind = isinstance(module, (nn.Linear, nn.Conv2d, Conv1D))
    return kind and isinstance(module.weight, Tensor) and torch.is_floating_point(module.weight)


def out_features(layer: nn.Module) -> int:
    """The output width of a linear layer or convolution."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.shape[-1 if isinstance(layer, Conv1D) else 0]


def refusal(what: str, refused: Mapping[str, str], remedy: str = STEER) -> str:
    """The error message: which sites cannot be `what`, why, and a remedy."""
    causes = []
    for cause in dict.fromkeys(refused.values()):
        names = [name for name, of in refused.items() if of == cause]
        causes.append(f"{', '.join(names)}: {cause}.")
    count = counted(len(refused), "site")
    return f"{count} cannot be {what}. {' '.join(causes)} {remedy}"


def wide(tensor: Tensor | nn.Module) -> Tensor:
    """Copy to float32 on the CPU."""
    assert isinstance(tensor, Tensor)
    return tensor.detach().to("cpu", torch.float32)


def _shared(module: nn.Module) -> set[int]:
    """ids of the parameters that the model holds under more than one name (tied weights)."""
    named = module.named_parameters(remove_duplicate=False)
    counts = Counter(id(parameter) for _, parameter in named)
    return {key for key, count in counts.items() if count > 1}


def _check_width(name: str, width: int, scale: Tensor) -> None:
    if width != len(scale):
        raise SiteError(
            f"Site {name!r} has width {width} on this model and {len(scale)} in the map. "
            f"{ELSEWHERE}"
        )


def _norm_offset(module: nn.Module) -> int | None:
    """The o for which a norm outputs (o + weight) * normalised + bias; None if there is none.

    Tested by running the module, since many norm classes exist and some add 1 to their weight.
    """
    names = {name for name, _ in module.named_parameters()}
    flat = all(parameter.ndim == 1 for parameter in module.parameters())
    if not flat or names not in ({"weight"}, {"weight", "bias"}):
        return None
    probe = copy.deepcopy(module).to("cpu", torch.float32).requires_grad_(False)
    parameters = dict(probe.named_parameters())
    random = torch.Generator().manual_seed(0)
    width = len(parameters["weight"])
    image = (3, 3) if isinstance(module, nn.GroupNorm) else ()
    z = torch.randn(2, *(() if image else (3,)), width, *image, generator=random)
    gain, constant = torch.randn(2, width, generator=random)
    along = (-1, *(1 for _ in image))

    def run(weight: Tensor, bias: Tensor) -> Tensor:
        for name, value in (("weight", weight), ("bias", bias)):
            if name in parameters:
                parameters[name].copy_(value)
        # Call forward directly: calling the module would run its hooks.
        output = probe.forward(z)
        assert isinstance(output, Tensor)
        return output

    zeros = torch.zeros(width)
    for offset in (0, 1):
        try:
            plain = run(zeros + 1 - offset, zeros)
            changed = run(gain - offset, constant)
        except (TypeError, ValueError, RuntimeError, AssertionError):
            return None
        expected = gain.view(along) * plain
        if "bias" in parameters:
            expected = expected + constant.view(along)
        if plain.shape == z.shape and torch.allclose(changed, expected, atol=1e-4):
            return offset
    return None
