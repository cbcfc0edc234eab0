"""The models in memory: at most one per modality, loaded at first use.

Where a GPU is lent, it is lent to forked processes: they find the models that the app had loaded in
their memory, and move them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from lineas_core.errors import ConfigError
from lineas_core.models.load import Model, load_model
from lineas_core.models.shared.catalog import CatalogEntry, catalog
from lineas_core.system.devices import choose_device


class ModelCache:
    """Loads models by name and keeps the latest one of each modality.

    Args:
        home: where converted models are kept.
        load: (name, home) -> model.
        only_catalog: refuse models outside the catalogue, which a visitor could otherwise name.
    """

    def __init__(
        self,
        home: Path,
        load: Callable[[str, Path], Model] = lambda n, h: load_model(n, home=h),
        *,
        only_catalog: bool = False,
    ) -> None:
        self._home, self._load, self._only_catalog = home, load, only_catalog
        self._models: dict[str, Model] = {}
        self._process = os.getpid()
        self._loading = threading.Lock()

    def has(self, name: str) -> bool:
        """Whether the model is already in memory."""
        return name in self._models

    def check(self, name: str) -> None:
        """Refuse a model that may not be loaded here.

        Raises:
            ConfigError: only models of the catalogue may be loaded, and it is not one of them.
        """
        if self._only_catalog and name not in catalog():
            raise ConfigError(f"model is {name!r}; this Space has {', '.join(catalog())}.")

    def get(self, name: str) -> Model:
        """The model of that name, loaded if needed; another model of its modality is dropped.

        Raises:
            ConfigError: only models of the catalogue may be loaded, and it is not one of them.
            ModelError: it cannot be loaded.
        """
        self.check(name)
        model = self._models.get(name)
        if model is not None:
            if os.getpid() != self._process:
                # Nothing where it has been moved by an earlier call of this process.
                model.to(choose_device("auto"))
            return model
        with self._loading:
            if name not in self._models:
                entry = catalog().get(name)
                if entry is not None:
                    # Drop the old model before loading: two do not always fit in memory.
                    self._drop("text" if entry.kind == "language" else "image")
                model = self._load(name, self._home)
                self._drop(model.modality)
                self._models = {**self._models, name: model}
            return self._models[name]

    def forget(self, name: str) -> None:
        """Drop a model, so that the next `get` loads it again."""
        with self._loading:
            self._models = {n: m for n, m in self._models.items() if n != name}

    def _drop(self, modality: str) -> None:
        self._models = {n: m for n, m in self._models.items() if m.modality != modality}


def catalog_models(modality: str) -> list[CatalogEntry]:
    """The catalogue's models of "text" or "image"; the embedded one comes first."""
    kind = "language" if modality == "text" else "diffusion"
    return [entry for entry in catalog().values() if entry.kind == kind]
