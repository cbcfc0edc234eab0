"""An uploaded or pasted table whose prompt columns are unclear."""

from __future__ import annotations

from dataclasses import dataclass

from lineas_core.errors import PromptError
from lineas_core.prompts.files import (
    Part,
    Picked,
    PromptLines,
    UnclearColumnsError,
    read_pasted,
    read_prompt_file,
)
from lineas_core.prompts.prompt_set import Side


@dataclass(frozen=True)
class UnclearTable:
    """A table that is kept until the visitor chooses its prompt columns.

    Attributes:
        name: file name; empty for pasted text.
        data: contents of the file, or the pasted text.
        side: side of lines that do not name one; None if the file name gives it.
    """

    name: str
    data: bytes
    side: Side | None = None

    def read(self, picked: Picked | None = None) -> PromptLines:
        """The prompts of the table, from the columns in `picked`.

        Raises:
            PromptFileError: as for `read_prompt_file`.
        """
        if self.name:
            return read_prompt_file(self.name, self.data, self.side, picked)
        return read_pasted(self.data.decode(), self.side, picked)

    def offers(self) -> tuple[tuple[Part, str], ...]:
        """The parts of the table to choose from, each with a sample."""
        try:
            self.read()
        except UnclearColumnsError as error:
            return error.offers
        return ()

    def answered(self, source: str | None, target: str | None) -> PromptLines:
        """The prompts of the chosen parts, which are given as indices into `offers()`.

        Raises:
            PromptError: nothing was chosen, or the same for both.
        """
        offers = {str(n): part for n, (part, _) in enumerate(self.offers())}
        chosen = [offers.get(place or "") for place in (source, target)]
        if not any(chosen):
            raise PromptError("Choose a column for From, for To, or one for each.")
        if chosen[0] == chosen[1]:
            raise PromptError(f"From and To are both {chosen[0]}; choose two different ones.")
        return self.read(Picked(*chosen))
