"""Judge the embedded generator and CLIP on the pairs of concept and look that neither has seen.

    python -m tools.check_generator build/corpus            about 1 min on two cores

Prints one JSON object: how often the CLIP finds the concept among the held-out ones, in real and
in generated pictures; how often a classifier that has only seen real pictures finds the look, for
the drawn looks and for the four artists' hands, which are not always to be told apart; how far
apart two seeds of one caption are, in the CLIP's space. Writes the contact sheet of the README.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import lineas_core as lc
from lineas_core.models.diffusion import DiffusionModel
from tools.captions import TAGS, name_with_article, plain_caption
from tools.corpus import Corpus, contact_sheet
from tools.looks import ARTISTS
from tools.train_clip import augment, normalise

SHEET = Path(__file__).resolve().parent.parent / "docs" / "images" / "emoji-onestep.png"
SHEET_SUBJECTS = ("tiger", "castle", "strawberry", "rocket", "owl", "guitar", "sailboat", "cactus")
CLASSIFIER_STEPS, CLASSIFIER_RATE = 1500, 3e-3


def train_classifier(corpus: Corpus) -> nn.Module:
    """A small convolutional network, picture -> look, from real pictures only."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for wide, narrow in ((3, 24), (24, 48), (48, 96)):
            layers += [nn.Conv2d(wide, narrow, 3, 2, 1), nn.BatchNorm2d(narrow), nn.ReLU()]
        classifier = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96 * 16, len(corpus.looks))
        )
    optimizer = torch.optim.AdamW(classifier.parameters(), CLASSIFIER_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, CLASSIFIER_RATE, total_steps=CLASSIFIER_STEPS
    )
    rows = torch.from_numpy(np.argwhere(corpus.training_mask()))
    images = torch.from_numpy(np.array(corpus.images))
    generator = torch.Generator().manual_seed(0)
    for _ in range(CLASSIFIER_STEPS):
        chosen = rows[torch.randint(len(rows), (64,), generator=generator)]
        real = augment(normalise(images[chosen[:, 0], chosen[:, 1]]), generator)
        loss = nn.functional.cross_entropy(classifier(real), chosen[:, 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return classifier.eval()


def as_tensor(images: list[Image.Image]) -> Tensor:
    """Pictures as the classifier reads them."""
    return normalise(torch.stack([torch.from_numpy(np.array(image)) for image in images]))


def main() -> None:
    """Judge, print, draw."""
    parser = argparse.ArgumentParser(description="Judge the embedded generator and CLIP.")
    parser.add_argument("corpus", type=Path)
    corpus = Corpus.load(parser.parse_args().corpus)
    model, scorer = lc.load_model("emoji-onestep", device="cpu"), lc.load_scorer(device="cpu")
    assert isinstance(model, DiffusionModel)
    names = [corpus.concepts[c].name for c, _ in corpus.held_out]
    looks = [corpus.looks[k] for _, k in corpus.held_out]
    captions = [plain_caption(n, look) for n, look in zip(names, looks, strict=True)]
    real = [Image.fromarray(corpus.images[c, k]) for c, k in corpus.held_out]
    made = model.generate(captions, seed=range(len(captions)))
    texts = scorer.text_embeddings([plain_caption(name) for name in names])

    def found(images: list[Image.Image]) -> float:
        best = (scorer.image_embeddings(images) @ texts.T).argmax(dim=1)
        return float((best == torch.arange(len(names))).float().mean())

    classifier = train_classifier(corpus)

    @torch.no_grad()
    def look_found(images: list[Image.Image], among: Sequence[str]) -> float:
        best = classifier(as_tensor(images)).argmax(dim=1).tolist()
        pairs = [(corpus.looks[b], look) for b, look in zip(best, looks, strict=True)]
        return float(np.mean([guess == look for guess, look in pairs if look in among]))

    drawn = [look for look in corpus.looks if look not in ARTISTS]
    untagged = [name_with_article(name) for name in names[:50]]
    pair = [model.generate(untagged, seed=seed) for seed in (1, 2)]
    one, two = (scorer.image_embeddings(images) for images in pair)
    print(
        json.dumps(
            {
                "pairs": len(names),
                "concept_real": found(real),
                "concept_generated": found(made),
                "drawn_look_real": look_found(real, drawn),
                "drawn_look_generated": look_found(made, drawn),
                "artist_real": look_found(real, ARTISTS),
                "artist_generated": look_found(made, ARTISTS),
                "distance_of_two_seeds": float((1 - (one * two).sum(dim=1)).mean()),
            }
        )
    )
    captions = [plain_caption(name, look) for name in SHEET_SUBJECTS for look in TAGS]
    sheet = np.stack([np.array(image) for image in model.generate(captions)])
    SHEET.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(sheet.reshape(len(SHEET_SUBJECTS), len(TAGS), *sheet.shape[1:])).save(SHEET)


if __name__ == "__main__":
    main()
