"""The numerical error of a folded checkpoint: `python -m benchmarks.folding`.

Compares the steered model with the reloaded checkpoint that `fold` writes, in float32: the largest
absolute difference of logits divided by the largest logit, and the largest difference of an image's
pixels, out of 255.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import lineas_core as lc
from benchmarks.inputs import cut_prompts, random_map
from benchmarks.machine import options, report
from benchmarks.sweeps import largest_difference
from lineas_core.models.image.model import DiffusionModel
from lineas_core.models.language.packing import TokenRows
from lineas_core.models.load import as_image_model, as_language_model
from lineas_core.prompts.subjects import SUBJECTS

PROMPTS, TOKENS = 8, 24
SEED = 0


def measure_logits(model: lc.LanguageModel, folder: Path) -> None:
    """Print the largest absolute difference of logits divided by the largest logit."""
    from lineas_core.export.checkpoint import fold

    prompts = cut_prompts(model.tokenizer, PROMPTS, TOKENS, TOKENS).source
    smap = random_map(model, model.sites(model.default_sites), prompts[0], SEED)
    fold(model, smap, strength=1.0, to=folder)
    folded = as_language_model(
        lc.load_model(str(folder), device=str(model.device), dtype="float32")
    )
    inputs = model.prepare(prompts)
    plain = _logits(model, inputs)
    with lc.steer(model, [(smap, 1.0)]):
        steered = _logits(model, inputs)
    scale = float(steered.abs().max())
    report(
        "largest difference of a folded checkpoint's logits, over the largest",
        float((_logits(folded, inputs) - steered).abs().max()) / scale,
        spread=None,
        seeds=[SEED],
        device=model.device,
        model=model.id,
        sites=len(smap.sites),
        unsteered_difference=float((plain - steered).abs().max()) / scale,
    )


def measure_pixels(model: DiffusionModel, folder: Path) -> None:
    """Print the largest difference of pixels."""
    from lineas_core.export.checkpoint import fold

    prompts, seeds = SUBJECTS[:PROMPTS], list(range(PROMPTS))
    smap = random_map(model, model.sites(model.default_sites), prompts[0], SEED)
    fold(model, smap, strength=1.0, to=folder)
    folded = DiffusionModel.from_pretrained(
        str(folder), id=model.id, device=model.device, dtype=torch.float32, entry=model.entry
    )
    steered = model.generate(prompts, [(smap, 1.0)], seed=seeds)
    difference = largest_difference(folded.generate(prompts, seed=seeds), steered)
    report(
        "largest difference of a folded checkpoint's pixels, over 255",
        difference / 255,
        spread=None,
        seeds=seeds,
        device=model.device,
        model=model.id,
        sites=len(smap.sites),
        difference_of_255=difference,
        unsteered_difference_of_255=largest_difference(
            model.generate(prompts, seed=seeds), steered
        ),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = options("folding")
    parser.add_argument("--images", default="emoji-onestep", help="the image model, as --model")
    chosen = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        writer = lc.load_model(chosen.model, device=chosen.device, dtype="float32")
        measure_logits(as_language_model(writer), Path(folder) / "texts")
        painter = lc.load_model(chosen.images, device=chosen.device, dtype="float32")
        measure_pixels(as_image_model(painter), Path(folder) / "images")


@torch.no_grad()
def _logits(model: lc.LanguageModel, inputs: TokenRows) -> Tensor:
    logits: Tensor = model.module(
        inputs.ids, attention_mask=inputs.mask.long(), use_cache=False
    ).logits
    return logits


if __name__ == "__main__":
    main()
