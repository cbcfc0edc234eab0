"""What steering costs while text is generated: `python -m benchmarks.steering`.

Seconds a token with steering over seconds a token without: the same prompts are continued greedily
with steering and without side by side, a token of each in turn, so that what else the machine does
hits both alike. Every token gives a ratio. One way to steer is measured at a time: weights of their
own, as a folded checkpoint has them, are slower the more else has run since they were last read.

A way is this library with every norm of the layers steered, a checkpoint with the same map folded
in, steering-vectors on the same norms, or repeng, which adds to the output of every layer, which is
what it can steer. Reading the prompt is not counted.
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
from lineas_core.models.language.model import TokenRows
from lineas_core.models.load import as_language_model

PRESET = "layernorm"
NORMS = ("input_layernorm", "post_attention_layernorm")
PROMPT_TOKENS = 16
SEED = 0


class Text:
    """A batch of prompts that is continued greedily.

    Args:
        module: that writes it.
        inputs: the prompts, all of one length.

    Attributes:
        last: the token of each that came last, shape (batch, 1); the prompts before the first.
    """

    def __init__(self, module: transformers.PreTrainedModel, inputs: TokenRows) -> None:
        self.last = inputs.ids
        self._module, self._cache = module, None
        # A row for each prompt, as `generate` gives them, and as repeng expects.
        self._places = torch.arange(inputs.ids.shape[1], device=module.device).expand_as(inputs.ids)

    @torch.no_grad()
    def write(self) -> None:
        """Write one more token of each, the first time behind the whole prompt."""
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
    """Print the ratio of every way to steer, for one batch size.

    Args:
        model: untouched.
        folded: the same with `smap` folded in.
        smap: of every norm.
        batch: prompts at once.
        tokens: that are written for each.
        rounds: how often that is done; the spread is that of the rounds' medians.
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
    """A module of its own on the same weights, so that each way to steer has its own hooks."""
    return copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})


@contextmanager
def steered_by_vectors(
    module: transformers.PreTrainedModel, smap: lc.SteeringMap
) -> Iterator[None]:
    """The shifts of the map, added by that library at the same norms."""
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
    """A random vector on every layer, added by that library."""
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
    # It asks for NumPy below 2 for the sake of one annotation, of a type that NumPy 2 dropped.
    numpy: Any = np
    numpy.float_ = np.float64
    try:
        return importlib.import_module("repeng")
    finally:
        del numpy.float_


if __name__ == "__main__":
    main()
