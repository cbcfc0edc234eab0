"""Sharpen the generator: train UNet, text encoder and decoder on pixels, against a critic.

    python -m tools.refine_generator build/corpus build/vae build/generator build/clip build/refined

Goes on from the generator's averaged weights. Three terms: the real picture's pixels and edges,
its features in the embedded CLIP, and a critic that tells real pictures from made ones by caption
(a projection discriminator, Miyato and Koyama 2018, with the hinge loss).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from tools.corpus import Corpus
from tools.runs import Run, optimizer_for, training_arguments
from tools.train_autoencoder import picture_loss
from tools.train_clip import CONFIG, normalise
from tools.train_generator import Batch, Trainer

RATE, CRITIC_RATE = 2e-4, 4e-4
FEATURES, FOOLING = 2.0, 0.2
STAGES = [1, 2, 3]


class Critic(nn.Module):
    """Scores patches of a picture, (n, 1, 4, 4): above 0 is real.

    Args:
        text: width of the caption's embedding.
    """

    def __init__(self, text: int, widths: tuple[int, ...] = (32, 64, 128, 192)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for wide, narrow in zip((3, *widths), widths, strict=False):
            layers += [spectral_norm(nn.Conv2d(wide, narrow, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers)
        self.head = spectral_norm(nn.Conv2d(widths[-1], 1, 1))
        self.project = spectral_norm(nn.Linear(text, widths[-1]))

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        """Scores of images (n, 3, 64, 64) with caption embeddings (n, text)."""
        found = self.body(images)
        fitting = (found * self.project(texts)[..., None, None]).sum(dim=1, keepdim=True)
        scores: Tensor = self.head(found) + fitting / found.shape[1] ** 0.5
        return scores


class Refiner:
    """One run. `trainer` holds the generator, at its averaged weights, and draws the batches."""

    def __init__(self, trainer: Trainer, clip: nn.Module, folder: Path, steps: int) -> None:
        self.trainer, self.clip = trainer, clip
        trainer.unet.load_state_dict(trainer.average["unet"].state_dict())
        trainer.text.load_state_dict(trainer.average["text"].state_dict())
        self.decoder = trainer.vae.decoder.requires_grad_(True)
        self.images = torch.from_numpy(np.array(trainer.corpus.images))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.critic = Critic(CONFIG["embed_dim"])
        self.critic_optimizer = torch.optim.AdamW(
            self.critic.parameters(), CRITIC_RATE, betas=(0.0, 0.99)
        )
        self.run = Run(
            folder,
            {
                "unet": trainer.unet,
                "text": trainer.text,
                "average": trainer.average,
                "decoder": self.decoder,
                "critic": self.critic,
                "critic_optimizer": self.critic_optimizer,
            },
            optimizer_for([trainer.unet, trainer.text, self.decoder], RATE, 0.01),
            RATE,
            steps,
        )

    def step(self, number: int) -> Tensor:
        """Train the critic on one batch; the generator's loss on the same."""
        # Other batches than those of the first training.
        batch = self.trainer.draw(10_000_000 + number)
        real = normalise(self.images[batch.chosen[:, 0], batch.chosen[:, 1]])
        with torch.no_grad():
            texts = self.clip.encode_text(self.trainer.tokenize(batch.texts), normalize=True)
        made = self._pictures(batch)
        self._train_critic(real, made.detach(), texts)
        with torch.no_grad():
            wanted = self._features(real)
        pairs = zip(self._features(made), wanted, strict=True)
        alike = torch.stack([(a - b).square().sum(dim=1).mean() for a, b in pairs]).mean()
        fooling = -self.critic(made, texts).mean()
        return picture_loss(made, real) + FEATURES * alike + FOOLING * fooling

    def _pictures(self, batch: Batch) -> Tensor:
        latents = self.trainer.imagine(batch) * self.trainer.std + self.trainer.mean
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made: Tensor = self.decoder(latents)
        return made.float()

    def _train_critic(self, real: Tensor, made: Tensor, texts: Tensor) -> None:
        scores = self.critic(torch.cat([real, made]), torch.cat([texts, texts]))
        for_real, for_made = scores.chunk(2)
        loss = (1 - for_real).relu().mean() + (1 + for_made).relu().mean()
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()

    def _features(self, images: Tensor) -> list[Tensor]:
        """After some of the CLIP's stages, of unit length at every place."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = self.clip.visual.forward_intermediates(
                images, indices=STAGES, stop_early=True, intermediates_only=True
            )["image_intermediates"]
        return [nn.functional.normalize(z.float(), dim=1) for z in found]


def main() -> None:
    """Refine and export."""
    arguments = training_arguments(
        "Sharpen the embedded generator.",
        ["corpus", "vae", "generator", "clip"],
        steps=3200,
        batch=24,
    )
    vae = AutoencoderTiny.from_pretrained(arguments.vae / "vae").requires_grad_(False).eval()
    corpus = Corpus.load(arguments.corpus)
    trainer = Trainer(corpus, vae, arguments.generator, 0, arguments.batch)
    clip, _ = open_clip.create_model_from_pretrained(f"local-dir:{arguments.clip / 'clip-emoji'}")
    clip.eval().requires_grad_(False)
    refiner = Refiner(trainer, clip, arguments.folder, arguments.steps)
    refiner.run.train(refiner.step, every=250, after=trainer.follow, report=trainer.report)
    trainer.export(arguments.folder / "emoji-onestep")


if __name__ == "__main__":
    main()
