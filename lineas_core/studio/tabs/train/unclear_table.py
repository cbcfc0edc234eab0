"""An uploaded or pasted table that does not say which of its columns are prompts."""

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
    """A table that waits for an answer.

    Attributes:
        name: of the file; empty for a pasted text.
        data: what the file holds, or the text.
        side: where it was pasted to.
    """

    name: str
    data: bytes
    side: Side | None = None

    def read(self, picked: Picked | None = None) -> PromptLines:
        """What it holds, if `picked` says which columns.

        Raises:
            PromptFileError: as for `read_prompt_file`.
        """
        if self.name:
            return read_prompt_file(self.name, self.data, self.side, picked)
        return read_pasted(self.data.decode(), self.side, picked)

    def offers(self) -> tuple[tuple[Part, str], ...]:
        """The parts to choose from, with a sample of each."""
        try:
            self.read()
        except UnclearColumnsError as error:
            return error.offers
        return ()

    def answered(self, source: str | None, target: str | None) -> PromptLines:
        """The prompts, by the parts that were chosen: their places among the offers.

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
