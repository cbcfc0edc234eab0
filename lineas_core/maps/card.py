"""The model card (README.md) of a map on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCardData

from lineas_core.hub.card import (
    CARD,
    MAP_TAG,
    PERMISSIVE,
    TAGS,
    base_model,
    make_card,
    one_line,
)
from lineas_core.hub.maps import file_sha256
from lineas_core.models.shared.catalog import catalog
from lineas_core.system.words import counted

if TYPE_CHECKING:
    from PIL import Image

    from lineas_core.maps.steering_map import SteeringMap

# Prefixes of site names in diffusers pipelines; language models have none of them.
IMAGE_PARTS = ("unet.", "text_encoder", "transformer.transformer_blocks.", "transformer.single_")


def write_card(
    smap: SteeringMap,
    file: Path,
    repo_id: str,
    *,
    licensed: Mapping[str, str],
    title: str = "",
    license: str = "",
    about: str = "",
    datasets: Sequence[str] = (),
    examples: Mapping[str, str | Image.Image] | None = None,
) -> None:
    """Write the card of a map, which the Hub shows as an adapter of its base model.

    Where the base model's licence is not a permissive one, it is the card's: such licences bind
    what is learned from the model too.

    Args:
        smap: the map.
        file: the map's file; README.md and example pictures are written beside it.
        repo_id: the repository it is pushed to, as USER/NAME.
        licensed: the base model's licence, from `base_license`.
        title: the heading; the map's own name by default.
        license: of the map or its prompts, in the Hub's spelling, such as apache-2.0.
        about: an additional paragraph, in Markdown.
        datasets: repositories of the data sets that the prompts come from.
        examples: prompts -> what the steered model makes of them: texts or pictures.
    """
    info, base = smap.info, base_model(smap.info.model)
    image = any(site.startswith(IMAGE_PARTS) for site in smap.sites)
    bound = {} if licensed.get("license", "") in ("", *PERMISSIVE) else licensed
    stated: dict[str, Any] = {"license": license or None, **bound}
    widget = []
    for number, (prompt, made) in enumerate((examples or {}).items(), 1):
        if isinstance(made, str):
            widget.append({"text": prompt, "output": {"text": made}})
        else:
            made.save(file.with_name(f"example-{number}.png"))
            widget.append({"text": prompt, "output": {"url": f"example-{number}.png"}})
    sha256 = file_sha256(file)
    metadata = ModelCardData(
        base_model=base or None,
        base_model_relation="adapter" if base else None,
        datasets=list(datasets) or None,
        library_name="lineas",
        pipeline_tag="text-to-image" if image else "text-generation",
        # With the short name, maps of models that are not on the Hub are found there too.
        tags=[*TAGS, MAP_TAG, *([info.model] if info.model in catalog() else [])],
        widget=widget or None,
        lineas={
            "file": file.name,
            "sha256": sha256,
            "digest": smap.digest(),
            "model": info.model,
            "method": info.method,
            "concept": info.concept,
        },
        **stated,
    )
    licence = license or "not stated"
    if bound:
        licence = f"{bound.get('license_name', bound['license'])}, that of its base model"
        licence += f"; of its prompts: {license}" if license else ""
    ask = '["a lion"]' if image else '["Once upon a time"]'
    lines = [
        f"# {one_line(title or info.name or repo_id)}",
        "",
        "A steering map: one scale and one shift per neuron, learned from a few dozen source "
        "and target prompts ([LinEAS](https://arxiv.org/abs/2503.10679)). At strength 0 the "
        "model is untouched, at 1 it is fully steered.",
        "",
        *((about, "") if about else ()),
        *(("<Gallery />", "") if widget else ()),
        "| | |",
        "| --- | --- |",
        f"| model | {one_line(info.model)} |",
        f"| method | {one_line(info.method)} |",
        f"| steers towards | {one_line(info.concept or 'not stated')} |",
        f"| prompts | {one_line(info.name)}, hash {one_line(info.prompt_hash or 'not known')} |",
        f"| support | {smap.support():.1%} of the neurons at {counted(len(smap.sites), 'site')}"
        f"{', within bounds' if smap.bounds else ''} |",
        f"| licence | {one_line(licence)} |",
        f"| SHA-256 | {sha256} |",
        "",
        "```python",
        "import lineas_core as lc",
        "",
        f"model = lc.load_model({info.model!r})",
        f"smap = lc.SteeringMap.from_pretrained({repo_id!r})",
        f"print(model.generate({ask}, [(smap, 0.7)], seed=0))",
        "```",
        "",
        f"From a terminal: `lineas install {repo_id} -o {file.name}`",
        "",
    ]
    make_card(metadata, "\n".join(lines)).save(file.with_name(CARD))
