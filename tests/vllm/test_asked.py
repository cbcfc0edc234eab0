from __future__ import annotations

from typing import Any

import pytest

import lineas_core as lc
from lineas_core.vllm.asked import asked_of, files_of

NAMES = ["football", "calm@home"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (None, ()),
        ({}, ()),
        ({"other": 1}, ()),
        ({"steering": []}, ()),
        ({"steering": ["football"]}, (("football", 1.0),)),
        (
            {"steering": ["calm@home@-0.5", "football@1e-1", "calm@home"]},
            (("calm@home", -0.5), ("football", 0.1), ("calm@home", 1.0)),
        ),
    ],
)
def test_a_request_names_maps_and_strengths(asked: Any, found: object) -> None:
    assert asked_of(asked, NAMES) == found


@pytest.mark.parametrize(
    ("steering", "message"),
    [
        ("football@0.7", "steering is 'football@0.7'"),
        ([{"map": "football"}], "steering is .*football"),
        (["football", "neon@0.5"], r"steering\.1 is 'neon@0\.5'.*'football', 'calm@home'"),
        (["football@much"], r"steering\.0 is 'football@much'"),
        (["football@nan"], r"steering\.0 is 'football@nan'.*finite"),
        (["football@inf"], r"steering\.0 is 'football@inf'.*finite"),
    ],
)
def test_what_is_asked_wrongly_is_named(steering: Any, message: str) -> None:
    with pytest.raises(lc.ConfigError, match=message):
        asked_of({"steering": steering}, NAMES)
    with pytest.raises(lc.ConfigError, match="additional_config"):
        asked_of({"steering": ["football"]}, [])


def test_vllm_is_started_with_names_and_files() -> None:
    files = {"football": "a.safetensors"}
    assert files_of({"lineas": files, "other": 1}) == files
    assert files_of({}) == files_of(object()) == {}
    for wrong in (["a.safetensors"], {"football": 1}, "a.safetensors"):
        with pytest.raises(lc.ConfigError, match="lineas in additional_config is"):
            files_of({"lineas": wrong})
