"""Everything a Studio generates and measures, shared by its tabs and its API."""

from __future__ import annotations

from lineas_core.studio.answers.chats import Chats
from lineas_core.studio.answers.drafts import Drafts
from lineas_core.studio.answers.effects import Effects
from lineas_core.studio.answers.glances import Glances
from lineas_core.studio.answers.pictures import Pictures
from lineas_core.studio.answers.prompts import PromptSets
from lineas_core.studio.answers.sites import Sites
from lineas_core.studio.answers.styles import Styles
from lineas_core.studio.answers.texts import Texts
from lineas_core.studio.jobs.device.inference import Inference
from lineas_core.studio.storage.library import Library


class Answers:
    """Everything the Studio generates and measures.

    Create it once, before the page is served: its caches are shared by all calls, and ZeroGPU
    must register the GPU functions at startup.

    Args:
        inference: loads and runs the models.
        library: stores the maps and prompt sets.
        guarded: refuse maps that steer towards harm, as `mix_of` does.
    """

    def __init__(self, inference: Inference, library: Library, *, guarded: bool) -> None:
        self.pictures, self.texts, self.chats = (
            Pictures(inference), Texts(inference), Chats(inference)
        )  # fmt: skip
        self.effects, self.styles = Effects(inference), Styles(inference)
        self.sites = Sites(inference)
        self.drafts, self.prompts = Drafts(inference), PromptSets(library)
        self.glances = Glances(inference, library, guarded=guarded)
