"""Finds maps on the Hugging Face Hub by the model that they are for."""

from __future__ import annotations

from dataclasses import dataclass

from huggingface_hub import HfApi

from lineas_core.hub.card import MAP_TAG, base_model
from lineas_core.hub.errors import HubError, hub_errors
from lineas_core.models.shared.catalog import catalog

MAX_FOUND = 50
# The Hub makes tags of a card's metadata. Unlike the metadata, they are always short texts.
LICENSE_TAG, BASE_TAG = "license:", "base_model:"


@dataclass(frozen=True)
class FoundMap:
    """A map's repository, as the Hub lists it.

    Attributes:
        repo: USER/NAME.
        license: in the Hub's spelling; "" if none is stated.
        downloads: in the last 30 days.
        private: whether only some logins may see it.
        gated: whether its terms must be accepted first.
    """

    repo: str
    license: str
    downloads: int
    private: bool
    gated: bool


def find_maps(model: str = "", *, token: str | bool | None = None) -> list[FoundMap]:
    """Maps on the Hub for a model, most downloaded first, at most 50.

    Args:
        model: a short name of the catalogue or a repository on the Hub; maps of all models with
            the same base are found. Maps of all models by default.
        token: of a login, whose private maps are found too; by default the one of
            `hf auth login`, and none with False.

    Raises:
        HubError: it is no model's name, or the Hub cannot be reached or refuses the login.
    """
    base = base_model(model)
    if model and not base and model not in catalog():
        raise HubError(
            f"model is {model!r}; write a repository on the Hub as USER/NAME, or one of "
            f"{', '.join(catalog())}."
        )
    # A model that is not on the Hub is known there by its short name alone.
    wanted = BASE_TAG + base if base else model
    with hub_errors(f"maps for {model}" if model else "maps"):
        found = HfApi(token=token).list_models(
            filter=[MAP_TAG, wanted] if wanted else MAP_TAG,
            sort="downloads",
            limit=MAX_FOUND,
            expand=["downloads", "gated", "private", "tags"],
        )
        return [
            FoundMap(
                repo=one.id,
                license=next(
                    (
                        tag.removeprefix(LICENSE_TAG)
                        for tag in one.tags or ()
                        if tag.startswith(LICENSE_TAG)
                    ),
                    "",
                ),
                downloads=one.downloads or 0,
                private=bool(one.private),
                gated=bool(one.gated),
            )
            for one in found
        ]
