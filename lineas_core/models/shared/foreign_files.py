"""What the files of a model make its loader read: refused before the loader sees them.

`use_safetensors=True` chooses the file that is looked for, not what that file leads to: the index
of a sharded checkpoint and the settings of an adapter name further files, which transformers and
diffusers read by their ending, pickles included.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.constants import DEFAULT_REVISION
from huggingface_hub.errors import LocalEntryNotFoundError

from lineas_core.errors import ModelError
from lineas_core.system.files import parse_json, why

SAFE = ".safetensors"
# Shards of a checkpoint, also of a variant, such as `model.safetensors.index.fp16.json`.
INDEX_FILES = ("*.safetensors.index.json", "*.safetensors.index.*.json")
CONFIG, ADAPTER = "config.json", "adapter_config.json"
# A setting that names the file of weights.
FILE_KEY = "transformers_weights"


def check_files(id: str, source: str, *, local: bool = False) -> str:
    """Refuse a model whose files lead to pickles, to files elsewhere, or to another model.

    The answer is the revision to load: the commit that was looked at, since a branch may have moved
    on by then; of a folder the hub's default, which nothing reads.

    Args:
        id: the model's name in the error.
        source: a folder, or a repository on the hub, of which the small files that are read here
            are fetched.
        local: use only what is on this machine.

    Raises:
        ModelError: such a file is among them; the message names it, and what it names.
        OSError, ValueError: the repository cannot be reached.
    """
    folder, revision = Path(source), DEFAULT_REVISION
    if not folder.is_dir():
        try:
            found = snapshot_download(
                source, allow_patterns=[*INDEX_FILES, CONFIG, ADAPTER], local_files_only=local
            )
        except LocalEntryNotFoundError:
            # Nothing of it is here, and no network: its loader reports that.
            return revision
        # The hub's cache has a folder per commit.
        folder, revision = Path(found), Path(found).name
    for path in _found(folder, *INDEX_FILES):
        shards = _read(id, folder, path).get("weight_map")
        for shard in shards.values() if isinstance(shards, dict) else ():
            _check_named(id, path.relative_to(folder).as_posix(), shard)
    for path in _found(folder, CONFIG):
        if (named := _read(id, folder, path).get(FILE_KEY)) is not None:
            _check_named(id, path.relative_to(folder).as_posix(), named)
    if (folder / ADAPTER).is_file():
        raise ModelError(
            f"{id} is an adapter: it has a file {ADAPTER}. Merge it into its base model with "
            "`merge_and_unload` of the package peft, save that, and load its folder."
        )
    return revision


def _check_named(id: str, file: str, named: object) -> None:
    """Refuse what is not the plain name of a file in safetensors.

    Raises:
        ModelError: it is something else.
    """
    plain = isinstance(named, str) and named == PurePosixPath(named).name and "\\" not in named
    if not plain or not (str(named).endswith(SAFE) or str(named).endswith(f"{SAFE}.index.json")):
        raise ModelError(
            f"{file} of {id} names {named!r} as weights, which is no {SAFE} file beside it. Only "
            "those are read, since a pickle can run code. Convert the model with "
            "`save_pretrained`, or take another."
        )


def _found(folder: Path, *patterns: str) -> list[Path]:
    """Files of the folder, and of those in it, as the parts of a pipeline lie in folders."""
    return sorted(
        {path for name in patterns for at in (name, f"*/{name}") for path in folder.glob(at)}
    )


def _read(id: str, folder: Path, path: Path) -> dict[str, Any]:
    """The settings in a file of JSON.

    Raises:
        ModelError: it cannot be read, or holds something else.
    """
    name = path.relative_to(folder).as_posix()
    try:
        found = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"Cannot read {name} of {id}: {why(error)}. Download it again.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{name} of {id} holds no settings. Download it again.")
    return found
