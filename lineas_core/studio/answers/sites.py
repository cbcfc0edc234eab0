"""The sites of models in memory: their default, their presets, and what an expression matches."""

from __future__ import annotations

from contextlib import suppress

from lineas_core.errors import SiteError
from lineas_core.models.shared.catalog import catalog
from lineas_core.models.shared.sites import preset_names
from lineas_core.studio.jobs.device.inference import Inference


class Sites:
    """Look sites up, without loading a model for it.

    Args:
        inference: has the models in memory.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    def default(self, model: str) -> str:
        """The preset or expression that a model trains with by default.

        Empty for a model that is neither in the catalogue nor in memory.
        """
        entry = catalog().get(model)
        if entry is not None:
            return entry.sites
        return self._inference.model(model).default_sites if self._inference.has(model) else ""

    def presets(self, model: str) -> list[str]:
        """The presets that match modules of the model, its default first; only that if not loaded.

        A default may also be an expression.
        """
        default = self.default(model)
        names = [default] if default else []
        for name in preset_names() if self._inference.has(model) else ():
            with suppress(SiteError):
                if name not in names and self._inference.model(model).sites(name):
                    names.append(name)
        return names

    def matched(self, model: str, pattern: str) -> list[str] | None:
        """The modules that a preset or expression matches; None if the model is not in memory.

        Args:
            model: its name.
            pattern: empty for the default.

        Raises:
            SiteError: the expression is not valid, or matches nothing.
        """
        if not self._inference.has(model):
            return None
        return self._inference.model(model).sites(pattern or self.default(model))
