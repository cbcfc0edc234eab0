"""Learn the maps that ship with the app: `python -m tools.make_gallery`.

A map is learned if its file is missing, with the shipped settings of its model; delete the file to
learn it again. The index is written from the maps and from measurements on prompts held out of
their training: the recommended strength and the calibration. If all files exist, only these are
measured again. On the same machine the maps are reproducible, except for their date.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import lineas_core as lc
from lineas_core.studio.jobs.measuring import measure_map

GALLERY = Path(lc.__file__).with_name("gallery")


@dataclass(frozen=True)
class Wanted:
    """A map to ship; its id is the prompt set's name."""

    model: str
    prompts: str
    title: str
    tags: tuple[str, ...]


WANTED = (
    Wanted("emoji-onestep", "emoji-pixel-art", "Pixel art", ("style", "retro")),
    Wanted("emoji-onestep", "emoji-watercolor", "Watercolour", ("style", "painted")),
    Wanted("emoji-onestep", "emoji-pencil-sketch", "Pencil sketch", ("style", "drawn")),
    Wanted("emoji-onestep", "emoji-ukiyo-e", "Ukiyo-e", ("style", "painted")),
    Wanted("emoji-onestep", "emoji-cyberpunk", "Neon cyberpunk", ("style", "dark")),
    Wanted("emoji-onestep", "emoji-blueprint", "Blueprint", ("style", "drawn")),
    Wanted("emoji-onestep", "emoji-kids-painting", "Kids' painting", ("style", "painted")),
    Wanted("emoji-onestep", "emoji-retro-3d", "Retro 3D", ("style", "retro")),
    Wanted("smollm2", "football", "Football", ("topic",)),
    Wanted("smollm2", "fishing", "Fishing", ("topic",)),
    Wanted("smollm2", "night", "Night", ("topic",)),
    Wanted("smollm2", "day", "Day", ("topic",)),
)


def main() -> None:
    """Learn missing maps and write the index."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    models: dict[str, lc.LanguageModel | lc.DiffusionModel] = {}
    index = []
    for wanted in WANTED:
        if wanted.model not in models:
            models[wanted.model] = lc.load_model(wanted.model, device=device)
        index.append(make(wanted, models[wanted.model]))
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in index)
    (GALLERY / "index.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def make(wanted: Wanted, model: lc.LanguageModel | lc.DiffusionModel) -> dict[str, object]:
    """The map's entry in the index; learns the map if its file is missing."""
    prompts = lc.PromptSet.load(wanted.prompts)
    config = lc.TrainConfig.for_model(model)
    file = GALLERY / f"{wanted.prompts}.safetensors"
    if not file.exists():
        began = time.perf_counter()
        result = lc.train(model, prompts, config)
        result.map.save(file)
        print(f"{wanted.prompts}: {time.perf_counter() - began:.0f} s", flush=True)
    smap = lc.SteeringMap.load(file)
    checked = measure_map(model, prompts, config, smap, recommend=True)
    if checked.recommended is None or checked.health is None:
        raise SystemExit(f"{wanted.prompts} gains nothing on its held-out prompts.")
    print(f"{wanted.prompts}: {checked.health.verdict}, {checked.recommended:g}", flush=True)
    return {
        "id": wanted.prompts,
        "title": wanted.title,
        "concept": smap.info.concept,
        "model": wanted.model,
        "modality": model.modality,
        "recommended": checked.recommended,
        "prompts": wanted.prompts,
        "tags": list(wanted.tags),
        "digest": smap.digest(),
        "calibration": checked.map.info.calibration,
        "health": asdict(checked.health),
    }


if __name__ == "__main__":
    main()
