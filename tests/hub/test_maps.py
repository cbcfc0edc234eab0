"""Push, pull and search against a small fake Hub on the loopback, through the real client."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

import lineas_core as lc
from lineas_core.cli.app import app
from lineas_core.hub.errors import HubError
from lineas_core.hub.origin import Origin
from lineas_core.hub.search import MAX_FOUND, FoundMap, find_maps
from lineas_core.system.paths import checkout
from tests.helpers.hub import (
    CLIENT_WARNING,
    HOST,
    LOGIN,
    READER,
    TOKEN,
    Fault,
    Repository,
    SmallHub,
)
from tests.helpers.models import random_map

pytestmark = pytest.mark.filterwarnings(CLIENT_WARNING)

REPO, BASE = "ann/ink", "HuggingFaceTB/SmolLM2-135M-Instruct"


def ink(model: str = "smollm2", site: str = "n", seed: int = 0) -> lc.SteeringMap:
    info = lc.MapInfo(
        model=model, method="lineas", name="ink", concept="ink | blots", prompt_hash="0a1b"
    )
    return lc.SteeringMap(random_map({site: 4}, seed).sites, info)


def push(smap: lc.SteeringMap, **changes: Any) -> str:
    return smap.push_to_hub(REPO, **{"token": TOKEN, "private": True, **changes})


def pull(**changes: Any) -> lc.SteeringMap:
    return lc.SteeringMap.from_pretrained(REPO, **{"token": TOKEN, **changes})


def front(hub: SmallHub, repo: str = REPO) -> dict[str, Any]:
    card = hub.repositories[repo].files["README.md"].decode()
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def test_what_is_pushed_is_pulled(hub: SmallHub, tmp_path: Path) -> None:
    assert push(ink()) == f"{hub.address}/{REPO}"
    repository = hub.repositories[REPO]
    assert repository.private
    assert set(repository.files) == {"README.md", "ink.safetensors"}
    smap = pull()
    assert (smap.digest(), smap.info) == (ink().digest(), ink().info)
    sha256 = hashlib.sha256(repository.files["ink.safetensors"]).hexdigest()
    assert smap.origin == Origin(REPO, repository.head, "ink.safetensors", sha256)
    again = lc.SteeringMap.load(smap.save(tmp_path / "again.safetensors"))
    assert (again.origin, again.digest()) == (Origin(), smap.digest())
    push(ink(), private=False)
    assert repository.private, "a repository that exists stays as it is"


def test_a_commit_a_branch_and_the_cache_are_pulled(hub: SmallHub) -> None:
    old, new, other = ink(), ink(seed=1), ink(seed=2)
    push(old)
    first = hub.repositories[REPO].head
    push(new)
    push(other, revision="strong")
    assert pull().digest() == new.digest()
    assert pull(revision="strong").digest() == other.digest()
    smap = pull(revision=first, digest=old.digest())
    assert (smap.digest(), smap.origin.revision) == (old.digest(), first)
    with pytest.raises(HubError, match="is not the map that was asked for"):
        pull(digest=old.digest())
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    assert pull().digest() == new.digest(), "without a network the cache has it"


def test_a_login_of_the_hubs_own_command_is_used(
    hub: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=f"Nobody is logged in who could write to {REPO}"):
        push(ink(), token=None)
    huggingface_hub.login(TOKEN)
    assert huggingface_hub.whoami()["name"] == "ann"
    push(ink(), token=None)
    assert pull(token=None).digest() == ink().digest()
    with pytest.raises(HubError, match=f"There is no {REPO} that you may see"):
        pull(token=False)
    with pytest.raises(HubError, match="Nobody is logged in"):
        push(ink(), token=False)


def test_the_card_says_what_people_and_programs_ask(hub: SmallHub, tmp_path: Path) -> None:
    push(
        ink(), title="Ink: blots", license="mit", about="Made in *May*.", datasets=["ann/blots"],
        examples={"Once upon a time": "there was ink", "a cat": Image.new("RGB", (8, 8), "red")},
    )  # fmt: skip
    files = hub.repositories[REPO].files
    card, data = files["README.md"].decode(), front(hub)
    assert (data["license"], data["pipeline_tag"]) == ("mit", "text-generation")
    assert (data["base_model"], data["base_model_relation"]) == (BASE, "adapter")
    assert (data["library_name"], data["datasets"]) == ("lineas", ["ann/blots"])
    assert set(files) == {"README.md", "ink-blots.safetensors", "example-2.png"}
    assert data["widget"] == [
        {"text": "Once upon a time", "output": {"text": "there was ink"}},
        {"text": "a cat", "output": {"url": "example-2.png"}},
    ]
    assert files["example-2.png"].startswith(b"\x89PNG")
    sha256 = hashlib.sha256(files["ink-blots.safetensors"]).hexdigest()
    assert data["lineas"]["sha256"] == sha256
    assert data["lineas"]["digest"] == ink().digest()
    for text in ("# Ink: blots", "Made in *May*.", "| lineas |", "ink \\| blots", "0a1b", REPO):
        assert text in card


def test_the_cards_code_runs(
    hub: SmallHub, small_models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(small_models["llama"])
    smap = random_map({"model.layers.0.input_layernorm": 16}, 0)
    smap = lc.SteeringMap(smap.sites, lc.MapInfo(model=model, name="ink"))
    push(smap, private=False)
    card = hub.repositories[REPO].files["README.md"].decode()
    exec(card.split("```python\n")[1].split("```")[0], {})
    texts = lc.load_model(model).generate(["Once upon a time"], [(smap, 0.7)], seed=0)
    assert capsys.readouterr().out == f"{texts}\n"


@pytest.mark.parametrize("site", ["unet.mid_block.norm", "transformer.transformer_blocks.0.norm1"])
def test_a_map_of_pictures_says_so(hub: SmallHub, site: str) -> None:
    push(ink("emoji-onestep", site))
    data = front(hub)
    assert data["pipeline_tag"] == "text-to-image"
    assert not {"license", "base_model", "base_model_relation"} & data.keys()
    assert "| licence | not stated |" in hub.repositories[REPO].files["README.md"].decode()


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("qwen3-0.6b", {"license": "mit"}),
        ("gemma-3-270m", {"license": "gemma"}),
        ("deepseek-llm-7b", {"license": "other", "license_name": "deepseek-license",
                             "license_link": "https://huggingface.co/deepseek-ai/deepseek-llm-7b-base"}),
        ("bob/free", {"license": "mit"}),
        ("bob/bound", {"license": "other", "license_name": "bobs", "license_link": "LICENSE"}),
        ("bob/bare", {"license": "mit"}),
        ("bob/gone", {"license": "mit"}),
    ],
)  # fmt: skip
def test_a_licence_that_binds_what_is_learned_from_a_model_is_its_maps(
    hub: SmallHub, model: str, fields: dict[str, str]
) -> None:
    for name, card in (
        ("free", "---\nlicense: apache-2.0\n---\n"),
        ("bound", "---\nlicense: other\nlicense_name: bobs\nlicense_link: LICENSE\n---\n"),
        ("bare", "# No metadata"),
    ):
        hub.repositories[f"bob/{name}"] = Repository("model", private=False)
        hub.repositories[f"bob/{name}"].commit({"README.md": card.encode()})
    push(ink(model), license="mit")
    data = front(hub)
    assert {key: value for key, value in data.items() if key.startswith("license")} == fields
    card = hub.repositories[REPO].files["README.md"].decode()
    assert ("of its prompts: mit" in card) == (fields["license"] != "mit")


def test_maps_are_found_by_their_base_model(hub: SmallHub) -> None:
    push(ink(), license="mit", private=False)
    for repo, smap, private in (
        ("ann/secret", ink(), True),
        ("ann/gemma", ink("google/gemma-3-270m"), False),
        ("ann/short", ink("gemma-3-270m"), False),
        ("ann/emoji", ink("emoji-onestep", "unet.mid_block.norm"), False),
    ):
        smap.push_to_hub(repo, token=TOKEN, private=private)
    folded = Repository("model", private=False)
    folded.commit({"README.md": f"---\nbase_model: {BASE}\ntags: [lineas]\n---\n".encode()})
    hub.repositories["ann/folded"] = folded
    hub.repositories["ann/secret"].downloads, hub.repositories["ann/short"].downloads = 7, 9
    hub.repositories["ann/short"].gated = True
    found = FoundMap(REPO, "mit", 0, private=False, gated=False)
    assert find_maps("smollm2", token=False) == find_maps(BASE, token=False) == [found]
    assert [one.repo for one in find_maps("smollm2", token=TOKEN)] == ["ann/secret", REPO]
    gemma = find_maps("gemma-3-270m", token=False)
    assert [(one.repo, one.downloads, one.license, one.gated) for one in gemma] == [
        ("ann/short", 9, "gemma", True), ("ann/gemma", 0, "", False),
    ]  # fmt: skip
    assert [one.repo for one in find_maps("emoji-onestep", token=False)] == ["ann/emoji"]
    assert find_maps("gpt2", token=False) == []
    assert {one.repo for one in find_maps(token=False)} == {
        REPO, "ann/gemma", "ann/short", "ann/emoji",
    }  # fmt: skip
    assert MAX_FOUND == 50
    with pytest.raises(HubError, match="model is 'smolm2'; write a repository"):
        find_maps("smolm2")


def test_a_map_that_is_not_the_cards_is_refused(hub: SmallHub, tmp_path: Path) -> None:
    push(ink())
    repository = hub.repositories[REPO]
    other = ink().at(0.9).save(tmp_path / "other.safetensors").read_bytes()
    repository.commit({**repository.files, "ink.safetensors": other})
    with pytest.raises(HubError, match="is not the file that its card names"):
        pull()


@pytest.mark.parametrize(
    "card",
    ["", "# Hello", "---\nlicense: mit\n---\n", "---\n[1\n---\n", "---\nlineas: [1]\n---\n",
     "---\n1: 2\n---\n", "---\ntags: [[1]]\n---\n",
     "---\nlineas: {file: ../x.safetensors, sha256: '1'}\n---\n",
     "---\nlineas: {file: ink.safetensors}\n---\n"],
)  # fmt: skip
def test_repositories_without_a_checksum_need_a_digest(hub: SmallHub, card: str) -> None:
    push(ink())
    repository = hub.repositories[REPO]
    repository.commit({**repository.files, "README.md": card.encode()})
    with pytest.raises(HubError, match="cannot be checked"):
        pull()
    named = {"filename": "ink.safetensors", "digest": ink().digest()}
    assert pull(**named).digest() == ink().digest()


def test_a_file_that_is_no_map_is_refused(hub: SmallHub) -> None:
    push(ink())
    repository, junk = hub.repositories[REPO], b"not a map"
    old = hashlib.sha256(repository.files["ink.safetensors"]).hexdigest().encode()
    new = hashlib.sha256(junk).hexdigest().encode()
    card = repository.files["README.md"].replace(old, new)
    repository.commit({"README.md": card, "ink.safetensors": junk})
    with pytest.raises(lc.MapError, match=r"^ann/ink/ink.safetensors is not a readable"):
        pull()
    with pytest.raises(HubError, match="ends in .safetensors"):
        pull(filename="../../x")
    repository.commit({**repository.files, "README.md": bytes(2**20 + 1)})
    hub.seen.clear()
    with pytest.raises(HubError, match=r"README.md of ann/ink is larger than 1 MiB"):
        pull()
    assert not [line for line in hub.seen if line.startswith("GET")], "refused before it was sent"


def test_a_private_map_in_the_cache_is_nobody_elses(hub: SmallHub) -> None:
    push(ink())
    pull()
    with pytest.raises(HubError, match=f"There is no {REPO} that you may see"):
        pull(token=READER)


def test_a_visitor_of_a_space_pushes_to_repositories_that_were_made_there(hub: SmallHub) -> None:
    """With the scopes of the Space's header, and no others."""
    header = yaml.safe_load((checkout() / "README.md").read_text("utf-8").split("---\n")[1])
    assert header["hf_oauth_scopes"] == ["contribute-repos"]
    push(ink())
    with pytest.raises(HubError, match=f"may not write to {REPO}.*on a Space.*new name"):
        push(ink(), token=LOGIN)
    for strength in (1.0, 0.5):
        smap = ink().at(strength)
        smap.push_to_hub("ann/new", token=LOGIN)
        assert lc.SteeringMap.from_pretrained("ann/new", token=LOGIN).digest() == smap.digest()


PUSH, PULL, SEARCH = "/api/repos/create", f"/{REPO}/resolve", "/api/models"


@pytest.mark.parametrize(
    ("fault", "action", "message"),
    [
        (Fault(PULL, 429, {"Retry-After": "77"}), "pull", rf"requests for {REPO}.*in 77 seconds"),
        (Fault(PULL, 429, {"RateLimit": '"resolvers";r=0;t=55'}), "pull", r"in 55 seconds"),
        (Fault(PUSH, 429), "push", rf"requests for {REPO}.*in a few minutes"),
        (Fault(SEARCH, 429, {"Retry-After": "1"}), "search", r"maps for smollm2.*in 1 second\."),
        (Fault(PULL, 418), "pull", rf"answered 418 for {REPO}"),
        (Fault(PULL, 403), "pull", rf"may not read {REPO}"),
        (Fault(PUSH), "push", rf"broke off for {REPO}. Try again"),
        (Fault("README.md"), "pull", rf"broke off for {REPO}. Try again"),
        (Fault(SEARCH), "search", "broke off for maps for smollm2. Try again"),
    ],
)  # fmt: skip
def test_what_the_hub_refuses_or_breaks_off_says_what_helps(
    hub: SmallHub, fault: Fault, action: str, message: str
) -> None:
    actions = {"push": lambda: push(ink()), "pull": pull, "search": lambda: find_maps("smollm2")}
    push(ink())
    hub.fault, started = fault, time.monotonic()
    with pytest.raises(HubError, match=message):
        actions[action]()
    assert time.monotonic() - started < 20, "does not wait for the Hub to take requests again"
    hub.fault = None
    actions[action]()


@pytest.mark.parametrize("action", ["push", "pull", "search"])
def test_a_wrong_token_says_so(hub: SmallHub, action: str) -> None:
    push(ink())
    wrong = {"token": "hf_wrong"}
    with pytest.raises(HubError, match=r"does not accept the login for .*check the token"):
        {
            "push": lambda: push(ink(), **wrong),
            "pull": lambda: pull(**wrong),
            "search": lambda: find_maps("smollm2", **wrong),
        }[action]()


def test_what_goes_wrong_says_what_helps(hub: SmallHub) -> None:
    with pytest.raises(HubError, match=rf"may not write to {REPO}\. Use a token"):
        push(ink(), token=READER)
    with pytest.raises(HubError, match=f"There is no {REPO}"):
        pull()
    push(ink(), private=False)
    with pytest.raises(HubError, match="has no such revision"):
        pull(revision="v9")
    with pytest.raises(HubError, match="does not hold that file"):
        pull(filename="x.safetensors", digest="0")
    hub.repositories[REPO].gated = True
    with pytest.raises(HubError, match=f"accept its terms.*https://huggingface.co/{REPO}"):
        pull(token=READER)
    for name in ("ink", "a/b/c", "../ink", "ann/", "ann/i k"):
        with pytest.raises(HubError, match="write USER/NAME"):
            lc.SteeringMap.from_pretrained(name)
        with pytest.raises(HubError, match="write USER/NAME"):
            ink().push_to_hub(name, token=TOKEN)


def test_no_network_is_said(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    actions = (lambda: push(ink()), pull, lambda: find_maps("smollm2"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for action in actions:
        with pytest.raises(HubError, match="HF_HUB_OFFLINE is not set"):
            action()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.server_close()
    # Connections that are kept open still have somebody to answer.
    huggingface_hub.close_session()
    for action in actions:
        with pytest.raises(HubError, match=r"cannot be reached for (ann/ink|maps)"):
            action()


@pytest.mark.parametrize(
    ("token", "message"), [(READER, "accept its terms"), ("hf_wrong", "login")]
)
def test_a_model_that_the_hub_refuses_says_what_helps(
    hub: SmallHub, token: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated = Repository("model", private=False, gated=True)
    gated.commit({"config.json": b'{"model_type": "gemma3_text"}'})
    hub.repositories["google/gemma-3-1b-pt"] = gated
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(lc.ModelError, match=f"Cannot load gemma-3-1b: .*{message}") as caught:
        lc.load_model("gemma-3-1b", device="cpu")
    if token == READER:
        assert "https://huggingface.co/google/gemma-3-1b-pt" in str(caught.value)


def test_maps_are_pushed_searched_and_installed_from_a_terminal(
    hub: SmallHub, tmp_path: Path
) -> None:
    hub.users[HOST] = "ann"
    file, run = str(ink().save(tmp_path / "ink.safetensors")), CliRunner().invoke
    done = run(app, ["push", file, REPO, "--license", "mit", "--dataset", "ann/d", "--json"])
    assert done.exit_code == 0, done.output
    assert (front(hub)["license"], front(hub)["datasets"]) == ("mit", ["ann/d"])
    assert hub.repositories[REPO].private
    found = json.loads(run(app, ["search", "smollm2", "--json"]).stdout)
    assert [one["repo"] for one in found] == [REPO]
    new = str(tmp_path / "new.safetensors")
    done = run(app, ["install", REPO, "-o", new, "--json"])
    assert json.loads(done.stdout)["revision"] == hub.repositories[REPO].head
    assert lc.SteeringMap.load(new).digest() == ink().digest()
    hub.fault = Fault("/api/", 429, {"Retry-After": "30"})
    for words in (["push", file, REPO], ["search"]):
        done = run(app, words)
        assert isinstance(done.exception, HubError)
        assert "in 30 seconds" in str(done.exception)
