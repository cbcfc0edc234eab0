"""The field for sites: a preset or an expression, and below it what that matches."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from lineas_core.errors import SiteError
from lineas_core.studio.answers.answers import Answers
from lineas_core.system.words import counted

# The choice that stands for the default of whichever model is trained. It has the same value for
# every model, so that a default never outlives the model that it belongs to.
DEFAULT = ("The model's own", "")
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
        """The field on the default of a model that was just chosen, and the line below it."""
        field = gr.update(choices=self._choices(model), value=DEFAULT[1])
        return field, self.described(model, DEFAULT[1])

    def refresh(self, model: str, pattern: str | None) -> tuple[Any, str]:
        """The choices and the line as they are now; the model may have been loaded meanwhile.

        What is in the field stays.
        """
        return gr.update(choices=self._choices(model)), self.described(model, pattern)

    def typed(self, model: str, key: gr.KeyUpData) -> str:
        """The line below the field for what has been typed so far."""
        return self.described(model, key.input_value)

    def described(self, model: str, pattern: str | None) -> str:
        """Render the number of sites and the names of the first, or why there are none."""
        asked = (pattern or "").strip()
        try:
            found = self._sites.matched(model, asked)
        except SiteError as error:
            return f'<div class="ls-health warn" role="status">{escape(str(error))}</div>'
        preset = "" if asked else self._sites.default(model)
        if found is None:
            said = f"Those of {preset}. {LATER}" if preset else LATER
            return f'<p class="ls-hint" role="status">{_breakable(said)}</p>'
        names = [_breakable(name) for name in found[:NAMED]]
        # Lines break behind dots and never before a comma.
        named = ", ".join([*names, "…"] if len(found) > NAMED else names)
        count = counted(len(found), "site")
        return f'<p class="ls-hint" role="status">{count}: {named}</p>'

    def _choices(self, model: str) -> list[tuple[str, str]]:
        return [DEFAULT, *((name, name) for name in self._sites.presets(model))]


def _breakable(text: str) -> str:
    return escape(text).replace(".", ".<wbr>")
