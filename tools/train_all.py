"""Train all models of `assets/` from the art, each for a given time or number of steps.

    python -m tools.train_all build/art.zip build/emoji --seconds 30 70 220 170     on a GPU
    python -m tools.train_all build/art.zip build/tiny --steps 20 20 20 20 --most 40    a rehearsal

Draws the corpus first, unless another process has drawn it or is drawing it, and resumes from the
folder's checkpoints. Models are exported after the generator and again after the refinement.
`--until` stops training early enough for the export.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

from tools import refine_generator, train_autoencoder, train_clip, train_generator
from tools.corpus import PIXELS, Corpus
from tools.device import Switches
from tools.runs import STARTED, Length
from tools.sheets import paint_held_out
from tools.tables import Tables

# Seconds reserved for exports and sheets at the end, and for the start of each training.
RESERVE, READY = 25.0, 14.0


def log(line: str) -> None:
    """Print with the elapsed time."""
    print(f"[{time.perf_counter() - STARTED:6.1f}] {line}", flush=True)


class Budget:
    """Lengths of the four training stages: CLIP, autoencoder, generator, refinement.

    Args:
        seconds, steps: of each stage; exactly one of them is given.
        until: Unix time by which everything is exported, or None.
    """

    def __init__(
        self, seconds: list[float] | None, steps: list[int] | None, until: float | None
    ) -> None:
        self.seconds, self.steps, self.until = seconds, steps, until

    def length(self, stage: int) -> Length:
        """Length of a stage; with `until`, the remaining time is divided in proportion."""
        if self.seconds is None:
            return Length(steps=self.steps[stage] if self.steps else 0)
        asked = self.seconds[stage]
        if self.until is not None:
            left = self.until - time.time() - RESERVE - READY * (len(self.seconds) - stage)
            asked *= max(left, 1.0) / sum(self.seconds[stage:])
        return Length(seconds=asked)


def corpus_in(folder: Path, given: argparse.Namespace) -> Corpus:
    """Load the corpus, after drawing it or waiting for the process that is drawing it."""
    waited = 0
    while not (folder / "corpus.json").is_file():
        if waited == 0 and not (folder / "begun").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "begun").touch()
            command = [sys.executable, "-m", "tools.corpus", str(given.art), str(folder)]
            command += ["--pixels", str(given.pixels), "--workers", str(given.workers)]
            command += ["--most", str(given.most)] if given.most else []
            subprocess.run(command, check=True)
        waited += 1
        if waited > given.patience:
            (folder / "begun").unlink(missing_ok=True)
            waited = 0
        time.sleep(1)
    return Corpus.load(folder)


def sharpness(pictures: torch.Tensor) -> float:
    """Energy of the detail that a three-pixel blur removes, averaged over pictures."""
    soft = nn.functional.avg_pool2d(pictures, 3, 1, 1)
    return float((pictures - soft)[..., 2:-2, 2:-2].square().mean())


def judge(trainer: train_generator.Trainer, clip: train_clip.Trainer, stage: str) -> None:
    """Log how often held-out pairs are recognised, and their sharpness relative to real ones."""
    made, real = paint_held_out(trainer.paint, trainer.tables), trainer.tables.held_out()
    facts = {**clip.judge(made), "sharpness": round(sharpness(made) / sharpness(real), 3)}
    log(f"{stage}, held out: {json.dumps(facts)}")


def main() -> None:
    """Train, export and evaluate."""
    parser = argparse.ArgumentParser(description="Train all embedded models.")
    parser.add_argument("art", type=Path, help="the archive of tools.art")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--corpus", type=Path, help="where it is or goes; else in the folder")
    parser.add_argument("--pixels", type=int, default=PIXELS, choices=(64, 96, 128))
    parser.add_argument("--seconds", type=float, nargs=4, help="of each training")
    parser.add_argument("--steps", type=int, nargs=4, help="instead of seconds")
    parser.add_argument("--batch", type=int, nargs=4, default=(512, 128, 512, 96))
    parser.add_argument("--most", type=int, help="concepts at most")
    parser.add_argument("--workers", type=int, default=2, help="that draw the corpus")
    parser.add_argument("--patience", type=int, default=240, help="seconds for another's corpus")
    parser.add_argument("--until", type=float, help="Unix time by which all is exported")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between sheets")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--no-graph", action="store_true")
    given = parser.parse_args()
    if (given.seconds is None) == (given.steps is None):
        parser.error("give either --seconds or --steps")
    Switches.compile &= not given.no_compile
    Switches.graph &= not given.no_graph
    budget = Budget(given.seconds, given.steps, given.until)
    folder: Path = given.folder
    every: float = given.every
    log(f"begin, torch {torch.__version__}")
    corpus = corpus_in(given.corpus or folder / "corpus", given)
    tables = Tables(corpus)
    log(f"{tables.concepts} concepts at {tables.pixels} pixels")

    clip = train_clip.Trainer(tables, folder / "clip", budget.length(0), given.batch[0])
    clip.run.train(clip.step, after=clip.bound_scale, report=clip.report, every=every)
    clip.export(folder / "assets" / "clip-emoji")

    coder = train_autoencoder.Trainer(tables, folder / "vae", budget.length(1), given.batch[1])
    coder.run.train(coder.step, after=coder.averaging.follow, report=coder.report, every=every)

    trainer = train_generator.Trainer(
        tables, coder.average, folder / "generator", budget.length(2), given.batch[2]
    )
    log("latents encoded")
    trainer.run.train(
        trainer.step, after=trainer.averaging.follow, report=trainer.report, every=every
    )
    judge(trainer, clip, "generator")
    trainer.export(folder / "assets" / "emoji-onestep")
    log("exported")

    clip.model.eval().requires_grad_(False)
    refiner = refine_generator.Refiner(
        trainer, clip.model, folder / "refined", budget.length(3), given.batch[3]
    )
    refiner.run.train(
        refiner.step, after=refiner.averaging.follow, report=trainer.report, every=every
    )
    trainer.export(folder / "assets" / "emoji-onestep")
    judge(trainer, clip, "refined")
    log("exported")


if __name__ == "__main__":
    main()
