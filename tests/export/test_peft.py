from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

import lineas_core as lc
from lineas_core.cli.fold import register
from lineas_core.export.peft import to_peft
from lineas_core.maps.steering_map import Affine, SteeringMap
from lineas_core.models.language.model import LanguageModel
from tests.export.test_checkpoint import (
    LINEAR,
    RANGE,
    distance,
    load_language,
    map_of,
    only_scales,
    only_shifts,
    plain,
    steered,
    tokens,
)

peft = pytest.importorskip("peft")

# Warnings of PEFT, which everyone who loads such an adapter gets.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
]


@pytest.fixture(scope="module")
def models(small_models: dict[str, Path]) -> dict[str, LanguageModel]:
    return {n: load_language(folder) for n, folder in small_models.items()}


@pytest.mark.parametrize(
    ("architecture", "pattern", "part", "kind"),
    [
        ("llama", "layernorm", None, "LORA"),
        ("llama", r".*layernorm|model\.norm", only_scales, "LN_TUNING"),
        ("llama", LINEAR, only_scales, "IA3"),
        ("llama", LINEAR, only_shifts, "LORA"),
        ("qwen2", "layernorm", None, "LORA"),
        ("mistral", "layernorm", None, "LORA"),
        ("gpt2", r".*\.ln_\w", None, "LN_TUNING"),
        ("gpt2", r".*\.c_(attn|proj|fc)", only_scales, "IA3"),
        ("gpt2", r".*\.c_(attn|proj|fc)|.*\.ln_\w", only_shifts, "LORA"),
        ("gemma2", r".*input_layernorm|.*pre_feed.*", None, "LORA"),
        ("gemma2", r".*norm", only_scales, "LN_TUNING"),
    ],
)
def test_peft_computes_what_steering_computes(
    models: dict[str, LanguageModel],
    small_models: dict[str, Path],
    tmp_path: Path,
    architecture: str,
    pattern: str,
    part: Callable[[SteeringMap], SteeringMap] | None,
    kind: str,
) -> None:
    model, ids = models[architecture], tokens()
    smap = map_of(model, pattern)
    smap = part(smap) if part else smap
    before = {name: t.clone() for name, t in model.module.state_dict().items()}
    folder = to_peft(model, smap, 0.5, to=tmp_path / "adapter")
    after = model.module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], t) for name, t in before.items())
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == kind
    adapted = peft.PeftModel.from_pretrained(plain(small_models[architecture]), folder)
    assert distance(adapted(ids).logits, steered(model, smap, 0.5, ids)) < 1e-4


@pytest.mark.parametrize("part", [None, only_scales])
def test_adapters_are_exchanged_on_one_model(
    models: dict[str, LanguageModel],
    small_models: dict[str, Path],
    tmp_path: Path,
    part: Callable[[SteeringMap], SteeringMap] | None,
) -> None:
    model, ids = models["llama"], tokens()
    one, two = map_of(model, "layernorm", 1), map_of(model, "layernorm", 2)
    if part:
        one, two = part(one), part(two)
    # A sparse map does not change some of its sites.
    site = "model.layers.1.post_attention_layernorm"
    two = SteeringMap({**two.sites, site: Affine(torch.ones(16), torch.zeros(16))}, two.info)
    first, second = to_peft(model, one, to=tmp_path / "1"), to_peft(model, two, to=tmp_path / "2")
    adapted = peft.PeftModel.from_pretrained(plain(small_models["llama"]), first, "one")
    adapted.load_adapter(second, "two")
    for name, smap in (("two", two), ("one", one), ("two", two)):
        adapted.set_adapter(name)
        assert distance(adapted(ids).logits, steered(model, smap, 1.0, ids)) < 1e-4
    with adapted.disable_adapter():
        assert distance(adapted(ids).logits, model.module(ids).logits) < 1e-5


def test_what_no_adapter_holds_is_named(
    models: dict[str, LanguageModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, to = models["llama"], tmp_path / "adapter"
    with pytest.raises(lc.SiteError, match=r"3 sites .*o_proj.* `lineas_core.fold`"):
        to_peft(model, map_of(model, "o_proj"), to=to)
    with pytest.raises(lc.SiteError, match="model.norm: a norm without a bias"):
        to_peft(model, map_of(model, r"model\.norm"), to=to)
    ranged = replace(map_of(model, "layernorm"), bounds={"model.layers.2.input_layernorm": RANGE})
    with pytest.raises(lc.SiteError, match=r"layers\.2\.input_layernorm: .*bounds='none'"):
        to_peft(model, ranged, to=to)
    with pytest.raises(lc.ConfigError, match="at this strength changes nothing"):
        to_peft(model, map_of(model, "layernorm"), 0.0, to=to)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(lc.ConfigError, match="pip install --no-deps peft==0.21.2"):
        to_peft(model, map_of(model, "layernorm"), to=to)
    assert not to.exists()


def test_an_adapter_is_written_from_a_terminal(
    models: dict[str, LanguageModel], small_models: dict[str, Path], tmp_path: Path
) -> None:
    file = map_of(models["llama"], "layernorm").save(tmp_path / "map.safetensors")
    app = typer.Typer()
    register(app)
    call = ["--model", str(small_models["llama"]), "--map", str(file), "--device", "cpu"]
    done = CliRunner().invoke(app, [*call, "--peft", "--to", f"{tmp_path}/adapter"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
