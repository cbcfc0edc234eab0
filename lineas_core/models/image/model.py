"""Text-to-image models: prepare prompts, run the denoiser, generate steered images."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn

from lineas_core.errors import ConfigError, ModelError, PromptError
from lineas_core.maps.steering_map import Steering, SteeringMap
from lineas_core.models.image.conditioning import Conditioning, Schedule
from lineas_core.models.image.safety import SafetyChecker
from lineas_core.models.shared.batches import cells_of, in_rows, rows_of, seeds_for
from lineas_core.models.shared.catalog import CatalogEntry
from lineas_core.models.shared.sites import match_sites
from lineas_core.steering import hooked
from lineas_core.steering import steer as steering
from lineas_core.system.devices import free_bytes

MOST_STEPS = 50
# What generating holds at its peak, in the decoder: about 4 GiB for 1024 pixels a side in half
# precision.
NUMBERS_A_PIXEL = 2048
# Of the free memory, the rest being for whoever else uses the device.
BUDGET = 0.5
MOST_AT_ONCE = 64
# For models outside the catalogue: few-step models are what the paper steers.
DEFAULT_STEPS = 4
# The paper's settings for images.
TRAIN_DEFAULTS: Mapping[str, Any] = {
    "optimizer": "adamw",
    "rate": 5e-4,
    "steps": 1000,
    "batch_size": 4,
    "gamma": 1e-4,
}
# Of the noise of training prompts, which is that of no image a person makes with a small seed.
NOISE_SEED = 1_000_000


class Parts(nn.Module):
    """The networks of a pipeline under their names there, so that sites are `unet.conv_in`.

    Its first parameter is empty and lies where the networks run: while parts wait in the CPU's
    memory for their turn, theirs would tell another device.
    """

    def __init__(self, parts: Mapping[str, nn.Module], device: torch.device) -> None:
        super().__init__()
        self.where = nn.Parameter(torch.empty(0, device=device))
        for name, part in parts.items():
            self.add_module(name, part)


@dataclass(frozen=True)
class DiffusionInputs:
    """Prompts, encoded, each with the noise it starts from.

    Attributes:
        prompts: as they were given, for text encoders that have to run again.
        conditioning: what the denoiser reads of them, unsteered.
        latents: what it denoises, one row per prompt.
        timestep: of the first step; a number.
        mask, packing: None, for images have no padding.
    """

    prompts: tuple[str, ...]
    conditioning: Conditioning
    latents: Tensor
    timestep: Tensor
    mask: None = None
    packing: None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def rows(self, indices: Sequence[int]) -> DiffusionInputs:
        """Some of the prompts."""
        chosen = list(indices)
        return DiffusionInputs(
            tuple(self.prompts[i] for i in chosen),
            self.conditioning.rows(chosen),
            self.latents[chosen],
            self.timestep,
        )


@dataclass(frozen=True)
class ImageGrid:
    """Images of every prompt at every strength, one seed along a row.

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
        schedule: the steps of an image, where none are given.
        checker: withholds pictures that it flags; None lets all pass.
    """

    modality = "image"

    def __init__(self, id: str, pipeline: Any, entry: CatalogEntry | None = None) -> None:
        self.id = id
        self.pipeline = pipeline
        self.entry = entry
        # diffusers takes seconds to import, and an app answers before it needs it.
        from lineas_core.models.image.denoisers import denoiser_for

        self._denoiser = denoiser_for(
            pipeline, entry.size if entry else 0, entry.tokens if entry else 0
        )
        networks = {n: p for n, p in pipeline.components.items() if isinstance(p, nn.Module)}
        self.module = Parts(networks, self._denoiser.device).eval().requires_grad_(False)
        self._encoders = [p for n, p in networks.items() if n.startswith("text_encoder")]
        self.schedule = (
            Schedule(entry.steps, tuple(entry.timesteps), entry.guidance)
            if entry
            else Schedule(DEFAULT_STEPS, (), self._denoiser.default_guidance)
        )
        self.checker: SafetyChecker | None = None
        # A pipeline keeps its scheduler's progress, so two threads take turns.
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
        """Load from a folder or a hub repository; `load_model` is the public door.

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

    @property
    def size(self) -> int:
        """Pixels a side of its images."""
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
        """Module names that a preset or regular expression picks out (`models/sites.py`).

        Raises:
            SiteError: nothing matches; the message lists the nearest names.
        """
        names = [name for name, _ in self.module.named_modules()]
        return match_sites(names, pattern, type(self._denoiser.module).__name__)

    @torch.no_grad()
    def prepare(self, prompts: Sequence[str]) -> DiffusionInputs:
        """Prompts encoded, without steering, each with noise that its place in the list decides.

        Raises:
            PromptError: a prompt is empty, or longer than the model reads.
        """
        self._check(prompts)
        # In a context of its own no map is on, so that the embeddings stay true when it comes off.
        conditioning = Context().run(self._denoiser.encode, list(prompts))
        noise = self._denoiser.noise(_generators(range(NOISE_SEED, NOISE_SEED + len(prompts))))
        latents, timestep = self._denoiser.first_step(noise, self.schedule)
        return DiffusionInputs(tuple(prompts), conditioning, latents, timestep)

    def forward(self, inputs: DiffusionInputs) -> None:
        """Run the denoiser's first step; and, where hooks are on them, the text encoders before."""
        conditioning = inputs.conditioning
        if any(hooked(encoder) for encoder in self._encoders):
            conditioning = self._denoiser.encode(list(inputs.prompts))
        self._denoiser.denoise(
            inputs.latents, inputs.timestep, conditioning, self.schedule.guidance
        )

    def surprise(self, prompts: Sequence[str]) -> None:
        """None: it reads no text."""

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        steer: Steering = (),
        *,
        seed: int | Sequence[int] = 0,
        steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        batch_size: int | None = None,
    ) -> list[Image]:
        """One image for each prompt, with `steer` on.

        The noise of an image depends on its seed only, so the same prompt and seed at two
        strengths differ by the strength alone.

        Args:
            prompts: at least one.
            steer: (map, strength) pairs; a strength may be a tensor of one value per prompt.
            seed: one for all prompts, or one for each.
            steps: 1 to 50; the model's own by default.
            timesteps: falling, where the scheduler takes them; the model's own by default.
            batch_size: images that run at once; by default as many as half of the free memory
                holds.

        Raises:
            ConfigError: a setting is out of range.
            PromptError: a prompt is empty or too long.
            SiteError: a map does not fit this model.
        """
        seeds = seeds_for(seed, len(prompts))
        schedule = self._schedule(steps, timesteps)
        if batch_size is None:
            batch_size = self._fitting()
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be 1 or more.")
        self._check(prompts)
        images: list[Image] = []
        for start in range(0, len(prompts), batch_size):
            part = range(start, min(start + batch_size, len(prompts)))
            generators = _generators([seeds[i] for i in part])
            noise = self._denoiser.noise(generators)
            with self._lock, steering(self, rows_of(steer, part, len(prompts))):
                conditioning = self._denoiser.encode([prompts[i] for i in part])
                try:
                    made = self._denoiser.call(conditioning, noise, generators, schedule)
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
            maps: (map, strength) pairs; the strength None is the one that is swept.
            strengths: the columns of the grid.
            seed: one for all prompts, or one for each; the same along a row.
            settings: as for `generate`.
        """
        cells = cells_of(prompts, maps, strengths, seed)
        images = self.generate(cells.prompts, cells.steer, seed=cells.seeds, **settings)
        rows = in_rows(images, len(strengths))
        return ImageGrid(list(prompts), [float(s) for s in strengths], rows)

    def reads(self, prompt: str) -> bool:
        """Whether the prompt is not empty, and no longer than the model reads."""
        try:
            self._check([prompt])
        except PromptError:
            return False
        return True

    def _check(self, prompts: Sequence[str]) -> None:
        for number, prompt in enumerate(prompts, start=1):
            if not prompt.strip():
                raise PromptError(f"Prompt {number} is empty; write at least one word.")
            for tokenizer, limit in self._denoiser.readers:
                count = len(tokenizer(prompt, verbose=False)["input_ids"])
                if count > limit:
                    raise PromptError(
                        f"Prompt {number} ({prompt[:40]!r}) has {count} tokens; {self.id} reads "
                        f"{limit}. Shorten it."
                    )

    def _fitting(self) -> int:
        """How many images run at once within the memory budget."""
        itemsize = next(self._denoiser.module.parameters()).dtype.itemsize
        one = self.size**2 * NUMBERS_A_PIXEL * itemsize
        return min(max(int(free_bytes(self.device) * BUDGET / one), 1), MOST_AT_ONCE)

    def _schedule(self, steps: int | None, timesteps: Sequence[int] | None) -> Schedule:
        if timesteps is not None:
            most = self.pipeline.scheduler.config.num_train_timesteps
            falling = all(a > b for a, b in pairwise(timesteps))
            if not self._denoiser.takes_timesteps:
                raise ConfigError(f"{self.id} takes no timesteps; leave them out and give steps.")
            if not timesteps or not falling or not 0 <= timesteps[-1] <= timesteps[0] < most:
                raise ConfigError(
                    f"timesteps is {list(timesteps)}; give falling numbers from {most - 1} to 0."
                )
            if steps not in (None, len(timesteps)):
                raise ConfigError(f"steps is {steps}, and there are {len(timesteps)} timesteps.")
            return Schedule(len(timesteps), tuple(timesteps), self.schedule.guidance)
        if steps is None:
            return self.schedule
        if not 1 <= steps <= MOST_STEPS:
            raise ConfigError(f"steps is {steps}; choose 1 to {MOST_STEPS}.")
        return Schedule(steps, (), self.schedule.guidance)


def _generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """On the CPU, whose stream is the same on every machine."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]
