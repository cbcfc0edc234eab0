"""Map files on the Hugging Face Hub: upload one with its card, download one and verify it.

A repository holds one map and its card, README.md. The card's metadata has, under `lineas`, the
file's name and its SHA-256, against which a downloaded file is verified. What the file holds is
not looked at here: `SteeringMap.push_to_hub` and `SteeringMap.from_pretrained` do that.
"""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import HfApi, get_token

from lineas_core.errors import MapError
from lineas_core.hub.card import CARD, read_metadata
from lineas_core.hub.errors import HubError, check_repository, hub_errors
from lineas_core.hub.files import fetch
from lineas_core.hub.origin import Origin
from lineas_core.system.files import sha256_of

MAX_MAP_BYTES = 256 * 2**20
FILE_NAME = re.compile(r"\w[\w .()+,'-]{0,99}\.safetensors")


def upload_map(
    files: Path,
    repo_id: str,
    *,
    token: str | bool | None,
    private: bool | None,
    revision: str | None,
    commit_message: str,
) -> str:
    """Upload a folder with a map and its card, creating the repository and branch if needed.

    Args:
        files: the folder.
        repo_id: USER/NAME.
        token: of a login with write permission; by default the one of `hf auth login`.
        private: whether a new repository is private; by default as the account's settings say.
        revision: the branch; main by default.
        commit_message: of the commit.

    Returns:
        The repository's URL.

    Raises:
        HubError: there is no login, no permission or no network.
    """
    check_repository(repo_id)
    if not (get_token() if token is None else token):
        raise HubError(
            f"Nobody is logged in who could write to {repo_id}. Log in with `hf auth login`, or "
            "give a token."
        )
    api = HfApi(token=token)
    with hub_errors(repo_id):
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id, folder_path=files, revision=revision, commit_message=commit_message
        )
    return str(url)


def download_map(
    repo_id: str,
    *,
    revision: str | None = None,
    filename: str | None = None,
    token: str | bool | None = None,
    cache_dir: Path | None = None,
    in_card: bool = True,
) -> tuple[Path, Origin]:
    """Download a map's file and verify it against the SHA-256 in its card.

    Args:
        repo_id: USER/NAME.
        revision: branch, tag or commit; the main branch by default.
        filename: of the map, if the repository holds several; the card's by default.
        token: as in `fetch`.
        cache_dir: as in `fetch`.
        in_card: refuse a file that the card does not name with its SHA-256. Without, the caller
            must verify what the file holds.

    Returns:
        The file's path, and where it was downloaded from.

    Raises:
        HubError: the file cannot be downloaded, or does not match the card.
        MapError: the file cannot be read.
    """
    check_repository(repo_id)
    if filename is not None and not FILE_NAME.fullmatch(filename):
        raise HubError(f"filename is {filename!r}; a map's file ends in .safetensors.")
    with hub_errors(repo_id):
        card, commit = fetch(repo_id, CARD, revision=revision, token=token, cache_dir=cache_dir)
        named = read_metadata(card.read_text("utf-8", "replace")).get("lineas")
        named = named if isinstance(named, dict) else {}
        wanted = filename or str(named.get("file", ""))
        checksum = str(named.get("sha256", "")) if wanted == named.get("file") else ""
        if not FILE_NAME.fullmatch(wanted) or (in_card and not checksum):
            raise HubError(
                f"The card of {repo_id} does not name {filename or 'a map'} with its SHA-256, so "
                "it cannot be checked. Choose a repository that was pushed from here, or give the "
                "map's digest."
            )
        # Use the card's commit, even if something is pushed in between.
        path, _ = fetch(
            repo_id,
            wanted,
            max_bytes=MAX_MAP_BYTES,
            revision=commit,
            token=token,
            cache_dir=cache_dir,
        )
    sha256 = file_sha256(path)
    if checksum and sha256 != checksum:
        raise HubError(
            f"{wanted} of {repo_id} is not the file that its card names: its SHA-256 begins with "
            f"{sha256[:12]}, the card's with {checksum[:12]}. Ask its author; do not use it."
        )
    return path, Origin(repo_id, commit, wanted, sha256)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
        MapError: it cannot be read.
    """
    try:
        return sha256_of(path)
    except OSError as error:
        raise MapError(f"Cannot read {path} ({error}). Check the path.") from error
