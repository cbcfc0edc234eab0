"""Control vectors steer llama.cpp as their maps steer transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

import lineas_core as lc
from tests.export.llama_cpp import direction_buffer, loaded, write_llama
from tests.export.test_checkpoint import load_language, only_shifts, steered, tokens
from tests.helpers.models import SIZES, random_map

WIDTH, LAYERS = SIZES["hidden_size"], SIZES["num_hidden_layers"]


@pytest.mark.parametrize(
    ("layers", "strength"), [((1,), 0.7), ((2,), -1.0), ((1, 2), 1.0)], ids=["1", "2", "both"]
)
def test_llama_cpp_computes_what_steering_computes(
    small_models: dict[str, Path], tmp_path: Path, layers: tuple[int, ...], strength: float
) -> None:
    model, ids = load_language(small_models["llama"]), tokens()[:1]
    smap = only_shifts(random_map({f"model.layers.{n}": WIDTH for n in layers}, 4, spread=2.0))
    file = lc.to_gguf(smap, to=tmp_path / "vector.gguf")
    untouched = model.module(ids).logits[0, -1]
    wanted = steered(model, smap, strength, ids)[0, -1]
    with loaded(write_llama(model.module, tmp_path / "model.gguf")) as llama:
        plain = llama.logits(ids[0].tolist(), SIZES["vocab_size"])
        llama.add(direction_buffer(file, WIDTH, strength), WIDTH, LAYERS)
        got = llama.logits(ids[0].tolist(), SIZES["vocab_size"])
    # Its KV cache is in half precision.
    assert (plain - untouched).abs().max() < 0.01
    assert (got - wanted).abs().max() < 0.01
    assert (wanted - untouched).abs().max() > 0.5
