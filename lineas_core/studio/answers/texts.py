"""Completions of a language model, with and without maps, and their metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lineas_core.errors import ConfigError
from lineas_core.maps.steering_map import Steering
from lineas_core.models.load import as_language_model
from lineas_core.models.shared.batches import TextGrid
from lineas_core.scenes.streaming import stream_sides
from lineas_core.studio.answers.fields import whole
from lineas_core.studio.answers.own_concepts import OwnConcept
from lineas_core.studio.answers.readouts import Readout, read_out
from lineas_core.studio.jobs.device.inference import Inference
from lineas_core.studio.rack.mix import Mix

SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0)
MAX_SAMPLES = 4


class Texts:
    """Generate and measure completions.

    Args:
        inference: loads and runs the models.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._sides, self._sweep, self._complete = (
            inference.on_gpu(self._sides_here),
            inference.on_gpu(self._sweep_here),
            inference.on_gpu(self._complete_here),
        )

    def sides(
        self,
        sides: Sequence[Steering],
        concepts: Sequence[str],
        model: str,
        prompt: str,
        seed: int,
        tokens: int,
        own: Sequence[OwnConcept] = (),
    ) -> Iterator[tuple[Sequence[str], list[Readout]]]:
        """Stream one completion per side; the last item also carries their readouts.

        Args:
            sides: the maps and strengths that steer each completion.
            concepts: concepts to look for; those without a word list are skipped.
            model: a language model's name.
            prompt: the prompt to continue.
            seed: sampling seed, the same for every side.
            tokens: maximum number of tokens to generate.
            own: user-defined concepts to measure as well.
        """
        with self._inference.serving(model):
            yield from self._sides(sides, concepts, model, prompt, seed, tokens, own)

    def pair(
        self,
        mix: Mix,
        model: str,
        prompt: str,
        seed: int,
        tokens: int,
        own: Sequence[OwnConcept] = (),
    ) -> Iterator[tuple[Sequence[str], list[Readout]]]:
        """Stream the unsteered and the steered completion, as `sides` does."""
        yield from self.sides([[], mix.steer], mix.concepts, model, prompt, seed, tokens, own)

    def whole_pair(
        self, mix: Mix, model: str, prompt: str, seed: int, tokens: int
    ) -> Sequence[str]:
        """The finished unsteered and steered completions."""
        *_, (texts, _) = self.pair(mix, model, prompt, seed, tokens)
        return texts

    def sweep(
        self,
        mix: Mix,
        model: str,
        prompt: str,
        seed: int,
        tokens: int,
        samples: float,
        own: Sequence[OwnConcept] = (),
    ) -> tuple[TextGrid, list[Readout]]:
        """Sweep the first map's strength from 0 to 1; returns completions and a readout for each.

        Args:
            mix: the maps that are on.
            model: a language model's name.
            prompt: the prompt to continue.
            seed: seed of the first row; the following rows use consecutive seeds.
            tokens: maximum number of tokens to generate.
            samples: number of rows.
            own: user-defined concepts to measure besides those of the maps.

        Raises:
            ConfigError: no map is on, or there are too many samples.
        """
        if not mix.maps:
            raise ConfigError("No map is on. Switch one on in the rack; the first one is swept.")
        count = whole("samples", samples)
        if not 1 <= count <= MAX_SAMPLES:
            raise ConfigError(f"samples is {count}; choose 1 to {MAX_SAMPLES}.")
        with self._inference.serving(model):
            return self._sweep(mix, model, prompt, range(seed, seed + count), tokens, own)

    def complete(self, mix: Mix, model: str, prompt: str, seed: int, tokens: int) -> str:
        """One completion with the maps on."""
        with self._inference.serving(model):
            return self._complete(mix, model, prompt, seed, tokens)

    def _sides_here(
        self,
        sides: Sequence[Steering],
        concepts: Sequence[str],
        model: str,
        prompt: str,
        seed: int,
        tokens: int,
        own: Sequence[OwnConcept] = (),
    ) -> Iterator[tuple[Sequence[str], list[Readout]]]:
        loaded = as_language_model(self._inference.model(model))
        self._inference.text_limits.check(loaded, [prompt] * len(sides), tokens)
        texts: Sequence[str] = ("",) * len(sides)
        for texts in stream_sides(loaded, [prompt] * len(sides), sides, seed, tokens):
            yield texts, []
        yield texts, [read_out(loaded, prompt, [text], concepts, own) for text in texts]

    def _sweep_here(
        self,
        mix: Mix,
        model: str,
        prompt: str,
        seeds: Sequence[int],
        tokens: int,
        own: Sequence[OwnConcept] = (),
    ) -> tuple[TextGrid, list[Readout]]:
        loaded = as_language_model(self._inference.model(model))
        cells = [prompt] * (len(seeds) * len(SWEEP))
        self._inference.text_limits.check(loaded, cells, tokens)
        maps = [(smap, None if n == 0 else s) for n, (smap, s) in enumerate(mix.steer)]
        grid = loaded.sweep([prompt] * len(seeds), maps, SWEEP, seed=seeds, max_new_tokens=tokens)
        columns = zip(*grid.texts, strict=True)
        return grid, [read_out(loaded, prompt, column, mix.concepts, own) for column in columns]

    def _complete_here(self, mix: Mix, model: str, prompt: str, seed: int, tokens: int) -> str:
        loaded = as_language_model(self._inference.model(model))
        self._inference.text_limits.check(loaded, [prompt], tokens)
        return loaded.generate([prompt], mix.steer, seed=seed, max_new_tokens=tokens)[0]
