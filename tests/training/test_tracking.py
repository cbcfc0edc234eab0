from __future__ import annotations

from typing import Any

import pytest
from accelerate.tracking import GeneralTracker

from lineas_core.errors import ConfigError
from lineas_core.training import tracking
from lineas_core.training.tracking import log_run, open_tracker


class Notebook(GeneralTracker):
    """A third-party tracker for Accelerate."""

    name = "notebook"
    requires_logging_directory = False

    def __init__(self, run_name: str, **settings: Any) -> None:
        super().__init__()
        self.lines: list[tuple[str, Any]] = [("new", (run_name, settings))]

    def start(self) -> None:
        self.lines.append(("start", None))

    @property
    def tracker(self) -> list[tuple[str, Any]]:
        return self.lines

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.lines.append(("config", values))

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.lines.append(("log", (step, values)))

    def finish(self) -> None:
        self.lines.append(("finish", None))


def test_a_run_goes_to_an_accelerate_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracking.NAMES, "notebook", Notebook)
    tracker = open_tracker("notebook", "studio", name="run 1")
    log_run(tracker, {"rate": 0.1, "prompts": ["no plain value"]}, [3.0, 2.0], [1.0])
    assert tracker.tracker == [
        ("new", ("studio", {"name": "run 1"})),
        ("start", None),
        ("config", {"rate": 0.1}),
        ("log", (1, {"loss": 3.0, "support": 1.0})),
        ("log", (2, {"loss": 2.0})),
        ("finish", None),
    ]


def test_trackio_is_one_of_them_and_others_are_refused() -> None:
    assert "trackio" in tracking.NAMES
    with pytest.raises(ConfigError, match="trackio"):
        open_tracker("parchment", "studio")
