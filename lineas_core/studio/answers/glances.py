"""How each map looks: a small picture, or a few words, made once and kept beside the map."""

from __future__ import annotations

import json
import logging

from lineas_core.maps.steering_map import Steering
from lineas_core.models.load import as_image_model, as_language_model
from lineas_core.studio.components.data_urls import picture_url
from lineas_core.studio.jobs.device.inference import Inference
from lineas_core.studio.rack.mix import mix_of
from lineas_core.studio.rack.rack import RackState, Slot
from lineas_core.studio.storage.library import Library
from lineas_core.studio.storage.store import MapRow
from lineas_core.system.files import write_whole

# What every map is shown on: one prompt of each kind and one seed, at the map's own strength.
PICTURED, CONTINUED, SEED = "a house", "Once upon a time", 0
SIDE, TOKENS = 96, 12

log = logging.getLogger(__name__)


class Glances:
    """How each map looks: a small picture, or a few words that it makes a model write.

    Made once, when its model is in memory anyway, and kept in a file beside the map.

    Args:
        inference: the models.
        library: the maps.
        guarded: refuse maps that steer towards harm, as `mix_of` does.
    """

    def __init__(self, inference: Inference, library: Library, *, guarded: bool) -> None:
        self._inference, self._library, self._guarded = inference, library, guarded
        self._make = inference.on_gpu(self._make_here)

    def kept(self, row: MapRow) -> dict[str, str] | None:
        """{"image": address} or {"text": words}; None where there is none of this very map."""
        try:
            kept = json.loads(self._library.glance(row.id).read_text(encoding="utf-8"))
            if kept["of"] != [row.digest, row.first_strength]:
                return None
            kind = "image" if row.modality == "image" else "text"
            return {kind: str(kept[kind])}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError):
            log.warning("the glance of map %s cannot be read and is made anew", row.id)
            return None

    def can_make(self, row: MapRow) -> bool:
        """Whether the map's model is in memory: no other is to make room for a glance."""
        return self._inference.has(row.model)

    def make(self, owner: str, row: MapRow) -> dict[str, str]:
        """Make a map's glance, and keep it if the disk takes it.

        Raises:
            LineasError: the map cannot be put on its model here.
        """
        self._inference.give_way()
        rack = RackState((Slot(row.id, True, row.first_strength),), modality=row.modality)
        mix = mix_of(rack, self._library, owner, row.model, guarded=self._guarded)
        kind, made = self._make(row.model, row.modality, mix.steer)
        contents = {"of": [row.digest, row.first_strength], kind: made}
        try:
            write_whole(self._library.glance(row.id), json.dumps(contents))
        except OSError:
            log.warning("the glance of map %s cannot be kept", row.id, exc_info=True)
        return {kind: made}

    def _make_here(self, name: str, modality: str, steer: Steering) -> tuple[str, str]:
        loaded = self._inference.model(name)
        if modality == "text":
            model = as_language_model(loaded)
            [words] = model.generate([CONTINUED], steer, seed=SEED, max_new_tokens=TOKENS)
            return "text", f"{CONTINUED}{words.rstrip()} …"
        [picture] = as_image_model(loaded).generate([PICTURED], steer, seed=SEED)
        return "image", picture_url(picture, SIDE)
