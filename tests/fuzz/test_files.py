"""Fuzz tests: readers refuse malformed files quickly, with a proper error message.

By default a few hundred files of each kind are tried, always the same ones. To try all of them, as
in "no unhandled exception in 10,000 prompt files, 10,000 map files and 2,000 bundles":

    python -m pytest tests/fuzz/test_files.py --hypothesis-profile=full

And with atheris, which searches for inputs that reach new code:

    python -m tests.fuzz.fuzz_prompts -runs=10000 -seed=1
    python -m tests.fuzz.fuzz_maps -runs=10000 -seed=1
    python -m tests.fuzz.fuzz_bundles -runs=2000 -seed=1

Each call is limited in CPU time (`tests/fuzz/guard.py`) instead of by hypothesis' deadline, which
fails on a busy machine.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from lineas_core.errors import SiteError
from lineas_core.models.shared.sites import MAX_PATTERN, match_sites
from lineas_core.system.paths import checkout
from tests.fuzz import bundles, maps, prompts
from tests.fuzz.guard import promised

pytestmark = pytest.mark.thorough

FULL = settings().max_examples >= 10_000


class Drawn:
    """A `Chooser` whose choices hypothesis draws."""

    def __init__(self, draw: Callable[[st.SearchStrategy], object]) -> None:
        self._draw = draw

    def number(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def data(self, most: int) -> bytes:
        return self._draw(st.binary(max_size=most))


@st.composite
def built(draw, build):
    return build(Drawn(draw))


def examples(quick: int, full: int) -> settings:
    return settings(max_examples=full if FULL else quick)


@examples(200, 10_000)
@given(built(prompts.build))
def test_prompt_files(file: tuple[str, bytes]) -> None:
    event("taken" if prompts.check(*file) else "refused")


@examples(200, 10_000)
@given(built(maps.build))
def test_map_files(data: bytes) -> None:
    event("taken" if maps.check(data) else "refused")


@examples(100, 2_000)
@given(built(bundles.build))
def test_bundles(data: bytes) -> None:
    event("taken" if bundles.check(data) else "refused")


def test_valid_files_are_taken() -> None:
    assert all(maps.check(data) for _, _, data in maps.FORMS)
    assert bundles.check(bundles.VALID)
    for name, files in prompts.FILES.items():
        for data in files:
            assert prompts.check(name, data) or name == "a.pdf"


SITES = [f"model.layers.{i}.post_attention_layernorm" for i in range(200)] + ["a" * 300]
SLOW = [
    "(a|aa)+$", "(a*)*b", "((((.*)*)*)*)*x", "(?:.{1,999}){1,999}x", ".*" * 60 + "x",
    "(?:(?:x?){200}){200}y", "(((((((a{99}){99}){99}){99}){99}){99}){99})", "(" * 100 + ")" * 100,
    "(?=a)a", "(.)\\1", ")|(", "\ud800", "\0", "(?i)" + "[\U00010000-\U0010ffff]*" * 8 + "x",
]  # fmt: skip


@pytest.mark.parametrize("pattern", SLOW)
def test_patterns_that_run_away_elsewhere(pattern: str) -> None:
    promised(lambda: match_sites(SITES, pattern, "llama"))


@examples(150, 2_000)
@given(
    st.lists(st.sampled_from([*"ax.*+?()[]{}|\\^$0,-:=!<>P", ".*", "{9,99}", "(a|", "\\d", "é"]))
)
def test_patterns(parts: list[str]) -> None:
    promised(lambda: match_sites(SITES, "".join(parts), "llama"))


def test_long_patterns_are_refused() -> None:
    with pytest.raises(SiteError, match=f"{MAX_PATTERN} are the most"):
        match_sites(SITES, "a" * (MAX_PATTERN + 1), "llama")


# Each runs in its own process, which loads the whole library, so only one runs by default.
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("prompts", marks=pytest.mark.slow),
        "maps",
        pytest.param("bundles", marks=pytest.mark.slow),
    ],
)
def test_atheris(kind: str) -> None:
    pytest.importorskip("atheris")
    done = subprocess.run(
        [sys.executable, "-m", f"tests.fuzz.fuzz_{kind}", "-runs=200", "-seed=1"],
        cwd=checkout(),
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert "Done 200 runs" in done.stderr
