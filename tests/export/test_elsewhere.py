"""The examples of docs/elsewhere.md run as they stand, on small models."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import lineas_core as lc
from lineas_core.cli.app import app
from lineas_core.models.load import as_image_model
from lineas_core.system.paths import checkout
from tests.export.rivals import repeng
from tests.export.test_checkpoint import map_of
from tests.helpers.hub import CLIENT_WARNING, HOST, SmallHub
from tests.helpers.pipelines import small_xl

PAGE = checkout() / "docs" / "elsewhere.md"
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)

# Warnings of PEFT, which everyone who writes such an adapter gets.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed:UserWarning"),
    pytest.mark.filterwarnings(CLIENT_WARNING),
]


@pytest.fixture
def folder(tmp_path: Path, small_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the page's reader has."""
    monkeypatch.chdir(tmp_path)
    small_xl().save_pretrained("xl")
    image = as_image_model(lc.load_model("xl", device="cpu"))
    map_of(image, "norm").save("ink.safetensors")
    text = lc.load_model(str(small_models["llama"]), device="cpu")
    map_of(text, ".*layernorm").save("norms.safetensors")
    torch.save({1: torch.ones(16)}, "calm.pt")
    for name, value in (
        ("vectors/sycophancy/vec_layer_1_Llama-2-7b-chat-hf.pt", torch.ones(16)),
        (
            "atonce-linear_ot-mean/model.layers.1.mlp:0.statedict",
            {"net.w1": torch.ones(1, 16), "net.b1": torch.ones(1, 16), "quantiles_src": [0, 1]},
        ),
    ):
        Path(name).parent.mkdir(parents=True)
        torch.save(value, name)
    return tmp_path


def test_the_pages_examples_run(folder: Path, small_models: dict[str, Path], hub: SmallHub) -> None:
    pytest.importorskip("steering_vectors")
    pytest.importorskip("peft")
    repeng()
    # The reader is logged in, and there are maps on the Hub.
    hub.users[HOST] = "your-name"
    small = {
        "smollm2": str(small_models["llama"]),
        "HuggingFaceTB/SmolLM2-135M-Instruct": str(small_models["llama"]),
        "sdxl-turbo": str(folder / "xl"),
    }
    blocks = BLOCK.findall(PAGE.read_text("utf-8"))
    assert len(blocks) == 13
    for kind, code in blocks:
        if kind == "python":
            for name, place in small.items():
                code = code.replace(f'"{name}"', repr(place))
            exec(compile(code, str(PAGE), "exec"), {})
            continue
        for line in code.splitlines():
            program, *words = shlex.split(line)
            assert program == "lineas"
            if words[0] != "search":  # which loads no model
                words = [small.get(word, word) for word in words]
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception}"
    football, again = (lc.SteeringMap.load(f"{n}.safetensors") for n in ("football", "again"))
    assert list(football.sites) == ["model.layers.1", "model.layers.2"]
    assert all(torch.equal(again.sites[n].shift, a.shift) for n, a in football.sites.items())
    pushed = lc.SteeringMap.load("from-hub.safetensors")
    assert pushed.digest() == football.digest()
    assert hub.repositories["your-name/football"].private
    for name in ("sycophancy", "act"):
        assert len(lc.SteeringMap.load(f"{name}.safetensors").sites) == 1
    assert (folder / "football-adapter" / "adapter_config.json").is_file()
    assert (folder / "loras" / "ink.safetensors").is_file()


def test_the_pages_links_lead_to_headings() -> None:
    for page, heading in re.findall(r"\]\((\w+\.md)(?:#([\w-]+))?\)", PAGE.read_text("utf-8")):
        text = (PAGE.parent / page).read_text("utf-8")
        titles = re.findall(r"^## (.*)", text, re.MULTILINE)
        known = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not heading or heading in known, f"{page}#{heading}"
