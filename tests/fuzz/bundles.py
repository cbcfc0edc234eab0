"""Malformed bundles, and the properties that must hold when they are read."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import tempfile
import warnings
import zipfile
from pathlib import Path

from PIL import Image

import lineas_core as lc
from lineas_core.scenes.bundle import Bundle, bundle_bytes, read_bundle, unpack_bundle
from lineas_core.scenes.scene import Scene, UsedMap
from tests.fuzz import maps
from tests.fuzz.guard import promised
from tests.fuzz.mutations import Chooser, changed_bytes, changed_json, json_bytes, pick

NAMES = (
    "../x", "/etc/x", "C:/x", "maps\\x", "maps/../x.safetensors", "a\0b", "MANIFEST.JSON",
    "maps/", "maps/a.safetensors/", "more.txt", "x" * 2000, "maps/é.safetensors",
    "maps/e\u0301.safetensors", "",
)  # fmt: skip


def _valid() -> bytes:
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 90, 200)).save(picture, "PNG")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / maps.NAME
        path.write_bytes(maps.VALID)
        smap = lc.SteeringMap.load(path)
    scene = Scene(
        "tiny",
        "text",
        ("ab", 'ß "✓"\n'),
        (UsedMap(maps.NAME, None), UsedMap("b (1).safetensors", -0.5)),
        seed=(1, 2**62),
        strengths=(0.0, 0.5),
        max_new_tokens=7,
    )
    prompts = lc.PromptSet("n", ["a", "b", "c", "d"], ["w", "x", "y", "z"])
    return bundle_bytes(
        Bundle(
            scene,
            {maps.NAME: smap, "b (1).safetensors": smap},
            prompts=prompts,
            grid=picture.getvalue(),
            texts=(("one", "two"), ("", "\u2028")),
        )
    )


VALID = _valid()
with zipfile.ZipFile(io.BytesIO(VALID)) as _archive:
    FILES = {name: _archive.read(name) for name in _archive.namelist()}


def build(choose: Chooser) -> bytes:
    """The bytes of a generated file."""
    kind = choose.number(0, 4)
    if kind == 0:
        return changed_bytes(choose, VALID, (VALID, maps.VALID))
    files = dict(FILES)
    manifest = json.loads(files["manifest.json"])
    if kind == 1:
        manifest = changed_json(choose, manifest)
    elif kind == 2:
        # A corrupt entry with correct checksums.
        name = pick(choose, sorted(set(files) - {"manifest.json"}))
        files[name] = _entry(choose, name)
        manifest["files"][name] = hashlib.sha256(files[name]).hexdigest()
    elif kind == 3:
        del files[pick(choose, sorted(files))]
    files["manifest.json"] = json_bytes(manifest)
    data = _zipped(choose, files, odd=kind == 4)
    return data if choose.number(0, 2) else changed_bytes(choose, data, (VALID,))


def check(data: bytes) -> bool:
    """Read it and check the result; returns whether it was a valid bundle."""
    bundle = promised(lambda: read_bundle(data))
    if bundle is None:
        return False
    again = promised(lambda: read_bundle(bundle_bytes(bundle)))
    assert again is not None
    assert again.scene == bundle.scene
    assert {n: m.digest() for n, m in again.maps.items()} == {
        n: m.digest() for n, m in bundle.maps.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder).resolve() / "out"
        files = unpack_bundle(bundle, inside)
        assert all(path.resolve().is_relative_to(inside) for path in files)
        assert sorted(path.name for path in Path(folder).iterdir()) == ["out"]
        compile((inside / "scene.py").read_text("utf-8"), "scene.py", "exec")
    return True


def _entry(choose: Chooser, name: str) -> bytes:
    if name.endswith(".safetensors"):
        return maps.build(choose)
    if name.endswith(".json") and choose.number(0, 1):
        return json_bytes(changed_json(choose, json.loads(FILES[name])))
    return changed_bytes(choose, FILES[name], tuple(FILES.values()))


def _zipped(choose: Chooser, files: dict[str, bytes], odd: bool) -> bytes:
    """A zip file of the files; if `odd`, with features that no bundle has."""
    file = io.BytesIO()
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if odd:
        kinds += (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    # zipfile warns about duplicate names, which are intended here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(file, "w", pick(choose, kinds)) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
            for _ in range(choose.number(1, 2) if odd else 0):
                info = zipfile.ZipInfo(pick(choose, (*NAMES, *files)) or "empty")
                modes = (stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFDIR, stat.S_IFCHR)
                info.create_system = 3
                info.external_attr = (pick(choose, modes) | 0o777) << 16
                info.compress_type = pick(choose, kinds)
                # A huge compression ratio, if it is compressed.
                archive.writestr(info, bytes(choose.number(0, 200_000)))
    data = bytearray(file.getvalue())
    if odd and choose.number(0, 1):
        # Mark the first entry as encrypted, patched, of unknown compression, or break its checksum.
        at = data.find(b"PK\1\2") + pick(choose, (6, 8, 10, 16, 20, 24, 42))
        data[at] ^= 1 << choose.number(0, 7)
    return bytes(data)
