"""Small wheels, locks of them, and weights packed into them."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

import gguf
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from lineas_core.models.shared.catalog import CatalogEntry, PackedWeights
from tests.helpers.models import SIZES, save_checkpoint

TERMS = "https://example.com/terms"


def small_wheel(
    folder: Path, version: str, name: str = "small", files: Mapping[str, bytes] | None = None
) -> Path:
    """A wheel of a package with these files in it."""
    module = name.replace("-", "_")
    stem = f"{module}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    info = f"{stem}.dist-info"
    with ZipFile(path, "w") as wheel:
        for inside, contents in (files or {}).items():
            wheel.writestr(f"{module}/{inside}", contents)
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        wheel.writestr(f"{info}/METADATA", about)
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tags)
        wheel.writestr(f"{info}/RECORD", "")
    return path


def digest_of(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def save_gguf(folder: Path) -> Path:
    """A small model as a GGUF file, and as a checkpoint in the same folder."""
    config = Qwen2Config(**SIZES, tie_word_embeddings=True)
    save_checkpoint(config, folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    file = folder / "small.gguf"
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    alphabet = [chr(33 + i) for i in range(94)]
    tokens = [*alphabet, *(f"x{i}" for i in range(config.vocab_size - 96)), "<bos>", "<eos>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["x 0"])
    writer.add_token_types([1] * (len(tokens) - 2) + [3, 3])
    writer.add_bos_token_id(len(tokens) - 2)
    writer.add_eos_token_id(len(tokens) - 1)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            writer.add_tensor(names.get_name(name, (".weight", ".bias")), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def pack(weights: Path, folder: Path, parts: int = 0, terms: str = "") -> CatalogEntry:
    """Pack a GGUF file into wheels in a folder, with a lock beside them; returns its entry.

    Args:
        weights: the file.
        folder: a new folder.
        parts: how many parts and wheels there are; 0 for the whole file in one wheel.
        terms: the terms' address.
    """
    folder.mkdir()
    contents = weights.read_bytes()
    share = -(-len(contents) // max(parts, 1))
    pieces = [contents[i : i + share] for i in range(0, len(contents), share)]
    names, lock = [], ""
    for number, piece in enumerate(pieces):
        name = f"packed-{folder.name}-part{number}"
        inside = f"{weights.name}.part{number}" if parts else weights.name
        wheel = small_wheel(folder, "1.0", name, {"__init__.py": b"", f"data/{inside}": piece})
        lock += f"{name}==1.0 \\\n    --hash=sha256:{digest_of(wheel)}\n"
        names.append(name)
    (folder / "packed.lock").write_text(lock)
    packed = PackedWeights(names, str(folder / "packed.lock"), digest_of(weights), 1e-3, terms)
    return CatalogEntry(
        id=f"packed-{folder.name}", title="Packed model", kind="language", dtype="float32",
        sites="post_layernorm", memory=0.1, license="Packed licence",
        hub=str(folder / "no-hub-here"), packed=packed,
    )  # fmt: skip
