"""Requests that schemathesis makes up from the app's own OpenAPI schema: none ends in a 500."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gradio as gr
import pytest

SEED, EXAMPLES = 25, 60


@pytest.mark.thorough
def test_no_generated_request_is_a_server_error(page: gr.Blocks, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{page.server_port}"
    program = Path(sys.executable).with_name("schemathesis")
    assert program.exists(), "install the packages of requirements-dev.txt"
    run = subprocess.run(
        [
            program, "run", f"{address}/gradio_api/openapi.json",
            "--url", address,
            "--seed", str(SEED),
            "--max-examples", str(EXAMPLES),
            "--checks", "not_a_server_error",
            "--request-timeout", "60",
            "--generation-database", "none",
            "--continue-on-failure",
            "--no-color",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    # It did ask for something: each function of the API, and uploads.
    assert "17 selected" in run.stdout, run.stdout[-3000:]
