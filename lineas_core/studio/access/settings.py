"""The app's settings, read once from environment variables into a frozen dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lineas_core.errors import ConfigError
from lineas_core.system.home import SPACE_STORAGE, lineas_bucket, lineas_home

TRUE, FALSE = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")

# Limits that `for_strangers` halves: those of one visitor or job, and the length of the queue.
HALVED = (
    "max_queued", "max_jobs", "max_address_jobs", "max_steps", "max_minutes", "max_requests",
    "max_mebibytes",
)  # fmt: skip


def _setting(variable: str, default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"variable": variable, "meaning": meaning})


@dataclass(frozen=True)
class Settings:
    """Settings of the host. Every field is one environment variable.

    >>> Settings.from_environment({"LINEAS_MOST_JOBS": "3"}).max_jobs
    3
    """

    home: Path
    demo: bool = _setting(
        "DEMO_MODE", False, "For public Spaces: catalogue models only, and half of the limits"
    )
    network_disk: bool = _setting(
        "LINEAS_NETWORK_DISK",
        False,
        "LINEAS_HOME is a network mount, such as NFS: the database avoids WAL",
    )
    bucket: Path | None = field(
        default=None,
        metadata={
            "variable": "LINEAS_BUCKET",
            "meaning": "Folder that LINEAS_HOME is copied to and restored from, such as a mounted "
            "storage bucket; `/data` on a Space that has one there",
        },
    )
    hosts: tuple[str, ...] = _setting(
        "LINEAS_HOSTS",
        (),
        "Names that the app is reached by, such as a proxy's, separated by commas; pages of these "
        "hosts may call it too",
    )
    max_queued: int = _setting("LINEAS_MOST_QUEUED", 40, "Jobs that may wait or run at once")
    max_jobs: int = _setting("LINEAS_MOST_JOBS", 4, "The same, of one visitor")
    max_address_jobs: int = _setting(
        "LINEAS_MOST_ADDRESS_JOBS", 10, "The same, of one network address, where that is known"
    )
    max_steps: int = _setting("LINEAS_MOST_STEPS", 2000, "Training steps of one job")
    max_minutes: int = _setting("LINEAS_MOST_MINUTES", 240, "Minutes that one job may train")
    max_requests: int = _setting(
        "LINEAS_MOST_REQUESTS", 240, "Answers that a visitor may ask for in a minute"
    )
    requests_in_all: int = _setting(
        "LINEAS_MOST_REQUESTS_IN_ALL", 2400, "The same, of all visitors"
    )
    max_waiting: int = _setting(
        "LINEAS_MOST_WAITING", 200, "Calls that may wait for an answer at once"
    )
    max_sessions: int = _setting("LINEAS_MOST_SESSIONS", 512, "Open pages whose state is in memory")
    max_prompts: int = _setting(
        "LINEAS_MOST_PROMPTS", 256, "Prompts on either side of what is trained on"
    )
    max_call_mebibytes: int = _setting(
        "LINEAS_MOST_CALL_MIB", 2048, "MiB of memory that the texts of one answer may take"
    )
    max_images: int = _setting("LINEAS_MOST_IMAGES", 64, "Images of one answer")
    max_megapixels: int = _setting(
        "LINEAS_MOST_MEGAPIXELS", 64, "Pixels of one answer's images, in millions"
    )
    max_mebibytes: int = _setting(
        "LINEAS_MOST_MIB",
        512,
        "MiB that a visitor's maps and prompt sets may take; also, what a visitor or a network "
        "address may send and fetch in an hour",
    )
    mebibytes_in_all: int = _setting(
        "LINEAS_MOST_MIB_IN_ALL", 20480, "MiB that all that is kept and uploaded may take"
    )
    max_upload: int = _setting("LINEAS_MOST_UPLOAD_MIB", 64, "MiB of an uploaded file")
    concurrency: int = _setting("LINEAS_CONCURRENCY", 4, "Answers that are worked on at once")
    keep_days: int = _setting(
        "LINEAS_KEEP_DAYS", 30, "Days that live frames and deleted maps are kept"
    )
    safety_checker: bool = _setting(
        "LINEAS_SAFETY_CHECKER",
        False,
        "Full-size image models pass a safety checker; always so with `DEMO_MODE`",
    )
    host_pays: bool = _setting(
        "LINEAS_HOST_PAYS",
        False,
        "On ZeroGPU, training draws on the Space's quota and goes on when its page is closed; "
        "else it draws on that of the visitor who watches it",
    )
    trackio: str = _setting("LINEAS_TRACKIO", "", "trackio project that training curves go to")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], home: Path | None = None) -> Settings:
        """Read the settings from environment variables.

        Args:
            environment: such as `os.environ`.
            home: LINEAS_HOME by default.

        Raises:
            ConfigError: a variable has no usable value; the message names it.
        """
        folder = home or lineas_home(environment)
        # A Space's storage is a network mount, and WAL does not work with the locks of one.
        values: dict[str, Any] = {"home": folder, "network_disk": folder == SPACE_STORAGE}
        for setting in fields(cls):
            variable = setting.metadata.get("variable", "")
            if variable in environment:
                values[setting.name] = _parse(variable, environment[variable], setting.default)
        settings = cls(**{**values, "bucket": lineas_bucket(environment, folder)})
        return settings.for_strangers() if settings.demo else settings

    def for_strangers(self) -> Settings:
        """A copy with the limits of `HALVED` halved and the safety checker, for a public Space."""
        halves = {name: max(1, getattr(self, name) // 2) for name in HALVED}
        return replace(self, **halves, safety_checker=True)


def settings_table() -> str:
    """Every variable, its default and its meaning, as a Markdown table."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for setting in fields(Settings):
        if variable := setting.metadata.get("variable"):
            default = "" if setting.default in ("", False, None, ()) else str(setting.default)
            rows.append(f"| `{variable}` | {default} | {setting.metadata['meaning']} |")
    return "\n".join(rows)


def _parse(variable: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text.strip().lower() not in TRUE + FALSE:
            raise ConfigError(f"{variable} is {text!r}; set it to 1 or 0.")
        return text.strip().lower() in TRUE
    if isinstance(default, int):
        if not text.strip().isdigit() or int(text) < 1:
            raise ConfigError(f"{variable} is {text!r}; it must be a whole number, 1 or more.")
        return int(text)
    if isinstance(default, tuple):
        return tuple(name.strip() for name in text.split(",") if name.strip())
    return text.strip()
