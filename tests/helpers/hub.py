"""A small fake Hub on the loopback interface, for the real client."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.helpers.hub_spaces import Bucket, answer_for_spaces

# A warning that the client triggers with its own call of httpx.
CLIENT_WARNING = "ignore:Use 'content=:DeprecationWarning"
TOKEN = "hf_writer"


@dataclass
class Repository:
    kind: str
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    hardware: str = "cpu-basic"

    @property
    def head(self) -> str:
        return list(self.commits)[-1] if self.commits else ""

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits.get(self.head, {})

    def commit(self, files: dict[str, bytes]) -> str:
        commit = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[commit] = files
        return commit


class SmallHub(ThreadingHTTPServer):
    """The part of the Hub's HTTP interface that pushing, installing and deploying use."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.seen: list[str] = []
        self.fault: tuple[str, int] | None = None
        self.may_write = {TOKEN}
        self.buckets: dict[str, Bucket] = {}
        self.volumes: dict[str, list[dict[str, Any]]] = {}
        self.stages: dict[str, str] = {}
        # Models that may be asked about, and whether they are gated.
        self.models: dict[str, bool] = {}
        self.made_by: dict[str, set[str]] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: SmallHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, status: int, value: Any = None, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def handle_any(self) -> None:
        body = self.read_body()
        path = unquote(urlsplit(self.path).path)
        hub = self.server
        hub.seen.append(f"{self.command} {path}")
        if hub.fault and hub.fault[0] in path:
            return self.answer(hub.fault[1], {"error": "as asked for"})
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        parts = path.strip("/").split("/")
        if answer_for_spaces(self, parts, body, token):
            return None
        if parts[4:5] == ["tree"]:
            files = hub.repositories["/".join(parts[2:4])].files
            rows = [{"type": "file", "path": f, "size": len(files[f]), "oid": f} for f in files]
            return self.answer(200, rows)
        if self.command in ("GET", "HEAD"):
            return self.download("/".join(parts[:2]), parts[3], "/".join(parts[4:]), token)
        if parts[0] == "large":
            hub.large[parts[1]] = body
            return self.answer(200, {})
        if not token:
            return self.refuse(401, "")
        if token not in hub.may_write:
            return self.refuse(403, "")
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in hub.repositories:
                return self.answer(409, {"url": f"{hub.address}/{name}"})
            kind = asked.get("type", "model")
            hub.repositories[name] = Repository(kind, asked.get("visibility") == "private")
            hub.repositories[name].hardware = asked.get("hardware", "cpu-basic")
            folder = "spaces/" if kind == "space" else ""
            return self.answer(200, {"url": f"{hub.address}/{folder}{name}", "name": name})
        if path.endswith("/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            links = {o["oid"]: {"href": f"{hub.address}/large/{o['oid']}"} for o in wanted}
            objects = [{**o, "actions": {"upload": links[o["oid"]]}} for o in wanted]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        if parts[:2] == ["api", "validate-yaml"]:
            return self.answer(200, {"errors": [], "warnings": []})
        repository = hub.repositories.get("/".join(parts[2:4]))
        if repository is None:
            return self.refuse(404, "RepoNotFound")
        if parts[4] == "variables":
            asked = json.loads(body)
            repository.variables[asked["key"]] = asked["value"]
            return self.answer(200, {k: {"value": v} for k, v in repository.variables.items()})
        if parts[4] == "preupload":
            files = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for f in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        assert parts[4] == "commit"
        files = dict(repository.files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(files)
        folder = "spaces/" if repository.kind == "space" else ""
        url = f"{hub.address}/{folder}{'/'.join(parts[2:4])}/commit/{commit}"
        return self.answer(200, {"commitUrl": url, "commitOid": commit})

    def download(self, name: str, revision: str, file: str, token: str) -> None:
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and token not in self.server.may_write):
            return self.refuse(404 if token else 401, "RepoNotFound")
        commit = repository.head if revision == "main" else revision
        if commit not in repository.commits:
            return self.refuse(404, "RevisionNotFound")
        if file not in repository.commits[commit]:
            return self.refuse(404, "EntryNotFound")
        data = repository.commits[commit][file]
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        return self.answer(200, data, {"ETag": etag, "X-Repo-Commit": commit})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815
