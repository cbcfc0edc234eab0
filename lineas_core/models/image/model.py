"""Text-to-image models: prepare prompts, run the denoiser, generate steered images."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from PIL.Image import Image
from torch import Tensor, nn

from lineas_core.errors import ConfigError, ModelError, PromptError, SiteError
from lineas_core.hooks import hooked
from lineas_core.maps.steering_map import Steering, SteeringMap
from lineas_core.models.image.conditioning import Conditioning
from lineas_core.models.image.safety import SafetyChecker
from lineas_core.models.image.schedule import Schedule, default_schedule
from lineas_core.models.shared.batches import (
    cells_of,
    check_listed,
    generators_of,
    in_rows,
    rows_of,
    rows_twice,
    seeds_for,
)
from lineas_core.models.shared.catalog import CatalogEntry
from lineas_core.models.shared.sites import match_sites
from lineas_core.prompts.image_set import Picture
from lineas_core.steering import steer as steering
from lineas_core.system.devices import free_bytes, indices_on

# Numbers per pixel held at the peak of generation, in the decoder: about 4 GiB for an image of
# 1024 x 1024 in half precision.
NUMBERS_A_PIXEL = 2048
# Share of the free memory to use; the rest is left for other users of the device.
BUDGET = 0.5
MAX_AT_ONCE = 64
# The paper's settings for images.
TRAIN_DEFAULTS: Mapping[str, Any] = {
    "optimizer": "adamw",
    "rate": 5e-4,
    "steps": 1000,
    "batch_size": 4,
    "gamma": 1e-4,
}
# First seed of the training prompts' noise; large, so that users' small seeds give other noise.
NOISE_SEED = 1_000_000


class Parts(nn.Module):
    """The networks of a pipeline under their names there, so that sites read `unet.conv_in`.

    The first parameter is empty and on the device where the networks run: with CPU offloading,
    the networks' own parameters may be on another device.
    """

    def __init__(self, parts: Mapping[str, nn.Module], device: torch.device) -> None:
        super().__init__()
        self.where = nn.Parameter(torch.empty(0, device=device))
        for name, part in parts.items():
            self.add_module(name, part)


@dataclass(frozen=True)
class DiffusionInputs:
    """Encoded prompts, each with its initial noise or a noised picture.

    Attributes:
        prompts: the texts, needed if the text encoders have to run again.
        conditioning: the prompts, encoded without steering.
        latents: input of the denoiser, one row per prompt.
        timestep: timestep of the first step, a scalar; or one for each picture.
        mask, packing: None, as images have no padding; `mask_at` has the prompts' own.
    """

    prompts: tuple[str, ...]
    conditioning: Conditioning
    latents: Tensor
    timestep: Tensor
    mask: None = None
    packing: None = None

    def __len__(self) -> int:
        return len(self.latents)

    def mask_at(self, tokens: int) -> Bool[Tensor, "n tokens"] | None:
        """The mask of a site's output that has `tokens` tokens; None if all of them are real."""
        return self.conditioning.mask_at(tokens)

    def rows(self, indices: Sequence[int] | Tensor) -> DiffusionInputs:
        """Some of the prompts.

        A tensor of indices, on the device, gives inputs without the texts, which lie on the host.
        """
        if isinstance(indices, Tensor):
            prompts: tuple[str, ...] = ()
        elif list(indices) == list(range(len(self))):
            return self
        else:
            prompts = tuple(self.prompts[i] for i in indices)
            indices = indices_on(self.latents.device, indices)
        timestep = self.timestep[indices] if self.timestep.ndim else self.timestep
        return DiffusionInputs(
            prompts, self.conditioning.rows(indices), self.latents[indices], timestep
        )


@dataclass(frozen=True)
class ImageGrid:
    """Images of every prompt at every strength, with the same seed along a row.

    Attributes:
        prompts: the rows.
        strengths: the columns.
        images: `images[row][column]`.
    """

    prompts: list[str]
    strengths: list[float]
    images: list[list[Image]]


class DiffusionModel:
    """A frozen text-to-image pipeline with named sites.

    Attributes:
        id: the name it was loaded by.
        pipeline: the diffusers pipeline.
        entry: its entry in the catalogue, if it has one.
        module: its networks, under their names in the pipeline.
        schedule: the default denoising steps and guidance; set it to those that a pipeline of your
            own takes.
        checker: withholds images that it flags; None for no check.
    """

    modality = "image"

    def __init__(self, id: str, pipeline: Any, entry: CatalogEntry | None = None) -> None:
        self.id = id
        self.pipeline = pipeline
        self.entry = entry
        # Imported here: diffusers takes seconds, and the app responds before it needs it.
        from lineas_core.models.image.kinds import denoiser_for

        self._denoiser = denoiser_for(
            pipeline, entry.size if entry else 0, entry.tokens if entry else 0
        )
        networks = {n: p for n, p in pipeline.components.items() if isinstance(p, nn.Module)}
        self.module = Parts(networks, self._denoiser.device).eval().requires_grad_(False)
        self._encoders = [p for n, p in networks.items() if n.startswith("text_encoder")]
        self.schedule: Schedule = default_schedule(entry, self._denoiser)
        self.checker: SafetyChecker | None = None
        # A pipeline's scheduler is stateful, so only one thread may run it at a time.
        self._lock = threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        source: str,
        *,
        id: str,
        device: torch.device,
        dtype: torch.dtype | str,
        entry: CatalogEntry | None = None,
        tiny_vae: bool = False,
    ) -> DiffusionModel:
        """Load from a folder or a hub repository; `load_model` is the public entry point.

        Raises:
            ConfigError: there is no tiny decoder for it.
            ModelError: it cannot be found, is of another class, or does not fit.
        """
        if tiny_vae and not (entry and entry.tiny_vae):
            raise ConfigError(f"tiny_vae is True, and the catalogue knows none for {id}.")
        if not isinstance(dtype, torch.dtype):
            half = device.type == "cuda"
            dtype = torch.bfloat16 if half else torch.float32
        from lineas_core.models.image.pipelines import load_pipeline

        pipeline = load_pipeline(
            source, id=id, device=device, dtype=dtype, entry=entry, tiny_vae=tiny_vae
        )
        return cls(id, pipeline, entry)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._denoiser.device

    def to(self, device: torch.device) -> None:
        """Move it, and its checker."""
        for part in filter(None, (self.pipeline, self.module, self.checker)):
            part.to(device)

    @property
    def size(self) -> int:
        """Side of its images in pixels."""
        return self._denoiser.size

    @property
    def default_sites(self) -> str:
        """The catalogue's choice of sites, or the paper's: all norms of the UNet or transformer."""
        return self.entry.sites if self.entry else "norm"

    @property
    def train_defaults(self) -> Mapping[str, Any]:
        """The catalogue's training settings, or the paper's for images."""
        return self.entry.train if self.entry else TRAIN_DEFAULTS

    def sites(self, pattern: str) -> list[str]:
        """Module names that match a preset or regular expression (`models/shared/sites.py`).

        Raises:
            SiteError: nothing matches; the message lists the nearest names.
        """
        names = [name for name, _ in self.module.named_modules()]
        return match_sites(names, pattern, type(self._denoiser.module).__name__)

    @torch.no_grad()
    def prepare(self, prompts: Sequence[str | Picture]) -> DiffusionInputs:
        """Encode prompts or pictures without steering.

        The noise of each depends on its place in the list. Pictures are noised as `ImageSet` says.

        Raises:
            ConfigError: there are pictures, and the pipeline is of a class that takes none.
            PromptError: a prompt is empty, or longer than the model reads; or there are prompts
                and pictures in one list.
        """
        check_listed(prompts)
        pictures = [sample for sample in prompts if isinstance(sample, Picture)]
        if pictures and not self._denoiser.takes_pictures:
            kind = type(self.pipeline).__name__
            raise ConfigError(f"{self.id} is a {kind}, which learns from prompts, not pictures.")
        if 0 < len(pictures) < len(prompts):
            raise PromptError(
                f"{len(pictures)} of {len(prompts)} samples are pictures; give only pictures, or "
                "only prompts."
            )
        texts = [sample.prompt if isinstance(sample, Picture) else sample for sample in prompts]
        self._check(texts, may_be_empty=bool(pictures))
        # No map is on in a new context, so the embeddings stay valid once the current map is off.
        conditioning = Context().run(self._denoiser.encode, texts)
        noise = self._denoiser.noise(generators_of(range(NOISE_SEED, NOISE_SEED + len(texts))))
        if not pictures:
            latents, timestep = self._denoiser.first_step(noise, self.schedule)
            return DiffusionInputs(tuple(texts), conditioning, latents, timestep)
        # Imported here: diffusers takes seconds, and the app responds before it needs it.
        from lineas_core.models.image.pictures import noised_pictures, warn_if_unseen

        with self._lock:
            noised = Context().run(noised_pictures, self._denoiser, pictures, noise, self.schedule)
            Context().run(
                warn_if_unseen, self.id, self._denoiser, noised, conditioning, self.schedule
            )
        return DiffusionInputs(tuple(texts), conditioning, noised.latents, noised.timesteps)

    def forward(self, inputs: DiffusionInputs) -> None:
        """Run the denoiser's first step, preceded by the text encoders if any has hooks.

        Only with the prompts: classifier-free guidance, which also runs it without, acts on images
        and not on what a map is learned from.
        """
        conditioning = inputs.conditioning
        if any(hooked(encoder) for encoder in self._encoders):
            if not inputs.prompts:
                raise SiteError("A site of a text encoder needs the texts, not rows on a device.")
            conditioning = self._denoiser.encode(list(inputs.prompts))
        self._denoiser.denoise(
            inputs.latents, inputs.timestep, conditioning, self.schedule.guidance
        )

    def perplexity(self, prompts: Sequence[object]) -> None:
        """None: image models do not score text."""

    def continuations(self, contexts: Sequence[str], texts: Sequence[str]) -> None:
        """Refuse: image models write no text."""
        raise ConfigError(f"{self.id} makes images; the likelihood of texts needs a text model.")

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        steer: Steering = (),
        *,
        seed: int | Sequence[int] = 0,
        steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        guidance: float | None = None,
        batch_size: int | None = None,
    ) -> list[Image]:
        """Generate one image per prompt, steered by `steer`.

        The noise of an image depends only on its seed, so two images with the same prompt and seed
        differ only by their strength.

        Classifier-free guidance is the pipeline's own, away from the empty prompt that its class
        has. The denoiser is steered with and without the prompt, as a map changes the model: an
        image is guided away from what the steered model makes of no prompt.

        Args:
            prompts: at least one.
            steer: (map, strength) pairs; a strength may be a tensor of one value per prompt.
            seed: one for all prompts, or one for each.
            steps: 1 to 50; the model's own by default.
            timesteps: decreasing, if the scheduler accepts them; the model's own by default.
            guidance: guidance scale, as the pipeline's call takes it (Qwen-Image's under the name
                of true_cfg_scale); 0 for none, the model's own by default.
            batch_size: images generated at once; by default as many as fit into half of the free
                memory.

        Raises:
            ConfigError: a setting is out of range.
            PromptError: a prompt is empty or too long.
            SiteError: a map does not fit this model.
        """
        check_listed(prompts)
        seeds = seeds_for(seed, len(prompts))
        schedule = self.schedule.changed(self.id, self._denoiser, steps, timesteps, guidance)
        guides = self._denoiser.guides(schedule)
        batch_size = self._fitting() if batch_size is None else batch_size
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be 1 or more.")
        self._check(prompts)
        images: list[Image] = []
        for start in range(0, len(prompts), batch_size):
            part = range(start, min(start + batch_size, len(prompts)))
            generators = generators_of([seeds[i] for i in part])
            noise = self._denoiser.noise(generators)
            maps = rows_of(steer, part, len(prompts))
            if guides and self._denoiser.doubles_batch:
                maps = rows_twice(maps, self._denoiser.part)
            with self._lock, steering(self, maps):
                conditioning = self._denoiser.encode([prompts[i] for i in part])
                unprompted = self._denoiser.unprompted(conditioning) if guides else None
                try:
                    made = self._denoiser.call(
                        conditioning, noise, generators, schedule, unprompted
                    )
                except torch.OutOfMemoryError as error:
                    raise ModelError(
                        f"{self.id} ran out of memory on {len(generators)} images at once. "
                        f"batch_size is {batch_size}; choose a smaller one."
                    ) from error
            images += self.checker.screen(made) if self.checker else made
        return images

    def sweep(
        self,
        prompts: Sequence[str],
        maps: Sequence[tuple[SteeringMap, float | None]],
        strengths: Sequence[float],
        *,
        seed: int | Sequence[int] = 0,
        **settings: Any,
    ) -> ImageGrid:
        """Generate every prompt at every strength, in one batch.

        Args:
            prompts: the rows of the grid.
            maps: (map, strength) pairs; a strength of None is swept.
            strengths: the columns of the grid.
            seed: one for all prompts, or one for each; the same along a row.
            settings: as for `generate`.
        """
        check_listed(prompts)
        cells = cells_of(prompts, maps, strengths, seed)
        images = self.generate(cells.prompts, cells.steer, seed=cells.seeds, **settings)
        return ImageGrid(list(prompts), [*map(float, strengths)], in_rows(images, len(strengths)))

    def reads(self, prompt: str) -> bool:
        """Whether the prompt is neither empty nor longer than the model reads."""
        try:
            self._check([prompt])
        except PromptError:
            return False
        return True

    def _check(self, prompts: Sequence[str], *, may_be_empty: bool = False) -> None:
        for number, prompt in enumerate(prompts, start=1):
            if not (may_be_empty or prompt.strip()):
                raise PromptError(f"Prompt {number} is empty; write at least one word.")
            for tokenizer, limit in self._denoiser.readers:
                count = len(tokenizer(prompt, verbose=False)["input_ids"])
                if count > limit:
                    raise PromptError(
                        f"Prompt {number} ({prompt[:40]!r}) has {count} tokens; {self.id} reads "
                        f"{limit}. Shorten it."
                    )

    def _fitting(self) -> int:
        """How many images fit into the memory budget at once."""
        itemsize = next(self._denoiser.module.parameters()).dtype.itemsize
        one = self.size**2 * NUMBERS_A_PIXEL * itemsize
        return min(max(int(free_bytes(self.device) * BUDGET / one), 1), MAX_AT_ONCE)
