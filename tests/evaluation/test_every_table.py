"""Every table with small sizes, through its command, offline, on the embedded models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from lineas_core.evaluation.tables import NAMES, find_table

SMALL = {
    "concepts": "concepts=football methods=mean-act completions=4 tokens=8",
    "toxicity": "methods=mean-act layer_methods=mean-act layers=layernorm opening_count=4 "
    "completions=1 tokens=8 sentence_count=4 questions=4",
    "sparsity": "concepts=football supports=0.1 curve_points=1 steps=1 completions=4 tokens=8",
    "composition": "concepts=football,night completions=4 tokens=8 judged=1 refine_steps=1",
    "layers": "couples=1:0,0:1 points=2 steps=1",
    "truthfulness": "methods=mean-act questions=8",
    "styles": "styles=emoji-pixel-art removals=emoji-pixel-art methods=mean-act pictures=2",
    "steps": "prompts=4 steps=2 methods=mean-act limit=2 completions=4 tokens=8",
    "rivals": "concepts=football methods=mean-act completions=4 tokens=8 reft_steps=1 rl_steps=1 "
    "rl_openings=4",
}


def test_every_table_has_a_small_size() -> None:
    assert set(SMALL) == set(NAMES)
    for name, sizes in SMALL.items():
        find_table(name).sized(dict(size.split("=", 1) for size in sizes.split()))


@pytest.mark.slow
@pytest.mark.embedded
@pytest.mark.parametrize("name", NAMES)
def test_a_table_runs_offline(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sizes = [word for size in SMALL[name].split() for word in ("--set", size)]
    command = [sys.executable, "-m", "lineas_core", "evaluate", name, *sizes]
    ended = subprocess.run([*command, "--output", tmp_path], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    results = pd.read_csv(tmp_path / f"{name}.csv")
    assert len(results) > 1
    assert results.select_dtypes("number").notna().any().all()
    text = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    assert f"evaluate {name}" in text
    assert "| --- |" in text
    with Image.open(tmp_path / f"{name}.png") as plot:
        assert len(plot.convert("RGB").resize((64, 36)).getcolors(64 * 36)) > 2
