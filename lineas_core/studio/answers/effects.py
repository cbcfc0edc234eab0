"""How much of each map's effect remains when several maps are on together."""

from __future__ import annotations

from collections.abc import Sequence

from lineas_core.diagnostics.interference import Effect, effects
from lineas_core.studio.jobs.device.inference import Inference
from lineas_core.studio.rack.mix import Mix


class Effects:
    """Measure the interference between maps that are on together.

    Args:
        inference: loads and runs the models.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._effects = inference.on_gpu(self._effects_here)

    def shares(self, mix: Mix, model: str, prompts: Sequence[str]) -> dict[str, float | None]:
        """Map id -> share of its effect that remains; empty for fewer than two maps."""
        if len(mix.maps) < 2:
            return {}
        with self._inference.serving(model):
            found = self._effects(mix, model, list(prompts))
        return {row.id: effect.share for row, effect in zip(mix.rows, found, strict=True)}

    def _effects_here(self, mix: Mix, model: str, prompts: list[str]) -> list[Effect]:
        pooling = mix.maps[0].info.config.get("pooling", "mean")
        return effects(self._inference.model(model), prompts, mix.steer, pooling=pooling)
