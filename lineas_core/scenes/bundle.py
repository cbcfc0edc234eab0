"""A bundle: one zip file with everything needed to reproduce a result.

    manifest.json        the scene, the model and its revision, checksums of all other files
    maps/*.safetensors   the maps
    prompts.json         the prompt set that the first map was learned from, if known
    grid.png, texts.json the result itself, if it was kept
    README.txt           a description for people

Equal bundles give equal bytes: entries are stored uncompressed, with a fixed date.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from lineas_core.errors import LineasError, MapError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.scenes.safe_zip import ZipError, ZipLimits, read_entries
from lineas_core.scenes.scene import Scene, UsedMap
from lineas_core.scenes.snippet import snippet
from lineas_core.system.files import parse_json, why, write_whole
from lineas_core.version import __version__

FORMAT_VERSION = 1
LIMITS = ZipLimits(entries=64, unpacked=256 * 2**20, ratio=200)
MAX_JSON_BYTES = 4 * 2**20
MAX_PIXELS = 40_000_000
# Type, width and height from the first chunk of a PNG file.
PNG_HEAD = struct.Struct(">12x4s2L")
NO_PNG = "it is no PNG picture"
EPOCH = (1980, 1, 1, 0, 0, 0)
MAP_NAME = re.compile(r"\w[\w .()+,'-]{0,99}\.safetensors")
README = """This bundle was made by LinEAS Studio {version}. It holds what makes a result again:
the prompts, strengths and seeds (manifest.json) and the maps (maps/).

    python -m lineas_core unbundle THIS_FILE.zip --to folder
    cd folder && python scene.py

or drop it on the Library tab of the Studio. Model: {model}
"""


class BundleError(LineasError, ValueError):
    """A bundle, or a file that should be one, cannot be used."""


@dataclass(frozen=True)
class Bundle:
    """The contents of a bundle.

    Args:
        scene: what to run; its map names are keys of `maps`.
        maps: file name -> map.
        revision: of the model's weights (`model_revision`); empty if unknown.
        prompts: the set that the first map was learned from.
        grid: the result as a PNG file.
        texts: the result as texts, `texts[row][column]`.
        library_version: the version that made the bundle.
        notes: which entries were skipped while reading; not written.

    Raises:
        BundleError: a map is missing or has a bad name, or a manifest cannot hold the scene.
    """

    scene: Scene
    maps: Mapping[str, SteeringMap]
    revision: str = ""
    prompts: PromptSet | None = None
    grid: bytes | None = None
    texts: tuple[tuple[str, ...], ...] | None = None
    library_version: str = __version__
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for name in self.maps:
            if not MAP_NAME.fullmatch(name):
                raise BundleError(
                    f"The map's file name {name!r} cannot go into a bundle. Use letters, digits "
                    "and . _ - ( ), 100 at most, ending in .safetensors."
                )
        for name in (used.name for used in self.scene.maps):
            if name not in self.maps:
                raise BundleError(f"The scene uses {name!r}, which is not among the maps. Add it.")
        if self.scene.down or any(used.inverse for used in self.scene.maps):
            raise BundleError(
                "A bundle cannot hold a grid of two maps, nor the inverse of a map. Keep the JSON "
                "file of the grid instead, or add the inverse as a map of its own."
            )


def write_bundle(path: str | os.PathLike[str], bundle: Bundle) -> Path:
    """Write a bundle atomically.

    Raises:
        BundleError: it is too large, or the file cannot be written.
    """
    data = bundle_bytes(bundle)
    try:
        return write_whole(path, data)
    except (OSError, ValueError) as error:
        raise BundleError(
            f"Cannot write the bundle to {Path(path).name:.200} ({why(error)}). Choose a folder "
            "that can be written."
        ) from error


def bundle_bytes(bundle: Bundle) -> bytes:
    """The bundle as a zip file; equal bundles give equal bytes.

    Raises:
        BundleError: it exceeds the limits that `read_bundle` enforces.
    """
    entries = {f"maps/{name}": _map_bytes(smap) for name, smap in sorted(bundle.maps.items())}
    if bundle.prompts is not None:
        entries["prompts.json"] = _json_bytes(asdict(bundle.prompts))
    if bundle.grid is not None:
        entries["grid.png"] = bundle.grid
    if bundle.texts is not None:
        entries["texts.json"] = _json_bytes(bundle.texts)
    text = README.format(version=bundle.library_version, model=bundle.scene.model)
    entries["README.txt"] = text.encode("utf-8", "replace")
    manifest = {
        "format": FORMAT_VERSION,
        "library": bundle.library_version,
        "revision": bundle.revision,
        "scene": _scene_json(bundle.scene),
        "maps": {name: smap.digest() for name, smap in sorted(bundle.maps.items())},
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in entries.items()},
    }
    entries = {"manifest.json": _json_bytes(manifest), **entries}
    size = sum(map(len, entries.values()))
    if len(entries) > LIMITS.entries or size > LIMITS.unpacked:
        raise BundleError(
            f"The bundle would hold {len(entries)} files of {size / 2**20:.0f} MiB in all; "
            f"{LIMITS.entries} files and {LIMITS.unpacked // 2**20} MiB are the most. "
            "Take some maps out."
        )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system, info.external_attr = 3, 0o100644 << 16
            archive.writestr(info, data)
    return file.getvalue()


def read_bundle(source: str | os.PathLike[str] | bytes) -> Bundle:
    """Read a bundle from a file or its bytes, and validate every entry.

    Returns:
        The bundle; its `notes` list the unknown entries that were skipped.

    Raises:
        BundleError: it is damaged, not a bundle, of a newer format or over the limits; the
            message names the entry.
    """
    data = source if isinstance(source, bytes) else _file_bytes(source)
    try:
        entries, notes = read_entries(data, LIMITS, _known)
    except ZipError as error:
        raise BundleError(f"{error} Choose a bundle exported from the Studio.") from error
    try:
        return _parse(entries, notes)
    except BundleError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BundleError(
            f"manifest.json is not that of a bundle ({error!r:.200}). Export the bundle again."
        ) from error


def unpack_bundle(bundle: Bundle, folder: Path) -> list[Path]:
    """Write a bundle's contents into a new folder, with a scene.py that reproduces the result.

    Raises:
        BundleError: the folder already contains maps, or cannot be written.
    """
    placed = tuple(replace(used, name=f"maps/{used.name}") for used in bundle.scene.maps)
    scene = replace(bundle.scene, maps=placed)
    try:
        (folder / "maps").mkdir(parents=True)
        for name, smap in bundle.maps.items():
            smap.save(folder / "maps" / name)
        if bundle.prompts is not None:
            bundle.prompts.save(folder / "prompts.json")
        if bundle.grid is not None:
            write_whole(folder / "grid.png", bundle.grid)
        if bundle.texts is not None:
            write_whole(folder / "texts.json", _json_bytes(bundle.texts))
        write_whole(folder / "scene.py", snippet(scene))
    except OSError as error:
        raise BundleError(
            f"Cannot unpack the bundle into {folder.name:.200} ({why(error)}). Give the "
            "name of a new folder."
        ) from error
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _file_bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            # One byte over the limit is enough for the caller to refuse the file.
            return file.read(LIMITS.unpacked + 1)
    except (OSError, ValueError) as error:
        raise BundleError(
            f"Cannot read {Path(path).name:.200} ({why(error)}). Check the path."
        ) from error


def _known(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    if folder == "maps":
        return MAP_NAME.fullmatch(file) is not None
    return name in ("manifest.json", "prompts.json", "grid.png", "texts.json", "README.txt")


def _parse(entries: Mapping[str, bytes], notes: list[str]) -> Bundle:
    if "manifest.json" not in entries:
        raise BundleError(
            "manifest.json is missing, so this zip is not a bundle. Choose one that was exported "
            "from the Studio or by `lineas bundle`."
        )
    manifest = _object("manifest.json", entries["manifest.json"])
    if manifest["format"] != FORMAT_VERSION:
        raise BundleError(
            f"manifest.json has bundle format {manifest['format']!r:.60}; this version reads "
            f"{FORMAT_VERSION}. Update lineas_core."
        )
    checksums, digests = manifest["files"], manifest["maps"]
    for name, data in entries.items():
        if name != "manifest.json" and hashlib.sha256(data).hexdigest() != checksums.get(name):
            raise _damaged(name, "its contents do not match the checksum in manifest.json")
    missing = sorted({*checksums, *(f"maps/{name}" for name in digests)} - set(entries))
    if missing:
        raise _damaged(str(missing[0]), "it is missing")
    maps = {}
    for entry in sorted(name for name in entries if name.startswith("maps/")):
        name = entry.removeprefix("maps/")
        maps[name] = _read_map(entry, entries[entry])
        if maps[name].digest() != digests.get(name):
            raise _damaged(entry, "it is not the map that manifest.json names")
    prompts = grid = texts = None
    if "prompts.json" in entries:
        prompts = _read_prompts(entries["prompts.json"])
    if "grid.png" in entries:
        grid = _checked_png(entries["grid.png"])
    if "texts.json" in entries:
        rows = _json("texts.json", entries["texts.json"])
        texts = tuple(tuple(_text(cell) for cell in row) for row in _rows(rows))
    return Bundle(
        scene=_read_scene(manifest["scene"]),
        maps=maps,
        revision=_text(manifest["revision"]),
        prompts=prompts,
        grid=grid,
        texts=texts,
        library_version=_text(manifest["library"]),
        notes=tuple(notes),
    )


def _scene_json(scene: Scene) -> dict[str, Any]:
    return {
        "model": scene.model,
        "modality": scene.modality,
        "prompts": scene.prompts,
        "maps": [(used.name, used.strength) for used in scene.maps],
        "seed": scene.seed,
        "strengths": scene.strengths,
        "max_new_tokens": scene.max_new_tokens,
        "temperature": scene.temperature,
    }


def _read_scene(raw: Mapping[str, Any]) -> Scene:
    seed = raw["seed"]
    return Scene(
        model=_text(raw["model"]),
        modality=raw["modality"],
        prompts=tuple(_text(prompt) for prompt in raw["prompts"]),
        maps=tuple(
            UsedMap(_text(name), None if strength is None else _number(strength))
            for name, strength in raw["maps"]
        ),
        seed=tuple(map(_whole, seed)) if isinstance(seed, list) else _whole(seed),
        strengths=tuple(map(_number, raw["strengths"])),
        max_new_tokens=_whole(raw["max_new_tokens"]),
        temperature=_number(raw["temperature"]),
    )


def _read_map(entry: str, data: bytes) -> SteeringMap:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.safetensors"
        path.write_bytes(data)
        try:
            return SteeringMap.load(path)
        except MapError as error:
            raise BundleError(str(error).replace(path.name, entry)) from error


def _read_prompts(data: bytes) -> PromptSet:
    # Check the size here: the prompt file reader allows larger files than a bundle entry may be.
    _object("prompts.json", data)
    try:
        return PromptSet.parse("prompts.json", data)
    except LineasError as error:
        raise BundleError(str(error)) from error


def _checked_png(data: bytes) -> bytes:
    # Check the size before decoding: a few bytes can declare a picture that exhausts memory.
    if len(data) < PNG_HEAD.size:
        raise _damaged("grid.png", NO_PNG)
    kind, width, height = PNG_HEAD.unpack_from(data)
    if kind != b"IHDR":
        raise _damaged("grid.png", NO_PNG)
    if width * height > MAX_PIXELS:
        raise BundleError(
            f"grid.png has {width} x {height} pixels; {MAX_PIXELS:,} are the most. "
            "Export a smaller grid."
        )
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            picture.verify()
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error) as error:
        raise _damaged("grid.png", NO_PNG) from error
    return data


def _map_bytes(smap: SteeringMap) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return smap.save(Path(folder) / "map.safetensors").read_bytes()


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _json(entry: str, data: bytes) -> Any:
    if len(data) > MAX_JSON_BYTES:
        raise BundleError(
            f"{entry} has {len(data) / 2**20:.1f} MiB; {MAX_JSON_BYTES // 2**20} are the most. "
            "Export the bundle again, with less in it."
        )
    try:
        return parse_json(data.decode("utf-8"))
    except ValueError as error:
        raise _damaged(entry, f"it is not readable JSON ({why(error)})") from error


def _object(entry: str, data: bytes) -> dict[str, Any]:
    value = _json(entry, data)
    if not isinstance(value, dict):
        raise _damaged(entry, f"it holds a {type(value).__name__} in place of an object")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} in place of a text")
    value.encode()  # A lone surrogate raises here; tokenizers cannot read it.
    return value


def _rows(value: Any) -> list[list[Any]]:
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise _damaged("texts.json", "it is no list of rows")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r:.60} in place of a number")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r:.60} in place of a whole number")
    return value


def _damaged(entry: str, what: str) -> BundleError:
    return BundleError(f"{entry}: {what}. The bundle is damaged; export or download it again.")
