"""Weights of linear layers in 8 or 4 bits, by bitsandbytes; all else keeps its dtype.

    int8    y = x W'^T + b    W' = s_i q_ij / 127, with an integer q and one scale for each output
    int4    the same, W' in NF4: one of 16 values times a scale for each 64 weights (Dettmers et
            al. 2023, https://arxiv.org/abs/2305.14314)

Norms, embeddings and the head stay as they are, and so do activations, so that maps act on the same
numbers, and a prompt gives in a batch what it gives alone. In backward the weights are computed
again from their integers, layer by layer, so a step keeps nothing of them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from lineas_core.errors import ConfigError, ModelError

# Name as a dtype -> bits of a weight.
BITS = {"int8": 8, "int4": 4}
# The package that `lineas-studio[quant]` adds.
PACKAGE = "bitsandbytes"
DEVICES = ("cpu", "cuda")
# The largest of its integers in 8 bits.
LARGEST = 127.0
# Drop its warning about a package that is kept from it on purpose.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: "kernels" not in record.getMessage()
)


def quantization_config(
    dtype: str, rest: torch.dtype, device: torch.device
) -> transformers.BitsAndBytesConfig:
    """What transformers has to be told to round a model's linear layers while it reads them.

    Args:
        dtype: int8 or int4.
        rest: dtype of all else, and of what is computed.
        device: where the model will run.

    Raises:
        ConfigError: bitsandbytes is not installed, or is not used on this device.
    """
    if device.type not in DEVICES:
        raise ConfigError(
            f"dtype is {dtype!r}, and the device is {device}; {PACKAGE} is used on a CPU and on "
            "NVIDIA's GPUs. Choose device='cpu' or another dtype."
        )
    try:
        with _without_hub_code():
            __import__(PACKAGE)
    except ImportError as error:
        raise ConfigError(
            f"dtype is {dtype!r}, and the package {PACKAGE} is missing. Install it with "
            "`pip install 'lineas-studio[quant]'`."
        ) from error
    if BITS[dtype] == 8:
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=rest,
    )


@contextmanager
def _without_hub_code() -> Iterator[None]:
    """Within the block the package `kernels` cannot be imported.

    With it, bitsandbytes would fetch compiled code from the hub and run it.
    """
    name = "kernels"
    loaded = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
        if loaded is not None:
            sys.modules[name] = loaded


def check_plain(id: str, dtype: str, config: Any) -> None:
    """Refuse to round a checkpoint that is stored in few bits already.

    Raises:
        ModelError: it is.
    """
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            f"{id} is stored in few bits already, so dtype={dtype!r} cannot be chosen. Leave it "
            "out, or name the repository of the unquantised model."
        )


def bytes_saved(config: transformers.PretrainedConfig, dtype: str, rest: torch.dtype) -> float:
    """How many bytes fewer the weights of a causal language model take.

    Args:
        config: of the model.
        dtype: int8 or int4.
        rest: dtype that they would have otherwise.
    """
    with torch.device("meta"):
        plain = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    head = plain.get_output_embeddings()
    weights = sum(
        part.weight.numel()
        for part in plain.modules()
        if isinstance(part, nn.Linear) and part is not head
    )
    return weights * (rest.itemsize - BITS[dtype] / 8)


def keep_gradients(module: nn.Module) -> None:
    """Have the rounded layers of a model give gradients, and round nothing but their weights.

    Layers of bitsandbytes in 8 bits also round activations, to float16 or less, by a rule that
    depends on the other rows of the batch, and hold them for backward. Those in 4 bits change their
    weights on some CPUs when they first run without gradients, and from then on give none.
    """
    for part in module.modules():
        kind = type(part).__name__
        if kind == "Linear8bitLt":
            part.forward = partial(_eight_bits, part)
        elif kind == "Linear4bit":
            part.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _eight_bits(layer: Any, x: Tensor) -> Tensor:
    y: Tensor = _EightBits.apply(x, layer)
    return y


class _EightBits(torch.autograd.Function):
    """x W'^T + b, which keeps nothing for backward but the frozen layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any) -> Tensor:
        ctx.layer = layer
        return functional.linear(x, _weight_of(layer, x.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient @ _weight_of(ctx.layer, gradient.dtype), None


def _weight_of(layer: Any, dtype: torch.dtype) -> Tensor:
    scale = (layer.weight.SCB / LARGEST).to(dtype)
    weight: Tensor = layer.weight.data.to(dtype).mul_(scale[:, None])
    return weight
