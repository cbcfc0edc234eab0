"""Short names of sites, for the axes of figures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

# Component of a module's name -> its short form in labels.
WORDS = {
    "layers": "layer", "h": "layer", "block": "layer", "layer": "part", "up_blocks": "up",
    "down_blocks": "down", "mid_block": "mid", "attentions": "attn", "self_attn": "attn",
    "resnets": "res", "transformer_blocks": "block", "single_transformer_blocks": "single",
    "text_encoder": "text", "text_encoder_2": "text2", "text_encoder_3": "text3",
    "post_attention_layernorm": "post norm", "input_layernorm": "in norm",
    "pre_feedforward_layernorm": "mlp norm", "post_feedforward_layernorm": "mlp post norm",
    "final_layer_norm": "final norm", "conv_norm_out": "out norm", "norm_out": "out norm",
    "group_norm": "norm", "layer_norm": "norm", "ln": "norm", "ln_f": "final norm",
    "o_proj": "out", "c_proj": "out",
}  # fmt: skip
# Components of a module's name that are omitted from labels.
SILENT = {"model", "module", "transformer", "unet", "encoder", "text_model"}

# (word, number) of each component of a module's name.
_Path = tuple[tuple[str, str], ...]


def site_labels(names: Sequence[str]) -> list[str]:
    """Short, unique labels for sites.

    Numbers and words that do not distinguish any of `names` are omitted.

    >>> site_labels(["model.layers.3.post_attention_layernorm"])
    ['layer 3']
    >>> site_labels(["unet.up_blocks.1.attentions.0.transformer_blocks.0.norm2"])
    ['up 1 attn norm']
    >>> site_labels([f"text_encoder.text_model.encoder.layers.3.layer_norm{i}" for i in (1, 2)])
    ['text 3 norm 1', 'text 3 norm 2']
    """
    parsed = [_parts(name) for name in names]
    numbers: dict[_Path, set[str]] = {}
    for parts in parsed:
        for place, (_, number) in enumerate(parts):
            numbers.setdefault(_path(parts, place), set()).add(number)
    short = [_short(parts, numbers) for parts in parsed]
    layers = [re.match(r"layer \d+", label) for label in short]
    if all(layers) and len({re.sub(r"^layer \d+", "", label) for label in short}) == 1:
        short = [layer[0] for layer in layers if layer]
    counts = Counter(short)
    # Labels that are still ambiguous fall back to the full names.
    return [label if counts[label] == 1 else name for label, name in zip(short, names, strict=True)]


def _parts(name: str) -> _Path:
    """(word, number) of each component of a module's name not in `SILENT`; number may be ''."""
    parts: list[tuple[str, str]] = []
    for piece in name.split("."):
        if piece.isdigit():
            # The number is an index into the module list before it.
            if parts:
                parts[-1] = (parts[-1][0], piece)
        elif piece not in SILENT:
            known, number = (piece, "") if piece in WORDS else _split_number(piece)
            parts.append((WORDS.get(known, known.replace("_", " ")), number))
    return tuple(parts) or ((name, ""),)


def _split_number(piece: str) -> tuple[str, str]:
    found = re.fullmatch(r"(.*?)_?(\d*)", piece)
    assert found
    return found[1], found[2]


def _short(parts: _Path, numbers: Mapping[_Path, set[str]]) -> str:
    """Join the words, with the numbers of layers and those that distinguish sites."""
    words = []
    for place, (word, number) in enumerate(parts):
        if number and (place == 0 or word == "layer" or len(numbers[_path(parts, place)]) > 1):
            words.append(f"{word} {number}")
        elif word != "block":
            words.append(word)
    # "text 3" is clear without "layer", as a text encoder contains little but layers.
    return re.sub(r"^(text\d?) layer ", r"\1 ", " ".join(words))


def _path(parts: _Path, place: int) -> _Path:
    """The components up to `place`, the last one without its number."""
    return (*parts[:place], (parts[place][0], ""))
