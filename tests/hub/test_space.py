from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from typer.testing import CliRunner

import lineas_core as lc
from lineas_core.cli.app import app
from lineas_core.hub.errors import HubError
from lineas_core.hub.space import CPU_INDEX, CUDA, FOR_ZERO_GPU, prepare_space, upload_space
from lineas_core.system.paths import checkout, packaged
from tests.helpers.hub import CLIENT_WARNING, TOKEN, SmallHub

pytestmark = pytest.mark.filterwarnings(CLIENT_WARNING)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the files that a Space needs, and files that must not be uploaded."""
    root = tmp_path / "project"
    for name in ("lineas_core/studio/web", "lineas_core/__pycache__", "assets", "prompts", "tests"):
        (root / name).mkdir(parents=True)
    for name in ("app.py", "LICENSE", "README.md", "THIRD_PARTY_NOTICES.md", "requirements.lock"):
        shutil.copyfile(checkout() / name, root / name)
    for name in ("lineas_core/a.py", "lineas_core/studio/web/style.css", "prompts/a.json",
                 "lineas_core/__pycache__/a.pyc", "lineas_core/a.pyi", "lineas_core/.secret",
                 "tests/test_a.py", ".env"):  # fmt: skip
        (root / name).write_text("{}")
    (root / "assets" / "small.safetensors").write_bytes(bytes(10 * 2**20))
    (root / "assets" / "large.safetensors").write_bytes(bytes(10 * 2**20 + 1))
    return root


WANTED = {
    ".gitattributes", "LICENSE", "README.md", "THIRD_PARTY_NOTICES.md", "app.py",
    "assets/large.safetensors", "assets/small.safetensors", "lineas_core/a.py",
    "lineas_core/studio/web/style.css",
    "prompts/a.json", "requirements.txt",
}  # fmt: skip


def test_a_space_gets_what_it_needs_and_nothing_else(project: Path, tmp_path: Path) -> None:
    files = prepare_space(tmp_path / "space", project)
    assert {path.as_posix() for path in files} == WANTED
    attributes = (tmp_path / "space" / ".gitattributes").read_text()
    assert attributes == "assets/large.safetensors filter=lfs diff=lfs merge=lfs -text\n"


def test_the_real_project_becomes_a_space(tmp_path: Path) -> None:
    files = {path.as_posix() for path in prepare_space(tmp_path / "space")}
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
    prepare_space(tmp_path / "space", project, gpu=True)
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


def test_the_readme_of_a_space_names_tabs_that_are_there(project: Path, tmp_path: Path) -> None:
    prepare_space(tmp_path / "space", project)
    readme = (tmp_path / "space" / "README.md").read_text()
    assert set(re.findall(r"\*\*(\w+)\*\*", readme)) == {"Images", "Text", "Train"}
    page = packaged("studio/web").joinpath("page.py").read_text("utf-8")
    assert {"Images", "Text", "Train"} < set(re.findall(r'gr\.Tab\("(\w+)"', page))


def test_a_folder_with_something_in_it_is_left_alone(project: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").touch()
    with pytest.raises(lc.ConfigError, match="is not empty"):
        prepare_space(tmp_path / "mine", project)
    with pytest.raises(lc.ConfigError, match="Choose another folder"):
        prepare_space(tmp_path / "mine" / "x" / "y", project)
    with pytest.raises(
        lc.ConfigError, match=r"has no lineas_core, app.py, .*Deploy from a checkout"
    ):
        prepare_space(tmp_path / "new", tmp_path)
    (project / "README.md").write_text("# No header")
    with pytest.raises(lc.ConfigError, match="does not begin with a Space's header"):
        prepare_space(tmp_path / "space", project)


def test_a_space_is_uploaded(hub: SmallHub, project: Path, tmp_path: Path) -> None:
    prepare_space(tmp_path / "space", project)
    options = {"token": TOKEN, "endpoint": hub.address}
    url = upload_space(tmp_path / "space", "ann/studio", private=True, demo=True, **options)
    assert url == f"{hub.address}/spaces/ann/studio"
    space = hub.repositories["ann/studio"]
    assert (space.kind, space.private, space.variables) == ("space", True, {"DEMO_MODE": "1"})
    assert set(space.files) == WANTED
    for name in WANTED:
        assert space.files[name] == (tmp_path / "space" / name).read_bytes()
    (tmp_path / "space" / "prompts" / "a.json").unlink()
    upload_space(tmp_path / "space", "ann/studio", **options)
    assert set(space.files) == WANTED - {"prompts/a.json"}
    assert space.variables == {"DEMO_MODE": "0"}


def test_a_space_with_a_gpu_gets_no_torch_for_cpus(
    hub: SmallHub, project: Path, tmp_path: Path
) -> None:
    options = {"token": TOKEN, "endpoint": hub.address}
    prepare_space(tmp_path / "cpu", project)
    upload_space(tmp_path / "cpu", "ann/studio", **options)
    before = dict(hub.repositories["ann/studio"].files)
    hub.repositories["ann/studio"].hardware = "zero-a10g"
    with pytest.raises(HubError, match="ann/studio has the hardware zero-a10g.*--gpu"):
        upload_space(tmp_path / "cpu", "ann/studio", **options)
    assert hub.repositories["ann/studio"].files == before
    prepare_space(tmp_path / "gpu", project, gpu=True)
    upload_space(tmp_path / "gpu", "ann/studio", gpu=True, **options)
    assert b"spaces==" in hub.repositories["ann/studio"].files["requirements.txt"]


def test_without_a_gpu_a_space_gets_the_same_versions_and_no_cuda(
    project: Path, tmp_path: Path
) -> None:
    prepare_space(tmp_path / "cpu", project)
    prepare_space(tmp_path / "gpu", project, gpu=True)
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


def test_uploading_needs_a_login_that_may_write(hub: SmallHub, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="Log in"):
        upload_space(tmp_path, "ann/studio", token=None, endpoint=hub.address)
    with pytest.raises(HubError, match="may not write"):
        upload_space(tmp_path, "bob/studio", token="hf_reader", endpoint=hub.address)
    with pytest.raises(HubError, match="write USER/NAME"):
        upload_space(tmp_path, "studio", token=TOKEN, endpoint=hub.address)


def test_a_space_is_prepared_from_a_terminal(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["deploy", "ann/x", "--to", str(tmp_path / "s"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["files"] > 50
    assert (tmp_path / "s" / "app.py").is_file()
