"""The model card (README.md) of a folded checkpoint, and the licence files of its base model."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCardData

from lineas_core.hub.card import CARD, TAGS, base_license, base_model, make_card, one_line
from lineas_core.hub.errors import HubError, hub_errors
from lineas_core.hub.files import fetch
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.models.language.model import LanguageModel
from lineas_core.models.load import Model
from lineas_core.system.paths import shipped
from lineas_core.system.words import counted

# LICENSE, LICENCE.txt, COPYING, NOTICE and USE_POLICY.md, which Llama's licence asks to pass on.
LICENSE_FILE = re.compile(r"(licen[cs]e|copying|notice|use_policy)([._-].*)?", re.IGNORECASE)
TEXT_CODE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")"""
IMAGE_CODE = """\
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("THIS FOLDER")
image = pipeline("a lion", {settings}).images[0]"""


def write_card(model: Model, smap: SteeringMap, strength: float, note: str, folder: Path) -> None:
    """Write the card of a folded checkpoint into its folder, and the licence files of its base.

    Args:
        model: the base model.
        smap: the map.
        strength: of the map.
        note: for users of the checkpoint; may be empty.
        folder: of the checkpoint.
    """
    text, base = isinstance(model, LanguageModel), base_model(model.id)
    licence, sentence = _license(model, folder)
    metadata = ModelCardData(
        base_model=base or None,
        base_model_relation="finetune" if base else None,
        library_name="transformers" if text else "diffusers",
        pipeline_tag="text-generation" if text else "text-to-image",
        tags=list(TAGS),
        **licence,
    )
    # Do not publish local paths.
    name = base or (Path(model.id).name if Path(model.id).is_dir() else model.id)
    if isinstance(model, LanguageModel):
        code = TEXT_CODE
    else:
        schedule = model.schedule
        settings: dict[str, Any] = {
            "num_inference_steps": schedule.steps,
            "guidance_scale": schedule.guidance,
        }
        if schedule.timesteps:
            settings["timesteps"] = list(schedule.timesteps)
        code = IMAGE_CODE.format(settings=", ".join(f"{k}={v}" for k, v in settings.items()))
    info = smap.info
    lines = [
        f"# {one_line(name)}, steered towards {one_line(info.concept or info.name or 'a concept')}",
        "",
        f"The base model is {name}.{sentence} A steering map at strength {strength:g} was folded "
        f"into its weights at {counted(len(smap.sites), 'site')} (method "
        f"{info.method or 'not stated'}, map "
        f"digest {smap.digest()}), so that it runs without further code; how, and what the maps "
        "are: [LinEAS](https://arxiv.org/abs/2503.10679).",
        *(("", note) if note else ()),
        "",
        "```python",
        code,
        "```",
        "",
    ]
    make_card(metadata, "\n".join(lines)).save(folder / CARD)


def _license(model: Model, folder: Path) -> tuple[dict[str, Any], str]:
    """Copy the licence files of a model; the card's fields and a sentence on the licence."""
    entry, base = model.entry, base_model(model.id)
    # Without a network, say where the licence is.
    fields: dict[str, Any] = {}
    files: list[Path] = []
    with suppress(HubError):
        fields = base_license(model.id)
    with suppress(HubError):
        files = _license_files(model, base)
    for file in files:
        shutil.copyfile(file, folder / file.name)
    named = entry.license if entry else fields.get("license_name") or fields.get("license", "")
    where = ", ".join(file.name for file in files) or (base and f"https://huggingface.co/{base}")
    if not named and not where:
        return fields, ""
    return fields, (
        f" Its licence{f', {named},' if named else ''} holds for this checkpoint too"
        f"{f' ({where})' if where else ''}."
    )


def _license_files(model: Model, base: str) -> list[Path]:
    """The licence files of a model's folder or repository, downloaded if need be."""
    if model.entry and model.entry.folder:
        return [shipped("LICENSE")]
    if base:
        with hub_errors(base):
            names = HfApi().list_repo_files(base)
            return [fetch(base, name)[0] for name in names if LICENSE_FILE.fullmatch(name)]
    source = Path(model.id)
    files = sorted(path for path in source.iterdir() if path.is_file()) if source.is_dir() else []
    return [path for path in files if LICENSE_FILE.fullmatch(path.name)]
