"""What steering costs while text is generated: `python -m benchmarks.steering`.

Seconds a token with steering over seconds a token without, the same prompts and number of tokens,
greedy, in alternating runs (untouched, A, B, ..., untouched, A, B, ...); one ratio a round. A is
this library with every norm of the layers steered, B a checkpoint with the same map folded in.
steering-vectors steers the same norms; repeng adds to the output of every layer, which is what it
can steer. The prompt's tokens are read in the same time.
"""

from __future__ import annotations

import importlib
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import lineas_core as lc
from benchmarks.inputs import cut_prompts, random_map
from benchmarks.machine import extent, in_turns, options, ratios, report
from lineas_core.models import as_language_model
from lineas_core.models.language import TokenRows

PRESET = "layernorm"
NORMS = ("input_layernorm", "post_attention_layernorm")
PROMPT_TOKENS = 16
SEED = 0

Steered = Callable[[], AbstractContextManager[object]]


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
        tokens: that are generated for each.
        rounds: of alternating runs.
    """
    prompts = cut_prompts(model.tokenizer, max(batch, 4), PROMPT_TOKENS, PROMPT_TOKENS)
    inputs = model.prepare(prompts.source[:batch])
    layers = model.module.config.num_hidden_layers
    ways: dict[str, tuple[lc.LanguageModel, Steered, int]] = {
        "nothing": (model, nullcontext, 0),
        "this library": (model, partial(lc.steer, model, [(smap, 1.0)]), len(smap.sites)),
        "a folded checkpoint": (folded, nullcontext, len(smap.sites)),
        "steering-vectors": (model, partial(steered_by_vectors, model, smap), len(smap.sites)),
        "repeng": (model, partial(steered_by_repeng, model), layers),
    }
    times = in_turns(
        {
            name: partial(_generate, used.module, inputs, tokens, steered)
            for name, (used, steered, _) in ways.items()
        },
        rounds,
        model.device,
    )
    plain = times.pop("nothing")
    for name, found in times.items():
        pairs = ratios(found, plain)
        report(
            f"seconds a token with {name}, over unsteered, batch {batch}",
            statistics.median(pairs),
            spread=extent(pairs),
            seeds=[SEED],
            device=model.device,
            model=model.id,
            dtype=str(model.module.dtype).removeprefix("torch."),
            sites=ways[name][2],
            tokens=tokens,
            unsteered_seconds_a_token=extent([s / tokens for s in plain]),
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = options("steering")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16], help="prompts at once")
    parser.add_argument("--tokens", type=int, default=32, help="generated for each prompt")
    parser.add_argument("--rounds", type=int, default=6, help="of alternating runs")
    chosen = parser.parse_args(argv)
    model = as_language_model(lc.load_model(chosen.model, device=chosen.device))
    smap = random_map(model, model.sites(PRESET), "A line of text.", SEED)
    with tempfile.TemporaryDirectory() as folder:
        folded = _folded(model, smap, Path(folder))
        for batch in chosen.batches:
            measure_overhead(model, folded, smap, batch, chosen.tokens, chosen.rounds)


def _folded(model: lc.LanguageModel, smap: lc.SteeringMap, folder: Path) -> lc.LanguageModel:
    from lineas_core.folding import fold

    fold(model, smap, strength=1.0, to=folder)
    dtype = str(model.module.dtype).removeprefix("torch.")
    loaded = lc.load_model(str(folder), device=str(model.device), dtype=dtype)
    return as_language_model(loaded)


@torch.no_grad()
def _generate(
    module: transformers.PreTrainedModel, inputs: TokenRows, tokens: int, steered: Steered
) -> None:
    with steered():
        module.generate(
            inputs.ids,
            attention_mask=inputs.mask.long(),
            do_sample=False,
            max_new_tokens=tokens,
            # No end of text, so that all generate as many.
            min_new_tokens=tokens,
            pad_token_id=0,
        )


@contextmanager
def steered_by_vectors(model: lc.LanguageModel, smap: lc.SteeringMap) -> Iterator[None]:
    """The shifts of the map, added by that library at the same norms."""
    from steering_vectors import SteeringVector

    with ExitStack() as stack:
        for kind in NORMS:
            shifts = [a.shift for name, a in smap.sites.items() if name.endswith(kind)]
            on_device = [shift.to(model.device, model.module.dtype) for shift in shifts]
            vector = SteeringVector(dict(enumerate(on_device)), kind)
            stack.enter_context(vector.apply(model.module))
        yield


@contextmanager
def steered_by_repeng(model: lc.LanguageModel) -> Iterator[None]:
    """A random vector on every layer, added by that library."""
    repeng = _import_repeng()
    config = model.module.config
    layers = range(config.num_hidden_layers)
    drawn = np.random.default_rng(SEED).normal(
        0, 0.02, (config.num_hidden_layers, config.hidden_size)
    )
    directions = dict(enumerate(drawn.astype(np.float32)))
    wrapped = repeng.ControlModel(model.module, layers)
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
