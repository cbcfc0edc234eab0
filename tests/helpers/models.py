"""Small real models, built from their configs and saved to disk, and random maps."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
)

import lineas_core as lc
from tools.architectures.small import byte_tokenizer

SIZES = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 257,
}
ARCHITECTURES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "mistral": MistralConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "gemma2": Gemma2Config(**SIZES, sliding_window=8),
    "gpt2": GPT2Config(
        vocab_size=300,
        n_embd=16,
        n_layer=3,
        n_head=4,
        n_positions=128,
        bos_token_id=256,
        eos_token_id=257,
    ),
}


def save_small_model(architecture: str, folder: Path) -> Path:
    """Save a checkpoint folder with random weights and a tokenizer with one token per byte."""
    return save_checkpoint(ARCHITECTURES[architecture], folder)


def save_checkpoint(
    config: PretrainedConfig, folder: Path, dtype: torch.dtype = torch.float32
) -> Path:
    """`save_small_model` for any config with a vocabulary of 258 tokens or more."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(config)
        for name, parameter in made.named_parameters():
            # Randomise norms: at their initial value of one, errors of order go unnoticed.
            if "norm" in name or ".ln_" in name:
                torch.nn.init.normal_(parameter, 1.0, 0.3)
            elif parameter.ndim == 2:
                torch.nn.init.normal_(parameter, 0.0, 0.3)
    made.to(dtype).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def random_map(widths: dict[str, int], seed: int, spread: float = 0.5) -> lc.SteeringMap:
    generator = torch.Generator().manual_seed(seed)
    return lc.SteeringMap(
        {
            site: lc.Affine(
                1 + spread * torch.randn(d, generator=generator),
                spread * torch.randn(d, generator=generator),
            )
            for site, d in widths.items()
        },
        lc.MapInfo(model="tiny", method="random", name=f"random {seed}"),
    )
