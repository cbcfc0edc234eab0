"""Pushing and installing against a small hub on the loopback, through the real client."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
import yaml

import lineas_core as lc
from lineas_core.hub.card import map_card
from lineas_core.hub.maps import HubError, Origin, install_map, push_map
from tests.conftest import random_map

# Raised in the client, for its own call of httpx.
CLIENT_WARNING = "ignore:Use 'content=:DeprecationWarning"
pytestmark = pytest.mark.filterwarnings(CLIENT_WARNING)

TOKEN = "hf_writer"
REPO = "ann/ink"


@dataclass
class Repository:
    kind: str
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

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
    """As much of the Hub's HTTP interface as pushing, installing and deploying take."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.seen: list[str] = []
        self.fault: tuple[str, int] | None = None
        self.may_write = {TOKEN}

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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    # The client's other way to upload large files speaks to a service of its own.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    # Whoever runs the tests may be logged in, and must not be asked.
    monkeypatch.setenv("HF_TOKEN", "hf_somebody_else")
    with SmallHub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    smap = random_map({"n": 4}, 0)
    info = lc.MapInfo(
        model="smollm2", method="lineas", name="ink", concept="ink | blots", prompt_hash="0a1b"
    )
    return lc.SteeringMap(smap.sites, info).save(tmp_path / "ink.safetensors")


def push(hub: SmallHub, file: Path, **changes: Any) -> str:
    return push_map(file, REPO, **{"token": TOKEN, "endpoint": hub.address, **changes})


def install(hub: SmallHub, tmp_path: Path, **changes: Any) -> tuple[lc.SteeringMap, Origin]:
    arguments = {"endpoint": hub.address, "cache": tmp_path / "cache", "token": TOKEN, **changes}
    return install_map(REPO, **arguments)


def test_what_is_pushed_is_installed(hub: SmallHub, file: Path, tmp_path: Path) -> None:
    assert push(hub, file) == f"{hub.address}/{REPO}"
    repository = hub.repositories[REPO]
    assert repository.private
    assert set(repository.files) == {"README.md", "ink.safetensors"}
    smap, origin = install(hub, tmp_path)
    assert smap.digest() == lc.SteeringMap.load(file).digest()
    sha256 = hashlib.sha256(repository.files["ink.safetensors"]).hexdigest()
    assert origin == Origin(REPO, repository.head, "ink.safetensors", sha256)


def test_an_older_commit_is_found_again(hub: SmallHub, file: Path, tmp_path: Path) -> None:
    push(hub, file)
    first = hub.repositories[REPO].head
    old = lc.SteeringMap.load(file)
    old.at(0.5).save(file)
    push(hub, file, private=False)
    assert hub.repositories[REPO].private, "a repository that exists stays as it is"
    assert install(hub, tmp_path)[0].digest() == old.at(0.5).digest()
    smap, origin = install(hub, tmp_path, revision=first, expected_digest=old.digest())
    assert (smap.digest(), origin.revision) == (old.digest(), first)
    with pytest.raises(HubError, match="is not the map that was asked for"):
        install(hub, tmp_path, expected_digest=old.digest())


def test_the_card_says_what_people_and_programs_ask(hub: SmallHub, file: Path) -> None:
    push(hub, file, title="Ink: blots", license="mit", card="Made in *May*.")
    files = hub.repositories[REPO].files
    card = files["README.md"].decode()
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["license"], front["pipeline_tag"]) == ("mit", "text-generation")
    assert front["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    [name] = set(files) - {"README.md"}
    sha256 = hashlib.sha256(files[name]).hexdigest()
    assert front["lineas"]["sha256"] == sha256
    assert front["lineas"]["digest"] == lc.SteeringMap.load(file).digest()
    for text in ("# Ink: blots", "Made in *May*.", "| lineas |", "ink \\| blots", "0a1b", REPO):
        assert text in card
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    for site in ("unet.mid_block.norm", "transformer.transformer_blocks.0.norm1"):
        picture = map_card(random_map({site: 4}, 0), REPO, file="x.safetensors", sha256="0")
        assert 'pipeline_tag: "text-to-image"' in picture
        assert "| licence | not stated |" in picture


def test_a_map_that_is_not_the_cards_is_refused(hub: SmallHub, file: Path, tmp_path: Path) -> None:
    push(hub, file)
    repository = hub.repositories[REPO]
    other = lc.SteeringMap.load(file).at(0.9).save(tmp_path / "other.safetensors").read_bytes()
    repository.commit({**repository.files, "ink.safetensors": other})
    with pytest.raises(HubError, match="is not the file that its card names"):
        install(hub, tmp_path)


@pytest.mark.parametrize(
    "card",
    ["", "# Hello", "---\nlicense: mit\n---\n", "---\n[1\n---\n", "---\nlineas: [1]\n---\n",
     "---\nlineas: {file: ../x.safetensors, sha256: '1'}\n---\n",
     "---\nlineas: {file: ink.safetensors}\n---\n"],
)  # fmt: skip
def test_repositories_without_a_checksum_need_a_digest(
    hub: SmallHub, file: Path, tmp_path: Path, card: str
) -> None:
    push(hub, file)
    repository = hub.repositories[REPO]
    repository.commit({**repository.files, "README.md": card.encode()})
    with pytest.raises(HubError, match="cannot be checked"):
        install(hub, tmp_path)
    digest = lc.SteeringMap.load(file).digest()
    named = {"filename": "ink.safetensors", "expected_digest": digest}
    assert install(hub, tmp_path, **named)[0].digest() == digest


def test_a_file_that_is_no_map_is_refused(hub: SmallHub, file: Path, tmp_path: Path) -> None:
    push(hub, file)
    repository, junk = hub.repositories[REPO], b"not a map"
    old = hashlib.sha256(repository.files["ink.safetensors"]).hexdigest().encode()
    new = hashlib.sha256(junk).hexdigest().encode()
    card = repository.files["README.md"].replace(old, new)
    repository.commit({"README.md": card, "ink.safetensors": junk})
    with pytest.raises(lc.MapError, match=r"^ann/ink/ink.safetensors is not a readable"):
        install(hub, tmp_path)
    with pytest.raises(HubError, match="ends in .safetensors"):
        install(hub, tmp_path, filename="../../x")
    repository.commit({**repository.files, "README.md": bytes(2**20 + 1)})
    hub.seen.clear()
    with pytest.raises(HubError, match=r"README.md of ann/ink is larger than 1 MiB"):
        install(hub, tmp_path)
    assert not [line for line in hub.seen if line.startswith("GET")], "refused before it was sent"


def test_only_the_login_that_was_given_is_used(hub: SmallHub, file: Path, tmp_path: Path) -> None:
    hub.may_write.add("hf_somebody_else")
    push(hub, file)
    with pytest.raises(HubError, match="There is no ann/ink that you may see"):
        install(hub, tmp_path, token=None)
    with pytest.raises(HubError, match="Nobody is logged in"):
        push(hub, file, token=None)


def test_what_goes_wrong_says_what_helps(hub: SmallHub, file: Path, tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"may not write to ann/ink\. Use a token"):
        push(hub, file, token="hf_reader")
    with pytest.raises(HubError, match="There is no ann/ink"):
        install(hub, tmp_path)
    push(hub, file)
    with pytest.raises(HubError, match="has no such revision"):
        install(hub, tmp_path, revision="v9")
    with pytest.raises(HubError, match="does not hold that file"):
        install(hub, tmp_path, filename="x.safetensors", expected_digest="0")
    for status, message in ((401, "does not accept the login"), (429, "too many"), (418, "418")):
        hub.fault = ("/api/repos/create", status)
        with pytest.raises(HubError, match=message):
            push(hub, file)
    for name in ("ink", "a/b/c", "../ink", "ann/", "ann/i k"):
        with pytest.raises(HubError, match="write USER/NAME"):
            install_map(name)


def test_no_network_is_said(hub: SmallHub, file: Path, tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    with pytest.raises(HubError, match="cannot be reached for ann/ink"):
        push(hub, file, endpoint=nowhere)
    with pytest.raises(HubError, match="cannot be reached for ann/ink"):
        install(hub, tmp_path, endpoint=nowhere)
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is not set"):
        install(hub, tmp_path)
