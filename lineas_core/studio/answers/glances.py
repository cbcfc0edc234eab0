"""Previews of maps: a thumbnail or a short text, generated once and stored beside the map."""

from __future__ import annotations

import json
import logging

from PIL import Image

from lineas_core.maps.steering_map import Steering
from lineas_core.models.load import as_image_model, as_language_model
from lineas_core.studio.components.data_urls import picture_in, picture_url
from lineas_core.studio.jobs.device.inference import Inference
from lineas_core.studio.rack.mix import mix_of
from lineas_core.studio.rack.rack import RackState, Slot
from lineas_core.studio.storage.library import Library
from lineas_core.studio.storage.store import MapRow
from lineas_core.system.files import write_whole

# Every preview uses the same prompt per modality and the same seed, at the map's own strength.
PICTURED, CONTINUED, SEED = "a house", "Once upon a time", 0
SIDE, TOKENS = 96, 12

log = logging.getLogger(__name__)


class Glances:
    """Create and cache map previews: a small steered image, or a short steered text.

    A preview is only generated while the map's model is in memory anyway, and is stored in a file
    beside the map.

    Args:
        inference: loads and runs the models.
        library: stores the maps.
        guarded: refuse maps that steer towards harm, as `mix_of` does.
    """

    def __init__(self, inference: Inference, library: Library, *, guarded: bool) -> None:
        self._inference, self._library, self._guarded = inference, library, guarded
        self._make = inference.on_gpu(self._make_here)

    def kept(self, row: MapRow) -> dict[str, str] | None:
        """The stored preview, {"image": data URL} or {"text": words}.

        None if there is none, or it is of another digest or strength.
        """
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

    def example(self, row: MapRow) -> dict[str, str | Image.Image]:
        """The stored preview as its prompt -> what the map made of it; empty if there is none."""
        kept = self.kept(row) or {}
        examples: dict[str, str | Image.Image] = {}
        if "image" in kept:
            examples[PICTURED] = picture_in(kept["image"])
        if "text" in kept:
            examples[CONTINUED] = kept["text"]
        return examples

    def can_make(self, row: MapRow) -> bool:
        """Whether the map's model is in memory; a preview never evicts another model."""
        return self._inference.has(row.model)

    def make(self, owner: str, row: MapRow) -> dict[str, str]:
        """Generate a map's preview and store it; a failure to store it is only logged.

        Raises:
            LineasError: the map cannot be applied to its model here.
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
