"""Fold a map into a plain checkpoint: no hooks, and no code of this library to load it.

A map is affine, and so is the last operation of norms and linear layers. The two compose into one
affine map, which is written into their weights (`edits.py`). For a fixed strength the checkpoint
computes what steering computes, at no extra cost, and runs wherever its model family runs.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from lineas_core.errors import ConfigError
from lineas_core.export.card import write_card
from lineas_core.export.edits import edits_of
from lineas_core.export.language import save_language_model
from lineas_core.export.pipeline import save_pipeline
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.models.language.model import LanguageModel
from lineas_core.models.load import Model


def fold(
    model: Model, smap: SteeringMap, strength: float = 1.0, *, to: str | os.PathLike[str]
) -> Path:
    """Write the model, steered by a map at a fixed strength, as a plain checkpoint.

    `transformers.AutoModelForCausalLM.from_pretrained(folder)` loads a language model, and
    `diffusers.DiffusionPipeline.from_pretrained(folder)` a pipeline; the tokenizer, the scheduler
    and all other parts are saved too. The live model is not modified, and only the weights that
    change are copied. They are computed in float32 and saved in the model's dtype. The card,
    README.md, states the model's licence, whose files are copied from its folder or repository.

    To fold several maps, compose them first: `compose([(a, 1.0), (b, 0.5)])`.

    Args:
        model: a language or image model.
        smap: its sites must be linear layers, convolutions, or norms. The shift of a norm without
            a bias goes into the layers that read it, if these are known.
        strength: of the map; fixed in the checkpoint.
        to: a new or empty folder.

    Returns:
        The folder.

    Raises:
        ConfigError: the folder is not empty or cannot be written, or the strength is not finite.
        SiteError: sites cannot be folded exactly; the message names them all, and a remedy.
        ModelError: the model's weights differ from those of its family.
    """
    at = map_at(smap, strength)
    with new_folder(to) as folder:
        if isinstance(model, LanguageModel):
            edits = edits_of(model.module, model.module.config.model_type, at)
            note = save_language_model(model, edits, folder)
        else:
            save_pipeline(model, edits_of(model.module, "", at), folder)
            note = ""
        write_card(model, smap, strength, note, folder)
    return Path(to)


def map_at(smap: SteeringMap, strength: float) -> SteeringMap:
    """`smap.at(strength)`, after checking the strength.

    Raises:
        ConfigError: the strength is not finite.
    """
    if not math.isfinite(strength):
        raise ConfigError(f"strength is {strength}; give a finite number, such as 1.0.")
    return smap.at(strength)


@contextmanager
def new_folder(to: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `to` if the block succeeds, else removed.

    Raises:
        ConfigError: `to` is a file or a folder with something in it, or cannot be written.
    """
    target = Path(to)
    failed = f"Cannot write {target} ({{}}). Choose a folder that can be written and has room."
    try:
        if target.is_file() or (target.is_dir() and any(target.iterdir())):
            raise ConfigError(f"to is {target}, which is not empty. Give the name of a new folder.")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise ConfigError(failed.format(error)) from error
    try:
        yield partial
        partial.chmod(0o755)
        if target.is_dir():
            target.rmdir()
        partial.rename(target)
    except (OSError, SafetensorError) as error:
        raise ConfigError(failed.format(error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
