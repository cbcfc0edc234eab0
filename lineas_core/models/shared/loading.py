"""Checks and error messages for loading models."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import torch
from huggingface_hub import HfApi
from safetensors import SafetensorError

from lineas_core.errors import LineasError, ModelError
from lineas_core.hub.errors import refusal
from lineas_core.models.shared.catalog import CatalogEntry
from lineas_core.system.devices import free_bytes
from lineas_core.system.words import counted

GIB = 2**30
# A checkpoint may contain its weights in both formats; the first one is read.
WEIGHTS = (".safetensors", ".bin")
MAX_NAMED = 5


def check_memory(
    id: str,
    source: str,
    device: torch.device,
    dtype: torch.dtype | str,
    entry: CatalogEntry | None = None,
    stored: torch.dtype | None = None,
    saved: float = 0.0,
) -> None:
    """Refuse a language model that does not fit into the memory that is free now.

    Args:
        id: the model's name in the error.
        source: a folder or a hub repository; without an entry, the size of its weights counts.
        device: where the model will run.
        dtype: dtype of the weights; "auto" is the checkpoint's own.
        entry: the catalogue entry, which says how much memory is needed.
        stored: dtype of the checkpoint, if its config names it.
        saved: bytes fewer that its weights take, as some are in fewer bits.

    Raises:
        ModelError: there is too little memory; the message says how much is needed.
    """
    if entry is None:
        halves = stored in (torch.float16, torch.bfloat16)
        need = weight_bytes(source) / GIB * (2 if dtype == torch.float32 and halves else 1)
    else:
        wider = 2 if dtype == torch.float32 and entry.dtype != "float32" else 1
        need = wider * entry.memory
    need -= saved / GIB
    free = free_bytes(device) / GIB
    if need > free:
        raise ModelError(
            f"{id} needs {need:.1f} GiB of memory on {device}; {free:.1f} are free. Close other "
            "programs, or choose a smaller model."
        )


def weight_bytes(source: str) -> int:
    """Size of a checkpoint's weight files in bytes; 0 if unknown."""
    if Path(source).is_dir():
        sizes = {file.name: file.stat().st_size for file in Path(source).iterdir()}
    else:
        try:
            files = HfApi().model_info(source, files_metadata=True).siblings or []
        except (OSError, ValueError, httpx.HTTPError):
            # Offline, or no such repository: loading will report which.
            return 0
        sizes = {file.rfilename: file.size or 0 for file in files if "/" not in file.rfilename}
    totals = [sum(n for name, n in sizes.items() if name.endswith(end)) for end in WEIGHTS]
    return next(filter(None, totals), 0)


def check_complete(id: str, missing: Iterable[str]) -> None:
    """Refuse a checkpoint without some of the model's tensors, which would be drawn at random.

    Args:
        id: the model's name in the error.
        missing: names of the tensors that the checkpoint lacks.

    Raises:
        ModelError: there are some.
    """
    names = sorted(missing)
    if names:
        listed = ", ".join(names[:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")
        raise ModelError(
            f"The checkpoint of {id} lacks {counted(len(names), 'tensor')} of the model: {listed}. "
            "Download or convert it again; a checkpoint without its head was saved from another "
            "class than the one that generates."
        )


@contextmanager
def loading(id: str, device: torch.device, remedy: str = "") -> Iterator[None]:
    """Turn exceptions of transformers, diffusers and torch while loading into a ModelError.

    Args:
        id: the model's name in the error.
        device: where the model will run.
        remedy: another way to get the model, appended to the message.

    Raises:
        ModelError: the model cannot be found or read, or does not fit; the message says what to do.
    """
    try:
        yield
    except LineasError:
        raise
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{id} does not fit into the memory of {device}. Choose a smaller model, "
            "dtype='bfloat16' or device='cpu'."
        ) from error
    except (
        OSError,
        ValueError,
        LookupError,
        RuntimeError,
        ImportError,
        httpx.HTTPError,
        SafetensorError,
        pickle.UnpicklingError,
    ) as error:
        if refused := refusal(error, id):
            otherwise = f" Or {remedy}." if remedy else ""
            raise ModelError(f"Cannot load {id}: {refused}{otherwise}") from error
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{id} brings Python code of its own, which is never run here. Choose a model of "
                "an architecture that transformers has."
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"Cannot load {id} ({reason}). Check the name and the files, and that this machine "
            "reaches the Hugging Face Hub (a gated model also needs `hf auth login`)"
            f"{f', or {remedy}' if remedy else ''}."
        ) from error
