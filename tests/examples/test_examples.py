"""Every example runs as it stands, on the embedded models, and shows what it says."""

from __future__ import annotations

import ast
import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from PIL import Image
from safetensors import safe_open

import lineas_core as lc
from tests.helpers.kernel import ROOT, WIDGET, environment, kernel

EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "first_steps.ipynb"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))

pytestmark = [pytest.mark.embedded, pytest.mark.thorough]


def ran(arguments: list[str], folder: Path) -> str:
    """What a Python process prints in `folder`, with the models that are converted already."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d+(?:e[+-]\d+)?", line)]


def line_with(text: str, start: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith(start)]
    assert lines, f"no line begins with {start!r}:\n{text}"
    return lines[0]


def test_training_lowers_the_loss_and_changes_the_texts(tmp_path: Path) -> None:
    text = ran([str(EXAMPLES / "train_and_steer.py")], tmp_path)
    before, after = numbers(line_with(text, "loss:"))
    assert after < before / 2
    plain = [
        line.removeprefix("strength 0.0") for line in text.splitlines() if "strength 0" in line
    ]
    steered = [
        line.removeprefix("strength 1.0") for line in text.splitlines() if "strength 1" in line
    ]
    assert len(plain) == len(steered) == 2
    assert all(a != b for a, b in zip(plain, steered, strict=True))
    smap = lc.SteeringMap.load(tmp_path / "football.safetensors")
    assert smap.support() == 1
    with safe_open(str(tmp_path / "football.safetensors"), "pt") as file:
        assert len(file.keys()) == 2 * len(smap.sites)


def test_a_sweep_begins_at_the_untouched_model_and_reaches_its_subject(tmp_path: Path) -> None:
    text = ran([str(EXAMPLES / "sweep_strengths.py")], tmp_path)
    assert line_with(text, "strength 0 is").endswith("True")
    counts = [int(n) for n in line_with(text, "words of football").split(":")[1].split()]
    assert len(counts) == 5
    assert max(counts[3:]) > counts[0]


def test_scores_of_images_trade_the_style_for_the_picture(tmp_path: Path) -> None:
    text = ran([str(EXAMPLES / "score_images.py")], tmp_path)
    rows = [numbers(line) for line in text.splitlines() if re.match(r" +\d\.\d", line)]
    strengths, styles, kept = zip(*rows, strict=True)
    assert strengths == (0, 0.25, 0.5, 0.75, 1)
    assert kept[0] == 1
    assert list(kept) == sorted(kept, reverse=True)
    assert styles[2] > styles[0] + 0.02
    with Image.open(tmp_path / "watercolor.png") as sheet:
        assert sheet.size == (5 * 128, 4 * 128)


def test_a_composition_is_its_maps_and_an_inverse_undoes_one(tmp_path: Path) -> None:
    text = ran([str(EXAMPLES / "compose_and_invert.py")], tmp_path)
    half, apart, composed, back = [numbers(line) for line in text.splitlines()[1:]]
    assert half[1] == 1
    assert half[0] < 1
    assert composed == pytest.approx(apart, abs=2e-3)
    assert composed[1] < 0.99
    assert back == pytest.approx(half, abs=2e-3)


def test_a_folded_checkpoint_computes_what_steering_does(tmp_path: Path) -> None:
    text = ran([str(EXAMPLES / "fold_checkpoint.py")], tmp_path)
    assert "model.safetensors" in line_with(text, "files:")
    assert numbers(line_with(text, "folded against steered"))[0] < 1e-3
    assert numbers(line_with(text, "folded against untouched"))[0] > 1


def test_a_map_from_pictures_leads_to_their_look_and_back(tmp_path: Path) -> None:
    text = ran([str(EXAMPLES / "learn_from_pictures.py")], tmp_path)
    source, target = numbers(line_with(text, "brightness of"))
    assert source > target + 50
    rows = [numbers(line) for line in text.splitlines() if line.startswith("strength")]
    strengths, light = zip(*rows, strict=True)
    assert strengths == (-1, -0.5, 0, 0.5, 1)
    assert list(light) == sorted(light, reverse=True)
    assert light[2] - light[4] > 0.1 * (source - target)


def cells(kind: str) -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    with kernel(notebook, tmp_path) as running:
        outputs = {cell.id: cell.get("outputs", []) for cell in notebook.cells}
        text = "".join(each.get("text", "") for found in outputs.values() for each in found)
        before, after = numbers(line_with(text, "loss"))
        assert after < before
        scores = [numbers(line) for line in text.splitlines() if line.startswith("strength")]
        assert scores[0][-1] == pytest.approx(1, abs=1e-3)
        assert scores[-1][-1] < 0.99
        assert (tmp_path / "watercolor.safetensors").is_file()
        assert "image/png" in outputs["save"][0].data
        assert WIDGET in outputs["widget"][0].data
        slider, output = running.run(
            "print(panel.strengths[0].model_id, panel.after.model_id)"
        ).split()
        for strength in (0.7, 1.5):
            running.move(slider, value=strength)
            code = (
                "panel.wait(60)\n"
                f"[image] = model.generate(['a lion'], [(smap, {strength})], seed=0)\n"
                "image.save('lion.png')"
            )
            running.run(code)
            shown = Image.open(io.BytesIO(base64.b64decode(running.shown(output)["value"])))
            with Image.open(tmp_path / "lion.png") as wanted:
                assert shown.tobytes() == wanted.tobytes()


def test_the_notebook_is_valid_and_stores_no_results() -> None:
    notebook: dict[str, Any] = json.loads(NOTEBOOK.read_text("utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in names)
    for cell in notebook["cells"]:
        keys = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            keys |= {"outputs", "execution_count"}
        assert set(cell) == keys


@pytest.mark.parametrize("path", [*SCRIPTS, NOTEBOOK], ids=lambda path: path.name)
def test_examples_use_public_names_only(path: Path) -> None:
    code = path.read_text("utf-8") if path.suffix == ".py" else "\n".join(cells("code"))
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not str(node.module).startswith("lineas_core"), f"line {node.lineno}"
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "lc"
        ):
            assert node.attr in lc.__all__, f"line {node.lineno}: lc.{node.attr}"


def test_the_list_of_examples_is_whole() -> None:
    page = (EXAMPLES / "README.md").read_text("utf-8")
    named = re.findall(r"^\| \[(\S+)\]", page, flags=re.MULTILINE)
    assert sorted(named) == sorted(p.name for p in [*SCRIPTS, NOTEBOOK])
    for script in SCRIPTS:
        said = ast.get_docstring(ast.parse(script.read_text("utf-8")))
        assert said, f"{script.name} does not say what it shows"
