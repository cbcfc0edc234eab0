from __future__ import annotations

import pytest

import lineas_core as lc
from lineas_core.scenes.scene import Scene, UsedMap

CROSSED = {
    "modality": "image",
    "maps": (UsedMap("a", None), UsedMap("b", 0.5), UsedMap("c", None, inverse=True)),
    "strengths": (0.0, 1.0),
    "down": (0.0, 0.5),
}


def test_a_scene_knows_its_seeds_and_which_maps_are_swept() -> None:
    scene = Scene("m", prompts=("p",), seed=3, **CROSSED)
    assert (scene.seeds, scene.swept) == ((3,), (0, 2))
    assert Scene("m", "text", ("p", "q"), seed=(1, 2)).seeds == (1, 2)
    assert Scene("m", "text", ("p",), (UsedMap("a", 1.0),)).swept == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ()}, "prompts is empty"),
        ({"maps": (UsedMap("a", float("nan")),)}, "nan is not a finite number"),
        ({"strengths": (float("inf"),)}, "inf is not a finite number"),
        ({"seed": -1}, "seed is -1; choose 0"),
        ({"seed": (1, 2)}, "2 seeds for 1 prompt;"),
        ({"maps": (UsedMap("a", None),)}, "A map has no strength"),
        ({"temperature": float("nan")}, "nan is not a finite number"),
        ({**CROSSED, "down": (0.0, float("inf"))}, "inf is not a finite number"),
        ({**CROSSED, "modality": "text"}, "a grid of two maps is of images, not texts"),
        (
            {**CROSSED, "prompts": ("p", "q")},
            "2 prompts and 2 swept maps; a grid of two maps takes",
        ),
        ({**CROSSED, "maps": (UsedMap("a", None),)}, "1 prompt and 1 swept map;"),
    ],
)
def test_scenes_that_cannot_be_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(lc.ConfigError, match=message):
        Scene(**{"model": "m", "modality": "text", "prompts": ("p",), **changes})
