"""Malformed map files, and the properties that must hold when they are read."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

import lineas_core as lc
from lineas_core.maps.bounds import Bounds
from lineas_core.maps.file_format import digest_of
from tests.fuzz.guard import promised
from tests.fuzz.mutations import Chooser, changed_bytes, changed_json, json_bytes, pick

SITES = {"layers.0.norm": 4, "n": 3}
NAME = "a.safetensors"


def _valid(bounds: dict[str, Bounds]) -> tuple[dict[str, Any], dict[str, torch.Tensor], bytes]:
    generator = torch.Generator().manual_seed(0)
    smap = lc.SteeringMap(
        {
            site: lc.Affine(torch.randn(d, generator=generator), torch.ones(d))
            for site, d in SITES.items()
        },
        lc.MapInfo("m", "lineas", "n", "c", "h", {"steps": 3, "sites": ""}, "0.1", "2026-01-01"),
        bounds,
    )
    with tempfile.TemporaryDirectory() as folder:
        data = smap.save(Path(folder) / NAME).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["lineas"])
    del header["digest"]
    return header, load(data), data


# A map of each format.
FORMS = [_valid({}), _valid({"n": Bounds(-torch.ones(3), torch.ones(3))})]
VALID = FORMS[0][2]
# A safetensors file that is not a map.
OTHER = save({"x": torch.ones(2)}, {"format": "pt"})


def build(choose: Chooser) -> bytes:
    """The bytes of a generated file."""
    valid_header, valid_tensors, valid = pick(choose, FORMS)
    kind = choose.number(0, 3)
    if kind == 0:
        return changed_bytes(choose, valid, (valid, OTHER))
    if kind == 1:
        # Change the header that safetensors itself reads: offsets, shapes, dtypes.
        length = int.from_bytes(valid[:8], "little")
        text = json_bytes(changed_json(choose, json.loads(valid[8 : 8 + length])))
        size = len(text) if choose.number(0, 3) else choose.number(0, 2**64 - 1)
        return size.to_bytes(8, "little") + text + valid[8 + length :]
    # An invalid header or invalid tensors, with a correct checksum.
    header = changed_json(choose, valid_header) if choose.number(0, 3) else dict(valid_header)
    tensors = dict(valid_tensors)
    if kind == 3:
        for _ in range(choose.number(1, 2)):
            _change_tensor(choose, tensors)
    if isinstance(header, dict):
        # numpy has no bfloat16; this dtype is refused before its values are read.
        readable = {k: v.float() if v.dtype == torch.bfloat16 else v for k, v in tensors.items()}
        header["digest"] = digest_of(header, readable)
    try:
        return save(tensors, {"lineas": json.dumps(header)})
    except (SafetensorError, ValueError):
        return valid


def check(data: bytes) -> bool:
    """Read it and check the result; returns whether it was a valid map."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / NAME
        path.write_bytes(data)
        smap = promised(lambda: lc.SteeringMap.load(path))
        if smap is None:
            return False
        # The tensors equal those that safetensors' own reader returns, and all are valid.
        found = load(data)
        parts = {f"{s}.{p}" for s in smap.sites for p in ("scale", "shift")}
        assert parts | {f"{s}.{p}" for s in smap.bounds for p in ("lower", "upper")} == set(found)
        assert all(bool((b.lower <= b.upper).all()) for b in smap.bounds.values())
        for site, pair in (*smap.sites.items(), *smap.bounds.items()):
            for part, values in pair._asdict().items():
                assert values.dtype == torch.float32
                assert bool(torch.isfinite(values).all())
                assert torch.equal(values, found[f"{site}.{part}"])
        again = promised(lambda: lc.SteeringMap.load(smap.save(Path(folder) / "b.safetensors")))
        assert again is not None
        assert (again.digest(), again.info) == (smap.digest(), smap.info)
        for text in (smap.info.name, smap.info.model, smap.info.concept):
            text.encode()
    return True


def _change_tensor(choose: Chooser, tensors: dict[str, torch.Tensor]) -> None:
    key = pick(choose, sorted(tensors) or ["n.scale"])
    values = tensors.pop(key, torch.ones(3)).reshape(-1)
    kind = choose.number(0, 7)
    if kind == 0:
        types = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.int8)
        tensors[key] = values.to(pick(choose, types))
    elif kind == 1:
        tensors[key] = values[:, None]
    elif kind == 2:
        tensors[key] = values[: choose.number(0, len(values))].clone()
    elif kind == 3:
        values = values.clone()
        if values.numel() and values.is_floating_point():
            values[0] = pick(choose, (torch.nan, torch.inf, -torch.inf, 3.4e38))
        tensors[key] = values
    elif kind == 4:
        names = ("", ".", "n.scale", "n", "n.scale.scale", "../x.scale", "é.shift", "x" * 999)
        tensors[pick(choose, names)] = values
    elif kind == 5:
        tensors |= {key: values, "more": torch.zeros(choose.number(0, 3))}
    elif kind == 6:
        tensors[key] = torch.tensor(1.0)
