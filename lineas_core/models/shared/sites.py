"""Which modules to intervene on: presets per architecture, or a regular expression."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Callable, Mapping, Sequence

from lineas_core.errors import SiteError

# The longest preset has 70 characters. The cost of `difflib` also grows with the length.
MAX_PATTERN = 200
# A typical expression takes a millisecond on all names of a model.
MAX_SECONDS = 1.0

# Presets are the paper's regular expressions; an architecture that names its modules differently,
# or generates images, has its own below.
PRESETS: dict[str, str] = {
    "post_layernorm": r".*post.*layernorm",
    "layernorm": r".*layernorm",
    "o_proj": r".*\.o_proj",
    "ln": r".*\.ln_\d",
}
# The paper's choice for language models.
PAPER = "post_layernorm"
PRESETS_BY_ARCHITECTURE: dict[str, dict[str, str]] = {
    "gpt2": {
        "post_layernorm": r".*\.ln_2",
        "layernorm": r".*\.ln_[12]",
        "o_proj": r".*\.attn\.c_proj",
        "ln": r".*\.ln_[12]",
    },
    "UNet2DConditionModel": {
        "norm": r"unet\.(.*\.)?\w*norm\w*",
        "attention_norm": r"unet\..*transformer_blocks\.\d+\.norm\d",
        "resnet_norm": r"unet\..*resnets\.\d+\.norm\d",
        "text_norm": r"text_encoder.*norm\d?",
    },
    # The norms of FLUX that output tokens: not the linear layers inside its adaptive norms, nor the
    # norms of queries and keys, which have a preset of their own.
    "FluxTransformer2DModel": {
        "norm": r"transformer\.(.*blocks\.\d+\.norm(\d(_context)?)?|norm_out)",
        "double_norm": r"transformer\.transformer_blocks\.\d+\.norm\d(_context)?",
        "single_norm": r"transformer\.single_transformer_blocks\.\d+\.norm",
        "query_key_norm": r"transformer\..*blocks\.\d+\.attn\.norm_\w+",
        "text_norm": r"text_encoder.*norm\d?",
    },
    "Flux2Transformer2DModel": {
        "norm": r"transformer\.(.*blocks\.\d+\.(norm(\d(_context)?)?|attn\.norm_\w+)|norm_out)",
        "double_norm": r"transformer\.transformer_blocks\.\d+\.norm\d(_context)?",
        "single_norm": r"transformer\.single_transformer_blocks\.\d+\.norm",
        "query_key_norm": r"transformer\..*blocks\.\d+\.attn\.norm_\w+",
        "text_norm": r"text_encoder.*norm",
    },
    "SanaTransformer2DModel": {
        "norm": r"transformer\.(caption_norm|.*blocks\.\d+\.(norm\d|attn\d\.norm_\w)|norm_out)",
        "block_norm": r"transformer\..*blocks\.\d+\.norm\d",
        "query_key_norm": r"transformer\..*blocks\.\d+\.attn\d\.norm_\w",
        "text_norm": r"text_encoder.*norm",
    },
    "QwenImageTransformer2DModel": {
        "norm": r"transformer\.(txt_norm|.*blocks\.\d+\.(\w+_norm\d|attn\.norm_\w+)|norm_out)",
        "image_norm": r"transformer\..*blocks\.\d+\.img_norm\d",
        "prompt_norm": r"transformer\.(txt_norm|.*blocks\.\d+\.txt_norm\d)",
        "query_key_norm": r"transformer\..*blocks\.\d+\.attn\.norm_\w+",
        "text_norm": r"text_encoder\..*language_model\..*norm",
    },
    # Not the norm of the prompts before they are embedded, whose rows are the tokens of them all.
    "ZImageTransformer2DModel": {
        "norm": r"transformer\..*\.(\w+_norm\d|norm_[qk]|norm_final)",
        "layer_norm": r"transformer\.layers\.\d+\.\w+_norm\d",
        "refiner_norm": r"transformer\.\w+_refiner\.\d+\.\w+_norm\d",
        "query_key_norm": r"transformer\..*\.norm_[qk]",
        "text_norm": r"text_encoder.*norm",
    },
}


def presets_of(architecture: str) -> dict[str, str]:
    """Preset -> regular expression, for a model's type or an image model's denoiser class."""
    return PRESETS_BY_ARCHITECTURE.get(architecture, PRESETS)


def preset_names() -> list[str]:
    """Names of the presets of all architectures."""
    found = [PRESETS, *PRESETS_BY_ARCHITECTURE.values()]
    return list(dict.fromkeys(name for presets in found for name in presets))


def match_sites(names: Sequence[str], pattern: str, architecture: str) -> list[str]:
    """The module names that match a preset or a regular expression, in the order of `names`.

    Args:
        names: the model's module names.
        pattern: a preset's name, or a regular expression that must match a whole name; in the
            syntax of Rust's regex, which has no look-around and no back references.
        architecture: the model's type, such as "llama", or the class of an image model's denoiser.

    Raises:
        SiteError: the expression is not valid, too long or too slow, or matches nothing; the
            message lists the nearest module names.
    """
    presets = presets_of(architecture)
    if len(pattern) > MAX_PATTERN:
        raise SiteError(
            f"sites has {len(pattern)} characters; {MAX_PATTERN} are the most. Use a preset "
            f"({', '.join(presets)}) or a shorter expression."
        )
    if pattern in presets:
        own = re.compile(presets[pattern])
        matches: Callable[[str], object] = own.fullmatch
    else:
        matches = _compiled(pattern, presets)
    end = time.monotonic() + MAX_SECONDS
    matched = []
    for name in names:
        # The whole model has the empty name, and is no site.
        if name and matches(name):
            matched.append(name)
        if time.monotonic() > end:
            raise SiteError(
                f"sites is {_quoted(pattern)}, which takes too long to match. Use a preset "
                f"({', '.join(presets)}) or a simpler expression."
            )
    if not matched:
        raise SiteError(
            f"sites is {_quoted(pattern)}, which matches no module of this {architecture} model. "
            f"Nearest names: {', '.join(_nearest(names, presets.get(pattern, pattern)))}. "
            f"Presets: {', '.join(presets)}."
        )
    return matched


def _compiled(pattern: str, presets: Mapping[str, str]) -> Callable[[str], bool]:
    """Compile an expression into a function that checks whether a whole name matches.

    Expressions come from untrusted users, and `re` can take years on a short one. The Rust engine
    that ships with pydantic takes time linear in the length of the name, and bounds its memory.

    Raises:
        SiteError: it is not valid, or too large once compiled.
    """
    # Only here, so that presets work where pydantic is not, as on a machine lent for benchmarks.
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    try:
        for text in (pattern, rf"\A(?:{pattern})\z"):
            # Check the bare pattern first: the group around it would make `)|(` valid.
            checker = SchemaValidator(
                core_schema.str_schema(pattern=text, regex_engine="rust-regex")
            )
    except SchemaError as error:
        reason = str(error).strip().splitlines()[-1].rpartition("rror: ")[2]
        raise SiteError(
            f"sites is {_quoted(pattern)}, which is not a regular expression ({reason}). Use a "
            f"preset ({', '.join(presets)}) or fix the expression."
        ) from error
    return checker.isinstance_python


def _nearest(names: Sequence[str], pattern: str, count: int = 5) -> list[str]:
    """Module names most similar to `pattern`, with layers merged: `model.layers.*.mlp`."""
    families = list(dict.fromkeys(re.sub(r"\.\d+(?=\.|$)", ".*", name) for name in names if name))
    # Whole names first, then names that end in something like the pattern's last part.
    last = re.split(r"\\?\.", pattern)[-1].strip("*?+^$")
    by_last = {family.rsplit(".", 1)[-1]: family for family in reversed(families)}
    near = difflib.get_close_matches(pattern, families, count, cutoff=0.4)
    near += [by_last[n] for n in difflib.get_close_matches(last, list(by_last), count, cutoff=0.3)]
    return list(dict.fromkeys(near))[:count] or families[:count]


def _quoted(pattern: str) -> str:
    """The pattern as it was typed, but for what cannot be shown."""
    return repr(pattern).replace("\\\\", "\\")
