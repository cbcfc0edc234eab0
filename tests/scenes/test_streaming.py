from __future__ import annotations

import time

from lineas_core.models.language.model import LanguageModel
from lineas_core.scenes.streaming import stream_sides
from tests.helpers.models import SIZES, random_map

SITE = "model.layers.1.post_attention_layernorm"


def test_what_streams_grows_to_what_the_model_writes(tiny: LanguageModel) -> None:
    steer = [(random_map({SITE: SIZES["hidden_size"]}, 2), 0.8)]
    seen = list(stream_sides(tiny, ["ab"] * 2, [[], steer], 5, 24))
    assert seen[-1] == [
        tiny.generate(["ab"], seed=5, max_new_tokens=24)[0],
        tiny.generate(["ab"], steer, seed=5, max_new_tokens=24)[0],
    ]
    lengths = [sum(map(len, texts)) for texts in seen]
    assert lengths == sorted(lengths)


def test_leaving_the_stream_stops_the_writing(tiny: LanguageModel) -> None:
    calls = 0
    generate = tiny.module.forward

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        return generate(*args, **kwargs)

    tiny.module.forward = counted  # type: ignore[method-assign]
    try:
        stream = stream_sides(tiny, ["ab"] * 2, [[], []], 5, 120)
        next(stream)
        stream.close()
        time.sleep(0.5)
        after = calls
        time.sleep(0.5)
    finally:
        del tiny.module.forward
    assert calls == after < 120
