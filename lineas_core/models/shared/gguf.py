"""Converts GGUF files, which packages of PyPI carry, once, into LINEAS_HOME."""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import Lock

import torch
import transformers

from lineas_core.errors import ModelError
from lineas_core.system.files import flush

# Stages of a conversion, in order.
STAGES = ("unpacking its weights", "copying them into a plain model", "writing it to disk")

_converting = Lock()


def convert_gguf(
    source: Path, target: Path, on_stage: Callable[[int], object] = lambda stage: None
) -> None:
    """Dequantise a GGUF language model into a plain float32 checkpoint folder, atomically.

    The folder is written under a temporary name and renamed once it is complete and on disk, so
    that `target` exists only when it can be loaded. Of several calls in one process, the first
    converts and the others wait for it; of two processes, one wins.

    Args:
        source: the GGUF file.
        target: the folder; if it exists, nothing is done.
        on_stage: called at the start of each stage with its index in `STAGES`.

    Raises:
        ModelError: there is too little disk space, or the file cannot be read.
    """
    with _converting:
        if not target.is_dir():
            _convert(source, target, on_stage)


def _convert(source: Path, target: Path, on_stage: Callable[[int], object]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    on_stage(0)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        quantised = transformers.AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32
        )
        on_stage(1)
        # A model loaded from GGUF cannot be saved, so copy its weights into a fresh one.
        config = quantised.config
        del config.quantization_config
        plain = type(quantised)(config)
        plain.load_state_dict(quantised.state_dict())
        plain.generation_config = quantised.generation_config
        on_stage(2)
        plain.save_pretrained(partial)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        tokenizer.save_pretrained(partial)
        for file in partial.rglob("*"):
            if file.is_file():
                flush(file)
        partial.chmod(0o755)
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    except (OSError, ValueError, RuntimeError, LookupError, struct.error) as error:
        raise ModelError(
            f"Cannot convert {source} into {target}: {error}. Free space there, or set "
            "LINEAS_HOME to a folder with room."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
