"""Loads a checkpoint of transformers: whole, of the right kind, and without code of its own."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from lineas_core.models.language.kinds import check_continues_text, check_looks_back
from lineas_core.models.shared.catalog import CatalogEntry
from lineas_core.models.shared.foreign_files import check_files
from lineas_core.models.shared.loading import check_complete, check_memory
from lineas_core.models.shared.quantization import (
    bytes_saved,
    check_plain,
    keep_gradients,
    quantization_config,
)
from lineas_core.system.devices import is_slow_on_cpu


def load_checkpoint(
    source: str,
    id: str,
    device: torch.device,
    dtype: torch.dtype | str,
    entry: CatalogEntry | None,
    *,
    split: bool,
    rounded: str,
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    """The model and its tokenizer; `LanguageModel.from_pretrained` describes the arguments.

    Raises:
        ConfigError: `rounded` needs a package that is not installed, or another device.
        ModelError: it is not a causal language model, does not fit, lacks tensors,
            or its files lead to others that are not read here.
        OSError, ValueError, RuntimeError: transformers cannot find or read it.
    """
    revision = check_files(id, source)
    config = transformers.AutoConfig.from_pretrained(
        source, revision=revision, trust_remote_code=False
    )
    check_continues_text(id, config)
    stored = getattr(config.get_text_config(), "dtype", None)
    if dtype == "auto" and device.type == "cpu" and is_slow_on_cpu(stored):
        dtype = torch.float32
    placed: dict[str, Any] = {"device_map": "balanced" if split else None}
    saved = 0.0
    if rounded:
        check_plain(id, rounded, config)
        dtype = dtype if isinstance(dtype, torch.dtype) else stored or torch.float32
        how = quantization_config(rounded, dtype, device)
        placed = {"device_map": {"": device}, "quantization_config": how}
        saved = bytes_saved(config, rounded, dtype)
    if not split:
        check_memory(id, source, device, dtype, entry, stored, saved)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        source, revision=revision, trust_remote_code=False
    )
    module, found = transformers.AutoModelForCausalLM.from_pretrained(
        source,
        revision=revision,
        dtype=dtype,
        output_loading_info=True,
        trust_remote_code=False,
        # No pickles, as they can run code.
        use_safetensors=True,
        # For prompts of a few dozen tokens, fused attention on a CPU is several times
        # slower in backward than eager attention.
        attn_implementation="eager" if device.type == "cpu" else None,
        **placed,
    )
    check_complete(id, found["missing_keys"])
    keep_gradients(module)
    if not split and not rounded:
        module = module.to(device)
    if device.type == "cpu" and dtype == "auto" and is_slow_on_cpu(module.dtype):
        # A checkpoint whose config does not name a dtype.
        module = module.float()
    check_looks_back(id, module.eval())
    return module, tokenizer
