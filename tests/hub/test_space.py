from __future__ import annotations

import json
import re
from pathlib import Path

import gradio as gr
import pytest
import yaml
from huggingface_hub import SpaceHardware
from packaging.requirements import Requirement
from PIL import Image
from typer.testing import CliRunner

import lineas_core as lc
from lineas_core.cli.app import app
from lineas_core.hub.space import (
    CPU_INDEX,
    CUDA,
    FOR_ZERO_GPU,
    has_gpu,
    prepare_space,
    space_hardware,
)
from lineas_core.studio.app import Studio
from lineas_core.studio.web.page import build_page
from lineas_core.system.paths import checkout
from tests.hub.conftest import WANTED


def test_a_space_gets_what_it_needs_and_nothing_else(project: Path, tmp_path: Path) -> None:
    files = prepare_space(tmp_path / "space", "ann/studio", project)
    assert {path.as_posix() for path in files} == WANTED
    attributes = (tmp_path / "space" / ".gitattributes").read_text()
    assert attributes == "assets/large.safetensors filter=lfs diff=lfs merge=lfs -text\n"


def test_the_real_project_becomes_a_space(tmp_path: Path) -> None:
    files = {path.as_posix() for path in prepare_space(tmp_path / "space", "ann/studio")}
    package = {
        p.relative_to(checkout()).as_posix() for p in (checkout() / "lineas_core").rglob("*.py")
    }
    assert package <= files
    assert {"lineas_core/studio/web/style.css", "lineas_core/models/shared/catalog.toml"} <= files
    assert {p.split("/")[0] for p in files} == {
        ".gitattributes", "LICENSE", "README.md", "THIRD_PARTY_NOTICES.md", "app.py", "assets",
        "lineas_core", "prompts", "requirements.txt",
    }  # fmt: skip


def test_the_header_and_the_requirements_agree(project: Path, tmp_path: Path) -> None:
    prepare_space(tmp_path / "space", "ann/studio", project, hardware=SpaceHardware.ZERO_A10G)
    readme = (tmp_path / "space" / "README.md").read_text()
    header = yaml.safe_load(readme.split("---\n")[1])
    lines = (tmp_path / "space" / "requirements.txt").read_text().splitlines()
    bare = [line.split("#")[0].strip() for line in lines if line[:1] not in ("#", "-")]
    pinned = {Requirement(line).name: str(Requirement(line).specifier) for line in bare if line}
    assert header["sdk"] == "gradio"
    assert pinned["gradio"] == f"=={header['sdk_version']}"
    assert header["app_file"] == "app.py"
    assert re.fullmatch(r"==\d+\.\d+\.\d+", pinned["spaces"])
    preloaded = header["preload_from_hub"][0].split()[0]
    assert preloaded == "HuggingFaceTB/SmolLM2-135M-Instruct"
    plain = (checkout() / "requirements.txt").read_text()
    assert "spaces==" not in plain
    # Every package is pinned, including transitive ones, and there are no hashes.
    lock = (checkout() / "requirements.lock").read_text()
    wanted = re.findall(r"^[\w.-]+==.*?(?= \\$)", lock, re.M)
    own = [line for line in wanted if not line.startswith(CUDA)]
    offered = [re.sub(r"^(torch|torchvision)==\S+", _offered, line) for line in own]
    assert offered != own
    assert [line.strip() for line in bare if line] == [*offered, f"spaces{pinned['spaces']}"]
    assert "--only-binary :all:" in lines
    assert not any("--hash" in line or line.endswith("\\") for line in lines)
    # What its documentation says that ZeroGPU has.
    assert header["python_version"] == "3.12.12"
    assert pinned["torch"] in ("==2.12.1", "==2.13.0")
    # A visitor's login may push a map into a repository of its own, and no more.
    assert header["hf_oauth_scopes"] == ["contribute-repos"]


def _offered(pin: re.Match[str]) -> str:
    return f"{pin[1]}=={FOR_ZERO_GPU[pin[1]]}"


def test_the_readme_of_a_space_names_tabs_that_are_there(
    project: Path, tmp_path: Path, studio: Studio
) -> None:
    prepare_space(tmp_path / "space", "ann/studio", project)
    readme = (tmp_path / "space" / "README.md").read_text()
    named = set(re.findall(r"\*\*(\w+)\*\*", readme))
    page = build_page(studio)
    tabs = {part.label for part in page.blocks.values() if isinstance(part, gr.Tab)}
    assert {"Images", "Text", "Train"} <= named < tabs
    assert not any(isinstance(part, gr.DuplicateButton) for part in page.blocks.values())


def test_a_space_is_duplicated_from_its_page(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYSTEM", "spaces")
    monkeypatch.setenv("SPACE_ID", "ann/studio")
    page = build_page(studio)
    [button] = [part for part in page.blocks.values() if isinstance(part, gr.DuplicateButton)]
    [pressed] = [f for f in page.fns.values() if (button._id, "click") in f.targets]
    assert "huggingface.co/spaces/ann/studio?duplicate=true" in str(pressed.js)


def test_the_header_has_a_picture_of_the_space_and_words_to_find_it_by(
    tmp_path: Path,
) -> None:
    prepare_space(tmp_path / "space", "ann/studio")
    header = yaml.safe_load((tmp_path / "space" / "README.md").read_text().split("---\n")[1])
    address, _, picture = header["thumbnail"].partition("/resolve/main/")
    assert address == "https://huggingface.co/spaces/ann/studio"
    with Image.open(tmp_path / "space" / picture) as image:
        # As wide as the cards of sites that show it.
        assert image.size == (1200, 675)
    assert {"activation-steering", "text-generation", "text-to-image"} <= set(header["tags"])


def test_hardware_is_one_that_spaces_have() -> None:
    assert space_hardware("zero-a10g") is SpaceHardware.ZERO_A10G
    assert {kind for kind in SpaceHardware if not has_gpu(kind)} == {
        SpaceHardware.CPU_BASIC, SpaceHardware.CPU_UPGRADE,
    }  # fmt: skip
    with pytest.raises(lc.ConfigError, match="hardware is 'h1000'.*zero-a10g.*t4-small"):
        space_hardware("h1000")


def test_a_folder_with_something_in_it_is_left_alone(project: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").touch()
    with pytest.raises(lc.ConfigError, match="is not empty"):
        prepare_space(tmp_path / "mine", "ann/studio", project)
    with pytest.raises(lc.ConfigError, match="Choose another folder"):
        prepare_space(tmp_path / "mine" / "x" / "y", "ann/studio", project)
    with pytest.raises(
        lc.ConfigError, match=r"has no lineas_core, app.py, .*Deploy from a checkout"
    ):
        prepare_space(tmp_path / "new", "ann/studio", tmp_path)
    (project / "README.md").write_text("# No header")
    with pytest.raises(lc.ConfigError, match="does not begin with a Space's header"):
        prepare_space(tmp_path / "space", "ann/studio", project)


def test_without_a_gpu_a_space_gets_the_same_versions_and_no_cuda(
    project: Path, tmp_path: Path
) -> None:
    prepare_space(tmp_path / "cpu", "ann/studio", project)
    prepare_space(tmp_path / "gpu", "ann/studio", project, hardware=SpaceHardware.ZERO_A10G)
    cpu, gpu = (
        (tmp_path / name / "requirements.txt").read_text().splitlines() for name in ("cpu", "gpu")
    )
    pins = requirements_of("requirements-cpu.txt")
    assert {line for line in cpu if line not in gpu} == {
        f"--extra-index-url {CPU_INDEX}", *(line for line in pins if line.startswith("torch")),
    }  # fmt: skip
    assert f"--extra-index-url {CPU_INDEX}" in pins
    left_out = {re.split("[=-]", line)[0] for line in gpu if line not in cpu}
    assert left_out == {"torch", "torchvision", "spaces"}
    assert not any(line.startswith(CUDA) for line in (*cpu, *gpu))


def requirements_of(name: str) -> list[str]:
    lines = (checkout() / name).read_text("utf-8").splitlines()
    return [bare for line in lines if (bare := line.split("#")[0].strip())]


def test_a_space_is_prepared_from_a_terminal(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["deploy", "ann/x", "--to", str(tmp_path / "s"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["files"] > 50
    assert (tmp_path / "s" / "app.py").is_file()
