"""Small random models of any family, built from its config class.

A config is shrunk field by field (`SIZES`), keeps one layer of each kind that the family mixes, and
shrinks the configs inside it likewise. `EXCEPTIONS` has what a family needs beyond that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

VOCABULARY = 300
BOS, EOS = 256, 257
# Field of a config -> its value. Fields of other names keep the family's defaults.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": EOS,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_dim", "emb_dim"), 32),
    **dict.fromkeys(("embedding_size", "word_embed_proj_dim", "input_embedding_size"), 32),
    **dict.fromkeys(("output_embedding_size", "lru_width", "attention_hidden_size"), 32),
    **dict.fromkeys(("hidden_size_global", "out_hidden_size", "hidden_size_per_layer_input"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "dff", "dim_ff", "d_inner"), 48),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "feed_forward_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("shared_intermediate_size", "intermediate_size_mlp"), 16),
    **dict.fromkeys(("shared_experts_intermediate_size", "ffn_hidden_size"), 16),
    **dict.fromkeys(("expert_ffn_hidden_size", "dense_intermediate_size"), 16),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), 2),
    **dict.fromkeys(("decoder_layers", "encoder_layers", "depth"), 2),
    **dict.fromkeys(("num_decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_decoder_attention_heads", "num_encoder_attention_heads"), 4),
    **dict.fromkeys(("linear_num_value_heads", "linear_num_heads"), 4),
    # With few heads, tokens that all of them score zero are ties, which padding breaks otherwise.
    "index_n_heads": 32,
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "linear_num_key_heads"), 2),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "index_head_dim"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_d_state"), 8),
    **dict.fromkeys(("state_size", "ssm_state_size", "chunk_size", "mamba_chunk_size"), 8),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "mamba_ngroups"), 1),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts"), 1),
    **dict.fromkeys(("sliding_window", "attention_window_size", "index_topk"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 512),
}
# Lists of a config with one entry a layer.
PER_LAYER = ("layer_types", "mlp_layer_types", "layers_block_type", "indexer_types")
# Family -> fields that its config needs beside these; a mapping is for a config inside it.
GEMMA4: dict[str, Any] = {
    "vocab_size_per_layer_input": VOCABULARY,
    "global_head_dim": 16,
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
}
GEMMA3N = {
    **{name: value for name, value in GEMMA4.items() if name != "global_head_dim"},
    "laurel_rank": 8,
}
ASSISTANT = {
    "model_type": "gemma4_text",
    **dict.fromkeys(("hidden_size_per_layer_input", "vocab_size_per_layer_input"), 0),
    **dict.fromkeys(("num_hidden_layers", "num_kv_shared_layers"), 2),
}
TOWER = {"hidden_size": 32, "num_attention_heads": 4, "adapter_out_dim": 32}
DOTS3 = {
    "hidden_size": 32,
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads"), 4),
    **dict.fromkeys(("swa_num_attention_heads", "swa_num_key_value_heads"), 4),
    **dict.fromkeys(("swa_q_lora_rank", "swa_kv_lora_rank"), 16),
    **dict.fromkeys(("swa_qk_nope_head_dim", "swa_v_head_dim"), 8),
    "swa_head_dim": 16,
}
INDEXER = {
    "head_dim": 8,
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"encoder_hash_byte_group_vocab": 100},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE}},
    "dbrx": {"attn_config": {"rope_theta": 10_000.0, "clip_qkv": 8.0}},
    "dots3_note": {
        "text_config": DOTS3,
        "vision_config": {**TOWER, "adapter_in_dim": 32},
        "audio_config": {**TOWER, "adapter_input_size": 32},
    },
    "dots3_note_text": DOTS3,
    "emu3": {"vocabulary_map": {"<image>": VOCABULARY - 1}},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n": {
        "text_config": GEMMA3N,
        "vision_config": {"architecture": "test_efficientnet"},
    },
    "gemma3n_text": GEMMA3N,
    "gemma4": {"text_config": GEMMA4},
    "gemma4_assistant": {"text_config": ASSISTANT},
    "gemma4_text": GEMMA4,
    "gemma4_unified_assistant": {"text_config": ASSISTANT | {"model_type": "gemma4_unified_text"}},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "gpt_neo": {
        "attention_types": [[["global", "local"], 1]],
        "num_layers": 2,
        "window_size": 8,
    },
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "qwen4_exp": {"text_config": INDEXER},
    "qwen4_exp_text": INDEXER,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    # Widths of queries are rounded up to a multiple of 64, and the cache's are not.
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},
    "zamba": {
        "attention_hidden_size": 64,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "num_hidden_layers": 4,
    },
    "zaya": {"num_experts_per_tok": 1},
}


def small_config(family: str) -> transformers.PretrainedConfig:
    """A config of the family with a few small layers."""
    return _shrunk(transformers.CONFIG_MAPPING[family], EXCEPTIONS.get(family, {}))


def _shrunk(kind: Any, exceptions: Mapping[str, Any]) -> Any:
    usual = kind(**{name: exceptions[name] for name in kind.sub_configs if name in exceptions})
    fields = [field.name for field in dataclasses.fields(kind)]
    settings = {name: SIZES[name] for name in fields if name in SIZES}
    settings |= _layers(usual, fields)
    if "kv_lora_rank" in fields and "num_key_value_heads" in fields:
        # Latent attention gives every head keys of its own.
        settings["num_key_value_heads"] = settings["num_attention_heads"]
    for name in kind.sub_configs:
        if getattr(usual, name, None) is not None:
            within = exceptions.get(name, {})
            settings[name] = _shrunk(type(getattr(usual, name)), within)
    own = {n: v for n, v in exceptions.items() if n not in kind.sub_configs}
    return kind(**settings | own)


def _layers(usual: Any, fields: list[str]) -> dict[str, Any]:
    """The first layer of each kind, where a config says what kind each layer is."""
    names = [n for n in PER_LAYER if n in fields and getattr(usual, n)]
    if not names:
        return {}
    rows = list(zip(*(getattr(usual, name) for name in names), strict=False))
    places = [rows.index(row) for row in dict.fromkeys(rows)]
    places += [i for i in range(len(rows)) if i not in places][: max(0, 2 - len(places))]
    chosen = [rows[i] for i in sorted(places)]
    columns = zip(*chosen, strict=True)
    return {
        "num_hidden_layers": len(chosen),
        **{name: list(column) for name, column in zip(names, columns, strict=True)},
    }


def save_small(config: transformers.PretrainedConfig, folder: Path) -> None:
    """Save a checkpoint of random weights, the same in each run, with a tokenizer of bytes."""
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(config)
    if made.config.model_type != config.model_type:
        # Its checkpoints hold the whole model, of which texts are written by a part.
        made = transformers.AutoModelForImageTextToText.from_config(config)
    made.float()
    for name, parameter in made.named_parameters():
        # Norms start as ones and biases as zeros, under which errors of order go unnoticed.
        if "norm" in name or ".ln_" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.3)
        elif parameter.ndim >= 2:
            scale = 0.5 if "emb" in name or "wte" in name else parameter.shape[-1] ** -0.5
            torch.nn.init.normal_(parameter, 0.0, scale)
    made.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


def byte_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A tokenizer with one token per byte, `BOS` and `EOS`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: i for i, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<bos>", "<eos>"])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>"
    )
