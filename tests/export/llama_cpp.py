"""llama.cpp's server, from the wheel of xllamacpp, and small models written for it.

xllamacpp starts the server from settings that have no control vectors, so llama.cpp's own reader of
command lines, in the same library, fills them.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import gguf
import pytest
import torch
from torch import Tensor

# `common_params_parse(int, char**, common_params&, llama_example, ...)`, and the example whose
# arguments all programs have.
PARSE, COMMON = "_Z19common_params_parseiPPcR13common_params13llama_examplePFviS0_E", 2
# Weight of transformers' Llama, within a layer -> its name in GGUF.
WEIGHTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_llama(module: Any, path: Path) -> Path:
    """Write a Llama as a GGUF model in float32, whose tokens are bytes and names of numbers."""
    config, writer = module.config, gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("llama")
    words = [f"<0x{n:02X}>" if n < 256 else f"<{n}>" for n in range(config.vocab_size)]
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * len(words))
    kinds = [gguf.TokenType.BYTE if n < 256 else gguf.TokenType.CONTROL for n in range(len(words))]
    writer.add_token_types(kinds)
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    tensors = {
        "token_embd.weight": module.model.embed_tokens.weight,
        "output_norm.weight": module.model.norm.weight,
        "output.weight": module.lm_head.weight,
    }
    for number, layer in enumerate(module.model.layers):
        for name, short in WEIGHTS.items():
            weight = layer.get_submodule(name).weight
            if short in heads:
                weight = interleaved(weight, heads[short])
            tensors[f"blk.{number}.{short}.weight"] = weight
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.detach().float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows in the order of llama.cpp, whose rotary embedding turns neighbours and not halves."""
    halves = weight.view(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape)


class LlamaServer:
    def __init__(self, address: str) -> None:
        self.address = address

    def log_odds(self, tokens: Sequence[int], vocabulary: int) -> Tensor:
        """Logarithms of the probabilities of each next token."""
        # The bias has it choose a letter, which can be shown, and leaves the probabilities alone.
        letter = [[ord("a"), 1000.0]]
        asked = {"prompt": [*tokens], "n_predict": 1, "n_probs": vocabulary, "logit_bias": letter}
        with urlopen(f"{self.address}/completion", json.dumps(asked).encode(), timeout=60) as page:
            [place] = json.load(page)["completion_probabilities"]
        odds = torch.full((vocabulary,), torch.nan)
        for each in place["top_logprobs"]:
            odds[each["id"]] = each["logprob"]
        return odds


@contextmanager
def llama_server(*arguments: str) -> Iterator[LlamaServer]:
    """llama.cpp's server, started with arguments of its command line."""
    package = pytest.importorskip("xllamacpp")
    library = ctypes.CDLL(package.xllamacpp.__file__)
    settings = package.CommonParams()
    settings.n_predict, settings.warmup, settings.n_parallel = 12345, False, 1
    # Its settings in C++ lie within the Python object; the first of them is `n_predict`.
    address = id(settings) + object.__basicsize__
    assert ctypes.c_int32.from_address(address).value == settings.n_predict
    words = ["llama-server", *arguments]
    list_of_words = (ctypes.c_char_p * len(words))(*map(str.encode, words))
    parse = library[PARSE]
    parse.restype = ctypes.c_bool
    assert parse(len(words), list_of_words, ctypes.c_void_p(address), COMMON, None)
    server = package.Server(settings)
    yield LlamaServer(server.listening_address)
    # Its threads end with it.
    del server
