"""Control vectors steer llama.cpp's server as their maps steer transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

import lineas_core as lc
from tests.export.llama_cpp import llama_server, write_llama
from tests.export.test_checkpoint import load_language, only_shifts, steered, tokens
from tests.helpers.models import SIZES, random_map

WIDTH, WORDS = SIZES["hidden_size"], SIZES["vocab_size"]


@pytest.mark.parametrize(
    ("sites", "strength"),
    [("1", 0.7), ("2", -1.0), ("12", 1.0), ("caa", 0.7)],
)
def test_the_flag_of_llama_cpp_steers_as_a_strength_does(
    small_models: dict[str, Path],
    tmp_path: Path,
    prompts: lc.PromptSet,
    sites: str,
    strength: float,
) -> None:
    model, ids = load_language(small_models["llama"]), tokens()[:1]
    if sites == "caa":
        smap = lc.fit("caa", model, prompts, lc.TrainConfig(sites=r"model\.layers\.1"))
    else:
        widths = {f"model.layers.{number}": WIDTH for number in sites}
        smap = only_shifts(random_map(widths, 4, spread=2.0))
    file = lc.to_gguf(smap, to=tmp_path / "vector.gguf")
    untouched = model.module(ids).logits[0, -1].log_softmax(-1)
    wanted = steered(model, smap, strength, ids)[0, -1].log_softmax(-1)
    with llama_server(
        "--model", str(write_llama(model.module, tmp_path / "model.gguf")),
        "--control-vector-scaled", f"{file}:{strength}",
    ) as server:  # fmt: skip
        got = server.log_odds(ids[0].tolist(), WORDS)
    # Its KV cache is in half precision.
    assert (got - wanted).abs().max() < 0.01
    assert (wanted - untouched).abs().max() > 0.1
