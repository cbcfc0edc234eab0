"""A small CLIP with random weights, in open_clip's folder format."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 64,
        "patch_size": 8,
        "width": 32,
        "head_width": 16,
        "layers": 2,
        "patch_dropout": 0.5,  # makes calls random if the model is left in training mode
    },
    "text_cfg": {
        "context_length": 24,
        "vocab_size": 259,
        "width": 32,
        "heads": 2,
        "layers": 2,
        "hf_tokenizer_name": "here",
    },
}
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def save_small_clip(folder: Path) -> Path:
    """Save an open_clip folder with random weights and a tokenizer with one token per byte."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**copy.deepcopy(CONFIG))
        for parameter in model.parameters():
            # With the default initialisation all images get nearly the same embedding.
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, 0.0, 0.2)
    folder.mkdir()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {"mean": MEAN, "std": STD}})
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # The text tower pools at the largest token id, which must be the end token.
    tokenizer.add_special_tokens(["<pad>", "<bos>", "<eos>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 257), ("<eos>", 258)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(folder)
    return folder
