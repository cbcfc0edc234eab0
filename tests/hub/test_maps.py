"""Push and install against a small fake Hub on the loopback, through the real client."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml

import lineas_core as lc
from lineas_core.hub.card import map_card
from lineas_core.hub.maps import HubError, Origin, install_map, push_map
from lineas_core.system.paths import checkout
from tests.helpers.hub import CLIENT_WARNING, TOKEN, SmallHub
from tests.helpers.models import random_map

pytestmark = pytest.mark.filterwarnings(CLIENT_WARNING)

REPO = "ann/ink"


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


def test_a_visitor_of_a_space_pushes_to_repositories_that_were_made_there(
    hub: SmallHub, file: Path, tmp_path: Path
) -> None:
    """With the scopes of the Space's header, and no others."""
    header = yaml.safe_load((checkout() / "README.md").read_text("utf-8").split("---\n")[1])
    assert header["hf_oauth_scopes"] == ["contribute-repos"]
    push(hub, file)
    hub.made_by["hf_oauth"] = set()
    hub.may_write.add("hf_oauth")
    with pytest.raises(HubError, match=f"may not write to {REPO}.*on a Space.*new name"):
        push(hub, file, token="hf_oauth")
    for strength in (1.0, 0.5):
        smap = lc.SteeringMap.load(file).at(strength)
        smap.save(file)
        push_map(file, "ann/new", token="hf_oauth", endpoint=hub.address)
        options = {"endpoint": hub.address, "cache": tmp_path / "cache", "token": "hf_oauth"}
        assert install_map("ann/new", **options)[0].digest() == smap.digest()


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
