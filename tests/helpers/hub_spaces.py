"""The part of the small Hub that is about Spaces' machines, their volumes, and storage buckets."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass
class Bucket:
    """A storage bucket, whose files are those of a folder, as a Space sees it that mounts it.

    Attributes:
        private: whether only its owner sees it.
        folder: of the files.
        hashes: those that Xet, which transfers files of buckets, gave to uploaded ones.
        xet: the folder in which the client's own stand-in for Xet's server has their contents.
    """

    private: bool
    folder: Path | None = None
    hashes: dict[str, str] = field(default_factory=dict)
    xet: Path | None = None

    def files(self) -> dict[str, Path]:
        assert self.folder is not None
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in found}


class Answering(Protocol):
    """What the routes need of the handler that they are of."""

    command: str
    server: Any

    def answer(
        self, status: int, value: Any = None, headers: dict[str, str] | None = None
    ) -> None: ...
    def refuse(self, status: int, code: str) -> None: ...


def answer_for_spaces(handler: Answering, parts: list[str], body: bytes, token: str) -> bool:
    """Answer a request that is about these; returns whether it was."""
    hub, name = handler.server, "/".join(parts[2:4])
    if token in hub.made_by and _is_refused(hub.made_by[token], hub, parts, body):
        handler.refuse(403, "")
        return True
    match (handler.command, *parts[:2], *parts[4:5]):
        case (_, "api", "buckets", *_):
            if token not in hub.may_write:
                handler.refuse(403 if token else 401, "")
            else:
                _answer_for_bucket(handler, name, parts[4:], body)
        case ("HEAD", "buckets", *_):
            route = f"{hub.address}/api/buckets/{parts[1]}/{parts[2]}/xet-read-token"
            digest = hub.buckets["/".join(parts[1:3])].hashes["/".join(parts[4:])]
            handler.answer(200, None, {"X-Xet-Hash": digest, "X-Xet-Refresh-Route": route})
        case ("GET", "api", "spaces", "runtime"):
            handler.answer(200, _runtime(hub, name))
        case ("PUT", "api", "spaces", "volumes"):
            hub.volumes[name] = json.loads(body)["volumes"]
            handler.answer(200, {})
        case ("POST", "api", "spaces", "hardware"):
            hub.repositories[name].hardware = json.loads(body)["flavor"]
            handler.answer(200, _runtime(hub, name))
        case ("POST", "api", "spaces", "pause" | "restart"):
            hub.stages[name] = "PAUSED" if parts[4] == "pause" else "RUNNING"
            handler.answer(200, _runtime(hub, name))
        case _:
            return False
    return True


def _is_refused(made: set[str], hub: Any, parts: list[str], body: bytes) -> bool:
    """Whether a login with the scope contribute-repos may not do that.

    It may create repositories and access those that it created, and no other ones:
    https://huggingface.co/docs/hub/spaces-oauth#scopes.
    """
    if parts == ["api", "repos", "create"]:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name not in hub.repositories:
            made.add(name)
        return name not in made
    return parts[:2] == ["api", "models"] and "/".join(parts[2:4]) not in made


def _runtime(hub: Any, name: str) -> dict[str, Any]:
    return {
        "stage": hub.stages.get(name, "RUNNING"),
        "hardware": {"current": hub.repositories[name].hardware},
        "volumes": hub.volumes.get(name),
    }


def _answer_for_bucket(handler: Answering, name: str, rest: list[str], body: bytes) -> None:
    buckets: dict[str, Bucket] = handler.server.buckets
    if not rest and handler.command == "POST":
        if name in buckets:
            return handler.answer(409, {"url": f"{handler.server.address}/buckets/{name}"})
        buckets[name] = Bucket(json.loads(body).get("private", False))
        return handler.answer(200, {"url": f"{handler.server.address}/buckets/{name}"})
    if name not in buckets:
        return handler.refuse(404, "BucketNotFound")
    if not rest:
        told = {"createdAt": "2026-03-04T05:06:07.000Z", "size": 0, "totalFiles": 0}
        return handler.answer(200, {"id": name, "private": buckets[name].private, **told})
    bucket = buckets[name]
    if rest[0].startswith("xet-"):
        told = {"casUrl": f"local://{bucket.xet}", "accessToken": "x", "exp": 4102444800}
        return handler.answer(200, told)
    files = bucket.files()
    if rest[0] == "tree":
        prefix = "/".join(rest[1:])
        rows = [
            {"type": "file", "path": file, "size": path.stat().st_size,
             "xetHash": bucket.hashes.get(file, "0" * 64), "mtime": "2026-03-04T05:06:07.000Z"}
            for file, path in sorted(files.items())
            if file.startswith(prefix)
        ]  # fmt: skip
        return handler.answer(200, rows)
    assert rest == ["batch"]
    for line in map(json.loads, body.splitlines()):
        if line["type"] == "addFile":
            bucket.hashes[line["path"]] = line["xetHash"]
        else:
            files[line["path"]].unlink()
    return handler.answer(200, {"failed": []})
