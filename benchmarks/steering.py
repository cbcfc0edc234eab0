"""The overhead of steering during text generation: `python -m benchmarks.steering`.

The figure is seconds per token with steering divided by seconds per token without. The same prompts
are continued greedily with and without steering, alternating token by token, so that other load on
the machine affects both equally; every token gives a ratio. Only one implementation is measured at
a time: one with its own weights, such as a folded checkpoint, gets slower the more other code has
run since its weights were last in the CPU cache.

The implementations are this library with every norm of the layers steered, a checkpoint with the
same map folded in, steering-vectors on the same norms, and repeng, which can only add to the output
of every layer. Prompt processing is not counted.
"""

from __future__ import annotations

import copy
import importlib
import itertools
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import lineas_core as lc
from benchmarks.inputs import cut_prompts, random_map
from benchmarks.machine import extent, in_turns, options, ratios, report
from lineas_core.models.language.packing import TokenRows
from lineas_core.models.load import as_language_model

PRESET = "layernorm"
NORMS = ("input_layernorm", "post_attention_layernorm")
PROMPT_TOKENS = 16
SEED = 0


class Text:
    """Greedy decoding of a batch of prompts.

    Args:
        module: the model.
        inputs: the prompts, all of the same length.

    Attributes:
        last: each text's newest token, shape (batch, 1); the whole prompts before the first step.
    """

    def __init__(self, module: transformers.PreTrainedModel, inputs: TokenRows) -> None:
        self.last = inputs.ids
        self._module, self._cache = module, None
        # One row of position ids per prompt, as `generate` passes them and repeng expects.
        self._places = torch.arange(inputs.ids.shape[1], device=module.device).expand_as(inputs.ids)

    @torch.no_grad()
    def write(self) -> None:
        """Generate one more token per text; the first call also processes the prompts."""
        output = self._module(
            self.last,
            position_ids=self._places,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.last, self._cache = output.logits[:, -1:].argmax(-1), output.past_key_values
        self._places = self._places[:, -1:] + 1


def measure_overhead(
    model: lc.LanguageModel, folded: lc.LanguageModel, smap: lc.SteeringMap, batch: int,
    tokens: int, rounds: int,
) -> None:  # fmt: skip
    """Print the ratio of every implementation, for one batch size.

    Args:
        model: the untouched model.
        folded: the same model with `smap` folded in.
        smap: steers every norm.
        batch: number of prompts.
        tokens: to generate per prompt.
        rounds: number of repeats; the spread is over the rounds' medians.
    """
    prompts = cut_prompts(model.tokenizer, max(batch, 4), PROMPT_TOKENS, PROMPT_TOKENS)
    inputs = model.prepare(prompts.source[:batch])
    layers = model.module.config.num_hidden_layers
    ours, vectors, repeng = (_twin(model.module) for _ in range(3))
    modules = {
        "this library": (ours, len(smap.sites)),
        "a folded checkpoint": (folded.module, len(smap.sites)),
        "steering-vectors": (vectors, len(smap.sites)),
        "repeng": (repeng, layers),
    }
    with (
        lc.steer(ours, [(smap, 1.0)]),
        steered_by_vectors(vectors, smap),
        steered_by_repeng(repeng),
    ):
        for name, (module, sites) in modules.items():
            pairs, plain = [], []
            for _ in range(rounds):
                texts = {"plain": Text(model.module, inputs), "steered": Text(module, inputs)}
                writing = {side: text.write for side, text in texts.items()}
                times = in_turns(writing, tokens, model.device)
                pairs.append(ratios(times["steered"], times["plain"]))
                plain += times["plain"]
            report(
                f"seconds a token with {name}, over unsteered, batch {batch}",
                statistics.median(itertools.chain(*pairs)),
                spread=extent([statistics.median(turn) for turn in pairs]),
                seeds=[SEED],
                device=model.device,
                model=model.id,
                dtype=str(model.module.dtype).removeprefix("torch."),
                sites=sites,
                tokens=tokens,
                unsteered_seconds_a_token=extent(plain),
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = options("steering")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16], help="prompts at once")
    parser.add_argument("--tokens", type=int, default=32, help="written for each prompt")
    parser.add_argument("--rounds", type=int, nargs="+", default=[6, 2], help="of each batch size")
    chosen = parser.parse_args(argv)
    model = as_language_model(lc.load_model(chosen.model, device=chosen.device))
    smap = random_map(model, model.sites(PRESET), "A line of text.", SEED)
    with tempfile.TemporaryDirectory() as folder:
        folded = _folded(model, smap, Path(folder))
        for batch, rounds in zip(chosen.batches, chosen.rounds, strict=True):
            measure_overhead(model, folded, smap, batch, chosen.tokens, rounds)


def _folded(model: lc.LanguageModel, smap: lc.SteeringMap, folder: Path) -> lc.LanguageModel:
    from lineas_core.export.checkpoint import fold

    fold(model, smap, strength=1.0, to=folder)
    dtype = str(model.module.dtype).removeprefix("torch.")
    loaded = lc.load_model(str(folder), device=str(model.device), dtype=dtype)
    return as_language_model(loaded)


def _twin(module: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """A copy that shares its weights, so that each implementation has its own hooks."""
    return copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})


@contextmanager
def steered_by_vectors(
    module: transformers.PreTrainedModel, smap: lc.SteeringMap
) -> Iterator[None]:
    """Add the shifts of the map at the same norms with steering-vectors."""
    from steering_vectors import SteeringVector

    with ExitStack() as stack:
        for kind in NORMS:
            shifts = [a.shift for name, a in smap.sites.items() if name.endswith(kind)]
            on_device = [shift.to(module.device, module.dtype) for shift in shifts]
            vector = SteeringVector(dict(enumerate(on_device)), kind)
            stack.enter_context(vector.apply(module))
        yield


@contextmanager
def steered_by_repeng(module: transformers.PreTrainedModel) -> Iterator[None]:
    """Add a random vector to every layer with repeng."""
    repeng = _import_repeng()
    config = module.config
    layers = range(config.num_hidden_layers)
    drawn = np.random.default_rng(SEED).normal(
        0, 0.02, (config.num_hidden_layers, config.hidden_size)
    )
    directions = dict(enumerate(drawn.astype(np.float32)))
    wrapped = repeng.ControlModel(module, layers)
    wrapped.set_control(repeng.ControlVector(config.model_type, directions))
    try:
        yield
    finally:
        wrapped.unwrap()


def _import_repeng() -> Any:
    # repeng requires NumPy below 2 only for one annotation, whose type NumPy 2 removed.
    numpy: Any = np
    numpy.float_ = np.float64
    try:
        return importlib.import_module("repeng")
    finally:
        del numpy.float_


if __name__ == "__main__":
    main()
