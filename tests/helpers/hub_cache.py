"""Files in the Hub's cache, as if they had been downloaded."""

from __future__ import annotations

import hashlib
from pathlib import Path


def put_in_cache(cache: Path, repo: str, revision: str, file: str, data: bytes = b"") -> Path:
    """Put a file into the hub's cache as a download does; returns the file with the data.

    Args:
        cache: the folder of the cache.
        repo: owner/name.
        revision: a commit, or `main`.
        file: the file in the repository.
        data: what is in it.
    """
    folder = cache / f"models--{repo.replace('/', '--')}"
    commit = "c" * 40 if revision == "main" else revision
    blob = folder / "blobs" / hashlib.sha256(data).hexdigest()
    link = folder / "snapshots" / commit / file
    for path in (blob, link):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    link.symlink_to(blob)
    if revision == "main":
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
    return blob
