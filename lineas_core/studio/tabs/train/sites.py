"""The field for sites: a preset or an expression, and below it what that matches."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from lineas_core.errors import SiteError
from lineas_core.studio.answers.answers import Answers
from lineas_core.system.words import counted

# Names that the line below the field shows.
NAMED = 2
LATER = "They are counted as soon as the model is in memory, at the latest in training."


class SiteCallbacks:
    """Callbacks of the field for sites.

    Args:
        answers: looks sites up.
    """

    def __init__(self, answers: Answers) -> None:
        self._sites = answers.sites

    def reset(self, model: str) -> tuple[Any, str]:
        """The field with the default of a model that was just chosen, and the line below it."""
        default = self._sites.default(model)
        return self._field(model, default), self.described(model, default)

    def refresh(self, model: str, pattern: str | None) -> tuple[Any, str]:
        """The field and its line as they are now, for a model that may have been loaded meanwhile.

        An empty field shows the default again.
        """
        value = (pattern or "").strip() or self._sites.default(model)
        return self._field(model, value), self.described(model, value)

    def typed(self, model: str, key: gr.KeyUpData) -> str:
        """The line below the field for what has been typed so far."""
        return self.described(model, key.input_value)

    def described(self, model: str, pattern: str | None) -> str:
        """Render the number of sites and the names of the first, or why there are none."""
        try:
            found = self._sites.matched(model, (pattern or "").strip())
        except SiteError as error:
            return f'<div class="ls-health warn" role="status">{escape(str(error))}</div>'
        if found is None:
            return f'<p class="ls-hint" role="status">{LATER}</p>'
        # Lines break behind dots and never before a comma.
        names = [escape(name).replace(".", ".<wbr>") for name in found[:NAMED]]
        named = ", ".join([*names, "…"] if len(found) > NAMED else names)
        count = counted(len(found), "site")
        return f'<p class="ls-hint" role="status">{count}: {named}</p>'

    def _field(self, model: str, value: str) -> Any:
        return gr.update(choices=self._sites.presets(model), value=value)
