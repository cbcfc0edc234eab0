"""Which kinds of pipeline there are, and the `Denoiser` that wraps each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import (
    Flux2KleinPipeline,
    FluxPipeline,
    QwenImagePipeline,
    SanaSprintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    ZImagePipeline,
)

from lineas_core.errors import ModelError
from lineas_core.models.image.denoisers import (
    Denoiser,
    FluxDenoiser,
    UNetDenoiser,
    UNetXLDenoiser,
)
from lineas_core.models.image.flux2 import Flux2KleinDenoiser
from lineas_core.models.image.qwen_image import QwenImageDenoiser
from lineas_core.models.image.sana_sprint import SanaSprintDenoiser
from lineas_core.models.image.z_image import ZImageDenoiser

DENOISERS: Mapping[Any, type[Denoiser]] = {
    StableDiffusionPipeline: UNetDenoiser,
    StableDiffusionXLPipeline: UNetXLDenoiser,
    FluxPipeline: FluxDenoiser,
    Flux2KleinPipeline: Flux2KleinDenoiser,
    SanaSprintPipeline: SanaSprintDenoiser,
    ZImagePipeline: ZImageDenoiser,
    QwenImagePipeline: QwenImageDenoiser,
}


def denoiser_for(pipeline: Any, size: int = 0, tokens: int = 0) -> Denoiser:
    """Wrap a pipeline in the matching `Denoiser`; `size` and `tokens` are as there.

    Raises:
        ModelError: the pipeline is of no kind in `DENOISERS`.
    """
    for kind, denoiser in DENOISERS.items():
        if isinstance(pipeline, kind):
            return denoiser(pipeline, size, tokens)
    known = ", ".join(kind.__name__ for kind in DENOISERS)
    raise ModelError(f"The pipeline is a {type(pipeline).__name__}; this library runs {known}.")
