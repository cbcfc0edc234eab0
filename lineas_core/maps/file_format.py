"""The map file format: safetensors with a JSON header, validated on reading.

Each site has two float32 vectors, `<site>.scale` and `<site>.shift`; those that the header lists as
bounded have `<site>.lower` and `<site>.upper` beside them. One metadata key holds a JSON object
with the format version, the sites in order with their widths, the map's provenance, and a checksum
over all of these. A second, optional key holds a JSON object with what a library stores about the
map (title, tags, prompts). It is not covered by the checksum, and readers that do not know the key
ignore it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lineas_core.errors import MapError
from lineas_core.system.files import parse_json, why, write_whole

FORMAT_VERSION = 2
# Written for maps without bounds, so that older versions can still read the file.
WITHOUT_BOUNDS = 1
METADATA_KEY = "lineas"
EXTRAS_KEY = "lineas_library"
PARTS = ("scale", "shift")
BOUNDS = ("lower", "upper")
TEXTS = ("model", "method", "name", "concept", "prompt_hash", "library_version", "created")

# A map of all linear layers and norms takes 64 MB for a 70B language model, 192 MB for a 405B one.
MAX_BYTES = 512 * 2**20
# A 126-layer language model has about 1,500 modules, an image model 3,000, a mixture of experts
# more.
MAX_SITES = 16_384
# The widest outputs are logits; the largest vocabulary so far has 262,144 tokens.
MAX_WIDTH = 2**20
# 500 bytes for each of MAX_SITES sites: the name three times, two shapes and four offsets.
MAX_HEADER = 8 * 2**20
MAX_NAME = 256
MAX_PAIRS = 256
# Longer than any path or concept. Limited because these texts are shown on pages.
MAX_TEXT = 10_000

DAMAGED = "The file is damaged; train or download the map again."
# A safetensors file starts with the length of its header, in this many bytes.
PREFIX = 8


def digest_of(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 checksum of the tensors and the header, which must not contain "digest"."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for key in sorted(tensors):
        digest.update(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)}".encode())
        digest.update(tensors[key].numpy().tobytes())
    return digest.hexdigest()


def write_map_file(
    path: str | os.PathLike[str],
    header: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    extras: Mapping[str, Any] | None = None,
) -> None:
    """Write a map file atomically.

    Args:
        path: of the file; its folder is created if needed.
        header: the header, including its digest.
        tensors: by their names in the file.
        extras: JSON-serialisable data about the map, outside the checksum; not written if empty.

    Raises:
        MapError: the reader would reject the file, or it cannot be written.
    """
    name = Path(path).name[:200]
    try:
        _check_header(header)
        metadata = {METADATA_KEY: json.dumps(header)}
        if extras:
            metadata[EXTRAS_KEY] = json.dumps(extras)
        data = save(dict(tensors), metadata=metadata)
        _check_size(data[:PREFIX], len(data))
        write_whole(path, data)
    except _FlawError as error:
        raise MapError(f"{name}: the map cannot be kept as a file: {error}.") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise MapError(
            f"Cannot write the map to {name} ({why(error)}). Choose a folder that can be written."
        ) from error


def read_map_file(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read and validate a map file: its header, as passed to `write_map_file`, and its tensors.

    Messages name the file without its folder, so that a public host does not reveal its paths.

    Raises:
        MapError: the file is missing, damaged, too large, of another kind or of a newer format.
    """
    name = Path(path).name[:200]
    try:
        with open(path, "rb") as start:
            _check_size(start.read(PREFIX), os.fstat(start.fileno()).st_size)
        with safe_open(path, framework="pt") as file:
            header = _header(name, (file.metadata() or {}).get(METADATA_KEY))
            # Check dtypes and shapes from the file's header before reading any tensor.
            found = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            _check_tensors(
                dict(header["sites"]),
                set(header.get("bounded", ())),
                {key: (part.get_dtype(), tuple(part.get_shape())) for key, part in found.items()},
            )
            # Copies, for a tensor is a view of the mapped file, which Windows then neither replaces
            # nor deletes.
            tensors = {key: file.get_tensor(key).clone() for key in found}
    except FileNotFoundError as error:
        raise MapError(f"There is no map file {name!r}. Check the path.") from error
    except MapError:
        raise
    except _FlawError as error:
        raise MapError(f"{name}: {error}. {DAMAGED}") from error
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise MapError(
            f"{name} is not a readable safetensors file ({why(error)}). "
            "It is damaged or of another kind; train or download the map again."
        ) from error
    if header["digest"] != digest_of({k: v for k, v in header.items() if k != "digest"}, tensors):
        raise MapError(f"{name}: the contents do not match their checksum. {DAMAGED}")
    for key, values in tensors.items():
        if not bool(torch.isfinite(values).all()):
            raise MapError(f"{name}: {key} holds values that are not finite. {DAMAGED}")
    return header, tensors


def read_extras(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the extra data stored in a map file; an empty dict if there is none.

    The values are untrusted: validate each of them before use.

    Raises:
        MapError: the file cannot be read, or the extra data is not a JSON object.
    """
    name = Path(path).name[:200]
    try:
        with open(path, "rb") as start:
            _check_size(start.read(PREFIX), os.fstat(start.fileno()).st_size)
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(EXTRAS_KEY)
        found = {} if text is None else parse_json(text)
        if not isinstance(found, dict):
            raise _FlawError(f"it is a {type(found).__name__} in place of an object")
    except (OSError, SafetensorError, ValueError) as error:
        raise MapError(
            f"{name}: what it says beside the map cannot be read ({why(error)}). Export the map "
            "again to have its title, tags and prompts."
        ) from error
    return found


class _FlawError(ValueError):
    """The file is invalid; the message says how."""


def _check_size(first: bytes, size: int) -> None:
    """Reject oversized files by their prefix and size, before a long header is read into memory."""
    length = int.from_bytes(first, "little")
    if MAX_HEADER < length <= size:
        raise _FlawError(f"its header has {length:,} bytes; {MAX_HEADER:,} are the most")
    if size > MAX_BYTES:
        raise _FlawError(f"it has {size:,} bytes; {MAX_BYTES:,} are the most")


def _header(name: str, text: str | None) -> dict[str, Any]:
    if text is None:
        raise MapError(f"{name} is a safetensors file, but not a steering map.")
    try:
        header = parse_json(text)
        if not isinstance(header, dict):
            raise _FlawError(f"it is a {type(header).__name__} in place of an object")
        # Check the version first: a newer format may hold other fields.
        if (version := header["format"]) not in (WITHOUT_BOUNDS, FORMAT_VERSION):
            raise MapError(
                f"{name} has map format {version!r:.60}; this version reads {WITHOUT_BOUNDS} and "
                f"{FORMAT_VERSION}. Update lineas_core."
            )
        _check_header(header)
    except MapError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise MapError(
            f"{name}: the map's header cannot be read ({error!r:.200}). {DAMAGED}"
        ) from error
    return header


def _check_header(header: Mapping[str, Any]) -> None:
    """Reject an invalid header with `_FlawError`, or KeyError where a field is missing."""
    for key in (*TEXTS, "digest", "fingerprint"):
        if not isinstance(header[key], str) or len(header[key]) > MAX_TEXT:
            raise _FlawError(f"{key} is {header[key]!r:.60}; it must be a text, not too long")
    for pair in _calibration(header):
        if not isinstance(pair, list) or len(pair) != 2 or any(type(x) is not float for x in pair):
            raise _FlawError(f"its calibration holds {pair!r:.60}; it must be pairs of numbers")
    for before, after in pairwise(pairs := _calibration(header)):
        if not all(a < b for a, b in zip(before, after, strict=True)):
            raise _FlawError(f"its calibration does not rise from {before} to {after}")
    if pairs and [pairs[0], pairs[-1]] != [[0.0, 0.0], [1.0, 1.0]]:
        raise _FlawError("its calibration does not go from 0 to 1")
    if not isinstance(header["config"], dict):
        raise _FlawError("config is no object")
    # JSON can encode a lone surrogate, but neither UTF-8 files nor the database accept one.
    try:
        json.dumps(header, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _FlawError("it holds half a character (a lone surrogate)") from error
    sites = header["sites"]
    if not isinstance(sites, list) or not 1 <= len(sites) <= MAX_SITES:
        raise _FlawError(f"there must be 1 to {MAX_SITES:,} sites")
    for site, width in sites:
        if not isinstance(site, str) or not site.isprintable() or len(site) > MAX_NAME:
            raise _FlawError(f"{site!r:.60} is no site's name")
        if type(width) is not int or not 1 <= width <= MAX_WIDTH:
            raise _FlawError(f"the width of {site} is {width!r:.60}; it must be 1 to {MAX_WIDTH:,}")
    if len(dict(sites)) != len(sites):
        raise _FlawError("a site is there twice")
    # Older readers know nothing of bounds, and must not take such a map for one without.
    bounded = header.get("bounded", [])
    if not isinstance(bounded, list) or not dict(sites).keys() >= set(bounded):
        raise _FlawError("bounded is no list of its sites")
    if len(set(bounded)) != len(bounded) or bool(bounded) != (header["format"] == FORMAT_VERSION):
        raise _FlawError(f"{len(bounded)} sites have bounds in a map of format {header['format']}")


def _calibration(header: Mapping[str, Any]) -> list[Any]:
    """The header's (strength, share) pairs; empty if the map was not calibrated."""
    pairs = header.get("calibration", [])
    if not isinstance(pairs, list) or len(pairs) > MAX_PAIRS:
        raise _FlawError(f"its calibration is no list of at most {MAX_PAIRS} pairs")
    return pairs


def _check_tensors(
    widths: Mapping[str, int],
    bounded: Collection[str],
    found: Mapping[str, tuple[str, tuple[int, ...]]],
) -> None:
    wanted = {
        f"{site}.{part}": (width,)
        for site, width in widths.items()
        for part in (*PARTS, *(BOUNDS if site in bounded else ()))
    }
    if differing := sorted(wanted.keys() ^ found.keys()):
        raise _FlawError(f"the tensor {differing[0]!r:.200} is missing, or not in the header")
    for key, shape in wanted.items():
        if found[key] != ("F32", shape):
            raise _FlawError(
                f"{key} is {found[key][0]} of shape {found[key][1]!r:.60}; it must be F32 of "
                f"shape {shape}"
            )
