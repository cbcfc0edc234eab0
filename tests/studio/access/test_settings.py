from __future__ import annotations

from pathlib import Path

import pytest

from lineas_core.errors import ConfigError
from lineas_core.studio.access.settings import Settings, settings_table
from lineas_core.system.paths import checkout

README = checkout() / "docs" / "hosting.md"


def test_every_variable_is_read_and_documented(tmp_path: Path) -> None:
    given = {
        "LINEAS_NETWORK_DISK": "yes",
        "LINEAS_MOST_JOBS": " 7 ",
        "LINEAS_TRACKIO": "curves",
        "UNRELATED": "1",
    }
    settings = Settings.from_environment(given, tmp_path)
    assert (settings.network_disk, settings.max_jobs, settings.trackio) == (True, 7, "curves")
    assert settings.home == tmp_path
    assert settings_table() in README.read_text(encoding="utf-8")


def test_demo_mode_halves_what_was_chosen(tmp_path: Path) -> None:
    chosen = {"LINEAS_MOST_JOBS": "7", "LINEAS_MOST_STEPS": "1"}
    demo = Settings.from_environment({**chosen, "DEMO_MODE": "1"}, tmp_path)
    assert (demo.max_jobs, demo.max_steps) == (3, 1)
    assert not Settings.from_environment({**chosen, "DEMO_MODE": "0"}, tmp_path).demo


def test_strangers_get_the_safety_checker_whatever_was_chosen(tmp_path: Path) -> None:
    off, on = {"LINEAS_SAFETY_CHECKER": "0"}, {"LINEAS_SAFETY_CHECKER": "1"}
    assert not Settings.from_environment({}, tmp_path).safety_checker
    assert Settings.from_environment(on, tmp_path).safety_checker
    assert Settings.from_environment({**off, "DEMO_MODE": "1"}, tmp_path).safety_checker


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DEMO_MODE", "maybe"),
        ("LINEAS_MOST_JOBS", "0"),
        ("LINEAS_MOST_STEPS", "many"),
        ("LINEAS_MOST_REQUESTS", "-1"),
        ("LINEAS_MOST_MIB", "1.5"),
    ],
)
def test_a_bad_value_names_its_variable(variable: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{variable} is '{value}'"):
        Settings.from_environment({variable: value}, tmp_path)


def test_the_bucket_is_given_or_what_a_space_has_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, bucket = tmp_path / "home", tmp_path / "bucket"

    def bucket_of(home: Path = home, **environment: str) -> Path | None:
        return Settings.from_environment(environment, home).bucket

    assert bucket_of() is None
    assert bucket_of(LINEAS_BUCKET=str(bucket)) == bucket
    for inside in (home, home / "b", tmp_path):
        with pytest.raises(
            ConfigError, match=f"LINEAS_BUCKET is {inside}, and LINEAS_HOME is {home}"
        ):
            bucket_of(LINEAS_BUCKET=str(inside))
    # Something is mounted there on every Linux.
    mounted = Path("/proc")
    monkeypatch.setattr("lineas_core.system.home.SPACE_STORAGE", mounted)
    assert bucket_of() is None
    assert bucket_of(SPACE_ID="ann/studio") == mounted
    assert bucket_of(SPACE_ID="ann/studio", LINEAS_BUCKET=str(bucket)) == bucket
    assert bucket_of(mounted, SPACE_ID="ann/studio") is None
    monkeypatch.setattr("lineas_core.system.home.SPACE_STORAGE", tmp_path)
    assert bucket_of(tmp_path.parent / "home", SPACE_ID="ann/studio") is None


def test_a_spaces_storage_is_taken_for_a_network_mount(tmp_path: Path) -> None:
    assert Settings.from_environment({}, Path("/data")).network_disk
    assert not Settings.from_environment({"LINEAS_NETWORK_DISK": "0"}, Path("/data")).network_disk
    assert Settings.from_environment({"LINEAS_HOME": str(tmp_path)}).home == tmp_path
    assert not Settings.from_environment({"LINEAS_HOME": str(tmp_path)}).network_disk
