from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import lineas_core as lc
from lineas_core.system.paths import checkout
from tests.helpers.models import random_map
from tests.helpers.terminal import lineas


@pytest.fixture
def set_file(tmp_path: Path, prompts: lc.PromptSet) -> str:
    return str(prompts.save(tmp_path / "letters.json"))


def test_the_page_opens_before_diffusers_is_imported() -> None:
    code = "import sys, app; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=checkout()).returncode == 0


def test_train_inspect_generate_and_sweep(
    tmp_path: Path, small_models: dict[str, Path], set_file: str
) -> None:
    model, smap = str(small_models["llama"]), str(tmp_path / "x.safetensors")
    done = lineas(
        "train", set_file, "-o", smap, "-m", model, "--set", "steps=3", "--device", "cpu", "--json"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["steps"] == 3
    assert report["health"]["verdict"]
    assert lc.SteeringMap.load(smap).info.config["steps"] == 3

    inspected = json.loads(lineas("inspect", smap, "--json").stdout)
    assert inspected["method"] == "lineas"
    assert list(inspected["sites"].values()) == [1.0] * 3

    options = ("-m", model, "--device", "cpu", "--tokens", "6", "--json")
    grid = json.loads(lineas("sweep", "ab", "ba", "--map", smap, *options).stdout)
    assert grid["strengths"] == [0, 0.25, 0.5, 0.75, 1]
    assert [len(row) for row in grid["texts"]] == [5, 5]
    half = json.loads(lineas("generate", "ab", "ba", "--map", f"{smap}@0.5", *options).stdout)
    assert half == [row[2] for row in grid["texts"]]
    plain = lineas("generate", "ab", "-m", model, "--device", "cpu", "--tokens", "6")
    assert plain.stdout.startswith("ab")


def test_listings() -> None:
    assert "smollm2" in [entry["id"] for entry in json.loads(lineas("models", "--json").stdout)]
    listed = json.loads(lineas("prompts", "--json").stdout)
    assert {"football", "night", "toxicity", "sentiment"} <= {s["name"] for s in listed}
    assert "Football" in lineas("prompts", "football").stdout


def test_a_process_prints_a_result_or_one_message() -> None:
    for name, status in ("football", 0), ("nothing", 1):
        command = [sys.executable, "-m", "lineas_core", "prompts", name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == status
        assert ("Football" in done.stdout) == (status == 0)
        assert ("'nothing'" in done.stderr) == (status == 1)
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["inspect", "none.safetensors"], 1, "There is no map file 'none.safetensors'"),
        (["prompts", "nothing"], 1, "There is no prompt set 'nothing'"),
        (["train", "day", "-o", "x", "--set", "stepz=3"], 1, "'stepz=3' is not a setting"),
        (["train", "day", "-o", "x", "--set", "rate=fast"], 1, "rate is 'fast'"),
        (["sweep", "a", "--map", "x", "--strengths", "0;1"], 1, "strengths is '0;1'"),
        (["generate", "a", "--map", "x@y"], 1, "the strength after @ must be a number"),
        (["evaluate", "poems"], 1, "table is 'poems'"),
        (["serve", "x", "--map", "a/x.safetensors", "--map", "b/x.safetensors@2"], 1, "map 'x'"),
        (["serve", "x", "--host", "203.0.113.1"], 1, "host is '203.0.113.1'"),
        (["train"], 2, "Missing argument"),
    ],
)
def test_errors_are_one_message_and_an_exit_code(
    arguments: list[str], code: int, message: str, small_models: dict[str, Path]
) -> None:
    if arguments[0] == "train" and len(arguments) > 1:
        arguments = [*arguments, "-m", str(small_models["llama"])]
    done = lineas(*arguments)
    assert done.returncode == code
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_serve_answers_with_its_maps_until_it_is_stopped(
    tmp_path: Path, small_models: dict[str, Path], tiny: lc.LanguageModel
) -> None:
    smap = random_map({"model.layers.1.post_attention_layernorm": 16}, 2, 3.0)
    smap.save(tmp_path / "ink.safetensors")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "lineas_core", "serve", str(small_models["llama"])),
            *("--map", f"{tmp_path / 'ink.safetensors'}@0.5", "--port", "0", "--device", "cpu"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LINEAS_API_KEY": "sesame", "COLUMNS": "200"},
    )
    try:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "is served at" in line)
        address = said.split()[-1]
        asked = {"model": "llama", "prompt": "ab", "seed": 1, "max_tokens": 9}
        # The address is told before the server listens to it, and the socket keeps the call.
        refused = httpx.post(f"{address}/completions", json=asked, timeout=60)
        assert refused.status_code == 401
        headers = {"Authorization": "Bearer sesame"}
        answer = httpx.post(f"{address}/completions", json=asked, headers=headers, timeout=60)
        [choice] = answer.json()["choices"]
        assert [choice["text"]] == tiny.generate(["ab"], [(smap, 0.5)], seed=1, max_new_tokens=9)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode in (0, 130)


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_an_interrupt_keeps_the_map(
    tmp_path: Path, small_models: dict[str, Path], set_file: str
) -> None:
    import pty

    smap = tmp_path / "x.safetensors"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "lineas_core", "train", set_file, "-o", str(smap)),
            *("-m", str(small_models["llama"]), "--set", "steps=1000000", "--device", "cpu"),
        ],
        stderr=theirs,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )

    def read() -> str:
        ready, _, _ = select.select([ours], [], [], 0.1)
        return os.read(ours, 4096).decode(errors="replace") if ready else ""

    shown = ""
    try:
        # The progress bar counts a step.
        while not re.search(r"[1-9]\d*/1000000", shown):
            assert process.poll() is None, shown
            shown += read()
        process.send_signal(signal.SIGINT)
        while process.poll() is None:
            shown += read()
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 130, shown
    assert "stopping after this step" in shown
    assert lc.SteeringMap.load(smap).support() > 0
