"""llama.cpp itself, from the wheel of xllamacpp, and small models written for it.

xllamacpp's own classes set no control vectors, so this calls llama.cpp's C functions in its
library.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

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
    """Write a Llama as a GGUF model in float32 without a vocabulary: it takes token ids."""
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
    writer.add_tokenizer_model("no_vocab")
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


def direction_buffer(path: Path, width: int, strength: float) -> np.ndarray:
    """What `common_control_vector_load` makes of `--control-vector-scaled FILE:STRENGTH`."""
    data = np.zeros(0, np.float32)
    for tensor in gguf.GGUFReader(path).tensors:
        number = int(tensor.name.removeprefix("direction."))
        data = np.pad(data, (0, max(0, width * number - len(data))))
        data[width * (number - 1) : width * number] += strength * tensor.data
    return data


class Opaque(ctypes.Structure):
    """Settings or a batch, passed from one function to another; larger than any of them."""

    _fields_ = (("content", ctypes.c_uint8 * 2048),)


class LlamaCpp:
    def __init__(self, library: ctypes.CDLL, context: ctypes.c_void_p) -> None:
        self.library, self.context = library, context

    def add(self, data: np.ndarray, width: int, layers: int) -> None:
        """Use a buffer of directions, on all layers, as llama.cpp's programs do."""
        pointer = data.ctypes.data_as(ctypes.c_void_p)
        size = ctypes.c_size_t(len(data))
        assert not self.library.llama_set_adapter_cvec(
            self.context, pointer, size, width, 1, layers
        )

    def logits(self, tokens: Sequence[int], vocabulary: int) -> Tensor:
        """Logits after the last token of a text."""
        library = self.library
        library.llama_memory_clear(library.llama_get_memory(self.context), ctypes.c_bool(True))
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        assert not library.llama_decode(self.context, library.llama_batch_get_one(ids, len(ids)))
        row = library.llama_get_logits_ith(self.context, -1)
        return torch.tensor(row[:vocabulary])


@contextmanager
def loaded(path: Path) -> Iterator[LlamaCpp]:
    library = ctypes.CDLL(pytest.importorskip("xllamacpp.xllamacpp").__file__)
    for name in ("llama_model_default_params", "llama_context_default_params"):
        getattr(library, name).restype = Opaque
    library.llama_batch_get_one.restype = Opaque
    library.llama_decode.argtypes = (ctypes.c_void_p, Opaque)
    library.llama_get_memory.argtypes = (ctypes.c_void_p,)
    library.llama_get_memory.restype = ctypes.c_void_p
    library.llama_memory_clear.argtypes = (ctypes.c_void_p, ctypes.c_bool)
    library.llama_model_load_from_file.argtypes = (ctypes.c_char_p, Opaque)
    library.llama_model_load_from_file.restype = ctypes.c_void_p
    library.llama_init_from_model.argtypes = (ctypes.c_void_p, Opaque)
    library.llama_init_from_model.restype = ctypes.c_void_p
    library.llama_get_logits_ith.argtypes = (ctypes.c_void_p, ctypes.c_int32)
    library.llama_get_logits_ith.restype = ctypes.POINTER(ctypes.c_float)
    library.llama_backend_init()
    model = library.llama_model_load_from_file(bytes(path), library.llama_model_default_params())
    assert model
    context = library.llama_init_from_model(model, library.llama_context_default_params())
    assert context
    try:
        yield LlamaCpp(library, ctypes.c_void_p(context))
    finally:
        library.llama_free(ctypes.c_void_p(context))
        library.llama_model_free(ctypes.c_void_p(model))
