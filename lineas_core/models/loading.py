"""What can go wrong while a model loads, said so that it can be mended."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from lineas_core.errors import ModelError


@contextmanager
def loading(id: str, device: torch.device, remedy: str = "") -> Iterator[None]:
    """Turn what transformers, diffusers and torch raise while loading into a ModelError.

    Args:
        id: the model's name in the error.
        device: where it is to run.
        remedy: one more way to get it, added to the others.

    Raises:
        ModelError: the model cannot be found or read, or does not fit; the message says what helps.
    """
    try:
        yield
    except ModelError:
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
        SafetensorError,
        pickle.UnpicklingError,
    ) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"Cannot load {id} ({reason}). Check the name and the files, and that this machine "
            "reaches the Hugging Face Hub (a gated model also needs `hf auth login`)"
            f"{f', or {remedy}' if remedy else ''}."
        ) from error
