"""Train the embedded one-step text-to-image generator, and write it as a diffusers pipeline.

    python -m tools.train_generator build/corpus build/vae build/generator

One call turns noise and a caption into latents: the UNet learns the clean latents themselves
(LCMScheduler with prediction type "sample"), so that the pipeline runs with one step at timestep
399, which is how DMD2 is called. A caption without a style may be any of the four artists; which
one is decided by the noise, so that the answer to noise and caption is one picture and not the
mean of four.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderTiny, LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel

from tools.captions import caption, plain_caption
from tools.corpus import Corpus, contact_sheet
from tools.looks import ARTISTS
from tools.runs import Run, compact, optimizer_for, training_arguments
from tools.tokens import train_tokenizer
from tools.train_autoencoder import LATENT_CHANNELS
from tools.train_clip import CONTEXT, VOCABULARY, all_captions, normalise

RATE = 7e-4
TIMESTEP = 399
WIDTH = 192
EMA = 0.998
LOUD, QUIET_FROM = 8.0, 6000


def build_unet() -> UNet2DConditionModel:
    """An untrained UNet for 8x8 latents, conditioned by cross attention and by pooled text."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(128, 176),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def build_text_encoder(end: int) -> CLIPTextModel:
    """An untrained text encoder of two layers."""
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
    """Which of the four artists draws from this noise: the quadrant of two channel means.

    Args:
        noise: (n, channels, 8, 8), standard normal.

    Returns:
        Indices 0 to 3, (n,), each as likely as the others.
    """
    means = noise[:, :2].mean(dim=(2, 3)) > 0
    return means[:, 0].long() * 2 + means[:, 1].long()


class Batch(NamedTuple):
    """Captions, the noise each starts from, and the (concept, look) that it should give."""

    texts: list[str]
    noise: Tensor
    chosen: Tensor


class Trainer:
    """One training run. All randomness comes from generators seeded by the step."""

    def __init__(
        self, corpus: Corpus, vae: AutoencoderTiny, folder: Path, steps: int, batch: int
    ) -> None:
        self.corpus, self.vae, self.folder, self.batch = corpus, vae, folder, batch
        self.tokenizer = train_tokenizer(all_captions(corpus), VOCABULARY, CONTEXT)
        self.mask = corpus.training_mask()
        self.artists = [corpus.looks.index(name) for name in ARTISTS]
        rows = torch.from_numpy(np.argwhere(self.mask))
        # Captions without a look are the ones people write most: the artists come twice as often.
        self.rows = torch.cat([rows, rows[torch.isin(rows[:, 1], torch.tensor(self.artists))]])
        self.latents, self.mean, self.std = self._encode()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.unet = build_unet().to(memory_format=torch.channels_last)
            self.text = build_text_encoder(self.tokenizer.eos_token_id)
        self.average = copy.deepcopy(nn.ModuleDict({"unet": self.unet, "text": self.text}))
        self.average.requires_grad_(False).eval()
        self.run = Run(
            folder,
            {"unet": self.unet, "text": self.text, "average": self.average},
            optimizer_for([self.unet, self.text], RATE, 0.01),
            RATE,
            steps,
            warm=300,
        )

    @torch.no_grad()
    def _encode(self) -> tuple[Tensor, Tensor, Tensor]:
        images = torch.from_numpy(np.array(self.corpus.images))
        latents = torch.stack([self.vae.encoder(normalise(rows)) for rows in images])
        mean = latents.mean(dim=(0, 1, 3, 4))[:, None, None]
        std = latents.std(dim=(0, 1, 3, 4))[:, None, None]
        return (latents - mean) / std, mean, std

    def tokenize(self, texts: list[str]) -> Tensor:
        """Token ids (n, CONTEXT)."""
        ids: Tensor = self.tokenizer(
            texts, padding="max_length", truncation=True, return_tensors="pt"
        )["input_ids"]
        return ids

    def draw(self, number: int) -> Batch:
        """The batch of one step."""
        generator = torch.Generator().manual_seed(number)
        rng = np.random.default_rng(number)
        chosen = self.rows[torch.randint(len(self.rows), (self.batch,), generator=generator)]
        noise = torch.randn(self.batch, LATENT_CHANNELS, 8, 8, generator=generator)
        # What decides the artist is small beside the rest, so it begins larger than life.
        loud = max(1.0, LOUD * (1 - number / QUIET_FROM))
        noise += (loud - 1) * noise.mean(dim=(2, 3), keepdim=True)
        texts = []
        for row, (concept, look) in enumerate(chosen.tolist()):
            found, name = self.corpus.concepts[concept], self.corpus.looks[look]
            tag: str | None = name
            drawn = self.artists[artist_of(noise[row : row + 1]).item()]
            if name in ARTISTS and self.mask[concept, drawn] and rng.random() < 0.75:
                tag, chosen[row, 1] = None, drawn
            texts.append(caption([found.name, *found.keywords], tag, rng))
        return Batch(texts, noise, chosen)

    def imagine(self, batch: Batch) -> Tensor:
        """Normalised latents by the weights in training, float32."""
        # The fused attention's backward pass is the slower one on a CPU.
        with torch.autocast("cpu", dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            states = self.text(self.tokenize(batch.texts)).last_hidden_state
            noise = batch.noise.to(memory_format=torch.channels_last)
            made: Tensor = self.unet(noise, TIMESTEP, states).sample
        return made.float()

    def step(self, number: int) -> Tensor:
        """The loss of one batch: L1 and half the squared error on normalised latents."""
        batch = self.draw(number)
        off = self.imagine(batch) - self.latents[batch.chosen[:, 0], batch.chosen[:, 1]]
        return off.abs().mean() + 0.5 * off.square().mean()

    @torch.no_grad()
    def follow(self, number: int) -> None:
        """Move the averaged weights a little towards the newest."""
        keep = min(EMA, number / (number + 20))
        newest = nn.ModuleDict({"unet": self.unet, "text": self.text})
        for old, new in zip(self.average.parameters(), newest.parameters(), strict=True):
            old.lerp_(new, 1 - keep)

    @torch.no_grad()
    def paint(self, texts: list[str], noise: Tensor) -> Tensor:
        """Pictures in [-1, 1], (n, 3, 64, 64), by the averaged weights."""
        states = self.average["text"](self.tokenize(texts)).last_hidden_state
        made = self.average["unet"](noise, TIMESTEP, states).sample * self.std + self.mean
        pictures: Tensor = self.vae.decoder(made).clamp(-1, 1)
        return pictures

    def report(self) -> str:
        """Error on held-out pairs; leaves a sheet of them beside the real ones."""
        concepts, looks = (list(x) for x in zip(*self.corpus.held_out, strict=True))
        names = [
            plain_caption(self.corpus.concepts[c].name, self.corpus.looks[k])
            for c, k in self.corpus.held_out
        ]
        noise = torch.randn(
            len(names), LATENT_CHANNELS, 8, 8, generator=torch.Generator().manual_seed(0)
        )
        made = self.paint(names, noise)
        real = normalise(torch.from_numpy(np.array(self.corpus.images))[concepts, looks])
        pairs = torch.stack([real, made], dim=1)[:56].reshape(8, 14, *real.shape[1:])
        pixels = ((pairs.permute(0, 1, 3, 4, 2) + 1) * 127.5).round().byte().numpy()
        contact_sheet(pixels).save(self.folder / "sheet.png")
        return f"held-out L1 {(made - real).abs().mean() / 2:.4f} of the range"

    def export(self, folder: Path) -> None:
        """Write the pipeline as `StableDiffusionPipeline.from_pretrained` loads it, in float16."""
        average = copy.deepcopy(self.average).to(memory_format=torch.contiguous_format)
        unet: Any = average["unet"]
        # The UNet puts out the latents themselves, not the normalised ones it was trained on.
        unet.conv_out.weight.data *= self.std[..., None]
        unet.conv_out.bias.data = unet.conv_out.bias * self.std[:, 0, 0] + self.mean[:, 0, 0]
        pipeline = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=average["text"],
            tokenizer=self.tokenizer,
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
    arguments = training_arguments(
        "Train the embedded generator.", ["corpus", "vae"], steps=10000, batch=64
    )
    vae = AutoencoderTiny.from_pretrained(arguments.vae / "vae").requires_grad_(False).eval()
    trainer = Trainer(
        Corpus.load(arguments.corpus), vae, arguments.folder, arguments.steps, arguments.batch
    )
    trainer.run.train(trainer.step, every=250, after=trainer.follow, report=trainer.report)
    trainer.export(arguments.folder / "emoji-onestep")


if __name__ == "__main__":
    main()
