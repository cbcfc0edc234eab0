"""Prepare the folder of a Hugging Face Space, and upload it.

SmolLM2's weights are not uploaded. A Space cannot install their package without its dependencies,
so the catalogue falls back to the same model on the Hub, which the Space downloads while it is
built (`preload_from_hub`). The Hub's weights are bfloat16 and the package's are rounded to 4 bits,
so the same map and seed may give a different text than elsewhere.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from huggingface_hub import HfApi

from lineas_core.errors import ConfigError
from lineas_core.hub.errors import HubError, check_repository, hub_errors
from lineas_core.models.shared.catalog import catalog
from lineas_core.system.paths import SHIPPED, packaged, shipped

FILES = ("app.py", "LICENSE", "README.md", "THIRD_PARTY_NOTICES.md")
LOCK = "requirements.lock"
PACKAGE = "lineas_core"
FOLDERS = ("assets", "prompts")
# ZeroGPU allocates a GPU through this package, and does not start without it.
ZERO_GPU = "spaces==0.51.3            # a GPU for the length of a call, on a ZeroGPU Space"
# torch without CUDA, which is 4 GB, for hardware without a GPU.
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA = ("cuda-", "nvidia-", "triton")
TORCH = re.compile(r"^(torch|torchvision)==([^ ]+)")
# The newest PyTorch that ZeroGPU offers, as of September 2026, and the torchvision built with it:
# https://github.com/huggingface/hub-docs/blob/main/docs/hub/spaces-zerogpu.md
FOR_ZERO_GPU = {"torch": "2.13.0", "torchvision": "0.28.0"}
PRELOADED = (
    "config.json,generation_config.json,model.safetensors,special_tokens_map.json,"
    "tokenizer.json,tokenizer_config.json"
)
LARGE_FILE = 10 * 2**20
HEADER = re.compile(r"---\n.*?\n---\n", re.DOTALL)
ABOUT = """
# LinEAS Studio

Learn to steer a generative model from a few prompts, then move a slider. Switch on a map in the tab
**Images** or **Text**, or learn one of your own in **Train**, in about a minute
([LinEAS, Rodriguez et al., NeurIPS 2025](https://arxiv.org/abs/2503.10679)).

The code and the embedded image models are under the Apache License 2.0;
[assets/README.md](assets/README.md) credits the artists whose work the image models learned from.
"""


def prepare_space(folder: Path, root: Path | None = None, *, gpu: bool = False) -> list[Path]:
    """Copy the files a Space needs, and no others, into a new or empty folder.

    Args:
        folder: where to prepare the Space.
        root: a checkout; by default the checkout, or the installed package, with this code.
        gpu: whether the Space's hardware has a GPU, or ZeroGPU; without, it gets torch for CPUs.

    Returns:
        The files, relative to `folder`, sorted.

    Raises:
        ConfigError: the folder is not empty or cannot be written, or `root` lacks a file.
    """
    package = packaged() if root is None else root / PACKAGE
    root = root or shipped()
    wanted = [package, *(root / name for name in (*FILES, LOCK, *FOLDERS))]
    missing = [path.name for path in wanted if not path.exists()]
    if missing:
        raise ConfigError(
            f"{root} has no {', '.join(missing)}. Deploy from a checkout of the project."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"{folder} is not empty. Give the name of a new folder.")
        # Gradio writes a .pyi file beside each component of ours when it is first imported.
        hidden = shutil.ignore_patterns("__pycache__", ".*", "*.partial", "*.pyi", SHIPPED)
        for source in (package, *(root / name for name in FOLDERS)):
            shutil.copytree(source, folder / source.name, ignore=hidden)
        for name in FILES:
            shutil.copyfile(root / name, folder / name)
        locked = locked_versions((root / LOCK).read_text("utf-8"))
        lines = [*for_gpu(locked), ZERO_GPU] if gpu else for_cpu(locked)
        (folder / "requirements.txt").write_text("\n".join([*lines, ""]), "utf-8")
        (folder / "README.md").write_text(_readme((root / "README.md").read_text("utf-8")), "utf-8")
        attributes = "".join(f"{line}\n" for line in _large_files(folder))
        (folder / ".gitattributes").write_text(attributes, "utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot write {folder} ({error}). Choose another folder.") from error
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def locked_versions(lock: str) -> list[str]:
    """The requirements of a lock file (every package pinned), without comments and hashes.

    The Space's builder installs a few packages of its own in the same pip call, without hashes,
    and pip requires hashes for either all packages or none.

    >>> locked_versions("# by uv\\na==1 ; python_version < '4' \\\\\\n    --hash=sha256:0\\n")
    ["a==1 ; python_version < '4'"]
    """
    lines = (line.removesuffix("\\").strip() for line in lock.splitlines())
    return [line for line in lines if line and not line.startswith(("#", "--hash="))]


def for_cpu(lines: Iterable[str]) -> list[str]:
    """The same versions, with the builds of torch and torchvision that have no CUDA.

    Both by name, since torchvision's operators load beside the torch they were built with only.

    >>> for_cpu(["nvidia-nccl-cu13==2.30.7 ; sys_platform == 'linux'", "torch==2.15.0"])
    ['--extra-index-url https://download.pytorch.org/whl/cpu', 'torch==2.15.0+cpu']
    """
    return [
        f"--extra-index-url {CPU_INDEX}",
        *_with_torch(lines, lambda name, version: f"{version}+cpu"),
    ]


def for_gpu(lines: Iterable[str]) -> list[str]:
    """The same versions, but of torch those that ZeroGPU offers, which bring their own CUDA.

    >>> for_gpu(["nvidia-nccl-cu13==2.30.7", "torch==2.15.0 ; python_version < '4'"])
    ["torch==2.13.0 ; python_version < '4'"]
    """
    return _with_torch(lines, lambda name, _: FOR_ZERO_GPU[name])


def _with_torch(lines: Iterable[str], version: Callable[[str, str], str]) -> list[str]:
    """The lines without CUDA's packages; torch and torchvision in `version(name, locked one)`."""
    return [
        TORCH.sub(lambda pin: f"{pin[1]}=={version(pin[1], pin[2])}", line)
        for line in lines
        if not line.startswith(CUDA)
    ]


def upload_space(
    folder: Path,
    repo_id: str,
    *,
    token: str | None,
    private: bool = False,
    demo: bool = False,
    gpu: bool = False,
    endpoint: str | None = None,
) -> str:
    """Upload a prepared folder as a Space, creating the Space if needed.

    Files of the Space that are not in the folder are deleted.

    Args:
        folder: from `prepare_space`.
        repo_id: USER/SPACE.
        token: of the user's login, with write permission.
        private: make a new Space private; an existing one keeps its setting.
        demo: limit what visitors may do (DEMO_MODE=1).
        gpu: as the folder was prepared.
        endpoint: URL of a hub other than huggingface.co.

    Returns:
        The Space's URL.

    Raises:
        HubError: there is no login, no permission or no network, or the Space that is there has a
            GPU and the folder was prepared without.
    """
    if not token:
        raise HubError("Nobody is logged in. Log in with `hf auth login`.")
    check_repository(repo_id)
    api = HfApi(endpoint=endpoint, token=token)
    with hub_errors(repo_id):
        url = api.create_repo(
            repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True
        )
        hardware = api.get_space_runtime(repo_id).hardware or "cpu"
        if not gpu and not hardware.startswith("cpu"):
            raise HubError(
                f"{repo_id} has the hardware {hardware}, and these files are for a CPU. Deploy "
                "with --gpu."
            )
        # Set it before the upload, so that the Space already has it when it first starts.
        api.add_space_variable(repo_id, "DEMO_MODE", "1" if demo else "0")
        api.upload_folder(
            repo_id=repo_id,
            repo_type="space",
            folder_path=folder,
            commit_message="Deploy LinEAS Studio",
            delete_patterns="*",
        )
    return str(url)


def _readme(readme: str) -> str:
    header = HEADER.match(readme)
    if header is None:
        raise ConfigError("README.md does not begin with a Space's header between lines of ---.")
    preload = f'preload_from_hub:\n  - "{catalog()["smollm2"].hub} {PRELOADED}"\n---\n'
    return header[0].removesuffix("---\n") + preload + ABOUT


def _large_files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size > LARGE_FILE:
            name = path.relative_to(folder).as_posix()
            yield f"{name} filter=lfs diff=lfs merge=lfs -text"
