"""Check the embedded generator's styles: do they change evenly, and preserve the subject?

    python -m tools.check_generator [--styles anime]      about a minute per style on two cores

Each drawn look is reached in two ways: by interpolating the text embedding from a plain caption to
the caption with the look, and with a LinEAS map trained with the shipped settings. Subjects are
things that no map trains on. For each look it prints a JSON line: the distance from the start at
each tenth of the path, as IMGScore, as an angle and in the autoencoder's latents; the ratio of the
largest to the smallest tenth of each; and how often the CLIP recognises the subject at both ends.
The first line is about seeds: how far apart two pictures of one caption are. For recognition and
sharpness of held-out pairs, see the output of `tools.train_all`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import lineas_core as lc
from lineas_core.metrics.clip import ClipScorer
from lineas_core.models.image.model import DiffusionModel
from lineas_core.prompts.subjects import SUBJECTS
from tools.captions import TAGS
from tools.corpus import DRAWN
from tools.tables import normalise

TENTHS = tuple(tenth / 10 for tenth in range(11))
Paint = Callable[[float], list[Image.Image]]


@dataclass(frozen=True)
class Way:
    """The path of a look from 0 to 1, as means over pictures.

    Attributes:
        img_score: cosine to the picture at 0, at each tenth.
        angle: arccos of each picture's cosine, in radians.
        latents: distance to the picture at 0 in the autoencoder's latents.
        found: share of pictures whose own subject is the nearest of all, at 0 and at 1.
    """

    img_score: list[float]
    angle: list[float]
    latents: list[float]
    found: tuple[float, float]

    def facts(self) -> dict[str, object]:
        """The path and its unevenness, rounded, for printing."""
        return {
            "img_score": [round(score, 3) for score in self.img_score],
            "falls": all(a > b for a, b in pairwise(self.img_score)),
            "uneven_img_score": unevenness(self.img_score),
            "uneven_angle": unevenness(self.angle),
            "uneven_latents": unevenness(self.latents),
            "found": [round(share, 3) for share in self.found],
        }


def unevenness(way: list[float]) -> float:
    """Ratio of the largest to the smallest increment; infinite if one of them is not positive.

    >>> unevenness([0.0, 1.0, 3.0]), unevenness([0.0, 1.0, 0.5])
    (2.0, inf)
    """
    steps = [(b - a) * np.sign(way[-1] - way[0]) for a, b in pairwise(way)]
    return round(float(max(steps) / min(steps)), 2) if min(steps) > 0 else float("inf")


class Judge:
    """Measures pictures of `SUBJECTS`.

    Args:
        model: its autoencoder provides the latents.
        scorer: the CLIP model.
    """

    def __init__(self, model: DiffusionModel, scorer: ClipScorer) -> None:
        self._vae, self._scorer = model.pipeline.vae, scorer
        self._names = scorer.text_embeddings(SUBJECTS)

    @torch.no_grad()
    def way(self, paint: Paint) -> Way:
        """Measure the path of a look.

        Args:
            paint: position on the path, 0 to 1 -> a picture of each subject.
        """
        seen, drawn = [], []
        for tenth in TENTHS:
            images = paint(tenth)
            seen.append(self._scorer.image_embeddings(images))
            drawn.append(self._latents(images))
        cosines = torch.stack([(each * seen[0]).sum(1).clamp(-1, 1) for each in seen])
        far = torch.stack([(each - drawn[0]).flatten(1).norm(dim=1) for each in drawn])
        return Way(
            cosines.mean(1).tolist(),
            cosines.arccos().mean(1).tolist(),
            far.mean(1).tolist(),
            (self._found(seen[0]), self._found(seen[-1])),
        )

    def _found(self, seen: Tensor) -> float:
        nearest = (seen @ self._names.T).argmax(1)
        return float((nearest == torch.arange(len(seen))).float().mean())

    def _latents(self, images: list[Image.Image]) -> Tensor:
        pixels = torch.stack([torch.from_numpy(np.array(image)) for image in images])
        found: Tensor = self._vae.encode(normalise(pixels)).latents
        return found


def along_the_text(model: DiffusionModel, look: str) -> Paint:
    """Pictures of the subjects from text embeddings interpolated towards the look's."""
    pipeline, one = model.pipeline, model.entry
    assert one
    tagged = [f"{name}, {TAGS[look][0]}" for name in SUBJECTS]
    plain, styled = (_embedded(pipeline, texts) for texts in (list(SUBJECTS), tagged))

    def paint(share: float) -> list[Image.Image]:
        images: list[Image.Image] = pipeline(
            prompt_embeds=torch.lerp(plain, styled, share),
            num_inference_steps=one.steps,
            timesteps=list(one.timesteps),
            guidance_scale=one.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in range(len(SUBJECTS))],
        ).images
        return images

    return paint


def under_a_map(model: DiffusionModel, look: str) -> Paint:
    """Pictures of the subjects under a trained map to the look, with the position as strength."""
    smap = lc.train(model, lc.PromptSet.load(f"emoji-{look}")).map
    return lambda strength: model.generate(SUBJECTS, [(smap, strength)], seed=range(len(SUBJECTS)))


@torch.no_grad()
def _embedded(pipeline: object, texts: list[str]) -> Tensor:
    found: Tensor = pipeline.encode_prompt(texts, "cpu", 1, False)[0]  # type: ignore[attr-defined]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Judge the styles of the embedded generator.")
    parser.add_argument("--styles", nargs="+", choices=DRAWN, default=DRAWN)
    styles = parser.parse_args().styles
    model, scorer = lc.load_model("emoji-onestep", device="cpu"), lc.load_scorer(device="cpu")
    assert isinstance(model, DiffusionModel)
    model.pipeline.set_progress_bar_config(disable=True)
    judge = Judge(model, scorer)
    one, other = (model.generate(SUBJECTS, seed=seed) for seed in (1, 2))
    apart = 1 - fmean(scorer.img_score(one, other))
    print(json.dumps({"two_seeds_apart": round(apart, 3)}), flush=True)
    for look in styles:
        for name, make in (("text", along_the_text), ("map", under_a_map)):
            facts = judge.way(make(model, look)).facts()
            print(json.dumps({"look": look, "way": name, **facts}), flush=True)


if __name__ == "__main__":
    main()
