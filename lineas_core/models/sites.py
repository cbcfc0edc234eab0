"""Which modules to intervene on: presets per architecture, or a regular expression."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from lineas_core.errors import SiteError

# Presets are the paper's regular expressions; an architecture that names its modules
# otherwise, or generates images, has its own here.
PRESETS: dict[str, str] = {
    "post_layernorm": r".*post.*layernorm",
    "layernorm": r".*layernorm",
    "o_proj": r".*\.o_proj",
    "ln": r".*\.ln_\d",
}
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
    # The norms of FLUX that put out tokens: not the linear layers inside its adaptive norms, nor
    # those of queries and keys, whose four dimensions are no image's.
    "FluxTransformer2DModel": {
        "norm": r"transformer\.(.*blocks\.\d+\.norm(\d(_context)?)?|norm_out)",
        "double_norm": r"transformer\.transformer_blocks\.\d+\.norm\d(_context)?",
        "single_norm": r"transformer\.single_transformer_blocks\.\d+\.norm",
        "text_norm": r"text_encoder.*norm\d?",
    },
}


def match_sites(names: Sequence[str], pattern: str, architecture: str) -> list[str]:
    """The module names that a preset, or a regular expression, picks out, in their order.

    Args:
        names: the model's module names.
        pattern: a preset's name, or a regular expression that must match a whole name.
        architecture: the model's type, such as "llama", or the class of an image model's denoiser.

    Raises:
        SiteError: the expression is not valid, or matches nothing; the message lists the
            nearest module names.
    """
    presets = PRESETS_BY_ARCHITECTURE.get(architecture, PRESETS)
    try:
        expression = re.compile(presets.get(pattern, pattern))
    except re.error as error:
        raise SiteError(
            f"sites is {pattern!r}, which is not a regular expression ({error}). Use a preset "
            f"({', '.join(presets)}) or mend the expression."
        ) from error
    matched = [name for name in names if expression.fullmatch(name)]
    if not matched:
        raise SiteError(
            f"sites is {pattern!r}, which matches no module of this {architecture} model. "
            f"Nearest names: {', '.join(_nearest(names, presets.get(pattern, pattern)))}. "
            f"Presets: {', '.join(presets)}."
        )
    return matched


def _nearest(names: Sequence[str], pattern: str, count: int = 5) -> list[str]:
    """Module names most like `pattern`, one for all layers: `model.layers.*.mlp`."""
    families = list(dict.fromkeys(re.sub(r"\.\d+(?=\.|$)", ".*", name) for name in names if name))
    # Whole names first, then names that end in something like the pattern's last part.
    last = re.split(r"\\?\.", pattern)[-1].strip("*?+^$")
    by_last = {family.rsplit(".", 1)[-1]: family for family in reversed(families)}
    near = difflib.get_close_matches(pattern, families, count, cutoff=0.4)
    near += [by_last[n] for n in difflib.get_close_matches(last, list(by_last), count, cutoff=0.3)]
    return list(dict.fromkeys(near))[:count] or families[:count]
