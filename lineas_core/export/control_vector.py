"""llama.cpp's control vectors: GGUF files with one tensor `direction.N` per layer.

llama.cpp adds `scale * direction.N` to the output of layer N, counted from 0, at every token. Its
loader puts `direction.N` at offset (N - 1) d of a buffer (`common/common.cpp`,
`common_control_vector_load_one`), and layer il reads offset (il - 1) d (`src/llama-adapter.cpp`,
`llama_adapter_cvec::apply`), so N is il: `direction.N` is the shift of `model.layers.N`. Layer 0
has no direction: the loader refuses a file with one.

repeng writes the same files (`ControlVector.export_gguf`) with the same numbers.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lineas_core.errors import MapError
from lineas_core.export.layer_vectors import LayerVectors
from lineas_core.maps.file_format import MAX_BYTES
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.system.files import replacing, why

ARCHITECTURE = "controlvector"
HINT = f"{ARCHITECTURE}.model_hint"
# Longer than any list of tags.
MAX_ARRAY = 10_000
UNREADABLE = (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError)
DIRECTION = re.compile(r"direction\.(\d{1,4})")

WHAT = "written as a control vector of llama.cpp"
REMEDY = (
    "Learn a map of `model.layers.N` that only shifts (mean-act and caa do), or `lineas_core.fold` "
    "this one: llama.cpp's convert_hf_to_gguf.py converts the checkpoint."
)


def to_gguf(smap: SteeringMap, *, to: str | os.PathLike[str]) -> Path:
    """Write a map as a control vector for `llama-cli --control-vector-scaled FILE:STRENGTH`.

    Steering with it equals steering with the map at that strength, but for the precision of the
    GGUF model's own weights. Sites that the map leaves unchanged are left out.

    Args:
        smap: its sites must be outputs of layers, such as `model.layers.7`, that it only shifts.
        to: the file, conventionally with the suffix .gguf; replaced if it exists.

    Returns:
        The file.

    Raises:
        SiteError: the map scales, shifts the first layer, or has other sites; the message names
            them and what helps.
        MapError: the map changes nothing, or the file cannot be written.
    """
    # Importing gguf takes a quarter of a second, which only this format needs.
    import gguf

    layers = LayerVectors.of_map(smap, WHAT, REMEDY, kinds=("decoder_block",), first=1)
    try:
        with replacing(to) as partial:
            writer = gguf.GGUFWriter(partial, ARCHITECTURE)
            # Neither key is read by llama.cpp; repeng refuses files without the first.
            writer.add_string(HINT, _model_name(smap.info.model))
            writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(layers.vectors))
            if smap.info.name:
                writer.add_name(smap.info.name)
            for layer, vector in layers.vectors.items():
                writer.add_tensor(f"direction.{layer}", vector.numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
    except OSError as error:
        raise MapError(
            f"Cannot write {Path(to).name} ({why(error)}). Choose a folder that can be written."
        ) from error
    return Path(to)


def read_gguf(path: Path) -> tuple[LayerVectors, str, str]:
    """Read a control vector of llama.cpp or repeng.

    Returns:
        Its vectors, the model it names, and its own name; "" where it gives none.

    Raises:
        MapError: the file is missing, too large, damaged, or no control vector.
    """
    name = path.name[:200]
    try:
        if path.stat().st_size > MAX_BYTES:
            raise MapError(f"{name} has more than {MAX_BYTES:,} bytes; a control vector has fewer.")
        reader = _reader(path)
        vectors: dict[int, Tensor] = {}
        for tensor in reader.tensors:
            layer = DIRECTION.fullmatch(tensor.name)
            if layer is None or int(layer[1]) in vectors:
                raise MapError(
                    f"{name} holds a tensor {tensor.name!r:.60}; a control vector holds one "
                    "direction.N per layer N. It is another kind of GGUF file, such as a model."
                )
            if tensor.data.dtype not in (np.float32, np.float16) or tensor.data.ndim != 1:
                raise MapError(
                    f"{name}: {tensor.name} is {tensor.tensor_type.name} with "
                    f"{tensor.data.ndim} dimensions; it must be one vector of F32 or F16."
                )
            # A copy, since the reader maps the file into memory.
            vectors[int(layer[1])] = torch.tensor(tensor.data.astype(np.float32))
        return LayerVectors(vectors), _text(reader, HINT), _text(reader, "general.name")
    except FileNotFoundError as error:
        raise MapError(f"There is no file {name!r}. Check the path.") from error
    except MapError:
        raise
    except UNREADABLE as error:
        raise MapError(
            f"{name} is not a readable GGUF file ({why(error)}). It is damaged or of another kind."
        ) from error


def _reader(path: Path) -> Any:
    """gguf's reader, with a limit on arrays.

    The reader itself goes on beyond the end of the file: one that claims an array of 2^40 numbers
    keeps it busy until memory is full.
    """
    import gguf

    class Reader(gguf.GGUFReader):
        def _get_field_parts(self, orig_offs: Any, raw_type: Any) -> Any:
            if raw_type == gguf.GGUFValueType.ARRAY:
                # After the type of its values.
                length = int(self._get(orig_offs + 4, np.uint64)[0])
                if length > MAX_ARRAY:
                    raise ValueError(f"it has a list of {length:,} values beside its vectors")
            return super()._get_field_parts(orig_offs, raw_type)

    return Reader(path)


def _model_name(model: str) -> str:
    """The model's name without local paths, which must not be published."""
    return Path(model).name if Path(model).is_dir() else model


def _text(reader: Any, key: str) -> str:
    field = reader.get_field(key)
    value = None if field is None else field.contents()
    return value[:200] if isinstance(value, str) else ""
