"""Train the embedded one-step text-to-image generator, and write it as a diffusers pipeline.

    python -m tools.train_generator build/corpus build/vae build/generator

One call turns noise and a caption into latents: the UNet predicts the clean latents directly
(LCMScheduler with prediction type "sample"), so the pipeline runs one step at timestep 399, which
is how DMD2 is called. The noise determines the artist and whether the picture is mirrored, so that
noise and caption have one target picture instead of the mean of eight. A drawn look is derived from
the same artist's picture, so that it changes only how the subject is drawn.

A quarter of each batch interpolates between a caption without a look and the same caption with one:
both the text states and the target are interpolated. Steering moves activations along this path.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderTiny, LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from tools.corpus import Corpus
from tools.device import DEVICE, Compiled, autocast
from tools.looks import ARTISTS
from tools.runs import Average, Length, Run, compact, optimizer_for, training_arguments
from tools.sheets import write_sheets
from tools.tables import CONTEXT, VOCABULARY, WORDINGS, Tables, column_of
from tools.train_autoencoder import FACTOR, LATENT_CHANNELS

RATE = 9e-4
TIMESTEP = 399
WIDTH = 192
KEEP = 0.998
# The channel means that select the artist are small, so they are amplified by LOUD at first. The
# factor falls linearly towards 0 at the share QUIET_FROM of the run, but not below 1.
LOUD, QUIET_FROM = 8.0, 0.6
# Cumulative shares of a batch: captions without a look, with an artist, with a drawn look; the
# rest is interpolated towards a drawn look.
UNTAGGED, BY_ARTIST, DRAWN = 0.26, 0.36, 0.75


def build_unet(side: int) -> UNet2DConditionModel:
    """Build an untrained UNet, conditioned by cross attention and by pooled text.

    Args:
        side: of the latents; below 16 the UNet has two levels, otherwise three.
    """
    levels = (128, 192, 256) if side >= 16 else (128, 192)
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=levels,
        down_block_types=("CrossAttnDownBlock2D",) * len(levels),
        up_block_types=("CrossAttnUpBlock2D",) * len(levels),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def build_text_encoder(end: int) -> CLIPTextModel:
    """Build an untrained text encoder with two layers."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            projection_dim=WIDTH,
            hidden_act="gelu",
            bos_token_id=end - 1,
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def artist_of(noise: Tensor) -> Tensor:
    """The artist (of four) selected by the noise: the quadrant of two channel means.

    Args:
        noise: (n, channels, height, width), standard normal.

    Returns:
        Indices 0 to 3, (n,), with equal probabilities.
    """
    means = noise[:, :2].mean(dim=(2, 3)) > 0
    return means[:, 0].long() * 2 + means[:, 1].long()


def is_mirrored(noise: Tensor) -> Tensor:
    """Whether the noise selects a mirrored picture, bool (n,): the sign of the third mean."""
    return noise[:, 2].mean(dim=(1, 2)) > 0


class Batch(NamedTuple):
    """Inputs and targets of the generator.

    Attributes:
        untagged, tagged: token ids (n, CONTEXT) of a caption without and with its look.
        way: (n,) interpolation weight from `untagged` to `tagged`, 0 to 1.
        noise: (n, channels, side, side).
        mirrored: bool (n,).
        start, end: (concepts, artists, columns) of the pictures at way 0 and 1.
        weight: (n,) loss weight: 0 if the picture is held out, else 1.
    """

    untagged: Tensor
    tagged: Tensor
    way: Tensor
    noise: Tensor
    mirrored: Tensor
    start: tuple[Tensor, Tensor, Tensor]
    end: tuple[Tensor, Tensor, Tensor]
    weight: Tensor


def draw(tables: Tables, count: int, loud: Tensor | float) -> Batch:
    """Draw a batch, with interpolated rows last.

    Args:
        tables: of the corpus.
        count: rows.
        loud: factor on the noise's channel means.
    """
    side = tables.pixels // FACTOR
    concepts = torch.randint(tables.concepts, (count,), device=DEVICE)
    noise = torch.randn(count, LATENT_CHANNELS, side, side, device=DEVICE)
    noise = noise + (loud - 1) * noise.mean(dim=(2, 3), keepdim=True)
    artists = artist_of(noise)
    place = (torch.arange(count, device=DEVICE) + 0.5) / count
    by_artist = (place > UNTAGGED) & (place <= BY_ARTIST)
    drawn, part_way = place > BY_ARTIST, place > DRAWN
    looks = torch.where(
        drawn,
        torch.randint(len(ARTISTS), tables.looks, (count,), device=DEVICE),
        torch.randint(len(ARTISTS), (count,), device=DEVICE),
    )
    # Do not name a held-out look: the caption then stays without its look.
    asked = (by_artist | drawn) & tables.allowed[concepts, looks]
    way = torch.where(part_way, torch.rand(count, device=DEVICE), torch.ones_like(place))
    way = torch.where(asked, way, torch.zeros_like(way))
    plain = torch.zeros_like(concepts)
    hand = torch.where(asked & by_artist, looks, artists)
    column = torch.where(asked, column_of(looks), plain)
    fully = asked & ~part_way
    weight = (tables.allowed[concepts, artists] | fully).float()
    wording = (concepts, looks, torch.randint(WORDINGS, (count,), device=DEVICE))
    return Batch(
        untagged=tables.untagged[wording],
        tagged=tables.tagged[wording],
        way=way,
        noise=noise,
        mirrored=is_mirrored(noise),
        start=(concepts, artists, plain),
        end=(concepts, hand, column),
        weight=weight,
    )


class Trainer:
    """One training run.

    Args:
        tables: of the corpus.
        vae: trained; the generator predicts its latents.
        folder: for the checkpoint and the sheets.
        length: of the run.
        batch: rows per step.
    """

    def __init__(
        self, tables: Tables, vae: AutoencoderTiny, folder: Path, length: Length, batch: int
    ) -> None:
        self.tables, self.folder, self.batch = tables, folder, batch
        self.vae = vae.to(DEVICE).to(memory_format=torch.channels_last)
        self.vae.requires_grad_(False).eval()
        self.latents, self.mean, self.std = self._encode()
        torch.manual_seed(0)
        side = tables.pixels // FACTOR
        self.unet = build_unet(side).to(DEVICE).to(memory_format=torch.channels_last)
        self.text = build_text_encoder(tables.tokenizer.eos_token_id).to(DEVICE)
        both = nn.ModuleDict({"unet": self.unet, "text": self.text})
        self.average = copy.deepcopy(both).requires_grad_(False).eval()
        self.averaging = Average(self.average.parameters(), both.parameters(), KEEP)
        self.denoise, self.read = Compiled(self.unet), Compiled(self.text)
        # A tensor, because the UNet would copy a number to the device at each call.
        self.timestep = torch.tensor([TIMESTEP], device=DEVICE)
        self.run = Run(
            folder,
            {"unet": self.unet, "text": self.text, "average": self.average},
            [optimizer_for([self.unet, self.text], RATE, 0.01)],
            length,
            warm=300,
        )

    @torch.no_grad()
    def _encode(self) -> tuple[Tensor, Tensor, Tensor]:
        """Encode the corpus.

        Returns:
            Normalised latents (2, concepts, artists, columns, channels, side, side), bfloat16, of
            the pictures and of the mirrored pictures; mean and standard deviation per channel.
        """
        images, side = self.tables.images, self.tables.pixels // FACTOR
        shape = (2, *images.shape[:3], LATENT_CHANNELS, side, side)
        latents = torch.empty(shape, dtype=torch.bfloat16, device=DEVICE)
        for concept in range(len(images)):
            rows = images[concept].flatten(0, 1)
            real = rows.permute(0, 3, 1, 2).float() / 127.5 - 1
            for mirrored, seen in enumerate((real, real.flip(3))):
                latents[mirrored, concept] = self.vae.encoder(seen).view(shape[2:])
        sample = latents[0, ::2].float()
        mean = sample.mean(dim=(0, 1, 2, 4, 5))[:, None, None]
        std = sample.std(dim=(0, 1, 2, 4, 5))[:, None, None]
        for half in latents:
            half.sub_(mean).div_(std)
        return latents, mean, std

    def imagine(self, batch: Batch) -> Tensor:
        """Predict normalised latents with the current (not averaged) weights, float32."""
        with autocast():
            ids = torch.cat([batch.untagged, batch.tagged])
            states = self.read(input_ids=ids).last_hidden_state.float()
            untagged, tagged = states.chunk(2)
            states = torch.lerp(untagged, tagged, batch.way[:, None, None])
            noise = batch.noise.contiguous(memory_format=torch.channels_last)
            made: Tensor = self.denoise(noise, self.timestep, states, return_dict=False)[0]
        return made.float()

    def step(self, progress: Tensor) -> Tensor:
        """The loss of one batch: L1 and half the squared error on normalised latents."""
        loud = (LOUD * (1 - progress / QUIET_FROM)).clamp(min=1.0)
        batch = draw(self.tables, self.batch, loud)
        half = batch.mirrored.long()
        start, end = (self.latents[half, *cell].float() for cell in (batch.start, batch.end))
        off = self.imagine(batch) - torch.lerp(start, end, batch.way[:, None, None, None])
        each = (off.abs() + 0.5 * off.square()).flatten(1).mean(dim=1)
        return (each * batch.weight).mean()

    @torch.no_grad()
    def paint(
        self,
        texts: list[str],
        noise: Tensor,
        way: Tensor | None = None,
        plain: list[str] | None = None,
    ) -> Tensor:
        """Generate pictures in [-1, 1], (n, 3, pixels, pixels), with the averaged weights.

        Args:
            texts: captions.
            noise: one for each.
            way: (n,) interpolation weight from the captions `plain` to `texts`, 0 to 1.
            plain: captions at weight 0.
        """
        read = self.average["text"]
        states = read(input_ids=self.tables.tokenize(texts)).last_hidden_state
        if way is not None and plain is not None:
            start = read(input_ids=self.tables.tokenize(plain)).last_hidden_state
            states = torch.lerp(start, states, way[:, None, None])
        latents = self.average["unet"](noise, self.timestep, states, return_dict=False)[0]
        pictures: Tensor = self.vae.decoder(latents * self.std + self.mean).clamp(-1, 1)
        return pictures

    def report(self) -> str:
        """Error on held-out pairs; writes sheets of looks, seeds and interpolation."""
        made, real = write_sheets(self.paint, self.tables, self.folder)
        return f"held-out L1 {(made - real).abs().mean() / 2:.4f} of the range"

    def export(self, folder: Path) -> None:
        """Write the pipeline for `StableDiffusionPipeline.from_pretrained`, in float16."""
        average = copy.deepcopy(self.average).to(memory_format=torch.contiguous_format).cpu()
        vae = copy.deepcopy(self.vae).to(memory_format=torch.contiguous_format).cpu()
        mean, std = self.mean.cpu(), self.std.cpu()
        unet: Any = average["unet"]
        # Fold the denormalisation into the UNet, so that it outputs the autoencoder's latents.
        unet.conv_out.weight.data *= std[..., None]
        unet.conv_out.bias.data = unet.conv_out.bias * std[:, 0, 0] + mean[:, 0, 0]
        pipeline = StableDiffusionPipeline(
            vae=vae,
            text_encoder=average["text"],
            tokenizer=self.tables.tokenizer,
            unet=unet,
            scheduler=LCMScheduler(
                num_train_timesteps=1000,
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                prediction_type="sample",
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        shutil.rmtree(folder, ignore_errors=True)
        pipeline.to(dtype=torch.float16)
        pipeline.save_pretrained(folder, max_shard_size="13MB")
        compact(folder)


def main() -> None:
    """Train and export."""
    given = training_arguments(
        "Train the embedded generator.", ["corpus", "vae"], steps=10000, batch=64
    )
    vae = AutoencoderTiny.from_pretrained(given.vae / "vae")
    tables = Tables(Corpus.load(given.corpus))
    trainer = Trainer(tables, vae, given.folder, given.length, given.batch)
    trainer.run.train(trainer.step, after=trainer.averaging.follow, report=trainer.report)
    trainer.export(given.folder / "emoji-onestep")


if __name__ == "__main__":
    main()
