"""Files of a repository on the Hugging Face Hub, downloaded one by one, each with a limit."""

from __future__ import annotations

from pathlib import Path

import httpx
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import OfflineModeIsEnabled

from lineas_core.hub.errors import HubError

MAX_CARD_BYTES = 2**20


def fetch(
    repo_id: str,
    filename: str,
    *,
    max_bytes: int = MAX_CARD_BYTES,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: Path | None = None,
) -> tuple[Path, str]:
    """Download a file that lies directly in a repository; without a network, from the cache.

    Args:
        repo_id: USER/NAME.
        filename: of the file.
        max_bytes: a larger file is refused before it is sent.
        revision: branch, tag or commit; the main branch by default.
        token: of a login; by default the one of `hf auth login`, and none with False.
        cache_dir: of the download; the Hub's own folder by default. Whoever may use it may see
            what is in it, also without a login.

    Returns:
        The file's path and its commit.

    Raises:
        HubError: the file is too large. Other errors are those of the Hub's client: `hub_errors`.
    """
    found = None
    try:
        # Not by hf_hub_download itself, which waits and tries again when the Hub refuses requests,
        # and takes the file from the cache when the Hub refuses the login.
        url = hf_hub_url(repo_id, filename, revision=revision)
        found = get_hf_file_metadata(url, token=token)
    except (httpx.ConnectError, httpx.TimeoutException, OfflineModeIsEnabled):
        path = hf_hub_download(
            repo_id, filename, revision=revision, cache_dir=cache_dir, local_files_only=True
        )
    else:
        if found.size is None or found.size > max_bytes:
            raise HubError(
                f"{filename} of {repo_id} is larger than {max_bytes // 2**20} MiB, so it was not "
                "pushed by this library. Choose another."
            )
        path = hf_hub_download(
            repo_id, filename, revision=revision, token=token, cache_dir=cache_dir
        )
    # The cache has a folder for each commit.
    commit = Path(path).parent.name
    if found and commit != found.commit_hash:
        raise HubError(f"{repo_id} was changed during the download. Try again.")
    return Path(path), commit
