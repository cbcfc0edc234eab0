"""A small fake Hub on the loopback interface, for the real client."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from huggingface_hub import constants, hf_api

from tests.helpers.hub_spaces import Bucket, answer_for_spaces

# A warning that the client triggers with its own call of httpx.
CLIENT_WARNING = "ignore:Use 'content=:DeprecationWarning"
# Ann may write, Bob may only read.
TOKEN, READER = "hf_writer", "hf_reader"
# Of whoever runs the tests, or a server. It must never be used for somebody else.
HOST = "hf_host"
# Ann's, with the scopes of a Space.
LOGIN = "hf_oauth"


@dataclass
class Repository:
    kind: str
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    downloads: int = 0
    variables: dict[str, str] = field(default_factory=dict)
    hardware: str = "cpu-basic"

    @property
    def head(self) -> str:
        return list(self.commits)[-1] if self.commits else ""

    @property
    def main(self) -> str:
        return self.branches.get("main", "")

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits.get(self.main, {})

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        commit = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[commit], self.branches[branch] = files, commit
        return commit

    @property
    def tags(self) -> list[str]:
        """Those that the Hub makes of a card."""
        card = self.files.get("README.md", b"").decode()
        data = yaml.safe_load(card.split("---\n")[1]) if card.startswith("---") else {}
        base, relation = data.get("base_model"), data.get("base_model_relation")
        return [
            *([data["library_name"]] if "library_name" in data else []),
            *data.get("tags", []),
            *(f"dataset:{name}" for name in data.get("datasets", [])),
            *([f"base_model:{base}", f"base_model:{relation}:{base}"] if base else []),
            *([f"license:{data['license']}"] if "license" in data else []),
            "region:us",
        ]


@dataclass(frozen=True)
class Fault:
    """What the Hub answers in place of what it should, where a path contains `path`.

    Attributes:
        status: of the answer; 0 sends half of the real one and breaks off.
        headers: of the answer.
    """

    path: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)


class SmallHub(ThreadingHTTPServer):
    """The part of the Hub's HTTP interface that pushing, installing and deploying use."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.seen: list[str] = []
        self.fault: Fault | None = None
        self.users = {TOKEN: "ann", READER: "bob", HOST: "host", LOGIN: "ann"}
        self.may_write = {TOKEN, HOST, LOGIN}
        self.buckets: dict[str, Bucket] = {}
        self.volumes: dict[str, list[dict[str, Any]]] = {}
        self.stages: dict[str, str] = {}
        # Login on a Space -> the repositories that were made with it.
        self.made_by: dict[str, set[str]] = {LOGIN: set()}

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
        if self.command == "HEAD":
            return
        fault = self.server.fault
        if fault and fault.path in self.path and fault.status == 0:
            data = data[: len(data) // 2]
            self.close_connection = True
        self.wfile.write(data)

    def refuse(self, status: int, code: str, message: str = "") -> None:
        message = message or code
        self.answer(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

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
        if hub.fault and hub.fault.path in path and hub.fault.status:
            return self.answer(hub.fault.status, {"error": "as asked for"}, hub.fault.headers)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        parts = path.strip("/").split("/")
        if token and token not in hub.users:
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        if answer_for_spaces(self, parts, body, token):
            return None
        if path == "/api/whoami-v2":
            return self.whoami(token)
        if path == "/api/models":
            return self.models(token)
        if (
            self.command == "GET"
            and parts[0] == "api"
            and parts[4:5] in ([], ["revision"], ["tree"])
        ):
            name = "/".join(parts[2:4])
            if not self.may_see(name, token):
                return self.refuse(404 if token else 401, "RepoNotFound")
            if parts[6:]:
                return self.refuse(404, "EntryNotFound")
            repository = hub.repositories[name]
            commit = parts[5] if parts[5:] and parts[5] in repository.commits else repository.head
            files = repository.commits.get(commit, {})
            if parts[4:5] != ["tree"]:
                siblings = [{"rfilename": file, "size": len(files[file])} for file in files]
                gated = "manual" if repository.gated else False
                return self.answer(
                    200, {"id": name, "sha": commit, "gated": gated, "siblings": siblings}
                )
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
        if parts[4] == "branch":
            name = "/".join(parts[5:])
            if name in repository.branches:
                return self.answer(409, {"error": "Reference already exists"})
            repository.branches[name] = repository.main
            return self.answer(201, {})
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
        branch = "/".join(parts[5:])
        start = repository.branches.get(branch) if branch != "main" else repository.main
        if start is None:
            return self.refuse(404, "RevisionNotFound")
        files = dict(repository.commits.get(start, {}))
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(files, branch)
        folder = "spaces/" if repository.kind == "space" else ""
        url = f"{hub.address}/{folder}{'/'.join(parts[2:4])}/commit/{commit}"
        return self.answer(200, {"commitUrl": url, "commitOid": commit})

    def may_see(self, name: str, token: str) -> bool:
        repository, user = self.server.repositories.get(name), self.server.users.get(token)
        return repository is not None and (not repository.private or user == name.partition("/")[0])

    def whoami(self, token: str) -> None:
        if not token:
            return self.refuse(401, "", "Invalid username or password.")
        user = self.server.users[token]
        role = "write" if token in self.server.may_write else "read"
        return self.answer(
            200,
            {
                "type": "user",
                "id": "5e67bdd61009063689407479",
                "name": user,
                "fullname": user.title(),
                "isPro": False,
                "orgs": [],
                "auth": {
                    "type": "access_token",
                    "accessToken": {"displayName": "test", "role": role},
                },
            },
        )

    def models(self, token: str) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        found = [
            (name, repository)
            for name, repository in self.server.repositories.items()
            if repository.kind == "model"
            and self.may_see(name, token)
            and set(asked.get("filter", [])) <= set(repository.tags)
        ]
        assert asked["sort"] == ["downloads"]
        found.sort(key=lambda one: -one[1].downloads)
        fields = {
            name: {
                "downloads": repository.downloads,
                "gated": "auto" if repository.gated else False,
                "private": repository.private,
                "tags": repository.tags,
            }
            for name, repository in found[: int(asked["limit"][0])]
        }
        rows = [
            {"_id": "6" * 24, "id": name, **{key: values[key] for key in asked["expand"]}}
            for name, values in fields.items()
        ]
        return self.answer(200, rows)

    def download(self, name: str, revision: str, file: str, token: str) -> None:
        if not self.may_see(name, token):
            return self.refuse(404 if token else 401, "RepoNotFound")
        repository = self.server.repositories[name]
        if repository.gated and self.server.users.get(token) != name.partition("/")[0]:
            restricted = f"Access to model {name} is restricted."
            return self.refuse(403 if token else 401, "GatedRepo", restricted)
        commit = repository.branches.get(revision, revision)
        if revision == "main":
            commit = repository.main
        if commit not in repository.commits:
            return self.refuse(404, "RevisionNotFound")
        if file not in repository.commits[commit]:
            return self.refuse(404, "EntryNotFound")
        data = repository.commits[commit][file]
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        return self.answer(200, data, {"ETag": etag, "X-Repo-Commit": commit})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815


@contextmanager
def small_hub(cache: Path) -> Iterator[SmallHub]:
    """Serve a fake Hub to the client in this process, in place of the real one.

    Args:
        cache: of its downloads, and where a login is kept.
    """
    with SmallHub() as server, pytest.MonkeyPatch.context() as patch:
        # Xet, the client's alternative upload protocol, needs a separate service.
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "ENDPOINT", server.address)
        patch.setattr(hf_api.api, "endpoint", server.address)
        address = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix("https://huggingface.co")
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + address)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache / "cache"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        patch.setattr(constants, "HF_STORED_TOKENS_PATH", str(cache / "stored_tokens"))
        patch.setenv("HF_TOKEN", HOST)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
