"""Load a diffusers pipeline: from a folder or the hub, with another UNet, scheduler or decoder."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import psutil  # type: ignore[import-untyped]
import torch
import transformers
from diffusers import (
    AutoencoderTiny,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.constants import DEFAULT_REVISION
from safetensors.torch import load_file
from torch import nn

from lineas_core.errors import ModelError
from lineas_core.models.image.folders import INDEX
from lineas_core.models.image.kinds import DENOISERS
from lineas_core.models.image.lora import merge_lora
from lineas_core.models.shared.catalog import CatalogEntry, Checkpoint
from lineas_core.models.shared.foreign_files import check_files
from lineas_core.models.shared.loading import GIB, check_complete, loading
from lineas_core.system.files import sha256_of

# Drop each pipeline's own checker, as `models/image/safety.py` works for every class, and the
# watermark, which would show as a difference between two strengths.
SETTINGS: dict[Any, dict[str, Any]] = {
    StableDiffusionPipeline: {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    },
    StableDiffusionXLPipeline: {"add_watermarker": False},
}
# The variant of files in half precision, of which some repositories have no other.
HALF = "fp16"
# Dimensions of the weights of convolutions over time, as in Qwen-Image's decoder.
VIDEO = 5
COMMIT, SHA256 = re.compile("[0-9a-f]{40}"), re.compile("[0-9a-f]{64}")
# What the parts of a pipeline may be of; the last is diffusers' own, with the safety checker.
LIBRARIES: Mapping[str, Any] = {
    "diffusers": diffusers,
    "transformers": transformers,
    "stable_diffusion": diffusers.pipelines.stable_diffusion,
}
CLASSES: dict[str, Any] = {cls.__name__: cls for cls in DENOISERS}
SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "lcm": (LCMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {"timestep_spacing": "trailing"}),
    # As Qwen-Image-Lightning was distilled and is run by its authors:
    # https://github.com/ModelTC/Qwen-Image-Lightning/blob/main/generate_with_diffusers.py
    "flow-shift-3": (
        FlowMatchEulerDiscreteScheduler,
        {"base_shift": math.log(3), "max_shift": math.log(3), "shift_terminal": None},
    ),
}
# Drop diffusers' warnings about a small decoder in place of a large one: it is used on purpose.
for module in ("pipelines.pipeline_utils", "configuration_utils"):
    logging.getLogger(f"diffusers.{module}").addFilter(
        lambda record: "AutoencoderTiny" not in record.getMessage()
    )


def load_pipeline(
    source: str,
    *,
    id: str,
    device: torch.device,
    dtype: torch.dtype,
    entry: CatalogEntry | None = None,
    tiny_vae: bool = False,
) -> Any:
    """Load a pipeline of a kind in `DENOISERS` onto `device`, offloading if memory is short.

    Args:
        source: a folder, or a repository on the hub.
        id: the model's name in errors.
        device: where it runs.
        dtype: dtype of all weights.
        entry: the catalogue entry: which parts to replace, and how much memory it needs.
        tiny_vae: use the entry's small decoder.

    Raises:
        ModelError: it cannot be found, is of another class, does not fit, or its files lead
            to others that are not read here.
    """
    offload = entry is not None and must_offload(entry, device, dtype)
    with loading(id, device):
        revision = check_files(id, source)
        config = DiffusionPipeline.load_config(source, revision=revision)
        name = config.get("_class_name")
        _check_class(id, name)
        parts: dict[str, Any] = {"revision": revision, **SETTINGS.get(CLASSES[name], {})}
        if entry and entry.variant:
            parts["variant"] = entry.variant
        if entry and entry.unet:
            parts["unet"] = load_unet(source, entry.unet, dtype, revision)
        if entry and tiny_vae:
            decoder: Any = AutoencoderTiny
            parts["vae"] = decoder.from_pretrained(
                entry.tiny_vae, dtype=dtype, use_safetensors=True
            )
        _check_parts(id, config, parts)
        diffusers.utils.logging.disable_progress_bar()
        pipeline = _read(id, source, config, dtype, parts)
        check_complete(id, _unloaded(pipeline))
        pipeline.set_progress_bar_config(disable=True)
        if entry and entry.lora:
            merge_lora(pipeline, entry.lora)
        if entry and entry.scheduler:
            pipeline.scheduler = _replace_scheduler(pipeline.scheduler, entry)
        for part in ("unet", "vae"):
            network = getattr(pipeline, part, None)
            if network and all(parameter.ndim < VIDEO for parameter in network.parameters()):
                # Convolutions run in this layout; any other is converted before each of them.
                network.to(memory_format=torch.channels_last)
        for layer in pipeline.vae.modules():
            if isinstance(layer, nn.ReLU):
                # Safe, as each follows a convolution or a sum whose output nothing else reads.
                layer.inplace = True
        if offload:
            pipeline.enable_model_cpu_offload(device=device)
            return pipeline
        return pipeline.to(device)


def _read(
    id: str, source: str, config: Mapping[str, Any], dtype: torch.dtype, parts: Mapping[str, Any]
) -> Any:
    """Load all parts but those given, in half precision where the source has no other files."""
    if "variant" in parts:
        return _read_variant(id, source, config, dtype, parts)
    try:
        return _read_variant(id, source, config, dtype, parts)
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            return _read_variant(id, source, config, dtype, {**parts, "variant": HALF})
        # The first error, which names the files that most sources have.
        raise


def _read_variant(
    id: str, source: str, config: Mapping[str, Any], dtype: torch.dtype, parts: Mapping[str, Any]
) -> Any:
    encoders = _text_encoders(id, source, config, dtype, parts["revision"], parts.get("variant"))
    # No pickles, as they can run code.
    return CLASSES[config["_class_name"]].from_pretrained(
        source, dtype=dtype, use_safetensors=True, **parts, **encoders
    )


def check_pipeline(id: str, pipeline: Any) -> None:
    """Refuse a pipeline in memory that `load_pipeline` would not have loaded.

    What `load_pipeline` changes in a pipeline to draw faster, or without a progress bar, watermark
    and safety checker, is left as its owner has it: the pictures stay the same, bit for bit.

    Args:
        id: the model's name in errors.
        pipeline: of diffusers.

    Raises:
        ModelError: it is of another class, or lacks tensors.
    """
    _check_class(id, type(pipeline).__name__)
    check_complete(id, _unloaded(pipeline))


def _check_class(id: str, name: object) -> None:
    if not isinstance(name, str) or name not in CLASSES:
        raise ModelError(f"{id} is a {name}; this library runs {', '.join(CLASSES)}.")


def _check_parts(id: str, config: Mapping[str, Any], given: Collection[str]) -> None:
    """Refuse a pipeline with parts of other packages, which diffusers would import.

    Args:
        id: the model's name in the error.
        config: what its `model_index.json` holds.
        given: names of the parts that are not loaded.

    Raises:
        ModelError: it has one, or a part is not a class of its package.
    """
    for part, library, name in _parts(config):
        if part in given:
            continue
        home = LIBRARIES.get(library) if isinstance(library, str) else None
        if home is None:
            raise ModelError(
                f"{INDEX} of {id} takes its part {part!r} from {library!r}; it may only be from "
                f"{' or '.join(list(LIBRARIES)[:2])}, as code of others is never run here. Choose "
                "another model."
            )
        if not isinstance(name, str) or not isinstance(getattr(home, name, None), type):
            raise ModelError(
                f"{INDEX} of {id} asks for {name!r} as its part {part!r}, and the installed "
                f"{library} has no such class. Choose another model, or update {library}."
            )


def _parts(config: Mapping[str, Any]) -> Iterator[tuple[str, object, object]]:
    """Name, library and class of each part that is there."""
    for part, value in config.items():
        if not part.startswith("_") and isinstance(value, list) and value[:1] != [None]:
            library, name = [*value, None, None][:2]
            # A pipeline may have lists among its settings, which are no parts.
            if library is None or isinstance(library, str):
                yield part, library, name


def _text_encoders(
    id: str,
    source: str,
    config: Mapping[str, Any],
    dtype: torch.dtype,
    revision: str,
    variant: str | None,
) -> dict[str, Any]:
    """The pipeline's text encoders, for which transformers only warns if tensors are missing."""
    found: dict[str, Any] = {}
    for part, kind in config.items():
        if not part.startswith("text_encoder") or list(kind)[:1] != ["transformers"]:
            continue
        encoder: Any = getattr(transformers, kind[1])
        load = partial(
            encoder.from_pretrained,
            source,
            subfolder=part,
            revision=revision,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
        )
        try:
            found[part], told = load(variant=variant)
        except OSError:
            if variant is None:
                raise
            # As diffusers does with the parts that it loads.
            found[part], told = load()
        check_complete(id, [f"{part}.{name}" for name in told["missing_keys"]])
    return found


def _unloaded(pipeline: Any) -> list[str]:
    """Parameters that the checkpoint lacks; diffusers leaves them without data."""
    return [
        f"{part}.{name}"
        for part, network in pipeline.components.items()
        if isinstance(network, nn.Module)
        for name, parameter in network.named_parameters()
        if parameter.is_meta
    ]


def load_unet(
    base: str, checkpoint: Checkpoint, dtype: torch.dtype, base_revision: str = DEFAULT_REVISION
) -> Any:
    """Load a checkpoint into the UNet architecture of the pipeline `base`, in `dtype`.

    Args:
        base: a folder, or a repository on the hub; only the UNet's config is read.
        checkpoint: .safetensors, or a torch state dict, which needs a revision on the hub.
        dtype: dtype of the weights.
        base_revision: of the repository `base`.

    Raises:
        ModelError: the checkpoint is of another network, or is a pickle that cannot be verified.
    """
    repo, file, revision = checkpoint.repo, checkpoint.file, checkpoint.revision
    pickled = not file.endswith(".safetensors")
    if Path(repo).is_dir():
        path = Path(repo) / file
    else:
        if pickled and not COMMIT.fullmatch(revision):
            raise ModelError(
                f"{file} of {repo} is a pickle, and its revision is {revision!r}. Name the whole "
                "commit, or take a checkpoint in safetensors."
            )
        path = Path(hf_hub_download(repo, file, revision=revision or None))
        if pickled:
            _check_sum(path, repo, file, revision)
    # A pickle can run code; weights_only restricts it to tensors.
    weights = (
        torch.load(path, map_location="cpu", weights_only=True) if pickled else load_file(path)
    )
    network: Any = UNet2DConditionModel
    with torch.device("meta"):
        config = network.load_config(base, subfolder="unet", revision=base_revision)
        unet = network.from_config(config)
    wanted = {name: tensor.shape for name, tensor in unet.state_dict().items()}
    found = {name: tensor.shape for name, tensor in weights.items()}
    differing = sorted(name for name, _ in wanted.items() ^ found.items())
    if differing:
        raise ModelError(
            f"{file} of {repo} does not fit the UNet of {base}: {differing[0]} is missing, too "
            "many or of another shape. Use it with the model it was distilled from."
        )
    unet.load_state_dict({name: t.to(dtype) for name, t in weights.items()}, assign=True)
    return unet


def _check_sum(path: Path, repo: str, file: str, revision: str) -> None:
    """Refuse a download whose SHA-256 differs from the one in the pinned commit."""
    # On systems with symbolic links, the hub's cache names large files by their SHA-256.
    wanted = path.resolve().name
    if not SHA256.fullmatch(wanted):
        wanted = get_hf_file_metadata(hf_hub_url(repo, file, revision=revision)).etag or ""
    found = sha256_of(path)
    if found != wanted:
        raise ModelError(
            f"{file} of {repo} has the SHA-256 {found[:16]}, and its commit says {wanted[:16]}: it "
            "is damaged, or was changed. Remove it from the hub's cache and load the model again."
        )


def must_offload(entry: CatalogEntry, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether parts have to be offloaded to the CPU, given the memory that is free now.

    Raises:
        ModelError: there is too little memory either way; the message says how much is needed.
    """
    on_host = psutil.virtual_memory().available / GIB
    on_device = torch.cuda.mem_get_info(device)[0] / GIB if device.type == "cuda" else None
    return plan_memory(entry, str(device), dtype, on_host, on_device)


def plan_memory(
    entry: CatalogEntry, device: str, dtype: torch.dtype, on_host: float, on_device: float | None
) -> bool:
    """`must_offload` for given free memory.

    Args:
        entry: catalogue entry, with the memory that the model needs in its own dtype.
        device: name of the device, for the error.
        dtype: dtype of the weights.
        on_host: free GiB of CPU memory.
        on_device: free GiB of GPU memory; None without a GPU.

    Raises:
        ModelError: there is too little memory.
    """
    wider = 2 if dtype == torch.float32 and entry.dtype != "float32" else 1
    need, least = wider * entry.memory, wider * entry.memory_offloaded
    free = on_host if on_device is None else on_device
    if free >= need:
        return False
    if on_device is not None and on_device >= least and on_host >= need:
        return True
    turns = ""
    if on_device is not None:
        turns = f" (or {least:.1f}, and {need:.1f} of the CPU's, where {on_host:.1f} are free)"
    raise ModelError(
        f"{entry.id} needs {need:.1f} GiB of memory on {device}{turns}; {free:.1f} are free. "
        "Close other programs, or choose a smaller model."
    )


def _replace_scheduler(own: Any, entry: CatalogEntry) -> Any:
    cls, settings = SCHEDULERS[entry.scheduler]
    if entry.prediction:
        settings = {**settings, "prediction_type": entry.prediction}
    return cls.from_config(own.config, **settings)
