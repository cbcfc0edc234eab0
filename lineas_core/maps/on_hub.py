"""Methods of `SteeringMap` that push a map to the Hugging Face Hub and pull it from there.

Both import what they need when they are called: maps are everywhere, and few come from the Hub.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lineas_core.errors import MapError

if TYPE_CHECKING:
    from PIL import Image

    from lineas_core.maps.steering_map import SteeringMap


def push_to_hub(
    self: SteeringMap,
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload a map from LinEAS",
    title: str = "",
    license: str = "",
    about: str = "",
    datasets: Sequence[str] = (),
    examples: Mapping[str, str | Image.Image] | None = None,
) -> str:
    """Upload the map and its card to the Hugging Face Hub, creating the repository if needed.

    Args:
        self: the map.
        repo_id: USER/NAME.
        token: of a login with write permission; by default the one of `hf auth login`.
        private: whether a new repository is private; by default as the account's settings say.
        revision: the branch, which is created if needed; main by default.
        commit_message: of the commit.
        title: of the card and, as a slug, of the file; the map's own name by default.
        license: of the map or its prompts, in the Hub's spelling, such as apache-2.0. The base
            model's is the card's where that one binds what is learned from the model.
        about: an additional paragraph for the card, in Markdown.
        datasets: repositories of the data sets that the prompts come from.
        examples: prompts -> what the steered model makes of them: texts or pictures.

    Returns:
        The repository's URL.

    Raises:
        HubError: there is no login, no permission or no network.
    """
    from lineas_core.hub.card import base_license, base_model
    from lineas_core.hub.maps import upload_map
    from lineas_core.maps.card import write_card

    stem = re.sub(r"[^a-z0-9]+", "-", (title or self.info.name).lower()).strip("-")[:60]
    model, licensed = self.info.model, {}
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "files")
        if base_model(model):
            licensed = base_license(model, token=token, cache_dir=Path(folder, "cache"))
        write_card(
            self,
            self.save(files / f"{stem or 'map'}.safetensors"),
            repo_id,
            licensed=licensed,
            title=title,
            license=license,
            about=about,
            datasets=datasets,
            examples=examples,
        )
        return upload_map(
            files,
            repo_id,
            token=token,
            private=private,
            revision=revision,
            commit_message=commit_message,
        )


def from_pretrained(
    cls: type[SteeringMap],
    repo_id: str,
    *,
    revision: str | None = None,
    filename: str | None = None,
    digest: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> SteeringMap:
    """Download a map from the Hugging Face Hub and verify it against its card.

    Args:
        cls: the class of maps.
        repo_id: USER/NAME. A file is read by `load`.
        revision: branch, tag or commit; the main branch by default.
        filename: of the map, if the repository holds several; the card's by default.
        digest: the map's `digest()`, if known from elsewhere. Required for a file that the card
            does not name.
        token: of a login, for private repositories; by default the one of `hf auth login`, and
            none with False.
        cache_dir: of the download; the Hub's own folder by default.

    Returns:
        The map, whose `origin` is set.

    Raises:
        HubError: the map cannot be downloaded, or does not match the card or the digest.
        MapError: the file is not a map.
    """
    from lineas_core.hub.errors import HubError
    from lineas_core.hub.maps import download_map

    path, origin = download_map(
        repo_id,
        revision=revision,
        filename=filename,
        token=token,
        cache_dir=None if cache_dir is None else Path(cache_dir),
        in_card=digest is None,
    )
    try:
        smap = cls.load(path)
    except MapError as error:
        raise MapError(str(error).replace(path.name, f"{repo_id}/{path.name}")) from error
    if digest is not None and smap.digest() != digest:
        raise HubError(
            f"{origin.file} of {repo_id} is not the map that was asked for: its digest begins "
            f"with {smap.digest()[:12]}, not with {digest[:12]}. Give another revision."
        )
    return replace(smap, origin=origin)
