from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

import lineas_core as lc
from lineas_core.prompts.image_set import Picture
from lineas_core.steerable import Samples


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    values = np.random.default_rng(seed).integers(0, 256, (count, 6, 5, 3), dtype=np.uint8)
    return [Image.fromarray(value) for value in values]


def test_pictures_are_held_out_as_prompts_are() -> None:
    ours = lc.ImageSet(pictures(8), pictures(6, 1))
    texts = [f"text {i}" for i in range(14)]
    theirs = lc.PromptSet(name="t", source=texts[:8], target=texts[8:])
    assert isinstance(ours, Samples)
    assert isinstance(theirs, Samples)
    for found, wanted in zip(ours.split(0.25, 3), theirs.split(0.25, 3), strict=True):
        for side, first in (("source", 0), ("target", 8)):
            images = [picture.image for picture in getattr(found, side)]
            given = [*ours.source, *ours.target]
            assert images == [given[texts.index(text)] for text in getattr(wanted, side)]
            assert all(texts.index(text) >= first for text in getattr(wanted, side))


def test_a_prompt_is_of_all_pictures_or_of_its_own() -> None:
    first, *others = pictures(4)
    found, _ = lc.ImageSet([(first, "a cat"), *others], pictures(4, 1), prompt="a pet").split(0, 0)
    assert [picture.prompt for picture in found.source] == ["a cat", "a pet", "a pet", "a pet"]
    assert {picture.prompt for picture in found.target} == {"a pet"}


def test_the_hash_is_of_pixels_prompts_order_and_noise() -> None:
    one, other = pictures(4), pictures(4, 1)
    plain = lc.ImageSet(one, other).hash()
    assert lc.ImageSet(pictures(4), pictures(4, 1), name="n", concept="c").hash() == plain
    changed = one[0].copy()
    changed.putpixel((0, 0), (1, 2, 3))
    different = [
        lc.ImageSet(one[::-1], other),
        lc.ImageSet([changed, *one[1:]], other),
        lc.ImageSet([one[0].resize((5, 5)), *one[1:]], other),
        lc.ImageSet(one, other, prompt="a cat"),
        lc.ImageSet([(one[0], "a cat"), *one[1:]], other),
        lc.ImageSet(one, other, noise=0.5),
        lc.ImageSet(other, one),
    ]
    assert len({plain, *(each.hash() for each in different)}) == 8
    assert Picture(one[0]) == Picture(one[0].copy()) != Picture(changed)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"source": []}, lc.PromptError, "source has 0 pictures"),
        ({"target": pictures(3)}, lc.PromptError, "target has 3 pictures"),
        ({"source": [*pictures(4), "cat.png"]}, lc.PromptError, "source picture 5 is a str"),
        ({"target": [(None, "a cat"), *pictures(4)]}, lc.PromptError, "picture 1 is a NoneType"),
        ({"target": [(pictures(1)[0], 5), *pictures(4)]}, lc.PromptError, "1 has a int as its"),
        ({"source": pictures(1)[0]}, lc.PromptError, "source is a Image"),
        ({"target": pictures(4)}, lc.PromptError, "target has the same pictures as source"),
        ({"noise": 0.0}, lc.ConfigError, r"noise is 0\.0"),
        ({"noise": 1.5}, lc.ConfigError, r"noise is 1\.5"),
    ],
)
def test_what_is_no_set_of_pictures_is_named(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    settings = {**vars(lc.ImageSet(pictures(4), pictures(4, 1))), **changes}
    # Annotations are checked in tests, and not where users give something else.
    made = object.__new__(lc.ImageSet)
    vars(made).update(settings)
    with pytest.raises(error, match=message):
        made.__post_init__()
