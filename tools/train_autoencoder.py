"""Train the generator's autoencoder, which maps pictures to latents of an eighth of their side.

    python -m tools.train_autoencoder build/corpus build/vae

Training adds noise to the latents, so that the decoder tolerates small errors of the generator, and
includes crossfades of two pictures, which resemble pictures generated at partial strength.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from tools.corpus import Corpus, contact_sheet
from tools.device import DEVICE, Compiled, autocast
from tools.runs import Average, Length, Run, optimizer_for, training_arguments
from tools.tables import Tables, as_bytes, flipped

RATE = 1.5e-3
KEEP = 0.998
LATENT_CHANNELS = 16
FACTOR = 8
NOISE = 0.15
CROSSFADED = 0.3


def build() -> AutoencoderTiny:
    """Build an untrained autoencoder."""
    return AutoencoderTiny(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(48, 48, 48, 48),
        decoder_block_out_channels=(40, 40, 40, 40),
        num_encoder_blocks=(1, 2, 2, 2),
        num_decoder_blocks=(3, 3, 2, 1),
        scaling_factor=1.0,
    )


def edges(images: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbouring pixels, horizontal and vertical."""
    return images.diff(dim=3), images.diff(dim=2)


def picture_loss(made: Tensor, real: Tensor, weights: Tensor | None = None) -> Tensor:
    """L1 on pixels and on edges, at full, half and quarter size.

    Args:
        made, real: (n, 3, side, side).
        weights: of the pictures, (n,); 1 by default.
    """

    def mean(off: Tensor) -> Tensor:
        each = off.abs().flatten(1).mean(dim=1)
        return (each if weights is None else each * weights).mean()

    loss = torch.zeros((), device=made.device)
    for _ in range(3):
        loss = loss + mean(made - real)
        for a, b in zip(edges(made), edges(real), strict=True):
            loss = loss + mean(a - b)
        made, real = (nn.functional.avg_pool2d(x, 2) for x in (made, real))
    return loss


class Trainer:
    """One training run."""

    def __init__(self, tables: Tables, folder: Path, length: Length, batch: int) -> None:
        self.tables, self.folder, self.batch = tables, folder, batch
        torch.manual_seed(0)
        self.model = build().to(DEVICE).to(memory_format=torch.channels_last)
        self.average = build().to(DEVICE).to(memory_format=torch.channels_last).eval()
        self.average.requires_grad_(False).load_state_dict(self.model.state_dict())
        self.averaging = Average(self.average.parameters(), self.model.parameters(), KEEP)
        self.encode, self.decode = Compiled(self.model.encoder), Compiled(self.model.decoder)
        self.loss = Compiled(picture_loss)
        self.run = Run(
            folder,
            {"model": self.model, "average": self.average},
            [optimizer_for([self.model], RATE, 0.01)],
            length,
        )

    def step(self, progress: Tensor) -> Tensor:
        """The loss of one batch."""
        count = self.batch
        real = self.tables.random_pictures(count)
        real = flipped(real, torch.rand(count, device=DEVICE) < 0.5)
        share = torch.rand(count, 1, 1, 1, device=DEVICE)
        share = torch.where(torch.rand_like(share) < CROSSFADED, share, torch.ones_like(share))
        real = torch.lerp(real.flip(0), real, share)
        real = real.contiguous(memory_format=torch.channels_last)
        with autocast():
            latents = self.encode(real).float()
            level = NOISE * torch.rand(count, 1, 1, 1, device=DEVICE)
            made = self.decode(latents + level * torch.randn_like(latents))
        spread = latents.square().mean()
        loss: Tensor = self.loss(made.float(), real) + 0.01 * (spread - 1).clamp(min=0)
        return loss

    @torch.no_grad()
    def report(self) -> str:
        """Error on held-out pictures; writes a sheet of originals and reconstructions."""
        real = self.tables.held_out()[:96]
        latents = self.average.encoder(real)
        made = self.average.decoder(latents).clamp(-1, 1)
        count = min(24, len(real)) // 4 * 4
        if count:
            pairs = torch.stack([real, made], dim=1)[:count]
            pairs = pairs.reshape(count // 4, 8, *real.shape[1:])
            contact_sheet(as_bytes(pairs)).save(self.folder / "sheet.png")
        error = (made - real).abs().mean() / 2
        return f"held-out L1 {error:.4f} of the range, latent spread {latents.std():.2f}"


def main() -> None:
    """Train and export."""
    given = training_arguments(
        "Train the generator's autoencoder.", ["corpus"], steps=5000, batch=32
    )
    trainer = Trainer(Tables(Corpus.load(given.corpus)), given.folder, given.length, given.batch)
    trainer.run.train(trainer.step, after=trainer.averaging.follow, report=trainer.report)
    trainer.average.to(memory_format=torch.contiguous_format).cpu()
    trainer.average.save_pretrained(given.folder / "vae")


if __name__ == "__main__":
    main()
