"""Maps on the Hugging Face Hub: push one with its card, install one and verify its hash.

A repository holds one map and its card, README.md. The card's metadata has, under `lineas`, the
file's name and its SHA-256, against which an installed file is verified.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lineas_core.errors import LineasError, MapError
from lineas_core.hub.card import file_sha256, map_card, read_card
from lineas_core.maps.steering_map import SteeringMap

MAX_MAP_BYTES, MAX_CARD_BYTES = 256 * 2**20, 2**20
FILE_NAME = re.compile(r"\w[\w .()+,'-]{0,99}\.safetensors")
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


class HubError(LineasError, RuntimeError):
    """The Hub cannot be reached, refused the request, or does not hold what was requested."""


@dataclass(frozen=True)
class Origin:
    """Where an installed map was downloaded from.

    Attributes:
        repo: the repository.
        revision: the commit.
        file: the map's file name in the repository.
        sha256: of the file.
    """

    repo: str
    revision: str
    file: str
    sha256: str


def push_map(
    smap_path: str | os.PathLike[str],
    repo_id: str,
    *,
    token: str | None,
    private: bool = True,
    card: str = "",
    title: str = "",
    license: str = "",
    endpoint: str | None = None,
) -> str:
    """Upload a map and its card, creating the repository if needed.

    Args:
        smap_path: the map's file.
        repo_id: USER/NAME.
        token: of the user's login, with write permission. No other login is ever used.
        private: make a new repository private; an existing one keeps its setting.
        card: an additional paragraph for the card (`map_card`), in Markdown.
        title: of the card and, as a slug, of the file; the map's own name by default.
        license: of the map, in the Hub's spelling, such as apache-2.0; unstated by default.
        endpoint: URL of a hub other than huggingface.co.

    Returns:
        The repository's URL.

    Raises:
        HubError: there is no login, no permission or no network.
        MapError: the file is not a map.
    """
    smap = SteeringMap.load(smap_path)
    if not token:
        raise HubError("Nobody is logged in. Log in with `hf auth login`, or on the Space's page.")
    check_repository(repo_id)
    stem = re.sub(r"[^a-z0-9]+", "-", (title or smap.info.name).lower()).strip("-")[:60] or "map"
    api = HfApi(endpoint=endpoint, token=token)
    with tempfile.TemporaryDirectory() as folder, hub_errors(repo_id):
        file = smap.save(Path(folder) / f"{stem}.safetensors")
        text = map_card(
            smap,
            repo_id,
            file=file.name,
            sha256=file_sha256(file),
            title=title,
            license=license,
            about=card,
        )
        (Path(folder) / "README.md").write_text(text, encoding="utf-8")
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=f"Upload {file.name} from LinEAS"
        )
    return str(url)


def install_map(
    repo_id: str,
    *,
    revision: str | None = None,
    filename: str | None = None,
    token: str | None = None,
    expected_digest: str | None = None,
    endpoint: str | None = None,
    cache: Path | None = None,
) -> tuple[SteeringMap, Origin]:
    """Download a map and verify it against the SHA-256 in its card.

    Args:
        repo_id: USER/NAME.
        revision: branch, tag or commit; the main branch by default.
        filename: of the map, if the repository holds several; the card's by default.
        token: of the user's login, for private repositories; anonymous by default.
        expected_digest: the map's `SteeringMap.digest`, if known from elsewhere. Required to
            install a file that the card does not name.
        endpoint: URL of a hub other than huggingface.co.
        cache: the download cache; the Hub's own folder by default.

    Returns:
        The map, and where it was downloaded from.

    Raises:
        HubError: the map cannot be downloaded, or does not match the card or the digest.
        MapError: the file is not a map.
    """
    check_repository(repo_id)
    if filename is not None and not FILE_NAME.fullmatch(filename):
        raise HubError(f"filename is {filename!r}; a map's file ends in .safetensors.")
    # False means anonymous; None would use the login of whoever runs this program.
    source = _Source(repo_id, token or False, endpoint, cache)
    with hub_errors(repo_id):
        card_path, commit = source.fetch("README.md", revision, MAX_CARD_BYTES)
        named = read_card(card_path.read_text("utf-8", "replace"))
        wanted = filename or str(named.get("file", ""))
        checksum = str(named.get("sha256", "")) if wanted == named.get("file") else ""
        if not FILE_NAME.fullmatch(wanted) or not (checksum or expected_digest):
            raise HubError(
                f"The card of {repo_id} does not name {filename or 'a map'} with its SHA-256, so "
                "it cannot be checked. Choose a repository that was pushed from here, or give the "
                "map's digest."
            )
        # Use the card's commit, even if something is pushed in between.
        path, _ = source.fetch(wanted, commit, MAX_MAP_BYTES)
    sha256 = file_sha256(path)
    if checksum and sha256 != checksum:
        raise HubError(
            f"{wanted} of {repo_id} is not the file that its card names: its SHA-256 begins with "
            f"{sha256[:12]}, the card's with {checksum[:12]}. Ask its author; do not use it."
        )
    smap = _load(path, f"{repo_id}/{wanted}")
    if expected_digest and smap.digest() != expected_digest:
        raise HubError(
            f"{wanted} of {repo_id} is not the map that was asked for: its digest begins with "
            f"{smap.digest()[:12]}, not with {expected_digest[:12]}. Give another revision."
        )
    return smap, Origin(repo_id, commit, wanted, sha256)


def check_repository(repo_id: str) -> None:
    """Raise a `HubError` if it is not a valid repository name."""
    if not REPOSITORY.fullmatch(repo_id):
        raise HubError(f"{repo_id!r} is no repository's name; write USER/NAME.")


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turn errors of the Hub's client into a HubError that suggests a remedy."""
    try:
        yield
    except GatedRepoError as error:
        raise HubError(
            f"{repo_id} requires you to accept its terms. Open its page on the Hub, accept them, "
            "and log in here."
        ) from error
    except RevisionNotFoundError as error:
        raise HubError(
            f"{repo_id} has no such revision. Check the branch, tag or commit."
        ) from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"There is no {repo_id} that you may see. Check the name; if it is private, log in as "
            "somebody who may read it."
        ) from error
    except LocalEntryNotFoundError as error:
        raise HubError(_unreachable(repo_id)) from error
    except EntryNotFoundError as error:
        raise HubError(
            f"{repo_id} does not hold that file. Check that it is a map's repository."
        ) from error
    except HfHubHTTPError as error:
        raise HubError(_refused(repo_id, error)) from error
    except (httpx.HTTPError, OfflineModeIsEnabled) as error:
        raise HubError(_unreachable(repo_id)) from error
    except HFValidationError as error:
        raise HubError(f"{repo_id!r} is no repository's name; write USER/NAME.") from error
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, LineasError):
            raise
        raise HubError(f"The transfer with {repo_id} failed ({error}). Try again.") from error


@dataclass(frozen=True)
class _Source:
    repo_id: str
    token: str | bool
    endpoint: str | None
    cache: Path | None

    def fetch(self, filename: str, revision: str | None, max_bytes: int) -> tuple[Path, str]:
        """Download a file of at most `max_bytes`; returns its path and commit."""
        found = hf_hub_download(
            self.repo_id,
            filename,
            revision=revision,
            token=self.token,
            endpoint=self.endpoint,
            cache_dir=self.cache,
            dry_run=True,
        )
        if found.file_size is None or found.file_size > max_bytes:
            raise HubError(
                f"{filename} of {self.repo_id} is larger than {max_bytes // 2**20} MiB, so it was "
                "not pushed by this library. Choose another."
            )
        path = hf_hub_download(
            self.repo_id,
            filename,
            revision=found.commit_hash,
            token=self.token,
            endpoint=self.endpoint,
            cache_dir=self.cache,
        )
        return Path(path), found.commit_hash


def _unreachable(repo_id: str) -> str:
    return (
        f"The Hugging Face Hub cannot be reached for {repo_id}. Check the network, and that "
        "HF_HUB_OFFLINE is not set."
    )


def _refused(repo_id: str, error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if status == 401:
        return f"The Hub does not accept the login for {repo_id}. Log in again."
    if status == 402:
        return (
            f"The Hub asks for a paid plan, or a payment method, for {repo_id}. See the plans at "
            "hf.co/pricing; a free account may have Spaces on ZeroGPU (zero-a10g)."
        )
    if status == 403:
        return (
            f"The login may not write to {repo_id}. Use a token that may write, and a name that "
            "begins with your own or with an organisation of yours; who logs in on a Space gives a "
            "new name, or that of a repository made there."
        )
    if status == 429:
        return f"The Hub has had too many requests for {repo_id}. Try again in a few minutes."
    return f"The Hub answered {status} for {repo_id}. Try again later."


def _load(path: Path, name: str) -> SteeringMap:
    try:
        return SteeringMap.load(path)
    except MapError as error:
        raise MapError(str(error).replace(path.name, name)) from error
