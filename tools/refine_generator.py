"""Sharpen the generator: train UNet, text encoder and decoder on pixels, with a critic.

    python -m tools.refine_generator build/corpus build/vae build/generator build/clip build/refined

Starts from the generator's averaged weights. The loss has four terms, comparing with the real
picture: pixels and edges; features of the embedded CLIP; features of the critic (feature matching,
Wang et al. 2018); and the score of the critic, a projection discriminator conditioned on the
caption (Miyato and Koyama 2018) with the hinge loss, over the whole picture and over patches. The
critic never sees interpolated pictures, or it would learn to recognise crossfades.
"""

from __future__ import annotations

import copy
from pathlib import Path

import open_clip
import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from tools.corpus import Corpus
from tools.device import DEVICE, Compiled, autocast
from tools.runs import Average, Length, Run, optimizer_for, training_arguments
from tools.tables import Tables, flipped
from tools.train_autoencoder import picture_loss
from tools.train_clip import CONFIG, shrink
from tools.train_generator import DRAWN, Trainer, draw

RATE, CRITIC_RATE = 2.5e-4, 4e-4
KEEP = 0.997
FEATURES, MATCHING, FOOLING = 2.0, 1.0, 0.2
# The critic starts untrained, so its weight in the loss rises linearly over this share of the run.
LISTENING = 0.05
STAGES = [1, 2, 3]


class Critic(nn.Module):
    """Scores a picture as a whole and by patches; above 0 means real.

    Args:
        text: width of the caption's embedding.
        widths: of the layers, each of which halves the side.
        patches: the layer after which patches are scored.
    """

    def __init__(
        self,
        text: int,
        widths: tuple[int, ...] = (48, 96, 160, 256, 256),
        patches: int = 2,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(wide, narrow, 4, 2, 1))
            for wide, narrow in zip((3, *widths), widths, strict=False)
        )
        self.head = spectral_norm(nn.Conv2d(widths[-1], 1, 1))
        self.project = spectral_norm(nn.Linear(text, widths[-1]))
        self.patch, self.patches = spectral_norm(nn.Conv2d(widths[patches], 1, 1)), patches

    def forward(self, images: Tensor, texts: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Scores [of the whole picture, of its patches] and each layer's features.

        Args:
            images: (n, 3, side, side).
            texts: caption embeddings (n, text).
        """
        found, features = images, []
        for layer in self.layers:
            found = nn.functional.leaky_relu(layer(found), 0.2)
            features.append(found)
        fitting = (found * self.project(texts)[..., None, None]).sum(dim=1, keepdim=True)
        whole = self.head(found) + fitting / found.shape[1] ** 0.5
        return [whole.float(), self.patch(features[self.patches]).float()], features


class Refiner:
    """One refinement run. `trainer` holds the generator, set to its averaged weights."""

    def __init__(
        self, trainer: Trainer, clip: nn.Module, folder: Path, length: Length, batch: int
    ) -> None:
        self.trainer, self.clip, self.batch = trainer, clip, batch
        trainer.folder = folder
        trainer.unet.load_state_dict(trainer.average["unet"].state_dict())
        trainer.text.load_state_dict(trainer.average["text"].state_dict())
        decoder = copy.deepcopy(trainer.vae.decoder)
        self.decoder = decoder.requires_grad_(True)
        torch.manual_seed(0)
        self.critic = Critic(CONFIG["embed_dim"]).to(DEVICE)
        self.critic.to(memory_format=torch.channels_last)
        newest = [trainer.unet, trainer.text, self.decoder]
        averages = [trainer.average["unet"], trainer.average["text"], trainer.vae.decoder]
        self.averaging = Average(
            (p for module in averages for p in module.parameters()),
            (p for module in newest for p in module.parameters()),
            KEEP,
        )
        self.critic_optimizer = optimizer_for([self.critic], CRITIC_RATE, 0.01, (0.0, 0.99))
        self.decode, self.loss = Compiled(self.decoder), Compiled(picture_loss)
        self.run = Run(
            folder,
            {
                "unet": trainer.unet,
                "text": trainer.text,
                "average": trainer.average,
                "decoder": self.decoder,
                "average_decoder": trainer.vae.decoder,
                "critic": self.critic,
            },
            [optimizer_for(newest, RATE, 0.01), self.critic_optimizer],
            length,
            warm=100,
        )

    def step(self, progress: Tensor) -> Tensor:
        """Train the critic on one batch, and return the generator's loss on the same batch."""
        trainer, tables = self.trainer, self.trainer.tables
        batch = draw(tables, self.batch, 1.0)
        start, end = (
            flipped(tables.pictures(*cell), batch.mirrored) for cell in (batch.start, batch.end)
        )
        real = torch.lerp(start, end, batch.way[:, None, None, None])
        real = real.contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), autocast():
            ids = torch.where((batch.way > 0.5)[:, None], batch.tagged, batch.untagged)
            texts = self.clip.encode_text(ids, normalize=True).float()
        latents = trainer.imagine(batch) * trainer.std + trainer.mean
        with autocast():
            made = self.decode(latents.contiguous(memory_format=torch.channels_last)).float()
        # Interpolated rows come last in the batch.
        whole = int(DRAWN * len(real))
        shown, said = made[:whole], texts[:whole]
        self._train_critic(real[:whole], shown.detach(), said, batch.weight[:whole])
        with torch.no_grad():
            wanted = self._features(real)
        pairs = zip(self._features(made), wanted, strict=True)
        alike = torch.stack(
            [((a - b).square().sum(1).flatten(1).mean(1) * batch.weight).mean() for a, b in pairs]
        ).mean()
        matching, fooling = self._ask_critic(real[:whole], shown, said, batch.weight[:whole])
        listen = (progress / LISTENING).clamp(max=1.0)
        judged = listen * (MATCHING * matching + FOOLING * fooling)
        loss: Tensor = self.loss(made, real, batch.weight) + FEATURES * alike + judged
        return loss

    def _train_critic(self, real: Tensor, made: Tensor, texts: Tensor, weights: Tensor) -> None:
        self.critic.requires_grad_(True)
        with autocast():
            scores, _ = self.critic(torch.cat([real, made]), torch.cat([texts, texts]))
        loss = torch.zeros((), device=DEVICE)
        for each in scores:
            for_real, for_made = each.flatten(1).chunk(2)
            hinge = (1 - for_real).relu() + (1 + for_made).relu()
            loss = loss + (hinge.mean(dim=1) * weights).mean()
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.critic_optimizer.step()

    def _ask_critic(
        self, real: Tensor, made: Tensor, texts: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The feature matching loss, and the adversarial loss of the generator."""
        self.critic.requires_grad_(False)
        with autocast():
            with torch.no_grad():
                _, wanted = self.critic(real, texts)
            scores, features = self.critic(made, texts)
        apart = [
            ((a.float() - b.float()).abs().flatten(1).mean(dim=1) * weights).mean()
            for a, b in zip(features, wanted, strict=True)
        ]
        fooling = -torch.stack([each.mean() for each in scores]).mean()
        return torch.stack(apart).mean(), fooling

    def _features(self, images: Tensor) -> list[Tensor]:
        """Features after some of the CLIP's stages, normalised to unit length at every position."""
        with autocast():
            found = self.clip.visual.forward_intermediates(
                shrink(images), indices=STAGES, stop_early=True, intermediates_only=True
            )["image_intermediates"]
        return [nn.functional.normalize(z.float(), dim=1) for z in found]


def main() -> None:
    """Refine and export."""
    given = training_arguments(
        "Sharpen the embedded generator.",
        ["corpus", "vae", "generator", "clip"],
        steps=3200,
        batch=24,
    )
    vae = AutoencoderTiny.from_pretrained(given.vae / "vae")
    tables = Tables(Corpus.load(given.corpus))
    trainer = Trainer(tables, vae, given.generator, Length(steps=0), given.batch)
    clip, _ = open_clip.create_model_from_pretrained(f"local-dir:{given.clip / 'clip-emoji'}")
    clip.to(DEVICE).eval().requires_grad_(False)
    refiner = Refiner(trainer, clip, given.folder, given.length, given.batch)
    refiner.run.train(refiner.step, after=refiner.averaging.follow, report=trainer.report)
    trainer.export(given.folder / "emoji-onestep")


if __name__ == "__main__":
    main()
