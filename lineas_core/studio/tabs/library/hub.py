"""Callbacks of the library tab on the Hugging Face Hub: find, install and push maps.

A visitor's own token or login is used, and never that of whoever runs the app.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from lineas_core.errors import ConfigError
from lineas_core.hub.search import find_maps
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.studio.access.error_messages import with_messages
from lineas_core.studio.access.ledger import size_of_map
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.app import Studio
from lineas_core.studio.rack.rack import patch
from lineas_core.studio.tabs.library.hub_list import found_patch
from lineas_core.studio.tabs.library.map_list import first_of


class HubCallbacks:
    """Callbacks on maps that lie on the Hub.

    Args:
        studio: gives access to the visitor's maps.
        answers: gives access to their glances, which the cards show as examples.
    """

    def __init__(self, studio: Studio, answers: Answers) -> None:
        self._studio, self._glances = studio, answers.glances

    @with_messages
    def search(
        self, key: str, model: str | None, token: str, login: gr.OAuthToken | None = None
    ) -> dict[str, Any]:
        """A list update with the maps on the Hub for a model."""
        self._studio.limits.admit(owner_of(key))
        model = (model or "").strip()
        return found_patch(model, find_maps(model, token=_own(token, login) or False))

    @with_messages
    def install(
        self, key: str, repo: str, token: str, login: gr.OAuthToken | None = None
    ) -> tuple[str, Any]:
        """Install a map from the Hub."""
        owner = owner_of(key)
        self._studio.limits.admit(owner)
        self._studio.ledger.check_share(owner)
        # A cache of its own: one that visitors share gives a private map to whoever asks for it.
        with tempfile.TemporaryDirectory() as cache:
            smap = SteeringMap.from_pretrained(
                repo.strip(), token=_own(token, login) or False, cache_dir=cache
            )
        with self._studio.ledger.keeping(owner, size_of_map(smap)):
            row = self._studio.library.add_map(owner, smap, tags=(smap.origin.repo,))
        words = f"Installed {row.title} from {smap.origin.repo} at {smap.origin.revision[:12]}."
        return (
            f'<p class="ls-hint" role="status">{escape(words)}</p>',
            patch(rows=self._studio.library.maps(owner), add=[row.id]),
        )

    @with_messages
    def push(
        self,
        key: str,
        chosen: Sequence[str],
        repo: str,
        token: str,
        login: gr.OAuthToken | None = None,
    ) -> str:
        """Upload the first chosen map with the visitor's own token or login."""
        owner, map_id = owner_of(key), first_of(chosen)
        self._studio.limits.admit(owner)
        own = _own(token, login)
        if not own:
            raise ConfigError(
                "There is no Hugging Face token; log in, or paste one with write access, which is "
                "used for this upload only and not kept."
            )
        row = self._studio.library.row(map_id, owner)
        url = self._studio.library.map(map_id, owner).push_to_hub(
            repo.strip(), token=own, private=True, title=row.title,
            license=row.prompts.license if row.prompts else "",
            about=f"{row.title}: steers {row.model} towards {row.concept or 'its target prompts'}.",
            examples=self._glances.example(row),
        )  # fmt: skip
        return f'<p class="ls-hint" role="status">Pushed: <a href="{escape(url)}">{escape(url)}</a>'


def _own(token: str, login: gr.OAuthToken | None) -> str:
    """The visitor's own token; "" without one."""
    return token.strip() or (str(login.token) if login else "")
