"""vLLM itself steers, in an environment of its own: it pins other versions than this project.

`VLLM_PYTHON` names that environment's Python. It needs vLLM, or its build for CPUs, and jaxtyping.
"""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

import lineas_core as lc
from lineas_core.models.load import as_language_model
from lineas_core.system.paths import checkout
from tests.helpers.models import SIZES, random_map, save_checkpoint

PROGRAM = Path(__file__).with_name("program.py")
# vLLM's attention on a CPU takes no smaller heads.
WIDTH, HEADS = 64, {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
NORMS = ("input_layernorm", "post_attention_layernorm")
SITES = {f"model.layers.{n}.{norm}": WIDTH for n in range(3) for norm in NORMS}
STEERING: list[list[tuple[str, float]]] = [
    [], [("ink", 0.5)], [("ink", 1.0), ("gold", -0.5)], [("gold", 1.0)], [("ink", 0.5)], [],
]  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("VLLM_PYTHON" not in os.environ, reason="VLLM_PYTHON is not set"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, two maps, and the plugin's entry point as an installed package has it."""
    folder = tmp_path_factory.mktemp("vllm")
    config = LlamaConfig(**{**SIZES, **HEADS, "hidden_size": WIDTH, "intermediate_size": 96})
    save_checkpoint(config, folder / "model")
    for seed, name in enumerate(("ink", "gold")):
        random_map(SITES, seed).save(folder / f"{name}.safetensors")
    project = tomllib.loads((checkout() / "pyproject.toml").read_text("utf-8"))["project"]
    [(group, plugins)] = project["entry-points"].items()
    info = folder / "packages" / "lineas_studio-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lineas-studio\nVersion: 0\n")
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in plugins.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


def run(folder: Path, asked: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(checkout()), str(folder / "packages")]),
        "HF_HUB_OFFLINE": "1",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
    }
    maps = {name: str(folder / f"{name}.safetensors") for name in ("ink", "gold")}
    asked = {"model": str(folder / "model"), "maps": maps, "to": str(folder / "out"), **asked}
    return subprocess.run(
        [os.environ["VLLM_PYTHON"], str(PROGRAM)], env=environment, input=json.dumps(asked),
        capture_output=True, text=True, timeout=1200,
    )  # fmt: skip


def test_requests_of_one_batch_are_steered_as_each_asks(folder: Path) -> None:
    lengths = torch.randint(3, 30, (len(STEERING),), generator=torch.Generator().manual_seed(1))
    prompts = [torch.randint(0, 250, (n,)).tolist() for n in lengths.tolist()]
    prompts[-1] = prompts[1]
    steering = [[f"{name}@{strength}" for name, strength in each] for each in STEERING]
    done = run(folder, {"prompts": prompts, "steering": steering})
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((folder / "out").read_text())
    model = as_language_model(lc.load_model(str(folder / "model"), device="cpu"))
    maps = {name: lc.SteeringMap.load(folder / f"{name}.safetensors") for name in ("ink", "gold")}
    for prompt, asked, row in zip(prompts, STEERING, found["rows"], strict=True):
        ids = torch.tensor([prompt + row["tokens"]])
        with torch.no_grad(), lc.steer(model, [(maps[name], s) for name, s in asked]):
            wanted = model.module(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        for place, odds in enumerate(row["odds"]):
            got = torch.tensor([odds[str(token)] for token in range(SIZES["vocab_size"])])
            assert (got - wanted[place]).abs().max() < 1e-3
    # One prompt, with a map and without: the maps do something.
    first = [found["rows"][n]["odds"][0] for n in (1, len(prompts) - 1)]
    assert max(abs(first[0][token] - first[1][token]) for token in first[0]) > 0.5
    assert "steering.0 is 'neon@1'" in found["refused"]
    eager, shared = found["settings"]
    assert "enforce_eager is False" in eager
    assert "enable_prefix_caching is True" in shared
    assert found["after"] == found["rows"][0]["tokens"]
