"""Train the generator's autoencoder: 64 pixels to 8x8 latents and back.

    python -m tools.train_autoencoder build/corpus build/vae    about 50 min on two cores

Latents are trained with noise on them, so that the decoder forgives a generator that is a
little off.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from tools.corpus import Corpus, contact_sheet
from tools.runs import Run, optimizer_for, training_arguments
from tools.train_clip import normalise

RATE = 1.5e-3
LATENT_CHANNELS = 12
NOISE = 0.15


def build() -> AutoencoderTiny:
    """An untrained autoencoder."""
    return AutoencoderTiny(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(48, 48, 48, 48),
        decoder_block_out_channels=(48, 48, 48, 48),
        num_encoder_blocks=(1, 2, 2, 2),
        num_decoder_blocks=(3, 3, 2, 1),
        scaling_factor=1.0,
    )


def edges(images: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbouring pixels, across and down."""
    return images.diff(dim=3), images.diff(dim=2)


def picture_loss(made: Tensor, real: Tensor) -> Tensor:
    """L1 on pixels and on edges, at full and half size."""
    loss = torch.zeros(())
    for _ in range(2):
        loss = loss + (made - real).abs().mean()
        for a, b in zip(edges(made), edges(real), strict=True):
            loss = loss + (a - b).abs().mean()
        made, real = (nn.functional.avg_pool2d(x, 2) for x in (made, real))
    return loss


class Trainer:
    """One training run. All randomness comes from generators seeded by the step."""

    def __init__(self, corpus: Corpus, folder: Path, steps: int, batch: int) -> None:
        self.folder, self.batch = folder, batch
        mask = torch.from_numpy(corpus.training_mask())
        self.images = torch.from_numpy(np.array(corpus.images))[mask]
        self.held_out = torch.from_numpy(np.array(corpus.images))[~mask]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = build().to(memory_format=torch.channels_last)
        # Compiled, a step takes a half to two thirds of the time on a CPU.
        self.encoder = torch.compile(self.model.encoder)
        self.decoder = torch.compile(self.model.decoder)
        self.run = Run(
            folder, {"model": self.model}, optimizer_for([self.model], RATE, 0.01), RATE, steps
        )

    def step(self, number: int) -> Tensor:
        """The loss of one batch."""
        generator = torch.Generator().manual_seed(number)
        chosen = torch.randint(len(self.images), (self.batch,), generator=generator)
        real = normalise(self.images[chosen])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            latents = self.encoder(real).float()
            noise = torch.randn(latents.shape, generator=generator)
            level = NOISE * torch.rand(len(latents), 1, 1, 1, generator=generator)
            made = self.decoder(latents + level * noise)
        spread = latents.square().mean()
        return picture_loss(made.float(), real) + 0.01 * (spread - 1).clamp(min=0)

    @torch.no_grad()
    def report(self) -> str:
        """Error on held-out pictures; leaves a sheet of them beside their copies."""
        real = normalise(self.held_out[:64])
        latents = self.model.encoder(real)
        made = self.model.decoder(latents).clamp(-1, 1)
        pairs = torch.stack([real, made], dim=1)[:24].reshape(6, 8, *real.shape[1:])
        pixels = ((pairs.permute(0, 1, 3, 4, 2) + 1) * 127.5).round().byte().numpy()
        contact_sheet(pixels).save(self.folder / "sheet.png")
        error = (made - real).abs().mean() / 2
        return f"held-out L1 {error:.4f} of the range, latent spread {latents.std():.2f}"


def main() -> None:
    """Train and export."""
    arguments = training_arguments(
        "Train the generator's autoencoder.", ["corpus"], steps=5000, batch=32
    )
    trainer = Trainer(
        Corpus.load(arguments.corpus), arguments.folder, arguments.steps, arguments.batch
    )
    trainer.run.train(trainer.step, every=250, after=lambda number: None, report=trainer.report)
    trainer.model.to(memory_format=torch.contiguous_format)
    trainer.model.save_pretrained(arguments.folder / "vae")


if __name__ == "__main__":
    main()
