"""Prepare the folder of a Hugging Face Space.

SmolLM2's weights are not uploaded. A Space cannot install their package without its dependencies,
so the catalogue falls back to the same model on the Hub, which the Space downloads while it is
built (`preload_from_hub`). The Hub's weights are bfloat16 and the package's are rounded to 4 bits,
so the same map and seed may give a different text than elsewhere.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from huggingface_hub import SpaceHardware

from lineas_core.errors import ConfigError
from lineas_core.hub.errors import check_repository
from lineas_core.hub.preload import preload_smollm2
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
LARGE_FILE = 10 * 2**20
# The picture that other sites show beside a link to the Space; it must be an address. Keys of the
# header: https://huggingface.co/docs/hub/spaces-config-reference
THUMBNAIL = "https://huggingface.co/spaces/{}/resolve/main/assets/thumbnail.png"
HEADER = re.compile(r"---\n.*?\n---\n", re.DOTALL)
ABOUT = """
# LinEAS Studio

Learn to steer a generative model from a few prompts, then move a slider. Switch on a map in the tab
**Images** or **Text**, or learn one of your own in **Train**, in about a minute
([LinEAS, Rodriguez et al., NeurIPS 2025](https://arxiv.org/abs/2503.10679)).

The code and the embedded image models are under the Apache License 2.0;
[assets/README.md](assets/README.md) credits the artists whose work the image models learned from.
"""


def space_hardware(name: str) -> SpaceHardware:
    """The hardware of that name on the Hub.

    Raises:
        ConfigError: there is none.
    """
    try:
        return SpaceHardware(name)
    except ValueError as error:
        raise ConfigError(
            f"hardware is {name!r}; choose of {', '.join(kind.value for kind in SpaceHardware)}."
        ) from error


def has_gpu(hardware: str | None) -> bool:
    """Whether a Space's hardware has a GPU, or is ZeroGPU; the Hub's default has none."""
    return hardware is not None and not hardware.startswith("cpu")


def prepare_space(
    folder: Path,
    space: str,
    root: Path | None = None,
    *,
    hardware: SpaceHardware | None = None,
    preload: Sequence[str] = (),
) -> list[Path]:
    """Copy the files a Space needs, and no others, into a new or empty folder.

    Args:
        folder: where to prepare the Space.
        space: USER/SPACE.
        root: a checkout; by default the checkout, or the installed package, with this code.
        hardware: the Space's; by default, and without a GPU, it gets torch for CPUs.
        preload: from `preload_items`.

    Returns:
        The files, relative to `folder`, sorted.

    Raises:
        ConfigError: the folder is not empty or cannot be written, or `root` lacks a file.
        HubError: `space` is no name of one.
    """
    check_repository(space)
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
        lines = [*for_gpu(locked), ZERO_GPU] if has_gpu(hardware) else for_cpu(locked)
        (folder / "requirements.txt").write_text("\n".join([*lines, ""]), "utf-8")
        readme = _readme((root / "README.md").read_text("utf-8"), space, preload)
        (folder / "README.md").write_text(readme, "utf-8")
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


def _readme(readme: str, space: str, preload: Sequence[str]) -> str:
    header = HEADER.match(readme)
    if header is None:
        raise ConfigError("README.md does not begin with a Space's header between lines of ---.")
    lines = [
        f"thumbnail: {THUMBNAIL.format(space)}",
        "preload_from_hub:",
        *(f'  - "{item}"' for item in (preload_smollm2(), *preload)),
        "---",
    ]
    return header[0].removesuffix("---\n") + "\n".join(lines) + "\n" + ABOUT


def _large_files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size > LARGE_FILE:
            name = path.relative_to(folder).as_posix()
            yield f"{name} filter=lfs diff=lfs merge=lfs -text"
